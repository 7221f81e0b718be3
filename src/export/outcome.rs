//! What a backend's answer means, in the four cases that the queue tells apart.
//!
//! The rules are OTLP's (specification, "Failures" of both transports), kept in one table each for gRPC and HTTP. Where
//! the Collector differs they are not followed: a 500 is permanent, and RESOURCE_EXHAUSTED is worth another try only
//! if the backend says so with a RetryInfo. Texts come from outside: they are cut and cleaned before anybody logs them.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, StatusCode, header};

use super::client::{Failure, Reply};
use crate::model::UnixNanos;
use crate::wire::reply::{self, PartialSuccess};

/// What one try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend has all of it.
    Delivered,
    /// The backend has it, except `rejected` spans that it will never take. Never sent again: OTLP forbids it.
    Partial { rejected: u64, message: String },
    /// Try again. `unanswered`: nobody knows whether the backend has it, so another try may store it twice.
    Retry { at_least: Option<Duration>, unanswered: bool, message: String },
    /// The same bytes would be refused again.
    Permanent { message: String },
}

/// Longest text of a backend that is kept, in characters.
const MAX_TEXT: usize = 200;

/// Longest pause a backend can ask for; anything above is as good as this.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// A backend's text, fit for a log line.
pub(super) fn brief(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// No usable answer came.
pub(super) fn of_failure(failure: &Failure) -> Outcome {
    let message = brief(&failure.to_string());
    match failure {
        Failure::Connect(_) => Outcome::Retry { at_least: None, unanswered: false, message },
        Failure::Disconnected(_) | Failure::TimedOut(_) => Outcome::Retry { at_least: None, unanswered: true, message },
        // Asking again would bring the same answer again (CVE-2026-39882 and its kin).
        Failure::AnswerTooLarge => Outcome::Permanent { message },
    }
}

/// An answer that says the spans were taken.
fn taken(partial: Option<PartialSuccess>) -> Outcome {
    match partial {
        Some(partial) if partial.rejected_spans > 0 => {
            Outcome::Partial { rejected: partial.rejected_spans.unsigned_abs(), message: brief(&partial.error_message) }
        }
        Some(warning) => {
            tracing::debug!(warning = %brief(&warning.error_message), "a backend took the spans with a warning");
            Outcome::Delivered
        }
        None => Outcome::Delivered,
    }
}

/// OTLP/HTTP.
pub(super) fn of_http(reply: &Reply, now: UnixNanos) -> Outcome {
    let json = is_json(&reply.headers);
    if reply.status.is_success() {
        let decoded = if json { reply::decode_response_json(&reply.body) } else { reply::decode_response(&reply.body) };
        // A 200 whose body is no OTLP response is still a 200: sending again would store the spans twice.
        return taken(decoded.flatten());
    }
    let detail = if json { None } else { reply::decode_status(&reply.body) };
    let message = match detail {
        Some(status) if !status.message.is_empty() => format!("HTTP {}: {}", reply.status.as_u16(), status.message),
        Some(_) | None => format!("HTTP {}", reply.status.as_u16()),
    };
    let message = brief(&message);
    match reply.status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            Outcome::Retry { at_least: retry_after(&reply.headers, now), unanswered: false, message }
        }
        _ => Outcome::Permanent { message },
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: UnixNanos) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            until.saturating_sub(Duration::from_nanos(now.0))
        }
    };
    Some(pause.min(MAX_PAUSE))
}

/// gRPC's codes, as far as OTLP gives them a meaning.
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const DATA_LOSS: i32 = 15;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// OTLP/gRPC.
pub(super) fn of_grpc(reply: &Reply) -> Outcome {
    // A trailers-only answer has its status among the headers.
    let status_at = |name| reply.trailers.as_ref().and_then(|all| all.get(name)).or_else(|| reply.headers.get(name));
    let stated = status_at("grpc-status").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let code = stated.unwrap_or_else(|| code_of_http(reply.status));
    if code == code::OK {
        return taken(grpc_message(&reply.body).and_then(reply::decode_response).flatten());
    }
    let text = status_at("grpc-message").map(|value| percent_decoded(value.as_bytes())).unwrap_or_default();
    let message = brief(&format!("gRPC status {code}: {text}"));
    let details = status_at("grpc-status-details-bin").and_then(|value| base64_decoded(value.as_bytes()));
    let at_least = details.and_then(|bytes| reply::decode_status(&bytes)).and_then(|status| status.retry_after);
    let at_least = at_least.map(|pause| pause.min(MAX_PAUSE));
    match code {
        code::CANCELLED
        | code::DEADLINE_EXCEEDED
        | code::ABORTED
        | code::OUT_OF_RANGE
        | code::UNAVAILABLE
        | code::DATA_LOSS => Outcome::Retry { at_least, unanswered: false, message },
        code::RESOURCE_EXHAUSTED if at_least.is_some() => Outcome::Retry { at_least, unanswered: false, message },
        _ => Outcome::Permanent { message },
    }
}

/// The gRPC protocol's mapping for an answer without a gRPC status: it came from a proxy.
fn code_of_http(status: StatusCode) -> i32 {
    match status {
        StatusCode::BAD_REQUEST => code::INTERNAL,
        StatusCode::UNAUTHORIZED => code::UNAUTHENTICATED,
        StatusCode::FORBIDDEN => code::PERMISSION_DENIED,
        StatusCode::NOT_FOUND => code::UNIMPLEMENTED,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => code::UNAVAILABLE,
        _ => code::UNKNOWN,
    }
}

/// The one message of a unary answer. Compressed ones were not asked for.
fn grpc_message(body: &[u8]) -> Option<&[u8]> {
    let (head, rest) = body.split_first_chunk::<5>()?;
    let [compressed, a, b, c, d] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if compressed == 0 { rest.get(..length) } else { None }
}

fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.split_first_chunk::<2>()).flatten().and_then(|(digits, after)| {
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            Some((u8::try_from(high * 16 + low).ok()?, after))
        });
        let (byte, after) = escaped.unwrap_or((byte, after));
        out.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Standard alphabet, with or without padding: gRPC says both are legal in `-bin` metadata.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in text.trim_ascii_end() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = UnixNanos(784_111_777 * 1_000_000_000);
        assert_eq!(retry_after(&headers("retry-after", "120"), now), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:50:07 GMT";
        assert_eq!(retry_after(&headers("retry-after", date), now), Some(Duration::from_secs(30)));
        let past = "Sun, 06 Nov 1994 08:00:00 GMT";
        assert_eq!(retry_after(&headers("retry-after", past), now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("retry-after", "soon"), now), None);
        assert_eq!(retry_after(&headers("retry-after", "99999999999999"), now), Some(MAX_PAUSE));
    }

    #[test]
    fn grpc_texts_and_details_are_decoded_and_broken_ones_do_no_harm() {
        assert_eq!(percent_decoded(b"a%20b%C3%A4%zz%2"), "a b\u{e4}%zz%2");
        assert_eq!(base64_decoded(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"a*b"), None);
    }

    #[test]
    fn a_backends_text_is_cut_and_cannot_start_a_new_log_line() {
        let text = brief(&format!("first\nsecond\x1b[31m{}", "x".repeat(1000)));
        assert!(text.starts_with("first second [31mx") && text.len() == MAX_TEXT);
    }

    #[test]
    fn a_cut_off_grpc_frame_is_no_message() {
        assert_eq!(grpc_message(&[0, 0, 0, 0, 2, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(grpc_message(&[0, 0, 0, 0, 3, 7, 8]), None);
        assert_eq!(grpc_message(&[1, 0, 0, 0, 2, 7, 8]), None);
        assert_eq!(grpc_message(&[0, 0]), None);
    }
}
