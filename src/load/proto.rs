//! The few protobuf forms that a payload is written with.
//!
//! prost would build a tree of some 26 allocations a span only to measure and copy it; here a template is written
//! once and then copied, so that the generator costs a small part of what it loads.

/// Appends protobuf fields to a buffer.
#[derive(Default)]
pub(super) struct ProtoWriter {
    pub(super) bytes: Vec<u8>,
}

/// Bytes that `value` takes as a varint.
pub(super) fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Key and length of a length-delimited field; its content is to follow.
pub(super) fn put_len_header(out: &mut Vec<u8>, field: u32, len: usize) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, len as u64);
}

impl ProtoWriter {
    pub(super) fn varint(&mut self, field: u32, value: u64) {
        put_varint(&mut self.bytes, u64::from(field) << 3);
        put_varint(&mut self.bytes, value);
    }

    /// Returns where the eight bytes of the value lie.
    pub(super) fn fixed64(&mut self, field: u32, value: u64) -> usize {
        put_varint(&mut self.bytes, u64::from(field) << 3 | 1);
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&value.to_le_bytes());
        at
    }

    pub(super) fn fixed32(&mut self, field: u32, value: u32) {
        put_varint(&mut self.bytes, u64::from(field) << 3 | 5);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Returns where the content begins.
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) -> usize {
        put_len_header(&mut self.bytes, field, value.len());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(value);
        at
    }

    /// A nested message. Returns where its content begins.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut ProtoWriter)) -> usize {
        let mut inner = ProtoWriter::default();
        write(&mut inner);
        self.bytes(field, &inner.bytes)
    }

    /// `KeyValue` with a string value. Returns where the text begins.
    pub(super) fn attribute(&mut self, field: u32, key: &str, value: &str) -> usize {
        let mut text = 0;
        let content = self.message(field, |kv| {
            kv.bytes(1, key.as_bytes());
            let mut inner = 0;
            let any = kv.message(2, |any| inner = any.bytes(1, value.as_bytes()));
            text = any + inner;
        });
        content + text
    }

    /// `KeyValue` with an integer value.
    pub(super) fn attribute_int(&mut self, field: u32, key: &str, value: u64) {
        self.message(field, |kv| {
            kv.bytes(1, key.as_bytes());
            kv.message(2, |any| any.varint(3, value));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_is_as_long_as_foretold() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 28, u32::MAX as usize] {
            let mut out = Vec::new();
            put_varint(&mut out, value as u64);
            assert_eq!(out.len(), varint_len(value), "{value}");
        }
    }

    #[test]
    fn an_attribute_tells_where_its_text_lies() {
        let mut w = ProtoWriter::default();
        w.varint(1, 300);
        let at = w.attribute(9, "url.full", "https://example.org");
        assert_eq!(&w.bytes[at..], b"https://example.org");
    }
}
