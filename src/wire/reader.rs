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
    /// What was not read yet. A slice that shrinks, since a position in one that does not is checked twice.
    rest: &'a [u8],
    /// Where it ends in the request: positions are absolute.
    end: usize,
    high: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Reader { rest: message, end: message.len(), high: 0 }
    }

    /// A cursor over the message that lies at `range` of `request`.
    #[inline(always)]
    pub(super) fn within(request: &'a [u8], range: &Range<usize>) -> Self {
        Reader { rest: &request[range.clone()], end: range.end, high: 0 }
    }

    #[inline(always)]
    pub(super) fn pos(&self) -> usize {
        self.end - self.rest.len()
    }

    /// Bytes above 0x7f in the tags, lengths and varints read so far. Those of other fields are for the caller to add;
    /// if the sum is all that the message has ([`count_high`]), then its strings have none.
    #[inline(always)]
    pub(super) fn high(&self) -> usize {
        self.high
    }

    #[inline(always)]
    pub(super) fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Steps over the next tag if it is this one. A row of these in the order of the numbers, which is the order that
    /// encoders write in, is a row of well predicted branches; `match` on a tag is one jump that nobody can predict.
    #[inline(always)]
    pub(super) fn next_is<const N: usize>(&mut self, tag: [u8; N]) -> bool {
        match self.rest.split_first_chunk() {
            Some((first, rest)) if *first == tag => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// The next field's tag, `None` at the end. Its legality is checked by [`Reader::skip`], which gets every tag
    /// that its caller does not know.
    #[inline(always)]
    pub(super) fn tag(&mut self) -> Result<Option<u32>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match u32::try_from(self.varint()?) {
            Ok(tag) => Ok(Some(tag)),
            Err(_) => Err(WireError::FieldNumber),
        }
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        match *self.rest {
            [low @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(low))
            }
            // Lengths of events, of spans, of long values.
            [low, high @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                self.high += 1;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => {
                let (value, len) = long_varint(self.rest)?;
                self.rest = &self.rest[len..];
                self.high += len - 1;
                Ok(value)
            }
        }
    }

    #[inline(always)]
    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        // A length that is cut off by a smaller usize would be over the limit of requests anyway.
        match self.rest.split_at_checked(usize::try_from(len).unwrap_or(usize::MAX)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(WireError::Truncated),
        }
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.varint()?;
        self.take(len)
    }

    /// Where the body of a length-delimited field lies.
    #[inline(always)]
    pub(super) fn range(&mut self) -> Result<Range<usize>, WireError> {
        let body = self.bytes()?;
        let end = self.pos();
        Ok(end - body.len()..end)
    }

    #[inline(always)]
    pub(super) fn fixed64(&mut self) -> Result<u64, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[inline(always)]
    pub(super) fn fixed32(&mut self) -> Result<u32, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    /// Steps over the value that belongs to `tag`, whatever it is.
    #[inline(always)]
    pub(super) fn skip(&mut self, tag: u32) -> Result<(), WireError> {
        let len = value_len(self.rest, tag)?;
        self.rest = &self.rest[len..];
        Ok(())
    }

    /// Steps over a field that this build does not know. The numbers `1..=known` it does know, so here they have come
    /// with a wrong wire type: a backend would refuse the whole batch for it, other senders' spans included.
    #[inline(always)]
    pub(super) fn skip_unknown(&mut self, tag: u32, known: u32) -> Result<(), WireError> {
        self.skip(tag)?;
        if tag >> 3 <= known { Err(WireError::WrongType) } else { Ok(()) }
    }
}

// The rare cases take their input by value. A cursor whose address is handed to a function lives in memory, and each
// field then costs a store and a load more than it needs: a third of the walk, measured.

/// A varint at the start of `bytes`, and its length. Overlong forms are legal as long as they fit ten bytes and 64
/// bits.
#[inline(never)]
fn long_varint(bytes: &[u8]) -> Result<(u64, usize), WireError> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return if i == 9 && byte > 1 { Err(WireError::Varint) } else { Ok((value, i + 1)) };
        }
    }
    Err(if bytes.len() >= 10 { WireError::Varint } else { WireError::Truncated })
}

/// Length of the value at the start of `bytes` that belongs to `tag`.
#[inline(never)]
fn value_len(bytes: &[u8], tag: u32) -> Result<usize, WireError> {
    if tag >> 3 == 0 {
        return Err(WireError::FieldNumber);
    }
    let mut reader = Reader::new(bytes);
    match tag & 7 {
        VARINT => reader.varint().map(drop)?,
        FIXED64 => reader.take(8).map(drop)?,
        LEN => reader.bytes().map(drop)?,
        FIXED32 => reader.take(4).map(drop)?,
        3 | 4 => return Err(WireError::Group),
        _ => return Err(WireError::WireType),
    }
    Ok(reader.pos())
}

/// Bytes that `value` takes as a varint.
#[inline]
pub(crate) fn varint_len(value: u64) -> usize {
    // 7 bits per byte: ceil(bits / 7) without a division.
    ((64 - (value | 1).leading_zeros()) as usize * 9 + 64) / 64
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Tag and length of a length-delimited field with a body of `len` bytes.
#[inline]
pub(crate) fn put_head(out: &mut Vec<u8>, number: u32, len: usize) {
    put_varint(out, u64::from(tag(number, LEN)));
    put_varint(out, len as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    put_head(out, number, body.len());
    out.extend_from_slice(body);
}

/// Bytes above 0x7f. Eight counters in a word, emptied before they could overflow: compilers make vectors of it.
#[inline]
pub(super) fn count_high(bytes: &[u8]) -> usize {
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().filter(|byte| **byte > 0x7f).count();
    };
    let (words, rest) = bytes.as_chunks::<8>();
    // What the words leave over are the upper bytes of the last eight; twice, as a shift by 64 is none.
    let half = 4 * (8 - rest.len());
    let mut count = high_of(u64::from_le_bytes(*last) >> half >> half);
    for block in words.chunks(255) {
        let counters: u64 = block.iter().map(|word| u64::from_le_bytes(*word) >> 7 & 0x0101_0101_0101_0101).sum();
        count += counters.to_le_bytes().iter().map(|counter| usize::from(*counter)).sum::<usize>();
    }
    count
}

/// The same for one word. Without `count_ones`, which takes a dozen instructions on the baseline of x86-64.
#[inline(always)]
pub(super) fn high_of(word: u64) -> usize {
    ((word >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0101_0101_0101_0101) >> 56) as usize
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
    fn high_bytes_are_counted_wherever_they_are() {
        for len in [0, 1, 7, 8, 9, 100, 2_039, 2_040, 2_041, 5_000] {
            assert_eq!(count_high(&vec![0x7f; len]), 0);
            assert_eq!(count_high(&vec![0xff; len]), len);
            let mixed: Vec<u8> = (0..len).map(|i| if i % 3 == 0 { 0x80 } else { 0x41 }).collect();
            assert_eq!(count_high(&mixed), len.div_ceil(3));
        }
        assert_eq!(high_of(0xff00_0080_7f00_0001), 2);
    }
}
