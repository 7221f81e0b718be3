use ::http::header::CONTENT_TYPE;

use super::*;
use crate::model::Reason;
use crate::wire::reply::{Status, decode_response, decode_status};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

fn call<B>(path: &str, headers: &[(&str, &str)], body: B) -> Request<B> {
    let mut request =
        Request::post(format!("http://x{path}")).header(CONTENT_TYPE, "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

async fn export(world: &World, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut client = http2(world.grpc()).await;
    collect(client.send_request(call(EXPORT, headers, full(body))).await.unwrap()).await
}

fn code(answer: &Answer) -> i32 {
    assert_eq!((answer.status, answer.says("content-type")), (StatusCode::OK, "application/grpc"));
    answer.says("grpc-status").parse().unwrap()
}

/// The `google.rpc.Status` of the answer, whose code must be that of the header.
fn details(answer: &Answer) -> Status {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, digit) in answer.says("grpc-status-details-bin").chars().enumerate() {
        bits = bits << 6 | DIGITS.find(digit).unwrap() as u32;
        if at % 4 != 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    let status = decode_status(&bytes).expect("a google.rpc.Status");
    assert_eq!(status.code, code(answer));
    status
}

#[tokio::test]
async fn full_success_is_one_empty_message_and_status_zero() {
    let world = Given::default().start().await;
    let answer = export(&world, &[], framed(0, &request(3))).await;
    assert_eq!((code(&answer), &answer.body[..]), (0, &[0, 0, 0, 0, 0][..]));
    assert_eq!(answer.says("grpc-accept-encoding"), "identity,gzip,zstd");
    assert_eq!(code(&export(&world, &[], framed(0, b"")).await), 0);
    let zipped = export(&world, &[("grpc-encoding", "gzip")], framed(1, &gzip(&request(2)))).await;
    assert_eq!(code(&zipped), 0);
    assert_eq!(code(&export(&world, &[("grpc-encoding", "zstd")], framed(1, &zstd(&request(2)))).await), 0);
    // Announced, but this one message is not compressed.
    assert_eq!(code(&export(&world, &[("grpc-encoding", "gzip")], framed(0, &request(1))).await), 0);
    assert_eq!(world.spans(), 8);
    let counts = &world.receiver.status().transports[0];
    assert_eq!((counts.requests_total, counts.accepted_spans_total), (5, 8));
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn many_calls_share_one_connection_at_a_time() {
    let world = Given::default().start().await;
    let client = http2(world.grpc()).await;
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                client.ready().await.unwrap();
                code(
                    &collect(client.send_request(call(EXPORT, &[], full(framed(0, &request(2))))).await.unwrap()).await,
                )
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 0);
    }
    assert_eq!(world.spans(), 1_000);
}

#[tokio::test]
async fn rejected_spans_are_a_partial_success() {
    let world = Given::default().start().await;
    let mut spans: Vec<Span> = (1..=100).map(span).collect();
    spans[0].trace_id.pop();
    let answer = export(&world, &[], framed(0, &request_of(spans))).await;
    assert_eq!(code(&answer), 0);
    assert_eq!(answer.body.len(), 5 + u32::from_be_bytes(*answer.body[1..].first_chunk().unwrap()) as usize);
    let partial = decode_response(&answer.body[5..]).unwrap().expect("a partial success");
    assert_eq!((partial.rejected_spans, world.spans()), (1, 99));
}

#[tokio::test]
async fn over_the_limit_is_resource_exhausted_without_retry_info() {
    let world = Given::default().start().await;
    let zeros = vec![0; 32 << 20];
    for (headers, body) in [
        (&[][..], framed(0, &vec![0; MAX + 1])),
        (&[("grpc-encoding", "gzip")][..], framed(1, &gzip(&zeros))),
        (&[("grpc-encoding", "zstd")][..], framed(1, &zstd(&zeros))),
    ] {
        let answer = export(&world, headers, body).await;
        assert_eq!((code(&answer), details(&answer).retry_after), (8, None));
    }
    assert_eq!(world.failed(0, "too_large"), 3);
    assert!(world.budget.peak_bytes() <= 2 * MAX as u64, "{}", world.budget.peak_bytes());
    // Exactly the limit is not over it: these zeros are refused for what they say.
    assert_eq!(code(&export(&world, &[], framed(0, &vec![0; MAX])).await), 3);
}

#[tokio::test]
async fn malformed_messages_are_invalid_argument() {
    let world = Given::default().start().await;
    let valid = request(1);
    let bad_wire_types =
        [b"\x0f\x01".to_vec(), b"\x0b\x0c".to_vec(), b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()];
    let prefixes = (1..valid.len()).map(|cut| valid[..cut].to_vec());
    for message in prefixes.chain(bad_wire_types) {
        let answer = export(&world, &[], framed(0, &message)).await;
        let details = details(&answer);
        assert!(details.code == 3 && details.bad_request.is_some(), "{message:?} {details:?}");
    }
    for packed in [&valid[..], &gzip(&valid)[..11]] {
        assert_eq!(code(&export(&world, &[("grpc-encoding", "gzip")], framed(1, packed)).await), 3);
    }
    let cut_frame = &framed(0, &valid)[..20];
    assert_eq!(code(&export(&world, &[], cut_frame.to_vec()).await), 3);
    assert_eq!(code(&export(&world, &[], vec![0, 0]).await), 3);
    assert_eq!(code(&export(&world, &[], vec![]).await), 3);
}

#[tokio::test]
async fn broken_framing_is_internal_and_what_is_not_served_is_unimplemented() {
    const INTERNAL: i32 = 13;
    const UNIMPLEMENTED: i32 = 12;
    let world = Given::default().start().await;
    assert_eq!(code(&export(&world, &[], framed(1, &gzip(&request(1)))).await), INTERNAL);
    assert_eq!(code(&export(&world, &[("grpc-encoding", "identity")], framed(1, &request(1))).await), INTERNAL);
    assert_eq!(code(&export(&world, &[], framed(7, &request(1))).await), INTERNAL);
    let unknown = export(&world, &[("grpc-encoding", "snappy")], framed(1, b"x")).await;
    assert_eq!(code(&unknown), UNIMPLEMENTED);
    assert!(unknown.says("grpc-accept-encoding").contains("zstd"));
    let two = [framed(0, &request(1)), framed(0, &request(1))].concat();
    assert_eq!(code(&export(&world, &[], two).await), UNIMPLEMENTED);
    for (path, says) in [
        ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "traces only"),
        ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", "traces only"),
        ("/opentelemetry.proto.collector.trace.v1.TraceService/Other", "no such service"),
        ("/grpc.health.v1.Health/Check", "no such service"),
    ] {
        let mut client = http2(world.grpc()).await;
        let answer = collect(client.send_request(call(path, &[], full(framed(0, b"")))).await.unwrap()).await;
        assert_eq!(code(&answer), UNIMPLEMENTED);
        assert!(answer.says("grpc-message").contains(says), "{path}: {}", answer.says("grpc-message"));
    }
    assert_eq!(world.spans(), 0);
}

#[tokio::test]
async fn lengths_that_are_never_sent_cost_nothing_and_end_at_the_deadline() {
    let world = Given { patience: hasty(), max_request_bytes: 64 << 20, ..Given::default() }.start().await;
    let client = http2(world.grpc()).await;
    let stall = |length: u32| {
        let mut first = vec![0];
        first.extend(length.to_be_bytes());
        let mut client = client.clone();
        async move {
            client.ready().await.unwrap();
            let body = Stalled(Some(first.into()));
            code(&collect(client.send_request(call(EXPORT, &[], body)).await.unwrap()).await)
        }
    };
    // Refused by its length alone, long before any deadline.
    assert_eq!(stall(u32::MAX).await, 8);
    let stalled: Vec<_> = (0..200).map(|_| tokio::spawn(stall(64 << 20))).collect();
    for stalled in stalled {
        assert_eq!(stalled.await.unwrap(), 4);
    }
    assert!(world.budget.peak_bytes() <= 200 * 5, "{}", world.budget.peak_bytes());
    assert_eq!(world.failed(0, "too_slow"), 200);
}

#[tokio::test]
async fn a_stages_refusal_is_unavailable_with_retry_info() {
    let refusal = Refusal::RetryAfter { after: Duration::from_millis(1_500), reason: Reason::MemoryLimit };
    let world = Given { does: Does::Refuse(refusal), ..Given::default() }.start().await;
    let answer = export(&world, &[], framed(0, &request(4))).await;
    assert_eq!((code(&answer), details(&answer).retry_after), (14, Some(Duration::from_millis(1_500))));
    let counts = &world.receiver.status().transports[0];
    assert_eq!((counts.refused_spans_total["memory_limit"], counts.failed_requests_total["memory_limit"]), (4, 1));
}

#[tokio::test]
async fn the_senders_deadline_ends_the_wait_and_the_spans_may_still_be_taken() {
    let world = Given { does: Does::Keep, ..Given::default() }.start().await;
    let answer = export(&world, &[("grpc-timeout", "50m")], framed(0, &request(1))).await;
    assert_eq!(code(&answer), 4);
    lock(&world.sink.kept).pop().unwrap().receipt.resolve(Fate::Exported);
    assert_eq!(world.receiver.status().transports[0].accepted_spans_total, 1);
}

#[tokio::test]
async fn grpc_is_answered_on_the_http_port_and_http_on_the_grpc_port_names_the_right_one() {
    let world = Given::default().start().await;
    let mut client = http2(world.http()).await;
    let answer = collect(client.send_request(call(EXPORT, &[], full(framed(0, &request(1))))).await.unwrap()).await;
    assert_eq!(code(&answer), 0);
    let post = Request::post("/v1/traces").header("host", "x").header(CONTENT_TYPE, "application/json");
    let answer = http1(world.grpc(), post.body(full("{}")).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(String::from_utf8_lossy(&answer.body).contains("4318"));
    let mut client = http2(world.grpc()).await;
    let get = Request::get(format!("http://x{EXPORT}")).header(CONTENT_TYPE, "application/grpc");
    let answer = collect(client.send_request(get.body(full("")).unwrap()).await.unwrap()).await;
    assert_eq!((answer.status, answer.says("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight() {
    let world = Given { does: Does::Keep, ..Given::default() }.start().await;
    let addr = world.grpc();
    let in_flight = tokio::spawn(async move {
        let mut client = http2(addr).await;
        code(&collect(client.send_request(call(EXPORT, &[], full(framed(0, &request(1))))).await.unwrap()).await)
    });
    while lock(&world.sink.kept).is_empty() {
        tokio::task::yield_now().await;
    }
    let batch = lock(&world.sink.kept).pop().unwrap();
    let (stopped, ()) = tokio::join!(world.receiver.stop(Duration::from_secs(20)), async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        batch.receipt.resolve(Fate::Exported);
    });
    assert!(stopped);
    assert_eq!(in_flight.await.unwrap(), 0);
}
