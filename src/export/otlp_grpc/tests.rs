use std::io::Read;
use std::time::Duration;

use super::super::Outcome;
use super::*;
use crate::export::testing::{Answer, Pki, TestBackend, names, otlp, oversized, spans};
use crate::wire::reply::{self, PartialSuccess, Status};

fn ok() -> Answer {
    Answer::grpc(b"", &[("grpc-status", "0")])
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = TestBackend::start(answer, []).await;
    let backend = OtlpGrpc::new(&otlp(format!("http://{}", server.address))).unwrap();
    backend.send(backend.encode(&spans(&["a"])).unwrap()).await
}

fn retry(outcome: &Outcome) -> Option<(Option<Duration>, bool)> {
    match outcome {
        Outcome::Retry { at_least, unanswered, .. } => Some((*at_least, *unanswered)),
        Outcome::Delivered | Outcome::Partial { .. } | Outcome::Permanent { .. } => None,
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sixes = bytes.chunks(3).flat_map(|chunk| {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |i| ALPHABET[(word >> (18 - 6 * i) & 63) as usize] as char)
    });
    sixes.collect()
}

#[tokio::test]
async fn a_request_is_a_unary_call_of_the_trace_service() {
    let server = TestBackend::start(ok(), []).await;
    for (compression, token) in [
        (ExportCompression::None, None),
        (ExportCompression::Gzip, Some("gzip")),
        (ExportCompression::Zstd, Some("zstd")),
    ] {
        let mut settings = otlp(format!("http://{}", server.address));
        settings.compression = compression;
        let backend = OtlpGrpc::new(&settings).unwrap();
        let sent = backend.encode(&spans(&["a", "b"])).unwrap();
        assert_eq!(backend.send(sent).await, Outcome::Delivered);
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.version, http::Version::HTTP_2);
        assert_eq!(seen.path, METHOD);
        assert_eq!(seen.headers["content-type"], "application/grpc");
        assert_eq!(seen.headers["te"], "trailers");
        assert_eq!(seen.headers["grpc-timeout"], "20000m");
        assert_eq!(seen.headers["x-tenant"], "secret");
        assert_eq!(seen.headers["user-agent"], concat!("spanmesh/", env!("CARGO_PKG_VERSION")));
        assert_eq!(seen.headers.get("grpc-encoding").map(|value| value.to_str().unwrap()), token);
        let (head, message) = seen.body.split_first_chunk::<5>().unwrap();
        assert_eq!(head[0], u8::from(token.is_some()));
        assert_eq!(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize, message.len());
        let mut body = Vec::new();
        match compression {
            ExportCompression::None => body.extend_from_slice(message),
            ExportCompression::Gzip => {
                flate2::read::GzDecoder::new(message).read_to_end(&mut body).unwrap();
            }
            ExportCompression::Zstd => zstd::stream::copy_decode(message, &mut body).unwrap(),
        }
        assert_eq!(names(&body), ["a", "b"]);
    }
}

#[tokio::test]
async fn codes_are_tried_again_exactly_where_otlp_says_so() {
    for code in 1..=16 {
        let text = code.to_string();
        let trailers = [("grpc-status", &*text), ("grpc-message", "not%20now")];
        let outcome = outcome_of(Answer::grpc(b"", &trailers)).await;
        if [1, 4, 10, 11, 14, 15].contains(&code) {
            assert_eq!(retry(&outcome), Some((None, false)), "{code}");
        } else {
            let message = format!("gRPC status {code}: not now");
            assert_eq!(outcome, Outcome::Permanent { message });
        }
    }
}

#[tokio::test]
async fn a_retry_info_is_a_lower_bound_and_makes_resource_exhausted_pass() {
    for code in [8, 14] {
        let retry_after = Some(Duration::from_millis(2500));
        let status = Status { code, retry_after, ..Status::default() };
        let details = base64(&reply::encode_status(&status));
        let text = code.to_string();
        // As trailers after a message, and as an answer that has nothing but headers.
        let behind = Answer::grpc(b"", &[("grpc-status", &text), ("grpc-status-details-bin", &details)]);
        let alone = Answer::http(
            200,
            &[("content-type", "application/grpc"), ("grpc-status", &text), ("grpc-status-details-bin", &details)],
            b"",
        );
        assert_eq!(retry(&outcome_of(behind).await), Some((retry_after, false)), "{code}");
        assert_eq!(retry(&outcome_of(alone).await), Some((retry_after, false)), "{code}");
    }
}

#[tokio::test]
async fn a_partial_success_is_read_from_the_message() {
    let partial = PartialSuccess { rejected_spans: 4, error_message: "too old".to_owned() };
    let message = reply::encode_response(Some(&partial));
    let outcome = outcome_of(Answer::grpc(&message, &[("grpc-status", "0")])).await;
    assert_eq!(outcome, Outcome::Partial { rejected: 4, message: "too old".to_owned() });
}

#[tokio::test]
async fn an_answer_of_a_proxy_is_mapped_by_its_http_status() {
    for status in [429, 502, 503, 504] {
        assert_eq!(retry(&outcome_of(Answer::http(status, &[], b"busy")).await), Some((None, false)), "{status}");
    }
    for status in [200, 400, 401, 403, 404, 500] {
        let outcome = outcome_of(Answer::http(status, &[], b"")).await;
        assert!(matches!(outcome, Outcome::Permanent { .. }), "{status}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_hanging_backend_costs_one_timeout_and_its_connection() {
    let server = TestBackend::start(ok(), [Answer::Hang]).await;
    let mut settings = otlp(format!("http://{}", server.address));
    settings.timeout = Duration::from_millis(100);
    let backend = OtlpGrpc::new(&settings).unwrap();
    let payload = backend.encode(&spans(&["a"])).unwrap();
    assert_eq!(retry(&backend.send(payload.clone()).await), Some((None, true)));
    assert_eq!(backend.send(payload.clone()).await, Outcome::Delivered);
    assert_eq!(backend.send(payload).await, Outcome::Delivered);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_reset_leaves_the_end_of_a_try_open_and_a_refused_connection_does_not() {
    assert_eq!(retry(&outcome_of(Answer::Reset).await), Some((None, true)));
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let backend = OtlpGrpc::new(&otlp(format!("http://{unused}"))).unwrap();
    let outcome = backend.send(backend.encode(&spans(&["a"])).unwrap()).await;
    assert_eq!(retry(&outcome), Some((None, false)), "{outcome:?}");
}

#[tokio::test]
async fn an_answer_above_four_mebibytes_is_not_read_and_not_asked_for_again() {
    let outcome = outcome_of(Answer::grpc(&oversized(), &[("grpc-status", "14")])).await;
    assert!(matches!(outcome, Outcome::Permanent { .. }), "{outcome:?}");
}

#[tokio::test]
async fn tls_and_insecure_are_as_configured() {
    let pki = Pki::new();
    let server = TestBackend::serve(ok(), [], Some(pki.server(&[b"h2"]))).await;
    let mut settings = otlp(format!("https://localhost:{}", server.address.port()));
    settings.tls = pki.client();
    let backend = OtlpGrpc::new(&settings).unwrap();
    let payload = backend.encode(&spans(&["a"])).unwrap();
    assert_eq!(backend.send(payload.clone()).await, Outcome::Delivered);

    // The server asks for a certificate.
    (settings.tls.cert_file, settings.tls.key_file) = (None, None);
    let nobody = OtlpGrpc::new(&settings).unwrap();
    assert!(retry(&nobody.send(payload.clone()).await).is_some());

    let plain = TestBackend::start(ok(), []).await;
    let mut settings = otlp(format!("https://{}", plain.address));
    settings.tls.insecure = true;
    let backend = OtlpGrpc::new(&settings).unwrap();
    assert_eq!(backend.send(payload).await, Outcome::Delivered);
}

#[test]
fn timeouts_fit_the_eight_digits_of_the_header() {
    assert_eq!(grpc_timeout(5_000), "5000m");
    assert_eq!(grpc_timeout(99_999_999), "99999999m");
    assert_eq!(grpc_timeout(100_000_000), "100000S");
    assert_eq!(grpc_timeout(u128::MAX), "99999999S");
}
