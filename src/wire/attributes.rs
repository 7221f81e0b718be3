//! What a span or a resource says of itself, read on the wire: attributes, name, tracestate and flags.
//!
//! Only for bytes that the walk has checked. Should they be malformed nevertheless, what is behind the fault is not
//! there. Nothing is copied, and nothing is looked at that was not asked for.

use super::reader::{FIXED32, FIXED64, LEN, Reader, VARINT, tag};

/// The value of an attribute, as far as anybody compares it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Str(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// Bytes, arrays, lists, or nothing.
    Other,
}

const RESOURCE_ATTRIBUTE: u32 = tag(1, LEN);
const TRACE_STATE: u32 = tag(3, LEN);
const NAME: u32 = tag(5, LEN);
const SPAN_ATTRIBUTE: u32 = tag(9, LEN);
const FLAGS: u32 = tag(16, FIXED32);
const KEY: u32 = tag(1, LEN);
const VALUE: u32 = tag(2, LEN);

/// An attribute whose value nobody has looked at yet: most keys are nobody's business.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    pub key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn value(&self) -> Value<'a> {
        any_value(self.value)
    }

    /// Of a field that occurs twice the last one counts.
    #[inline(always)]
    fn read(message: &'a [u8]) -> Option<Attribute<'a>> {
        let mut reader = Reader::new(message);
        let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
        // What all encoders write.
        if reader.next_is([KEY as u8]) {
            key = reader.bytes().ok()?;
        }
        if reader.next_is([VALUE as u8]) {
            value = reader.bytes().ok()?;
        }
        while let Some(tag) = reader.tag().ok()? {
            match tag {
                KEY => key = reader.bytes().ok()?,
                VALUE => value = reader.bytes().ok()?,
                _ => pass(&mut reader, tag)?,
            }
        }
        Some(Attribute { key, value })
    }
}

/// What sampling asks of a span's body. Trace state and flags may come twice: the last one counts.
#[derive(Clone, Copy, Debug)]
pub enum SpanField<'a> {
    TraceState(&'a str),
    Attribute(Attribute<'a>),
    Flags(u32),
}

/// Trace state, attributes and flags of an encoded `Span` in one pass, in the order of its bytes.
#[inline]
pub fn span_fields(span: &[u8]) -> impl Iterator<Item = SpanField<'_>> {
    let mut reader = Reader::new(span);
    std::iter::from_fn(move || {
        loop {
            let tag = reader.tag().ok()??;
            match tag {
                SPAN_ATTRIBUTE => return Attribute::read(reader.bytes().ok()?).map(SpanField::Attribute),
                TRACE_STATE => {
                    let text = std::str::from_utf8(reader.bytes().ok()?).unwrap_or_default();
                    return Some(SpanField::TraceState(text));
                }
                FLAGS => return reader.fixed32().ok().map(SpanField::Flags),
                _ => pass(&mut reader, tag)?,
            }
        }
    })
}

/// Steps over a field. Most of a span's are of these two types, and a call for each of them would be half the work.
#[inline(always)]
fn pass(reader: &mut Reader<'_>, tag: u32) -> Option<()> {
    match tag & 7 {
        LEN if tag > LEN => reader.bytes().map(drop),
        FIXED64 if tag > FIXED64 => reader.fixed64().map(drop),
        _ => reader.skip(tag),
    }
    .ok()
}

/// Attributes of an encoded `Resource`, in their order, values unread; a key may come twice.
pub fn resource_fields(resource: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    raw_attributes(resource, RESOURCE_ATTRIBUTE)
}

/// Attributes of an encoded `Span`, in their order; a key may come twice.
pub fn span_attributes(span: &[u8]) -> impl Iterator<Item = (&str, Value<'_>)> {
    attributes(span, SPAN_ATTRIBUTE)
}

/// Attributes of an encoded `Resource`, in their order; a key may come twice.
pub fn resource_attributes(resource: &[u8]) -> impl Iterator<Item = (&str, Value<'_>)> {
    attributes(resource, RESOURCE_ATTRIBUTE)
}

fn attributes(message: &[u8], field: u32) -> impl Iterator<Item = (&str, Value<'_>)> {
    raw_attributes(message, field).map_while(|found| Some((std::str::from_utf8(found.key).ok()?, found.value())))
}

fn raw_attributes(message: &[u8], field: u32) -> impl Iterator<Item = Attribute<'_>> {
    let mut reader = Reader::new(message);
    std::iter::from_fn(move || {
        loop {
            let tag = reader.tag().ok()??;
            if tag == field {
                return Attribute::read(reader.bytes().ok()?);
            }
            pass(&mut reader, tag)?;
        }
    })
}

fn any_value(message: &[u8]) -> Value<'_> {
    const STRING: u32 = tag(1, LEN);
    const BOOL: u32 = tag(2, VARINT);
    const INT: u32 = tag(3, VARINT);
    const DOUBLE: u32 = tag(4, FIXED64);
    let mut reader = Reader::new(message);
    let mut value = Value::Other;
    while let Ok(Some(tag)) = reader.tag() {
        let read = match tag {
            STRING => reader.bytes().map(|text| std::str::from_utf8(text).map_or(Value::Other, Value::Str)),
            BOOL => reader.varint().map(|bit| Value::Bool(bit != 0)),
            INT => reader.varint().map(|bits| Value::Int(bits as i64)),
            DOUBLE => reader.fixed64().map(|bits| Value::Double(f64::from_bits(bits))),
            _ => reader.skip(tag).map(|()| Value::Other),
        };
        match read {
            Ok(read) => value = read,
            Err(_) => break,
        }
    }
    value
}

/// The name of an encoded `Span`.
pub fn span_name(span: &[u8]) -> &str {
    last_text(span, NAME)
}

/// The W3C tracestate of an encoded `Span`.
pub fn trace_state(span: &[u8]) -> &str {
    last_text(span, TRACE_STATE)
}

fn last_text(span: &[u8], field: u32) -> &str {
    let mut reader = Reader::new(span);
    let mut found: &[u8] = &[];
    while let Ok(Some(tag)) = reader.tag() {
        if tag == field {
            let Ok(text) = reader.bytes() else { break };
            found = text;
        } else if pass(&mut reader, tag).is_none() {
            break;
        }
    }
    std::str::from_utf8(found).unwrap_or_default()
}

/// The flags of an encoded `Span`; the W3C trace flags are its lowest 8 bits.
pub fn span_flags(span: &[u8]) -> u32 {
    let mut reader = Reader::new(span);
    let mut found = 0;
    while let Ok(Some(tag)) = reader.tag() {
        if tag == FLAGS {
            let Ok(flags) = reader.fixed32() else { break };
            found = flags;
        } else if pass(&mut reader, tag).is_none() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::reader::{put_bytes, put_varint};
    use super::*;

    fn pair(key: &str, value: &[u8]) -> Vec<u8> {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, key.as_bytes());
        put_bytes(&mut pair, 2, value);
        pair
    }

    #[test]
    fn attributes_of_every_type_are_read_and_the_rest_is_passed_over() {
        let mut span = Vec::new();
        put_bytes(&mut span, 3, b"ot=th:c");
        put_bytes(&mut span, 5, b"GET /");
        let mut text = Vec::new();
        put_bytes(&mut text, 1, b"v");
        put_bytes(&mut span, 9, &pair("text", &text));
        put_bytes(&mut span, 9, &pair("yes", &[0x10, 1]));
        let mut int = vec![0x18];
        put_varint(&mut int, -2_i64 as u64);
        put_bytes(&mut span, 9, &pair("int", &int));
        let mut double = vec![0x21];
        double.extend_from_slice(&1.5_f64.to_le_bytes());
        put_bytes(&mut span, 9, &pair("double", &double));
        put_bytes(&mut span, 9, &pair("array", &[0x2a, 0]));
        span.extend_from_slice(&[0x85, 0x01, 1, 1, 0, 0]);
        let found: Vec<_> = span_attributes(&span).collect();
        let expected = [
            ("text", Value::Str("v")),
            ("yes", Value::Bool(true)),
            ("int", Value::Int(-2)),
            ("double", Value::Double(1.5)),
            ("array", Value::Other),
        ];
        assert_eq!(found, expected);
        assert_eq!((span_name(&span), trace_state(&span), span_flags(&span)), ("GET /", "ot=th:c", 0x101));
        let in_one_pass: Vec<_> = span_fields(&span).map(|field| format!("{field:?}")).collect();
        assert_eq!(in_one_pass.len(), 7);
        assert_eq!((&*in_one_pass[0], &*in_one_pass[6]), ("TraceState(\"ot=th:c\")", "Flags(257)"));
    }
}
