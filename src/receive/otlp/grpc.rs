//! OTLP/gRPC: one unary method, framed by hand over hyper's HTTP/2.
//!
//! Why not tonic's server. Its size limit answers OUT_OF_RANGE, which OTLP's senders take as "send again": a batch that
//! is too large is then repeated for their whole retry budget. A request it cannot decode is INTERNAL with prost's
//! own text in a header. And its generated service decodes every span: ten times the CPU of the walk. What remains
//! of the protocol for one unary method is small enough to read at a glance (gRPC over HTTP/2, "Requests" and
//! "Responses"): a five-byte prefix, one message, and trailers.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::super::refusal::No;
use super::Door;
use super::body;
use super::compression::{self, Compression};
use super::counts::Transport;
use super::intake::Encoding;
use super::reply::Reply;
use crate::wire::reply::{self, PartialSuccess};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const OTHER_SIGNALS: [&str; 3] = [
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/",
    "/opentelemetry.proto.collector.logs.v1.LogsService/",
    "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/",
];

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ZERO: HeaderValue = HeaderValue::from_static("0");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,gzip,zstd");

/// Compressed flag and length in front of a message.
const PREFIX: usize = 5;
/// Longest `grpc-message`: it travels in a header.
const MAX_MESSAGE: usize = 1 << 10;

/// Whether a Content-Type asks for gRPC with protobuf, the only kind there is here.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let media_type = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/grpc") || media_type.eq_ignore_ascii_case(b"application/grpc+proto")
}

pub(super) async fn answer(door: &Door, request: Request<Incoming>) -> Response<Reply> {
    let counts = door.intake.counts(Transport::Grpc);
    counts.requests.fetch_add(1, Relaxed);
    if request.method() != Method::POST {
        counts.failed(&No::Method);
        let mut response = Response::new(Reply::default());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    match export(door, request).await {
        Ok(partial) => yes(partial.as_ref()),
        Err(no) => {
            counts.failed(&no);
            refused(&no)
        }
    }
}

async fn export(door: &Door, request: Request<Incoming>) -> Result<Option<PartialSuccess>, No> {
    let path = request.uri().path();
    if path != EXPORT {
        let other_signal = OTHER_SIGNALS.iter().any(|service| path.starts_with(service));
        return Err(No::Unimplemented(if other_signal {
            "spanmesh takes traces only; send this signal to another collector"
        } else {
            "no such service or method; only the export of traces is served"
        }));
    }
    let named = request.headers().get(GRPC_ENCODING).map_or(&b""[..], |name| name.as_bytes());
    let compression = Compression::named(named)
        .ok_or(No::Unimplemented("grpc-encoding must be one of those in grpc-accept-encoding"))?;
    let sender_waits = request.headers().get(GRPC_TIMEOUT).and_then(timeout_of);
    let max_bytes = door.max_request_bytes;
    let intake = &door.intake;
    let mut patience = intake.patience;
    patience.total = patience.total.min(sender_waits.unwrap_or(patience.total));
    let began = tokio::time::Instant::now();

    // The prefix is judged as soon as its five bytes are here, so a length that is too large never reads on.
    let mut prefix = None;
    let mut body = request.into_body();
    let whole =
        body::read(&mut body, max_bytes.saturating_add(PREFIX), patience, &intake.admission, |gathered, ended| {
            if prefix.is_none() {
                prefix = gathered.prefix::<PREFIX>();
            }
            let Some([flag, length @ ..]) = prefix else {
                return if ended { Err(No::Malformed("the request holds no whole message".into())) } else { Ok(0) };
            };
            if flag > 1 {
                return Err(No::Framing("the compressed flag is neither 0 nor 1"));
            }
            if flag == 1 && compression == Compression::None {
                return Err(No::Framing("the message is flagged as compressed but grpc-encoding is absent"));
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > max_bytes {
                return Err(No::TooLarge { limit: max_bytes });
            }
            if gathered.len() > length + PREFIX {
                return Err(No::Unimplemented("more than one message in a unary request"));
            }
            if ended && gathered.len() < length + PREFIX {
                return Err(No::Malformed("the message is cut short".into()));
            }
            Ok(length + PREFIX)
        });
    let (mut bytes, mut held) = whole.await?;
    intake.grpc.bytes.fetch_add(bytes.len() as u64, Relaxed);
    let is_compressed = bytes.first() == Some(&1);
    let message = bytes.split_off(PREFIX);
    held.resize(message.len());
    let compression = if is_compressed { compression } else { Compression::None };
    let (message, held) = compression::open(compression, message, held, max_bytes, &intake.admission).await?;
    let sender_waits = sender_waits.map(|wait| wait.saturating_sub(began.elapsed()));
    intake.take(Transport::Grpc, Encoding::Protobuf, message, held, sender_waits).await
}

/// Reads `grpc-timeout`: at most eight digits and a unit. Anything else counts as absent: the sender's own clock rules.
fn timeout_of(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3_600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn yes(partial: Option<&PartialSuccess>) -> Response<Reply> {
    let message = reply::encode_response(partial);
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, ZERO);
    let mut response = Response::new(Reply::with_trailers(framed, trailers));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    response
}

/// "Trailers-Only": the status stands in the one header block of the answer.
fn refused(no: &No) -> Response<Reply> {
    let status = no.status();
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&status.message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    if let Ok(details) = HeaderValue::from_str(&base64(&reply::encode_status(&status))) {
        headers.insert(GRPC_STATUS_DETAILS, details);
    }
    response
}

/// gRPC's Percent-Encoded: printable ASCII but `%` stands for itself. Cut at [`MAX_MESSAGE`] characters.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if out.len() + 3 > MAX_MESSAGE {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Base64 without padding, as gRPC writes binary headers.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            out.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_nonsense_is_ignored() {
        let read = |text: &str| timeout_of(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!((read("1u"), read("7n")), (Some(Duration::from_micros(1)), Some(Duration::from_nanos(7))));
        for nonsense in ["", "S", "123456789S", "-1S", "1.5S", "10", "1x"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn messages_fit_a_header_whatever_they_say() {
        assert_eq!(percent_encoded("100% über\n"), "100%25 %C3%BCber%0A");
        assert!(percent_encoded(&"ü".repeat(5_000)).len() <= MAX_MESSAGE);
    }

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648_without_padding() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8");
    }

    #[test]
    fn only_grpc_with_protobuf_is_grpc() {
        let asked =
            |text: &'static str| is_asked_for(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]));
        assert!(asked("application/grpc") && asked("Application/gRPC+proto; charset=utf-8"));
        assert!(!asked("application/grpc+json") && !asked("application/grpc-web") && !asked("application/json"));
    }

    #[test]
    fn bytes_split_off_the_prefix_without_a_copy() {
        let mut whole = Bytes::from(vec![0, 0, 0, 0, 2, 7, 8]);
        let at = whole.as_ptr();
        let message = whole.split_off(PREFIX);
        assert_eq!((message.as_ptr(), &message[..]), (at.wrapping_add(PREFIX), &[7, 8][..]));
    }
}
