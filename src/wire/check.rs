//! Is the inside of a message what protobuf and OTLP allow?
//!
//! The walker need not look into attributes to route a span; it does so because others must: one malformed value or
//! one string that is not UTF-8 makes a backend refuse the whole export request, with the spans of other senders in
//! it. A poisoned span has to be found while its sender is still there to be told.
//!
//! Nearly every attribute is a key and a scalar, and for those there is [`is_plain`]. Everything else goes through a
//! loop over the schema's tables with an explicit stack: nesting costs heap within the span's own size, never stack.

use smallvec::SmallVec;

use super::reader::{Reader, WireError, is_ascii, is_text};
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
    if is_text(bytes) { Ok(()) } else { Err(NOT_UTF8) }
}

/// One `KeyValue`. `references` is set if it uses string table indices.
#[inline]
pub(super) fn attribute(body: &[u8], limits: &Limits, references: &mut bool) -> Result<(), Fault> {
    if is_plain(body) { Ok(()) } else { check(body, Message::KeyValue, limits, references) }
}

/// A key, then one value of a scalar type, all text legal, nothing else.
#[inline]
fn is_plain(body: &[u8]) -> bool {
    plain(body).unwrap_or(false)
}

#[inline(always)]
fn plain(body: &[u8]) -> Result<bool, WireError> {
    let mut pair = Reader::new(body);
    if pair.tag()? != Some(0x0a) {
        return Ok(false);
    }
    let key = pair.bytes()?;
    if pair.tag()? != Some(0x12) {
        return Ok(false);
    }
    let value = pair.bytes()?;
    if !pair.at_end() {
        return Ok(false);
    }
    let mut any = Reader::new(value);
    match any.tag()? {
        Some(0x0a) => {
            let text = any.bytes()?;
            // Tags are ASCII, and so are lengths below 128: one pass over everything is the rule.
            return Ok(any.at_end() && (is_ascii(body) || (is_text(key) && is_text(text))));
        }
        Some(0x10 | 0x18) => drop(any.varint()?),
        Some(0x21) => drop(any.fixed64()?),
        Some(0x3a) => drop(any.bytes()?),
        None => {}
        Some(_) => return Ok(false),
    }
    Ok(any.at_end() && is_text(key))
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
            Type::TraceId => id(reader.bytes()?, 16)?,
            Type::SpanId => id(reader.bytes()?, 8)?,
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
                if inner == Message::KeyValue && is_plain(&body[range.clone()]) {
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
            Type::Bytes | Type::Bool | Type::Int64 | Type::Uint32 | Type::Enum(_) => reader.skip(tag)?,
            Type::Fixed32 | Type::Fixed64 | Type::Double => reader.skip(tag)?,
        }
    }
    Ok(())
}

/// An id that is not the span's own: absent, or of the right length.
fn id(bytes: &[u8], len: usize) -> Result<(), Fault> {
    if bytes.is_empty() || bytes.len() == len { Ok(()) } else { Err(LINK_ID) }
}
