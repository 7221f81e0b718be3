//! Spans changed on their way out: a tracestate put in, attributes added.
//!
//! What is written is put at the end, and what it replaces is left out of the copy. That keeps the rest in as few runs as
//! it came in, and protobuf does not care for the order of different fields. All occurrences go: of a tracestate that
//! stands there twice the last one would count for one reader and the first for another, and so with equal keys.

use super::key_value::{key_of, put_attribute};
use super::reader::{LEN, Reader, WireError, put_bytes, tag};
use crate::config::settings::AttributeValue;

const TRACE_STATE: u32 = tag(3, LEN);
const ATTRIBUTE: u32 = tag(9, LEN);

/// What is written into a span; nothing: it is copied as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanEdits<'a> {
    /// In place of the span's tracestate.
    pub trace_state: Option<&'a str>,
    /// In place of attributes of the same key, or added.
    pub attributes: &'a [(&'a str, AttributeValue)],
}

impl SpanEdits<'_> {
    /// Whether a span is copied as it is.
    pub fn is_empty(&self) -> bool {
        self.trace_state.is_none() && self.attributes.is_empty()
    }

    fn replace(&self, tag: u32, body: &[u8]) -> bool {
        match tag {
            TRACE_STATE => self.trace_state.is_some(),
            ATTRIBUTE if !self.attributes.is_empty() => {
                let key = key_of(body);
                self.attributes.iter().any(|(written, _)| written.as_bytes() == key)
            }
            _ => false,
        }
    }
}

/// Appends the encoded `Span` with the edits. Everything else keeps its bytes and order; unknown fields too. A span that
/// is malformed (the walk lets none pass) is copied as it is.
pub fn write_span(out: &mut Vec<u8>, span: &[u8], edits: &SpanEdits<'_>) {
    if edits.is_empty() {
        return out.extend_from_slice(span);
    }
    let start = out.len();
    if copy_others(out, span, edits).is_err() {
        out.truncate(start);
        return out.extend_from_slice(span);
    }
    if let Some(text) = edits.trace_state {
        put_bytes(out, 3, text.as_bytes());
    }
    for (key, value) in edits.attributes {
        put_attribute(out, 9, key, value);
    }
}

fn copy_others(out: &mut Vec<u8>, span: &[u8], edits: &SpanEdits<'_>) -> Result<(), WireError> {
    let mut reader = Reader::new(span);
    // Where the run begins that is to be copied, and the field.
    let (mut run, mut field) = (0, 0);
    while let Some(tag) = reader.tag()? {
        let replaced = match tag {
            TRACE_STATE | ATTRIBUTE => edits.replace(tag, reader.bytes()?),
            _ => {
                reader.skip(tag)?;
                false
            }
        };
        if replaced {
            out.extend_from_slice(&span[run..field]);
            run = reader.pos();
        }
        field = reader.pos();
    }
    out.extend_from_slice(&span[run..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::attributes::{Value, span_attributes, trace_state};
    use super::*;

    fn written(span: &[u8], edits: &SpanEdits<'_>) -> Vec<u8> {
        let mut out = b"before".to_vec();
        write_span(&mut out, span, edits);
        assert_eq!(&out[..6], b"before");
        out.split_off(6)
    }

    fn attribute(key: &str, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_attribute(&mut out, 9, key, &AttributeValue::String(value.to_owned()));
        out
    }

    fn text(value: &str) -> AttributeValue {
        AttributeValue::String(value.to_owned())
    }

    /// Field 5 is the name, 99 is unknown.
    fn span() -> Vec<u8> {
        let (name, unknown) = ([0x2a, 1, b'n'], [0x9a, 0x06, 0x01, 0xff]);
        let state = [0x1a, 7, b'o', b't', b'=', b't', b'h', b':', b'8'];
        [&name[..], &state, &attribute("a", "1"), &unknown, &attribute("b", "2"), &attribute("a", "3")].concat()
    }

    #[test]
    fn without_edits_a_span_is_copied() {
        assert_eq!(written(&span(), &SpanEdits::default()), span());
        assert!(written(&[], &SpanEdits::default()).is_empty());
    }

    #[test]
    fn a_tracestate_takes_the_place_of_all_there_are() {
        let twice = [span(), vec![0x1a, 2, b'x', b'x']].concat();
        let out = written(&twice, &SpanEdits { trace_state: Some("ot=th:c"), attributes: &[] });
        assert_eq!(trace_state(&out), "ot=th:c");
        let mut expected = span();
        expected.drain(3..12);
        expected.extend_from_slice(b"\x1a\x07ot=th:c");
        assert_eq!(out, expected);
        assert_eq!(written(&[], &SpanEdits { trace_state: Some("x=y"), attributes: &[] }), b"\x1a\x03x=y");
        assert_eq!(written(&twice, &SpanEdits { trace_state: Some(""), attributes: &[] }).len(), span().len() - 7);
    }

    #[test]
    fn attributes_take_the_place_of_those_with_their_key_and_the_rest_stays() {
        let attributes = [("a", text("9")), ("new", AttributeValue::Int(-1))];
        let out = written(&span(), &SpanEdits { trace_state: None, attributes: &attributes });
        let found: Vec<_> = span_attributes(&out).collect();
        assert_eq!(found, [("b", Value::Str("2")), ("a", Value::Str("9")), ("new", Value::Int(-1))]);
        assert_eq!(trace_state(&out), "ot=th:8");
        assert!(out.windows(4).any(|bytes| bytes == [0x9a, 0x06, 0x01, 0xff]));
    }

    #[test]
    fn malformed_spans_are_copied_as_they_are() {
        let attributes = [("a", text("9"))];
        let edits = SpanEdits { trace_state: Some("ot=th:c"), attributes: &attributes };
        let whole = span();
        for bad in [&whole[..whole.len() - 1], b"\x1a\xff", b"\x1b\x1c", b"\x00", b"\x4a\x05a", &[0xff; 20]] {
            let damaged = [&whole, bad].concat();
            assert_eq!(written(bad, &edits), bad);
            assert_eq!(written(&damaged, &edits), damaged);
        }
        // Only the key of the attribute is broken: it has none, and is none of those that are written.
        let keyless = [0x4a, 2, 0x0a, 0x09];
        assert!(written(&keyless, &edits).starts_with(&keyless));
    }
}
