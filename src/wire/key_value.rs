//! Attributes as they are encoded: `KeyValue` and the scalar kinds of `AnyValue`.

use super::reader::{FIXED64, LEN, Reader, VARINT, put_bytes, put_head, put_varint, tag, varint_len};
use crate::config::settings::AttributeValue;

pub(super) const KEY: u32 = tag(1, LEN);
pub(super) const VALUE: u32 = tag(2, LEN);

/// The fields of a checked message: tag, whole field, and where it is length-delimited its body.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = (u32, &[u8], &[u8])> {
    let mut reader = Reader::new(message);
    std::iter::from_fn(move || {
        let start = reader.pos();
        let tag = reader.tag().ok()??;
        let body = if tag & 7 == LEN {
            reader.bytes().ok()?
        } else {
            reader.skip(tag).ok()?;
            &[]
        };
        Some((tag, &message[start..reader.pos()], body))
    })
}

/// Of a field that occurs twice the last one counts; absent is empty.
pub(super) fn key_of(key_value: &[u8]) -> &[u8] {
    fields(key_value).filter(|(tag, ..)| *tag == KEY).last().map_or(&[], |(.., key)| key)
}

/// Appends the body of an `AnyValue`.
pub(super) fn put_value(out: &mut Vec<u8>, value: &AttributeValue) {
    match value {
        AttributeValue::String(text) => put_bytes(out, 1, text.as_bytes()),
        AttributeValue::Bool(value) => {
            put_varint(out, u64::from(tag(2, VARINT)));
            put_varint(out, u64::from(*value));
        }
        AttributeValue::Int(value) => {
            put_varint(out, u64::from(tag(3, VARINT)));
            put_varint(out, *value as u64);
        }
        AttributeValue::Double(value) => {
            put_varint(out, u64::from(tag(4, FIXED64)));
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// How much [`put_value`] appends.
fn value_len(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::String(text) => field_len(text.len()),
        AttributeValue::Bool(_) => 2,
        AttributeValue::Int(value) => 1 + varint_len(*value as u64),
        AttributeValue::Double(_) => 9,
    }
}

/// Appends an attribute as the field of this number (below 16).
pub(super) fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &AttributeValue) {
    let value_len = value_len(value);
    put_head(out, number, field_len(key.len()) + field_len(value_len));
    put_bytes(out, 1, key.as_bytes());
    put_head(out, 2, value_len);
    put_value(out, value);
}

/// Length of a length-delimited field with a number below 16 and a body of this length.
pub(super) fn field_len(body: usize) -> usize {
    1 + varint_len(body as u64) + body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type_are_encoded_as_long_as_they_were_measured() {
        let encoded = |value: &AttributeValue| {
            let mut out = Vec::new();
            put_value(&mut out, value);
            assert_eq!(out.len(), value_len(value), "{value:?}");
            out
        };
        assert_eq!(encoded(&AttributeValue::Int(-1)).len(), 11);
        assert_eq!(encoded(&AttributeValue::Int(300)), [0x18, 0xac, 0x02]);
        assert_eq!(encoded(&AttributeValue::Double(0.0)), [0x21, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encoded(&AttributeValue::Bool(false)), [0x10, 0]);
        assert_eq!(encoded(&AttributeValue::String(String::new())), [0x0a, 0]);
        assert_eq!(encoded(&AttributeValue::String("x".repeat(200))).len(), 203);
    }

    #[test]
    fn an_attribute_is_a_key_and_a_value_in_one_field() {
        let mut out = Vec::new();
        put_attribute(&mut out, 9, "a", &AttributeValue::Bool(true));
        assert_eq!(out, [0x4a, 7, 0x0a, 1, b'a', 0x12, 2, 0x10, 1]);
        assert_eq!(key_of(&out[2..]), b"a");
    }
}
