use ::http::header::CONTENT_TYPE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::model::{Reason, TraceId};
use crate::wire::reply::{PartialSuccess, Status, decode_response, decode_status};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

async fn post(world: &World, content_type: &str, body: impl Into<Bytes>) -> Answer {
    post_with(world, &[("content-type", content_type)], body).await
}

async fn post_with(world: &World, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut request = Request::post("/v1/traces").header("host", "x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http1(world.http(), request.body(full(body)).unwrap()).await
}

async fn packed(world: &World, coding: &str, body: impl Into<Bytes>) -> Answer {
    post_with(world, &[("content-type", PROTOBUF), ("content-encoding", coding)], body).await
}

/// The protobuf `Status` of an answer, which must be declared as such.
fn status(answer: &Answer) -> Status {
    assert_eq!(answer.says("content-type"), PROTOBUF);
    decode_status(&answer.body).expect("a google.rpc.Status")
}

/// The same for JSON.
fn json_status(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.says("content-type"), JSON);
    let value: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert!(!value["message"].as_str().unwrap().is_empty());
    value
}

/// Sends raw bytes, all of them, and reads the head of the answer.
async fn raw(world: &World, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(world.http()).await.unwrap();
    socket.write_all(request).await.expect("the server stopped listening before it answered");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "no answer");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn full_success_is_an_empty_message_in_the_requests_encoding() {
    let world = Given::default().start().await;
    let answer = post(&world, PROTOBUF, request(3)).await;
    assert_eq!((answer.status, &answer.body[..], answer.says("content-type")), (StatusCode::OK, &b""[..], PROTOBUF));
    let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"4BF92F3577B34DA6A3CE929D0E0E4736",
        "spanId":"00f067aa0ba902b7","name":"a","startTimeUnixNano":"1","endTimeUnixNano":2}]}]}]}"#;
    let answer = post(&world, "Application/JSON; charset=utf-8", json).await;
    assert_eq!((answer.status, &answer.body[..], answer.says("content-type")), (StatusCode::OK, &b"{}"[..], JSON));
    assert_eq!(world.spans(), 4);
    let counts = &world.receiver.status().transports[1];
    assert_eq!((counts.requests_total, counts.accepted_spans_total), (2, 4));
    assert_eq!(world.ledger.status().received_local, 4);
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn empty_requests_succeed() {
    let world = Given::default().start().await;
    for (content_type, body, answered) in [
        (PROTOBUF, "", ""),
        (JSON, "{}", "{}"),
        (JSON, r#"{"resourceSpans":null}"#, "{}"),
        (JSON, r#"{"resourceSpans":[]}"#, "{}"),
        (JSON, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[]}]}]}"#, "{}"),
    ] {
        let answer = post(&world, content_type, body).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, answered.as_bytes()), "{body}");
    }
    assert_eq!(lock(&world.sink.spans).len(), 0);
}

#[tokio::test]
async fn what_is_not_a_post_of_traces_is_refused_with_a_status_body() {
    let world = Given::default().start().await;
    let ask = |method: &str, path: &str, content_type: &str| {
        let mut request = Request::builder().method(method).uri(path).header("host", "x");
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        http1(world.http(), request.body(full("{}")).unwrap())
    };
    let answer = ask("GET", "/v1/traces", "").await;
    assert_eq!((answer.status, answer.says("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    json_status(&answer);
    for path in ["/", "/v1/trace", "/v1/traces/", "/v2/traces"] {
        let answer = ask("POST", path, PROTOBUF).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        status(&answer);
    }
    for path in ["/v1/metrics", "/v1/logs"] {
        let answer = ask("POST", path, JSON).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(json_status(&answer)["message"].as_str().unwrap().contains("traces only"));
    }
    for content_type in ["", "text/plain", "application/grpc-web", "application/x-protobufs"] {
        let answer = ask("POST", "/v1/traces", content_type).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
        json_status(&answer);
    }
    assert_eq!((world.failed(1, "method"), world.failed(1, "not_found"), world.failed(1, "media_type")), (1, 6, 4));
}

#[tokio::test]
async fn both_compressions_are_opened_and_every_other_is_refused() {
    let world = Given::default().start().await;
    for (coding, body) in [
        ("gzip", gzip(&request(2))),
        ("GZIP", gzip(&request(2))),
        ("zstd", zstd(&request(2))),
        ("identity", request(2)),
        ("", request(2)),
    ] {
        assert_eq!(packed(&world, coding, body).await.status, StatusCode::OK, "{coding}");
    }
    assert_eq!(world.spans(), 10);
    for coding in ["gzip, gzip", "br", "deflate", "gzip, identity"] {
        let answer = packed(&world, coding, gzip(&gzip(&request(1)))).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}");
        assert!(answer.says("accept-encoding").contains("zstd"));
        status(&answer);
    }
    let twice = [("content-type", PROTOBUF), ("content-encoding", "gzip"), ("content-encoding", "gzip")];
    let answer = post_with(&world, &twice, gzip(&gzip(&request(1)))).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn malformed_bodies_are_400_with_the_violation() {
    let world = Given::default().start().await;
    let valid = request(2);
    let mut bodies: Vec<Vec<u8>> = (1..valid.len()).map(|cut| valid[..cut].to_vec()).collect();
    bodies.push(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff random".to_vec());
    for body in bodies {
        let answer = post(&world, PROTOBUF, body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body:?}");
        let status = status(&answer);
        assert!(status.code == 3 && status.bad_request.is_some() && status.retry_after.is_none(), "{status:?}");
    }
    for body in ["", "{", "null!", "[]", "\u{1b}[2J", r#"{"resourceSpans":7}"#] {
        let answer = post(&world, JSON, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body:?}");
        json_status(&answer);
    }
    let mut bad_crc = gzip(&valid);
    let at = bad_crc.len() - 8;
    bad_crc[at] ^= 1;
    for body in [valid.clone(), gzip(&valid)[..12].to_vec(), bad_crc] {
        let answer = packed(&world, "gzip", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        status(&answer);
    }
    assert_eq!(world.spans(), 0);
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn bombs_are_413_and_hold_no_more_than_the_limit() {
    let world = Given::default().start().await;
    let zeros = vec![0; 64 << 20];
    let (gzip, zstd) = (gzip(&zeros), zstd(&zeros));
    let packed_len = gzip.len() as u64;
    for (coding, bomb) in [("gzip", gzip), ("zstd", zstd)] {
        let answer = packed(&world, coding, bomb).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{coding}");
        assert_eq!(status(&answer).retry_after, None);
        assert_eq!(answer.says("retry-after"), "");
    }
    assert!(world.budget.peak_bytes() <= packed_len + 2 * MAX as u64, "{}", world.budget.peak_bytes());
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_413_before_a_byte_of_it_is_sent() {
    let world = Given { max_request_bytes: 64 << 20, ..Given::default() }.start().await;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {}\r\n\r\n",
        (64 << 20) + 1
    );
    let answer = raw(&world, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(world.budget.peak_bytes(), 0);
}

#[tokio::test]
async fn a_client_that_first_sends_all_of_a_body_that_is_too_large_still_reads_413() {
    let world = Given::default().start().await;
    let len = 24 << 20;
    let mut request =
        format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {len}\r\n\r\n")
            .into_bytes();
    request.resize(request.len() + len, b' ');
    let answer = raw(&world, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("connection: close"), "{answer}");
    assert_eq!(world.budget.peak_bytes(), 0);
}

#[tokio::test]
async fn a_chunked_body_is_413_where_it_passes_the_limit() {
    let world = Given::default().start().await;
    let mut request =
        format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..17 {
        request.extend(b"10000\r\n");
        request.extend(vec![b' '; 0x10000]);
        request.extend(b"\r\n");
    }
    // No last chunk: the answer must not wait for it.
    let answer = raw(&world, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(world.budget.peak_bytes() <= 3 * MAX as u64);
}

#[tokio::test]
async fn slow_and_stalled_bodies_are_answered_as_a_passing_fault_and_closed() {
    let world = Given { patience: hasty(), ..Given::default() }.start().await;
    let head =
        format!("POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 10000\r\n\r\n");
    let stalled = raw(&world, format!("{head}abc").as_bytes()).await;
    assert!(stalled.starts_with("HTTP/1.1 503") && stalled.contains("retry-after: 1"), "{stalled}");

    let mut dribbling = TcpStream::connect(world.http()).await.unwrap();
    dribbling.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = dribbling.into_split();
    let writing = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(hasty().progress / 4).await;
        }
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 503"));
    writing.abort();
    assert_eq!(world.failed(1, "too_slow"), 2);
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn spans_with_bad_ids_are_rejected_alone_and_counted() {
    let world = Given::default().start().await;
    let mut spans: Vec<Span> = (1..=100).map(span).collect();
    spans[10].trace_id = vec![1; 15];
    spans[20].trace_id = vec![1; 17];
    spans[30].trace_id = vec![0; 16];
    spans[40].span_id = vec![];
    let answer = post(&world, PROTOBUF, request_of(spans)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let partial: PartialSuccess = decode_response(&answer.body).unwrap().expect("a partial success");
    assert_eq!(partial.rejected_spans, 4);
    assert!(partial.error_message.starts_with("4 spans were rejected"), "{}", partial.error_message);
    assert_eq!(world.spans(), 96);
    let counts = &world.receiver.status().transports[1];
    assert_eq!((counts.accepted_spans_total, counts.rejected_spans_total), (96, 4));

    let json = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"S/kvNXezTaajzpKdDg5HNg==","spanId":"00f067aa0ba902b7"},
        {"traceId":"0x4bf92f3577b34da6a3ce929d0e0e47","spanId":"00f067aa0ba902b7"},
        {"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7"}]}]}]}"#;
    let answer = post(&world, JSON, json).await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["partialSuccess"]["rejectedSpans"], "2", "{body}");
    assert_eq!(world.spans(), 97);

    let only_bad = post(&world, PROTOBUF, request_of(vec![Span::default()])).await;
    assert_eq!(decode_response(&only_bad.body).unwrap().unwrap().rejected_spans, 1);
}

#[tokio::test]
async fn snake_case_keys_are_answered_with_a_warning_and_no_rejection() {
    let world = Given::default().start().await;
    let answer = post(&world, JSON, r#"{"resource_spans":[]}"#).await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!body["partialSuccess"]["errorMessage"].as_str().unwrap().is_empty(), "{body}");
    assert!(matches!(body["partialSuccess"]["rejectedSpans"].as_str(), None | Some("0")), "{body}");
}

#[tokio::test]
async fn a_stages_refusal_says_when_to_come_back_and_takes_nothing() {
    let refusal = Refusal::RetryAfter { after: Duration::from_millis(2_500), reason: Reason::QueueFull };
    let world = Given { does: Does::Refuse(refusal), ..Given::default() }.start().await;
    let answer = post(&world, PROTOBUF, request(5)).await;
    assert_eq!((answer.status, answer.says("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "3"));
    assert_eq!(status(&answer).retry_after, Some(Duration::from_millis(2_500)));
    let counts = &world.receiver.status().transports[1];
    assert_eq!((counts.accepted_spans_total, counts.refused_spans_total["queue_full"]), (0, 5));
    assert_eq!(counts.failed_requests_total["queue_full"], 1);
    assert_eq!(world.ledger.status().refused, 5);
}

#[tokio::test]
async fn a_node_at_its_memory_limit_refuses_before_it_reads() {
    let world = Given { admit_bytes: 1_000, ..Given::default() }.start().await;
    let held = world.budget.hold(1_001);
    let answer = post(&world, JSON, "{}").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    json_status(&answer);
    assert_eq!((world.budget.peak_bytes(), world.failed(1, "memory_limit")), (1_001, 1));
    drop(held);
    assert_eq!(post(&world, JSON, "{}").await.status, StatusCode::OK);
}

#[tokio::test]
async fn bodies_being_read_count_and_are_given_up_over_the_memory_limit() {
    let world = Given { admit_bytes: 100 << 10, ..Given::default() }.start().await;
    let answer = post(&world, PROTOBUF, vec![0; 900 << 10]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(world.budget.peak_bytes() < 900 << 10, "{}", world.budget.peak_bytes());
    assert_eq!(world.budget.bytes(), 0);
}

#[tokio::test]
async fn when_the_client_leaves_before_the_answer_the_receipt_goes_on_and_is_counted() {
    let world = Given { does: Does::Keep, ..Given::default() }.start().await;
    let body = request(2);
    let mut socket = TcpStream::connect(world.http()).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    while lock(&world.sink.kept).is_empty() {
        tokio::task::yield_now().await;
    }
    drop(socket);
    let mut batch = lock(&world.sink.kept).pop().unwrap();
    batch.receipt.accept();
    batch.receipt.resolve(Fate::Exported);
    assert_eq!(world.receiver.status().transports[1].accepted_spans_total, 2);
    assert!(world.ledger.status().balanced);
}

#[tokio::test]
async fn a_large_body_in_many_chunks_arrives_whole() {
    let world = Given { does: Does::Keep, max_request_bytes: 8 << 20, ..Given::default() }.start().await;
    let body = request_of((0..40_000u32).map(|n| Span { name: format!("{n:0100}"), ..span(n as u8) }).collect());
    let mut client = http2(world.http()).await;
    let post = Request::post("http://x/v1/traces").header(CONTENT_TYPE, PROTOBUF).body(full(body.clone())).unwrap();
    let answer = tokio::spawn(async move { client.send_request(post).await.unwrap().status() });
    while lock(&world.sink.kept).is_empty() {
        tokio::task::yield_now().await;
    }
    let batch = lock(&world.sink.kept).pop().unwrap();
    assert_eq!(batch.spans.bytes, body);
    assert_eq!(batch.spans.len(), 40_000);
    assert_eq!(batch.spans.spans[1].trace_id, TraceId([1; 16]));
    assert_eq!(world.budget.bytes(), body.len() as u64);
    batch.receipt.resolve(Fate::Exported);
    assert_eq!(answer.await.unwrap(), StatusCode::OK);
}
