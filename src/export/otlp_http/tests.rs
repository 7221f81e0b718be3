use std::io::Read;
use std::time::{Duration, UNIX_EPOCH};

use super::super::Outcome;
use super::*;
use crate::config::settings::Secret;
use crate::export::testing::{Answer, Pki, TestBackend, names, otlp, oversized, spans};
use crate::wire::reply::{self, PartialSuccess, Status};

fn ok() -> Answer {
    Answer::http(200, &[("content-type", "application/x-protobuf")], b"")
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = TestBackend::start(answer, []).await;
    let backend = OtlpHttp::new(&otlp(format!("http://{}/v1/traces", server.address))).unwrap();
    backend.send(backend.encode(&spans(&["a"])).unwrap()).await
}

fn retry(outcome: &Outcome) -> Option<(Option<Duration>, bool)> {
    match outcome {
        Outcome::Retry { at_least, unanswered, .. } => Some((*at_least, *unanswered)),
        Outcome::Delivered | Outcome::Partial { .. } | Outcome::Permanent { .. } => None,
    }
}

#[tokio::test]
async fn a_request_carries_what_the_protocol_and_the_configuration_ask_for() {
    let server = TestBackend::start(ok(), []).await;
    for (compression, token) in [
        (ExportCompression::None, None),
        (ExportCompression::Gzip, Some("gzip")),
        (ExportCompression::Zstd, Some("zstd")),
    ] {
        let mut settings = otlp(format!("http://{}/custom/path?k=v", server.address));
        settings.compression = compression;
        // What the protocol fixes cannot be configured away.
        settings.headers.push(("content-type".to_owned(), Secret::new("text/plain".to_owned())));
        let backend = OtlpHttp::new(&settings).unwrap();
        let sent = backend.encode(&spans(&["a", "b"])).unwrap();
        assert_eq!(backend.send(sent).await, Outcome::Delivered);
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.path, "/custom/path");
        assert_eq!(seen.headers.get_all("content-type").iter().collect::<Vec<_>>(), ["application/x-protobuf"]);
        assert_eq!(seen.headers["x-tenant"], "secret");
        assert_eq!(seen.headers["user-agent"], concat!("spanmesh/", env!("CARGO_PKG_VERSION")));
        assert_eq!(seen.headers.get("content-encoding").map(|value| value.to_str().unwrap()), token);
        let mut body = Vec::new();
        match compression {
            ExportCompression::None => body.extend_from_slice(&seen.body),
            ExportCompression::Gzip => {
                flate2::read::GzDecoder::new(&*seen.body).read_to_end(&mut body).unwrap();
            }
            ExportCompression::Zstd => zstd::stream::copy_decode(&*seen.body, &mut body).unwrap(),
        }
        assert_eq!(names(&body), ["a", "b"]);
    }
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn json_goes_out_as_json_and_its_answers_are_read_as_json() {
    let answer = Answer::http(
        200,
        &[("content-type", "Application/JSON; charset=utf-8")],
        br#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no"}}"#,
    );
    let server = TestBackend::start(answer, []).await;
    let mut settings = otlp(format!("http://{}/v1/traces", server.address));
    settings.encoding = ExportEncoding::Json;
    let backend = OtlpHttp::new(&settings).unwrap();
    let outcome = backend.send(backend.encode(&spans(&["a"])).unwrap()).await;
    assert_eq!(outcome, Outcome::Partial { rejected: 2, message: "no".to_owned() });
    let seen = server.seen().pop().unwrap();
    assert_eq!(seen.headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "a");
}

#[tokio::test]
async fn only_429_502_503_and_504_are_tried_again() {
    for status in [429, 502, 503, 504] {
        let outcome = outcome_of(Answer::http(status, &[], b"")).await;
        assert_eq!(retry(&outcome), Some((None, false)), "{status}");
    }
    for status in [301, 307, 400, 401, 403, 404, 408, 413, 500, 501] {
        let outcome = outcome_of(Answer::http(status, &[("location", "/elsewhere"), ("retry-after", "1")], b"")).await;
        assert!(matches!(outcome, Outcome::Permanent { .. }), "{status}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_backend_that_names_a_pause_gets_it_in_seconds_and_as_a_date() {
    let outcome = outcome_of(Answer::http(429, &[("retry-after", "7")], b"")).await;
    assert_eq!(retry(&outcome), Some((Some(Duration::from_secs(7)), false)));
    let later = UNIX_EPOCH + Duration::from_nanos(unix_now().0) + Duration::from_secs(100);
    let date = httpdate::fmt_http_date(later);
    let outcome = outcome_of(Answer::http(503, &[("retry-after", &date)], b"")).await;
    let (at_least, _) = retry(&outcome).unwrap();
    assert!((Duration::from_secs(90)..=Duration::from_secs(100)).contains(&at_least.unwrap()), "{at_least:?}");
}

#[tokio::test]
async fn the_backends_reason_is_kept() {
    let status = Status { message: "tenant unknown".to_owned(), ..Status::default() };
    let body = reply::encode_status(&status);
    let outcome = outcome_of(Answer::http(400, &[("content-type", "application/x-protobuf")], &body)).await;
    assert_eq!(outcome, Outcome::Permanent { message: "HTTP 400: tenant unknown".to_owned() });
}

#[tokio::test]
async fn a_partial_success_is_taken_for_what_it_is_and_a_warning_for_success() {
    let answer = |rejected_spans| {
        let partial = PartialSuccess { rejected_spans, error_message: "too old".to_owned() };
        let body = reply::encode_response(Some(&partial));
        Answer::http(200, &[("content-type", "application/x-protobuf")], &body)
    };
    assert_eq!(outcome_of(answer(3)).await, Outcome::Partial { rejected: 3, message: "too old".to_owned() });
    assert_eq!(outcome_of(answer(0)).await, Outcome::Delivered);
    assert_eq!(outcome_of(answer(-4)).await, Outcome::Delivered);
    assert_eq!(outcome_of(Answer::http(200, &[], b"thank you")).await, Outcome::Delivered);
}

#[tokio::test]
async fn a_hanging_backend_costs_one_timeout_and_its_connection() {
    let server = TestBackend::start(ok(), [Answer::Hang]).await;
    let mut settings = otlp(format!("http://{}/v1/traces", server.address));
    settings.timeout = Duration::from_millis(100);
    let backend = OtlpHttp::new(&settings).unwrap();
    let payload = backend.encode(&spans(&["a"])).unwrap();
    assert_eq!(retry(&backend.send(payload.clone()).await), Some((None, true)));
    assert_eq!(backend.send(payload).await, Outcome::Delivered);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_reset_after_the_request_leaves_its_end_open_and_a_refused_connection_does_not() {
    assert_eq!(retry(&outcome_of(Answer::Reset).await), Some((None, true)));
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let backend = OtlpHttp::new(&otlp(format!("http://{unused}/v1/traces"))).unwrap();
    let outcome = backend.send(backend.encode(&spans(&["a"])).unwrap()).await;
    assert_eq!(retry(&outcome), Some((None, false)), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_above_four_mebibytes_is_not_read_and_not_asked_for_again() {
    for status in [200, 503] {
        let outcome = outcome_of(Answer::http(status, &[], &oversized())).await;
        assert!(matches!(outcome, Outcome::Permanent { .. }), "{status}: {outcome:?}");
    }
}

#[tokio::test]
async fn tls_uses_the_ca_file_the_client_certificate_and_http_2_where_offered() {
    let pki = Pki::new();
    for (alpn, version) in
        [(&[&b"h2"[..], b"http/1.1"][..], http::Version::HTTP_2), (&[&b"http/1.1"[..]][..], http::Version::HTTP_11)]
    {
        let server = TestBackend::serve(ok(), [], Some(pki.server(alpn))).await;
        let mut settings = otlp(format!("https://127.0.0.1:{}/v1/traces", server.address.port()));
        settings.tls = pki.client();
        settings.tls.server_name_override = Some("localhost".to_owned());
        let backend = OtlpHttp::new(&settings).unwrap();
        let payload = backend.encode(&spans(&["a"])).unwrap();
        assert_eq!(backend.send(payload.clone()).await, Outcome::Delivered);
        assert_eq!(server.seen()[0].version, version);

        // The name in the certificate is not the address that was dialled.
        settings.tls.server_name_override = None;
        let stranger = OtlpHttp::new(&settings).unwrap();
        assert_eq!(retry(&stranger.send(payload.clone()).await), Some((None, false)));
        settings.tls.insecure_skip_verify = true;
        let trusting = OtlpHttp::new(&settings).unwrap();
        assert_eq!(trusting.send(payload.clone()).await, Outcome::Delivered);
    }
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    for url in ["localhost:4318", "ftp://host/v1/traces", "http://", "http://a b/"] {
        assert!(matches!(OtlpHttp::new(&otlp(url.to_owned())), Err(StartError::Url { .. })), "{url}");
    }
    let mut settings = otlp("https://localhost:4318/v1/traces".to_owned());
    settings.tls.ca_file = Some("/nowhere/ca.pem".into());
    assert!(matches!(OtlpHttp::new(&settings), Err(StartError::File { .. })));
    let mut settings = otlp("http://localhost:4318/v1/traces".to_owned());
    settings.headers.push(("bad name".to_owned(), Secret::new("x".to_owned())));
    assert!(matches!(OtlpHttp::new(&settings), Err(StartError::Header { .. })));
}
