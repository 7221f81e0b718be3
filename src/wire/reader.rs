//! The protobuf wire format, read from a slice: tags, varints, lengths, nothing else.
//!
//! A cursor with absolute positions, because what the walker is after are byte ranges of the request. Entering a
//! message means a second cursor that ends where the message does; there is no state to restore and nothing recurses.
//! Groups are refused: no OTLP message has ever had one, and skipping them is the only reason a protobuf reader needs
//! recursion at its outer levels.

use std::ops::Range;

/// Why bytes are not a legal message. What the sender gets to read: fixed English texts that repeat nothing of its
/// input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the protobuf message ends in the middle of a field")]
    Truncated,
    #[error("a protobuf varint is longer than 64 bits")]
    Varint,
    #[error("a protobuf field has a number that is not allowed")]
    FieldNumber,
    #[error("a protobuf field has a wire type that does not exist")]
    WireType,
    #[error("a known OTLP field has the wire type of another type")]
    WrongType,
    #[error("the protobuf message uses groups, which OTLP does not have")]
    Group,
    #[error("the request is too large")]
    TooLarge,
    #[error("messages are nested too deeply")]
    TooDeep,
}

pub(super) const VARINT: u32 = 0;
pub(super) const FIXED64: u32 = 1;
pub(super) const LEN: u32 = 2;
pub(super) const FIXED32: u32 = 5;

/// A tag as it stands on the wire: field number and wire type.
pub(super) const fn tag(number: u32, wire_type: u32) -> u32 {
    number << 3 | wire_type
}

pub(super) struct Reader<'a> {
    /// Ends where the message ends, but starts with the request: positions are absolute.
    buf: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Reader { buf: message, pos: 0 }
    }

    /// A cursor over the message that lies at `range` of `request`.
    #[inline(always)]
    pub(super) fn within(request: &'a [u8], range: &Range<usize>) -> Self {
        Reader { buf: &request[..range.end], pos: range.start }
    }

    #[inline(always)]
    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    #[inline(always)]
    pub(super) fn at_end(&self) -> bool {
        self.pos >= self.buf.len()
    }

    /// The next field's tag, `None` at the end. Its legality is checked by [`Reader::skip`], which gets every tag
    /// that its caller does not know.
    #[inline(always)]
    pub(super) fn tag(&mut self) -> Result<Option<u32>, WireError> {
        match self.buf.get(self.pos) {
            None => Ok(None),
            Some(&byte) if byte < 0x80 => {
                self.pos += 1;
                Ok(Some(u32::from(byte)))
            }
            Some(_) => match u32::try_from(self.long_varint()?) {
                Ok(tag) => Ok(Some(tag)),
                Err(_) => Err(WireError::FieldNumber),
            },
        }
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        match self.buf.get(self.pos) {
            Some(&byte) if byte < 0x80 => {
                self.pos += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    /// Overlong forms are legal as long as they fit ten bytes and 64 bits.
    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (i, &byte) in self.buf[self.pos..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if i == 9 && byte > 1 {
                    return Err(WireError::Varint);
                }
                self.pos += i + 1;
                return Ok(value);
            }
        }
        Err(if self.buf.len() - self.pos >= 10 { WireError::Varint } else { WireError::Truncated })
    }

    #[inline(always)]
    fn take(&mut self, len: u64) -> Result<Range<usize>, WireError> {
        if len > (self.buf.len() - self.pos) as u64 {
            return Err(WireError::Truncated);
        }
        let start = self.pos;
        self.pos += len as usize;
        Ok(start..self.pos)
    }

    /// Where the body of a length-delimited field lies.
    #[inline(always)]
    pub(super) fn range(&mut self) -> Result<Range<usize>, WireError> {
        let len = self.varint()?;
        self.take(len)
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let range = self.range()?;
        Ok(&self.buf[range])
    }

    #[inline(always)]
    pub(super) fn fixed64(&mut self) -> Result<u64, WireError> {
        let range = self.take(8)?;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.buf[range]);
        Ok(u64::from_le_bytes(bytes))
    }

    #[inline(always)]
    pub(super) fn fixed32(&mut self) -> Result<u32, WireError> {
        let range = self.take(4)?;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.buf[range]);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Steps over the value that belongs to `tag`, whatever it is.
    #[inline]
    pub(super) fn skip(&mut self, tag: u32) -> Result<(), WireError> {
        if tag >> 3 == 0 {
            return Err(WireError::FieldNumber);
        }
        match tag & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.take(8).map(drop),
            LEN => self.range().map(drop),
            FIXED32 => self.take(4).map(drop),
            3 | 4 => Err(WireError::Group),
            _ => Err(WireError::WireType),
        }
    }

    /// Steps over a field that this build does not know. The numbers `1..=known` it does know, so here they have come
    /// with a wrong wire type: a backend would refuse the whole batch for it, other senders' spans included.
    #[inline]
    pub(super) fn skip_unknown(&mut self, tag: u32, known: u32) -> Result<(), WireError> {
        self.skip(tag)?;
        if tag >> 3 <= known { Err(WireError::WrongType) } else { Ok(()) }
    }
}

/// Bytes that `value` takes as a varint.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    // 7 bits per byte: ceil(bits / 7) without a division.
    ((64 - (value | 1).leading_zeros()) as usize * 9 + 64) / 64
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Tag and length of a length-delimited field with a body of `len` bytes.
#[inline]
pub(super) fn put_head(out: &mut Vec<u8>, number: u32, len: usize) {
    put_varint(out, u64::from(tag(number, LEN)));
    put_varint(out, len as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    put_head(out, number, body.len());
    out.extend_from_slice(body);
}

/// Is this UTF-8? Most text of spans is ASCII, and most of it short: words are or-ed together, the last one
/// overlapping the one before it, so that no byte loop runs.
#[inline]
pub(super) fn is_text(bytes: &[u8]) -> bool {
    is_ascii(bytes) || std::str::from_utf8(bytes).is_ok()
}

#[inline(always)]
pub(super) fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.iter().fold(0, |all, b| all | b) < 0x80 };
    let mut all = u64::from_ne_bytes(*last);
    for word in bytes.as_chunks::<8>().0 {
        all |= u64::from_ne_bytes(*word);
    }
    all & HIGH == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_length_is_what_is_written() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) + 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(Reader::new(&out).varint(), Ok(value));
            }
        }
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!((out.len(), varint_len(u64::MAX)), (10, 10));
    }

    #[test]
    fn varints_may_be_overlong_but_not_over_64_bits() {
        assert_eq!(Reader::new(&[0x81, 0x80, 0x00]).varint(), Ok(1));
        assert_eq!(Reader::new(&[0x80, 0x80]).varint(), Err(WireError::Truncated));
        let mut ten = [0xff; 10];
        assert_eq!(Reader::new(&ten).varint(), Err(WireError::Varint));
        ten[9] = 2;
        assert_eq!(Reader::new(&ten).varint(), Err(WireError::Varint));
        ten[9] = 1;
        assert_eq!(Reader::new(&ten).varint(), Ok(u64::MAX));
    }

    #[test]
    fn illegal_tags_are_told_apart() {
        let skip = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            reader.tag().and_then(|tag| reader.skip(tag.unwrap()))
        };
        assert_eq!(skip(&[0x00, 0x00]), Err(WireError::FieldNumber));
        assert_eq!(skip(&[0x0b]), Err(WireError::Group));
        assert_eq!(skip(&[0x0c]), Err(WireError::Group));
        assert_eq!(skip(&[0x0e]), Err(WireError::WireType));
        assert_eq!(skip(&[0x0f]), Err(WireError::WireType));
        assert_eq!(skip(&[0x0a, 0x02, 0x00]), Err(WireError::Truncated));
        assert_eq!(skip(&[0x0d, 0, 0, 0]), Err(WireError::Truncated));
        assert_eq!(skip(&[0xff, 0xff, 0xff, 0xff, 0x7f]), Err(WireError::FieldNumber));
    }

    #[test]
    fn the_ascii_test_sees_every_position() {
        for len in 0..70 {
            let mut text = vec![b'a'; len];
            assert!(is_ascii(&text));
            for i in 0..len {
                text[i] = 0xc3;
                assert!(!is_ascii(&text), "{i} of {len}");
                text[i] = b'a';
            }
        }
    }
}
