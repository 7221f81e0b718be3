//! What a receiver answers and an exporter hears: `ExportTraceServiceResponse`, `google.rpc.Status`.
//!
//! Four small messages in two encodings, written by hand: `opentelemetry-proto`'s JSON answers `{"partialSuccess":null}`
//! where OTLP demands `{}`, and its `Status` lives in yet another crate. What a backend answers is input like any
//! other: it is read tolerantly (an odd body must not turn a success into a retry), and texts are cut, since they end
//! in logs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reader::{LEN, Reader, VARINT, WireError, put_bytes, put_varint, tag};

/// Longest text that is kept of an answer, in bytes.
const MAX_TEXT: usize = 4 << 10;
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// `ExportTracePartialSuccess`. No spans rejected but a message: a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    pub rejected_spans: i64,
    pub error_message: String,
}

/// `google.rpc.Status` with the details OTLP uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// A gRPC status code.
    pub code: i32,
    pub message: String,
    /// `google.rpc.RetryInfo`
    pub retry_after: Option<Duration>,
    /// `google.rpc.BadRequest` with this one field violation (field, description).
    pub bad_request: Option<(String, String)>,
}

/// Proto3 leaves zeros and empty texts out.
fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    if value != 0 {
        put_varint(out, u64::from(tag(number, VARINT)));
        put_varint(out, value as u64);
    }
}

fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

/// Empty for full success (`None`).
pub fn encode_response(partial: Option<&PartialSuccess>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(partial) = partial {
        let mut body = Vec::new();
        put_int(&mut body, 1, partial.rejected_spans);
        put_text(&mut body, 2, &partial.error_message);
        put_bytes(&mut out, 1, &body);
    }
    out
}

/// `{}` for full success.
pub fn encode_response_json(partial: Option<&PartialSuccess>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Partial<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        rejected_spans: Option<String>,
        #[serde(skip_serializing_if = "str::is_empty")]
        error_message: &'a str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Response<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        partial_success: Option<Partial<'a>>,
    }
    json(&Response {
        partial_success: partial.map(|partial| Partial {
            rejected_spans: (partial.rejected_spans != 0).then(|| partial.rejected_spans.to_string()),
            error_message: &partial.error_message,
        }),
    })
}

pub fn encode_status(status: &Status) -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, 1, i64::from(status.code));
    put_text(&mut out, 2, &status.message);
    if let Some(delay) = status.retry_after {
        let (mut duration, mut info) = (Vec::new(), Vec::new());
        put_int(&mut duration, 1, i64::try_from(delay.as_secs()).unwrap_or(i64::MAX));
        put_int(&mut duration, 2, i64::from(delay.subsec_nanos()));
        put_bytes(&mut info, 1, &duration);
        put_detail(&mut out, RETRY_INFO, &info);
    }
    if let Some((field, description)) = &status.bad_request {
        let (mut violation, mut bad_request) = (Vec::new(), Vec::new());
        put_text(&mut violation, 1, field);
        put_text(&mut violation, 2, description);
        put_bytes(&mut bad_request, 1, &violation);
        put_detail(&mut out, BAD_REQUEST, &bad_request);
    }
    out
}

/// A `google.protobuf.Any`.
fn put_detail(status: &mut Vec<u8>, type_url: &str, value: &[u8]) {
    let mut any = Vec::new();
    put_text(&mut any, 1, type_url);
    put_bytes(&mut any, 2, value);
    put_bytes(status, 3, &any);
}

pub fn encode_status_json(status: &Status) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "is_zero")]
        code: i32,
        #[serde(skip_serializing_if = "str::is_empty")]
        message: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        details: Vec<Detail<'a>>,
    }
    #[derive(Serialize)]
    #[serde(tag = "@type")]
    enum Detail<'a> {
        #[serde(rename = "type.googleapis.com/google.rpc.RetryInfo", rename_all = "camelCase")]
        RetryInfo { retry_delay: String },
        #[serde(rename = "type.googleapis.com/google.rpc.BadRequest", rename_all = "camelCase")]
        BadRequest { field_violations: [Violation<'a>; 1] },
    }
    #[derive(Serialize)]
    struct Violation<'a> {
        field: &'a str,
        description: &'a str,
    }
    let retry = status.retry_after.map(|delay| Detail::RetryInfo { retry_delay: duration_text(delay) });
    let bad = status.bad_request.as_ref();
    let bad =
        bad.map(|(field, description)| Detail::BadRequest { field_violations: [Violation { field, description }] });
    json(&Body { code: status.code, message: &status.message, details: retry.into_iter().chain(bad).collect() })
}

fn is_zero(code: &i32) -> bool {
    *code == 0
}

/// ProtoJSON's `Duration`: seconds with 0, 3, 6 or 9 digits behind the point.
fn duration_text(delay: Duration) -> String {
    let (seconds, nanos) = (delay.as_secs(), delay.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        n if n % 1_000_000 == 0 => format!("{seconds}.{:03}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{seconds}.{:06}s", n / 1_000),
        n => format!("{seconds}.{n:09}s"),
    }
}

/// Texts, numbers and lists of them: serializing those does not fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The front of a text, at most [`MAX_TEXT`] bytes; what is not UTF-8 in it is replaced.
fn text(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_TEXT)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    // The cut may have gone through a character, and replacements are longer than what they replace.
    while text.len() > MAX_TEXT {
        text.pop();
    }
    text
}

/// `None`: not a response. A populated partial success comes back as `Some(Some(_))`; one without a rejected span or a
/// message says nothing, and counts as full success.
pub fn decode_response(bytes: &[u8]) -> Option<Option<PartialSuccess>> {
    let mut partial = PartialSuccess::default();
    let read = |partial: &mut PartialSuccess| -> Result<(), WireError> {
        each(bytes, |tag, reader| {
            if tag != self::tag(1, LEN) {
                return reader.skip(tag);
            }
            each(reader.bytes()?, |tag, reader| {
                match tag {
                    0x08 => partial.rejected_spans = reader.varint()? as i64,
                    0x12 => partial.error_message = text(reader.bytes()?),
                    _ => reader.skip(tag)?,
                }
                Ok(())
            })
        })
    };
    read(&mut partial).ok()?;
    Some(populated(partial))
}

fn populated(partial: PartialSuccess) -> Option<PartialSuccess> {
    (partial != PartialSuccess::default()).then_some(partial)
}

/// The same from JSON. Unknown members and `null`s are ignored, counts may be numbers or texts.
pub fn decode_response_json(bytes: &[u8]) -> Option<Option<PartialSuccess>> {
    #[derive(Deserialize)]
    struct Response {
        #[serde(rename = "partialSuccess", alias = "partial_success", default)]
        partial: Option<Partial>,
    }
    #[derive(Deserialize)]
    struct Partial {
        #[serde(rename = "rejectedSpans", alias = "rejected_spans", default)]
        rejected: Option<Count>,
        #[serde(rename = "errorMessage", alias = "error_message", default)]
        message: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(i64),
        Text(String),
    }
    let Some(partial) = serde_json::from_slice::<Response>(bytes).ok()?.partial else { return Some(None) };
    let rejected_spans = match partial.rejected {
        None => 0,
        Some(Count::Number(count)) => count,
        Some(Count::Text(count)) => count.parse().ok()?,
    };
    let error_message = text(partial.message.unwrap_or_default().as_bytes());
    Some(populated(PartialSuccess { rejected_spans, error_message }))
}

/// `None`: not a status. Details other than `RetryInfo` and `BadRequest` are passed over.
pub fn decode_status(bytes: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    each(bytes, |tag, reader| {
        match tag {
            0x08 => status.code = reader.varint()? as i32,
            0x12 => status.message = text(reader.bytes()?),
            0x1a => detail(reader.bytes()?, &mut status)?,
            _ => reader.skip(tag)?,
        }
        Ok(())
    })
    .ok()?;
    Some(status)
}

fn detail(any: &[u8], status: &mut Status) -> Result<(), WireError> {
    let (mut type_url, mut value): (&[u8], &[u8]) = (&[], &[]);
    each(any, |tag, reader| {
        match tag {
            0x0a => type_url = reader.bytes()?,
            0x12 => value = reader.bytes()?,
            _ => reader.skip(tag)?,
        }
        Ok(())
    })?;
    // Only what follows the last slash identifies the type.
    match type_url.rsplit(|b| *b == b'/').next() {
        Some(b"google.rpc.RetryInfo") => status.retry_after = Some(retry_delay(value)?),
        Some(b"google.rpc.BadRequest") => status.bad_request = violation(value)?,
        _ => {}
    }
    Ok(())
}

/// Absent or negative: zero, which still says that the sender may retry.
fn retry_delay(info: &[u8]) -> Result<Duration, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    each(info, |tag, reader| {
        if tag != self::tag(1, LEN) {
            return reader.skip(tag);
        }
        each(reader.bytes()?, |tag, reader| {
            match tag {
                0x08 => seconds = reader.varint()? as i64,
                0x10 => nanos = reader.varint()? as i64,
                _ => reader.skip(tag)?,
            }
            Ok(())
        })
    })?;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos.min(999_999_999))),
        _ => Ok(Duration::ZERO),
    }
}

/// The first field violation.
fn violation(bad_request: &[u8]) -> Result<Option<(String, String)>, WireError> {
    let mut first = None;
    each(bad_request, |tag, reader| {
        if tag != self::tag(1, LEN) || first.is_some() {
            return reader.skip(tag);
        }
        let (mut field, mut description) = (String::new(), String::new());
        each(reader.bytes()?, |tag, reader| {
            match tag {
                0x0a => field = text(reader.bytes()?),
                0x12 => description = text(reader.bytes()?),
                _ => reader.skip(tag)?,
            }
            Ok(())
        })?;
        first = Some((field, description));
        Ok(())
    })?;
    Ok(first)
}

fn each<'a>(
    message: &'a [u8],
    mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        field(tag, &mut reader)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(rejected_spans: i64, error_message: &str) -> PartialSuccess {
        PartialSuccess { rejected_spans, error_message: error_message.into() }
    }

    #[test]
    fn full_success_has_no_partial_success_in_either_encoding() {
        assert_eq!(encode_response(None), b"");
        assert_eq!(encode_response_json(None), b"{}");
        assert_eq!(decode_response(b""), Some(None));
        for full in ["{}", r#"{"partialSuccess":null}"#, r#"{"partialSuccess":{"rejectedSpans":0}}"#] {
            assert_eq!(decode_response_json(full.as_bytes()), Some(None), "{full}");
        }
    }

    #[test]
    fn partial_success_is_read_back_and_its_count_is_a_string_in_json() {
        let answer = partial(3, "bad \"ids\"");
        let json = encode_response_json(Some(&answer));
        assert_eq!(json, br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"bad \"ids\""}}"#);
        assert_eq!(decode_response_json(&json), Some(Some(answer.clone())));
        assert_eq!(decode_response(&encode_response(Some(&answer))), Some(Some(answer)));
        let warning = partial(0, "hm");
        assert_eq!(decode_response(&encode_response(Some(&warning))), Some(Some(warning.clone())));
        assert_eq!(decode_response_json(&encode_response_json(Some(&warning))), Some(Some(warning)));
    }

    #[test]
    fn odd_answers_are_no_response_and_long_texts_are_cut() {
        assert_eq!(decode_response(b"<html>"), None);
        assert_eq!(decode_response_json(b"<html>"), None);
        let long = partial(1, &"ü".repeat(10_000));
        let cut = decode_response(&encode_response(Some(&long))).unwrap().unwrap();
        assert!(cut.error_message.len() <= MAX_TEXT && cut.error_message.len() > MAX_TEXT - 3);
        let garbage = [0x0a, 6, 0x08, 1, 0x12, 2, 0xff, 0xff];
        assert_eq!(decode_response(&garbage), Some(Some(partial(1, "\u{fffd}\u{fffd}"))));
    }

    #[test]
    fn a_status_keeps_its_details_in_both_encodings() {
        let status = Status {
            code: 14,
            message: "busy".into(),
            retry_after: Some(Duration::from_millis(1_500)),
            bad_request: Some(("spans".into(), "too many".into())),
        };
        assert_eq!(decode_status(&encode_status(&status)), Some(status.clone()));
        let json = String::from_utf8(encode_status_json(&status)).unwrap();
        let expected = concat!(
            r#"{"code":14,"message":"busy","details":["#,
            r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.500s"},"#,
            r#"{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":"#,
            r#"[{"field":"spans","description":"too many"}]}]}"#
        );
        assert_eq!(json, expected);
        assert_eq!(encode_status_json(&Status::default()), b"{}");
    }

    #[test]
    fn a_delay_is_whole_seconds_where_it_can_be() {
        assert_eq!(duration_text(Duration::from_secs(1)), "1s");
        assert_eq!(duration_text(Duration::new(0, 1)), "0.000000001s");
        assert_eq!(duration_text(Duration::new(0, 5_000)), "0.000005s");
    }

    #[test]
    fn a_negative_or_absent_retry_delay_still_means_retry() {
        let mut status = Vec::new();
        put_detail(&mut status, "x/google.rpc.RetryInfo", b"");
        assert_eq!(decode_status(&status).unwrap().retry_after, Some(Duration::ZERO));
        let (mut duration, mut info, mut status) = (Vec::new(), Vec::new(), Vec::new());
        put_int(&mut duration, 1, -5);
        put_bytes(&mut info, 1, &duration);
        put_detail(&mut status, RETRY_INFO, &info);
        assert_eq!(decode_status(&status).unwrap().retry_after, Some(Duration::ZERO));
        let endless = Status { retry_after: Some(Duration::MAX), ..Status::default() };
        assert!(decode_status(&encode_status(&endless)).unwrap().retry_after.unwrap() > Duration::from_secs(1 << 40));
    }

    #[test]
    fn no_prefix_of_an_answer_makes_a_panic() {
        let status = Status {
            code: -1,
            message: "m".into(),
            retry_after: Some(Duration::new(7, 8)),
            bad_request: Some(("f".into(), "d".into())),
        };
        let bytes = encode_status(&status);
        for len in 0..bytes.len() {
            let _ = (decode_status(&bytes[..len]), decode_response(&bytes[..len]));
        }
    }
}
