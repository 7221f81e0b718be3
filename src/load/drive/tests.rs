use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use http_body::Frame;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tokio::net::TcpListener;

use super::*;

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

fn plan(addr: SocketAddr, protocol: Protocol, compression: Compression) -> Plan {
    let url = format!("http://{addr}");
    Plan {
        target: Target::new(&url, Some(protocol), Encoding::Proto, compression, Duration::from_secs(5)).unwrap(),
        rate: 0,
        duration: Duration::from_millis(300),
        shape: Shape::small(),
        spans_per_request: 16,
        connections: 2,
        in_flight: 2,
        copies: 1,
        seed: 1,
    }
}

async fn load(plan: Plan) -> Report {
    run(plan, Arc::default(), Clock::start(), watch::channel(false).1).await
}

/// Counts the spans in a body as a receiver would.
fn spans_in(body: &[u8]) -> usize {
    let request = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(body).unwrap();
    request.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum()
}

#[tokio::test]
async fn over_http_every_request_arrives_whole_in_any_compression() {
    async fn take(headers: HeaderMap, body: Bytes) -> StatusCode {
        let plain = match headers.get("content-encoding").map(|v| v.to_str().unwrap()) {
            None => body.to_vec(),
            Some("zstd") => zstd::stream::decode_all(&body[..]).unwrap(),
            Some(_) => {
                let mut plain = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
                plain
            }
        };
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(spans_in(&plain), 16);
        StatusCode::OK
    }
    let addr = serve(Router::new().route("/v1/traces", post(take))).await;
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let report = load(plan(addr, Protocol::Http, compression)).await;
        assert!(report.flawless() && report.accepted_spans > 0, "{report:?}");
        assert_eq!(report.accepted_spans, report.requests * 16);
        assert!((report.body_bytes < report.bytes) == (compression != Compression::None));
    }
}

#[tokio::test]
async fn over_http_it_can_be_json() {
    async fn take(headers: HeaderMap, body: Bytes) -> StatusCode {
        assert_eq!(headers["content-type"], "application/json");
        let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let spans =
            request["resourceSpans"].as_array().unwrap().iter().flat_map(|r| r["scopeSpans"].as_array().unwrap());
        assert_eq!(spans.map(|s| s["spans"].as_array().unwrap().len()).sum::<usize>(), 16);
        StatusCode::OK
    }
    let addr = serve(Router::new().route("/v1/traces", post(take))).await;
    let url = format!("http://{addr}");
    let target = Target::new(&url, None, Encoding::Json, Compression::None, Duration::from_secs(5)).unwrap();
    let report = load(Plan { target, ..plan(addr, Protocol::Http, Compression::None) }).await;
    assert!(report.flawless() && report.body_bytes > report.bytes, "{report:?}");
}

#[tokio::test]
async fn over_grpc_statuses_are_told_apart() {
    async fn take(body: Bytes) -> Response<Body> {
        // A frame of the gRPC protocol: not compressed, then the length.
        let message = body.get(5..).unwrap();
        let code = if spans_in(message) == 16 { "0" } else { "8" };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        let mut frames = Vec::new();
        if code == "0" {
            frames.push(Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 5]))));
        }
        frames.push(Ok(Frame::trailers(trailers)));
        let body = Body::new(Frames(frames.into()));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let addr = serve(Router::new().route(path, post(take))).await;
    let good = load(plan(addr, Protocol::Grpc, Compression::None)).await;
    assert!(good.flawless() && good.accepted_spans > 0, "{good:?}");
    let full = load(Plan { spans_per_request: 3, ..plan(addr, Protocol::Grpc, Compression::None) }).await;
    assert_eq!(full.errors.keys().collect::<Vec<_>>(), ["gRPC RESOURCE_EXHAUSTED"]);
    assert_eq!(full.failed_spans, full.spans);
}

/// A stream of frames that are there already.
struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.get_mut().0.pop_front())
    }
}

#[tokio::test]
async fn refusals_and_rejected_spans_are_counted_by_kind() {
    async fn partly() -> Vec<u8> {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "no id".to_owned() };
        ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    }
    let app =
        Router::new().route("/v1/traces", post(partly)).route("/busy", post(async || StatusCode::SERVICE_UNAVAILABLE));
    let addr = serve(app).await;
    let report = load(plan(addr, Protocol::Http, Compression::None)).await;
    assert_eq!(report.rejected_spans, report.requests * 3);
    assert_eq!(report.accepted_spans, report.requests * 13);

    let url = format!("http://{addr}/busy");
    let target = Target::new(&url, None, Encoding::Proto, Compression::None, Duration::from_secs(5)).unwrap();
    let report = load(Plan { target, ..plan(addr, Protocol::Http, Compression::None) }).await;
    assert_eq!(report.errors, BTreeMap::from([("HTTP 503".to_owned(), report.requests)]));
    assert_eq!((report.accepted_spans, report.failed_spans), (0, report.spans));
}

#[tokio::test]
async fn a_target_that_is_not_there_is_tried_slowly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let report = load(plan(addr, protocol, Compression::None)).await;
        assert!((1..=24).contains(&report.requests), "{} requests", report.requests);
        assert_eq!(report.failed_spans, report.spans);
        assert!(report.errors.contains_key("not connected") || protocol == Protocol::Grpc, "{:?}", report.errors);
    }
}

#[tokio::test]
async fn at_a_fixed_rate_waiting_behind_a_slow_answer_counts_as_latency() {
    async fn slow() {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let addr = serve(Router::new().route("/v1/traces", post(slow))).await;
    // A request is due every 10 ms, one at a time is sent, each takes 60 ms.
    let busy = Plan { rate: 1_600, connections: 1, in_flight: 1, ..plan(addr, Protocol::Http, Compression::None) };
    let report = load(busy).await;
    assert!(report.service_time.p50_ms >= 60.0);
    assert!(report.latency.max_ms > report.service_time.max_ms + 50.0, "{report:?}");
    assert_eq!(report.spans + report.unsent_spans, 30 * 16, "30 requests were due in 300 ms");
    assert!(report.unsent_spans > 0 && !report.flawless());
}

#[tokio::test]
async fn a_rate_is_kept_and_a_stop_ends_it_at_once() {
    let addr = serve(Router::new().route("/v1/traces", post(async || ()))).await;
    let report = load(Plan { rate: 1_600, ..plan(addr, Protocol::Http, Compression::None) }).await;
    assert_eq!(report.spans + report.unsent_spans, 30 * 16);

    let (stop, stopped) = watch::channel(false);
    let long = Plan { rate: 16, duration: Duration::from_secs(600), ..plan(addr, Protocol::Http, Compression::None) };
    let running = tokio::spawn(run(long, Arc::default(), Clock::start(), stopped));
    stop.send(true).unwrap();
    let report = tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    assert!(report.seconds < 10.0);
}
