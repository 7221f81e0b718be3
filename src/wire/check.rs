//! Is the inside of a message what protobuf and OTLP allow?
//!
//! The walker need not look into attributes to route a span; it does so because others must: one malformed value or
//! one string that is not UTF-8 makes a backend refuse the whole export request, with the spans of other senders in
//! it. A poisoned span has to be found while its sender is still there to be told.
//!
//! Nearly every attribute is a key and a scalar, and for those there is [`plain`]. Everything else goes through a
//! loop over the schema's tables with an explicit stack: nesting costs heap within the span's own size, never stack.

use smallvec::SmallVec;

use super::reader::{Reader, WireError, count_high, high_of};
use super::schema::{Message, Type};
use super::walk::Limits;

/// What is wrong, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not protobuf: nothing behind it can be trusted either.
    Malformed(WireError),
    /// Legal protobuf that is refused: costs the spans it belongs to.
    Rejected(&'static str),
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Fault::Malformed(error)
    }
}

pub(super) const NOT_UTF8: Fault = Fault::Rejected("a string is not valid UTF-8");
pub(super) const TOO_DEEP: Fault = Fault::Rejected("an attribute value is nested too deeply");
pub(super) const TOO_MANY_ATTRIBUTES: Fault = Fault::Rejected("there are too many attributes");
pub(super) const LINK_ID: Fault = Fault::Rejected("a link has an id of the wrong length");

#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<(), Fault> {
    if std::str::from_utf8(bytes).is_ok() { Ok(()) } else { Err(NOT_UTF8) }
}

/// One `KeyValue`; tells how many of its bytes above 0x7f are of no concern, see [`plain`]. `references` is set if it
/// uses string table indices.
#[inline(always)]
pub(super) fn attribute(body: &[u8], limits: &Limits, references: &mut bool) -> Result<usize, Fault> {
    match plain(body) {
        Some(high) => Ok(high),
        None => unusual(body, limits, references),
    }
}

#[inline(never)]
fn unusual(body: &[u8], limits: &Limits, references: &mut bool) -> Result<usize, Fault> {
    check(body, Message::KeyValue, limits, references)?;
    Ok(count_high(body))
}

/// A key shorter than 128 bytes, then one value of a scalar type, and nothing else? Then how many bytes above 0x7f it
/// has outside its strings: whether there are any inside, the caller finds out for a whole span in one pass, which is
/// cheaper than a loop for every little string.
#[inline(always)]
fn plain(body: &[u8]) -> Option<usize> {
    let [0x0a, key @ 0..0x80, rest @ ..] = body else { return None };
    match rest.get(usize::from(*key)..)? {
        [0x12, len @ 0..0x80, value @ ..] if usize::from(*len) == value.len() => match value {
            [0x0a, len, text @ ..] if usize::from(*len) == text.len() => Some(0),
            [0x10 | 0x18, 0..0x80] | [] => Some(0),
            [0x18, 0x80..=0xff, 0..0x80] => Some(1),
            [0x18, 0x80..=0xff, 0x80..=0xff, 0..0x80] => Some(2),
            [0x21, double @ ..] => double.try_into().ok().map(|bytes| high_of(u64::from_le_bytes(bytes))),
            _ => None,
        },
        [0x12, low, high, value @ ..] if two(*low, *high) == value.len() => match value {
            [0x0a, low, high, text @ ..] if two(*low, *high) == text.len() => Some(2),
            [0x0a, len @ 0..0x80, text @ ..] if usize::from(*len) == text.len() => Some(1),
            _ => None,
        },
        _ => None,
    }
}

/// A varint of exactly two bytes; if it is not one, a value that no length has.
#[inline(always)]
fn two(low: u8, high: u8) -> usize {
    if low < 0x80 || high > 0x7f { usize::MAX } else { usize::from(low & 0x7f) | usize::from(high) << 7 }
}

struct Frame {
    message: Message,
    end: usize,
    /// `KeyValue`s seen directly in it.
    attributes: usize,
}

/// `body` as a message of type `message`, with everything in it.
pub(super) fn check(body: &[u8], message: Message, limits: &Limits, references: &mut bool) -> Result<(), Fault> {
    let mut stack: SmallVec<[Frame; 8]> = SmallVec::new();
    stack.push(Frame { message, end: body.len(), attributes: 0 });
    let mut lists = 0;
    let mut reader = Reader::new(body);
    while let Some(frame) = stack.last_mut() {
        let Some(tag) = reader.tag()? else {
            if frame.message.is_list() {
                lists -= 1;
            }
            let end = frame.end;
            stack.pop();
            if let Some(outer) = stack.last() {
                reader = Reader::within(body, &(end..outer.end));
            }
            continue;
        };
        let Some(field) = frame.message.field(tag >> 3) else {
            reader.skip(tag)?;
            continue;
        };
        if tag != field.tag() {
            reader.skip(tag)?;
            return Err(WireError::WrongType.into());
        }
        match field.ty {
            Type::Text => text(reader.bytes()?)?,
            Type::TraceId if frame.message == Message::Link => id(reader.bytes()?, 16)?,
            Type::SpanId if frame.message == Message::Link => id(reader.bytes()?, 8)?,
            Type::Reference => {
                reader.skip(tag)?;
                *references = true;
            }
            Type::Message(inner) => {
                if inner == Message::KeyValue && frame.message != Message::KeyValueList {
                    frame.attributes += 1;
                    if frame.attributes > limits.max_attributes {
                        return Err(TOO_MANY_ATTRIBUTES);
                    }
                }
                let range = reader.range()?;
                let inside = &body[range.clone()];
                if inner == Message::KeyValue && plain(inside) == Some(count_high(inside)) {
                    continue;
                }
                if inner.is_list() {
                    lists += 1;
                    if lists > limits.max_value_depth {
                        return Err(TOO_DEEP);
                    }
                }
                reader = Reader::within(body, &range);
                stack.push(Frame { message: inner, end: range.end, attributes: 0 });
            }
            Type::TraceId | Type::SpanId | Type::Bytes => reader.skip(tag)?,
            Type::Bool | Type::Int64 | Type::Uint32 | Type::Enum(_) => reader.skip(tag)?,
            Type::Fixed32 | Type::Fixed64 | Type::Double => reader.skip(tag)?,
        }
    }
    Ok(())
}

/// An id that is not the span's own, which the walker sees to: absent, or of the right length.
fn id(bytes: &[u8], len: usize) -> Result<(), Fault> {
    if bytes.is_empty() || bytes.len() == len { Ok(()) } else { Err(LINK_ID) }
}
