//! Protobuf to OTLP/JSON, one line.
//!
//! On the wire the fields of a message come in any order, a list may be interrupted, a singular field may come twice.
//! JSON wants each once. So each message is gone through once per field of its table, which needs no memory besides a
//! stack of slices, and gives protobuf's merge rules: the last scalar wins, the parts of a message concatenate.

use std::io::Write;

use smallvec::{SmallVec, smallvec};

use super::super::reader::{FIXED32, FIXED64, LEN, Reader, VARINT, WireError};
use super::super::schema::{Field, Message, Type};
use super::base64;

/// Messages within each other: far more than the walker lets in.
const MAX_DEPTH: usize = 4_096;

/// Appends an encoded request to `out` as one line of OTLP/JSON (no line break). Fails only on malformed protobuf, and
/// leaves `out` as it was then. Fields that are unknown here have no JSON form and are left out.
pub fn encode(request: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let before = out.len();
    let result = write(request, out);
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// The slices whose concatenation a message is.
type Parts<'a> = SmallVec<[&'a [u8]; 1]>;

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

struct Frame<'a> {
    message: Message,
    parts: Parts<'a>,
    /// Which of the message's fields is written now.
    field: usize,
    /// How far the parts were searched for it: part, and offset therein.
    cursor: (usize, usize),
    /// A member was written already.
    comma: bool,
    in_list: bool,
}

impl<'a> Frame<'a> {
    fn new(message: Message, parts: Parts<'a>) -> Self {
        Frame { message, parts, field: 0, cursor: (0, 0), comma: false, in_list: false }
    }

    /// The next field behind the cursor that this build knows.
    fn next(&mut self) -> Result<Option<(&'static Field, Value<'a>)>, WireError> {
        while let Some(part) = self.parts.get(self.cursor.0) {
            let mut reader = Reader::within(part, &(self.cursor.1..part.len()));
            while let Some(tag) = reader.tag()? {
                let Some(field) = self.message.field(tag >> 3) else {
                    reader.skip(tag)?;
                    continue;
                };
                if tag != field.tag() {
                    return Err(WireError::WrongType);
                }
                let value = match tag & 7 {
                    VARINT => Value::Varint(reader.varint()?),
                    FIXED64 => Value::Fixed64(reader.fixed64()?),
                    FIXED32 => Value::Fixed32(reader.fixed32()?),
                    LEN => Value::Bytes(reader.bytes()?),
                    _ => return Err(WireError::WireType),
                };
                self.cursor.1 = reader.pos();
                return Ok(Some((field, value)));
            }
            self.cursor = (self.cursor.0 + 1, 0);
        }
        Ok(None)
    }

    /// The next occurrence of one field.
    fn next_of(&mut self, wanted: &Field) -> Result<Option<Value<'a>>, WireError> {
        while let Some((field, value)) = self.next()? {
            if field.number == wanted.number {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The merged value of a singular field: of all members of a oneof, or of `wanted` only.
    fn singular(
        &mut self,
        wanted: &'static Field,
    ) -> Result<Option<(&'static Field, Value<'a>, Parts<'a>)>, WireError> {
        let mut found: Option<(&'static Field, Value<'a>, Parts<'a>)> = None;
        while let Some((field, value)) = self.next()? {
            if !self.message.is_oneof() && field.number != wanted.number {
                continue;
            }
            let part: Parts<'a> = match value {
                Value::Bytes(bytes) => smallvec![bytes],
                _ => Parts::new(),
            };
            match &mut found {
                Some((before, last, parts)) if before.number == field.number => {
                    *last = value;
                    parts.extend(part);
                }
                _ => found = Some((field, value, part)),
            }
        }
        Ok(found)
    }
}

fn write<'a>(request: &'a [u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let mut stack: Vec<Frame<'a>> = vec![Frame::new(Message::Request, smallvec![request])];
    out.push(b'{');
    while let Some(frame) = stack.last_mut() {
        let Some(field) = frame.message.fields().get(frame.field) else {
            out.push(b'}');
            stack.pop();
            continue;
        };
        let found = if field.repeated {
            let Some(value) = frame.next_of(field)? else {
                if std::mem::take(&mut frame.in_list) {
                    out.push(b']');
                }
                frame.field += 1;
                frame.cursor = (0, 0);
                continue;
            };
            let part: Parts<'a> = match value {
                Value::Bytes(bytes) => smallvec![bytes],
                _ => Parts::new(),
            };
            (field, value, part)
        } else {
            let found = frame.singular(field)?;
            frame.field = if frame.message.is_oneof() { frame.message.fields().len() } else { frame.field + 1 };
            frame.cursor = (0, 0);
            match found {
                Some((field, ..)) if field.ty == Type::Reference => continue,
                Some(found) => found,
                None => continue,
            }
        };
        let (field, value, parts) = found;
        if frame.in_list {
            out.push(b',');
        } else {
            if std::mem::replace(&mut frame.comma, true) {
                out.push(b',');
            }
            quoted(field.name, out);
            out.push(b':');
            if field.repeated {
                frame.in_list = true;
                out.push(b'[');
            }
        }
        if let Type::Message(message) = field.ty {
            if stack.len() >= MAX_DEPTH {
                return Err(WireError::TooDeep);
            }
            out.push(b'{');
            stack.push(Frame::new(message, parts));
        } else {
            scalar(field.ty, value, out);
        }
    }
    Ok(())
}

fn scalar(ty: Type, value: Value<'_>, out: &mut Vec<u8>) {
    match (value, ty) {
        (Value::Bytes(bytes), Type::Text) => quoted(&String::from_utf8_lossy(bytes), out),
        (Value::Bytes(bytes), Type::Bytes) => enclosed(out, |out| base64::encode(bytes, out)),
        (Value::Bytes(bytes), _) => enclosed(out, |out| base64::hex(bytes, out)),
        (Value::Varint(value), Type::Bool) => show(out, value != 0),
        (Value::Varint(value), Type::Uint32) => show(out, value as u32),
        (Value::Varint(value), Type::Enum(_)) => show(out, value as i32),
        (Value::Varint(value), _) => enclosed(out, |out| show(out, value as i64)),
        (Value::Fixed32(value), _) => show(out, value),
        (Value::Fixed64(bits), Type::Double) => double(f64::from_bits(bits), out),
        (Value::Fixed64(value), _) => enclosed(out, |out| show(out, value)),
    }
}

fn double(value: f64, out: &mut Vec<u8>) {
    match serde_json::Number::from_f64(value) {
        Some(number) => show(out, number),
        None if value.is_nan() => quoted("NaN", out),
        None if value > 0.0 => quoted("Infinity", out),
        None => quoted("-Infinity", out),
    }
}

fn show(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to a vector does not fail.
    let _ = write!(out, "{value}");
}

fn enclosed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
