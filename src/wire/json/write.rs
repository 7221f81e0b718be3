//! Protobuf to OTLP/JSON, one line.
//!
//! On the wire the fields of a message come in any order, a list may be interrupted, a singular field may come twice.
//! JSON wants each once. So each message is gone through once per field of its table, which needs no memory besides a
//! stack of slices, and gives protobuf's merge rules: the last scalar wins, the parts of a message concatenate. Nearly
//! every encoder writes fields in the order of their numbers, which is that of the tables: then one pass is enough.

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

impl<'a> Value<'a> {
    fn part(self) -> Parts<'a> {
        match self {
            Value::Bytes(bytes) => smallvec![bytes],
            _ => Parts::new(),
        }
    }
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
    /// Fields are in the order of their numbers: nothing is behind the cursor, and no need to look beyond the next.
    sorted: bool,
}

impl<'a> Frame<'a> {
    fn new(message: Message, parts: Parts<'a>) -> Self {
        let sorted = is_sorted(&parts);
        Frame { message, parts, field: 0, cursor: (0, 0), comma: false, in_list: false, sorted }
    }

    /// On to the next field of the table.
    fn advance(&mut self) {
        self.field = if self.message.is_oneof() { self.message.fields().len() } else { self.field + 1 };
        if !self.sorted {
            self.cursor = (0, 0);
        }
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
        loop {
            let before = self.cursor;
            let Some((field, value)) = self.next()? else { return Ok(None) };
            if field.number == wanted.number {
                return Ok(Some(value));
            }
            if self.sorted && field.number > wanted.number {
                self.cursor = before;
                return Ok(None);
            }
        }
    }

    /// The merged value of a singular field: of all members of a oneof, or of `wanted` only.
    fn singular(&mut self, wanted: &'static Field) -> Result<Option<Found<'a>>, WireError> {
        let mut found: Option<Found<'a>> = None;
        loop {
            let (field, value) = if self.message.is_oneof() {
                let Some(next) = self.next()? else { break };
                next
            } else {
                let Some(value) = self.next_of(wanted)? else { break };
                (wanted, value)
            };
            match &mut found {
                Some(found) if found.field.number == field.number => {
                    found.parts.extend(value.part());
                    found.value = value;
                }
                _ => found = Some(Found { field, value, parts: value.part() }),
            }
        }
        Ok(found)
    }
}

/// Malformed counts as unsorted, and is found out on the way.
fn is_sorted(parts: &Parts<'_>) -> bool {
    let mut last = 0;
    parts.iter().all(|part| {
        let mut reader = Reader::new(part);
        while let Ok(Some(tag)) = reader.tag() {
            if tag >> 3 < last || reader.skip(tag).is_err() {
                return false;
            }
            last = tag >> 3;
        }
        reader.at_end()
    })
}

/// A field with its merged value; as a message it is `parts`.
struct Found<'a> {
    field: &'static Field,
    value: Value<'a>,
    parts: Parts<'a>,
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
        let Found { field, value, parts } = if field.repeated {
            let Some(value) = frame.next_of(field)? else {
                if std::mem::take(&mut frame.in_list) {
                    out.push(b']');
                }
                frame.advance();
                continue;
            };
            Found { field, value, parts: value.part() }
        } else {
            let found = frame.singular(field)?;
            frame.advance();
            match found {
                Some(found) if found.field.ty != Type::Reference => found,
                _ => continue,
            }
        };
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
