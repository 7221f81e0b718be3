//! What one small request costs in CPU, apart from its spans:
//! `cargo test --release --lib -- --ignored --nocapture cost::`. Goals: gRPC 20 us, HTTP 12 us.

use ::http::header::CONTENT_TYPE;
use tokio::runtime::{Builder, Handle};

use super::*;

const REQUESTS: u32 = 20_000;
const IN_FLIGHT: u32 = 8;

/// CPU time of the thread that calls.
fn thread_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// A receiver on a thread of its own, whose CPU time is all there is to measure.
fn served() -> (Handle, Arc<World>) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let world = Arc::new(runtime.block_on(Given::default().start()));
        tell.send((runtime.handle().clone(), world)).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    told.recv().unwrap()
}

async fn measure(name: &str, server: &Handle, send: impl AsyncFn(u32)) {
    let nanos = async || server.spawn(async { thread_nanos() }).await.unwrap();
    send(REQUESTS / 10).await;
    let before = nanos().await;
    send(REQUESTS).await;
    let each = (nanos().await - before) as f64 / f64::from(REQUESTS) / 1_000.0;
    println!("{name}: {each:.1} us of CPU for a request of one span");
}

#[test]
#[ignore = "a measurement"]
fn fixed_cost_of_a_small_request() {
    let (server, world) = served();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let message = request(1);
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(&message);
        let client = http2(world.grpc()).await;
        measure("gRPC", &server, async |count| {
            let workers = (0..IN_FLIGHT).map(|_| {
                let (mut client, framed) = (client.clone(), Bytes::from(framed.clone()));
                tokio::spawn(async move {
                    for _ in 0..count / IN_FLIGHT {
                        let path = "http://x/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                        let post = Request::post(path).header(CONTENT_TYPE, "application/grpc");
                        client.ready().await.unwrap();
                        let answer = client.send_request(post.body(full(framed.clone())).unwrap()).await.unwrap();
                        answer.into_body().collect().await.unwrap();
                    }
                })
            });
            for worker in workers.collect::<Vec<_>>() {
                worker.await.unwrap();
            }
        })
        .await;
        measure("HTTP", &server, async |count| {
            let workers = (0..IN_FLIGHT).map(|_| {
                let (addr, message) = (world.http(), Bytes::from(message.clone()));
                tokio::spawn(async move {
                    let (mut client, connection) =
                        hyper::client::conn::http1::handshake(connect(addr).await).await.unwrap();
                    tokio::spawn(connection);
                    for _ in 0..count / IN_FLIGHT {
                        let post = Request::post("/v1/traces").header("host", "x");
                        let post = post.header(CONTENT_TYPE, "application/x-protobuf");
                        client.ready().await.unwrap();
                        let answer = client.send_request(post.body(full(message.clone())).unwrap()).await.unwrap();
                        answer.into_body().collect().await.unwrap();
                    }
                })
            });
            for worker in workers.collect::<Vec<_>>() {
                worker.await.unwrap();
            }
        })
        .await;
    });
    assert_eq!(world.spans(), 2 * (REQUESTS + REQUESTS / 10));
}
