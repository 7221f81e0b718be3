//! OTLP/JSON to protobuf: one loop, one explicit stack, driven by the schema's tables.

use super::super::reader::{put_bytes, put_varint};
use super::super::schema::{Field, Message, Type};
use super::super::walk::Limits;
use super::JsonError;
use super::base64;
use super::nest::Nest;
use super::scan::{Scanner, number_len};

/// What a JSON request says, as protobuf.
#[derive(Debug)]
pub struct Decoded {
    /// An encoded `ExportTraceServiceRequest`. Ids that are not ids have a wrong length in it, so that the walker
    /// rejects exactly the spans they belong to.
    pub bytes: Vec<u8>,
    /// A text for `partial_success.error_message` though nothing is rejected (snake_case keys, say).
    pub warning: Option<&'static str>,
}

const SNAKE_CASE: &str = "snake_case keys were ignored: OTLP/JSON has lowerCamelCase keys only";
const ENUM_NAME: &str = "an enum was given by name: OTLP/JSON has enums as integers only";
const REFERENCE: &str = "string table indices have no meaning in traces and were taken as absent";

/// No id has this length, and no absent one either: an empty `parentSpanId` would make a root of the span.
const NO_ID: &[u8] = &[0];

/// Translates a request. `limits` bounds the nesting here; everything else is the walker's, which gets the result.
pub fn decode(json: &[u8], limits: &Limits) -> Result<Decoded, JsonError> {
    // A key-value list in an attribute value takes four brackets, and around the outermost value stand twelve.
    let max_depth = (limits.max_value_depth as usize).saturating_mul(4).saturating_add(16);
    let mut reader = Reader {
        json: Scanner::new(json),
        out: Nest::with_capacity(json.len() / 2),
        stack: Vec::with_capacity(16),
        max_depth,
        warning: None,
    };
    reader.request()?;
    Ok(Decoded { bytes: reader.out.finish(), warning: reader.warning })
}

/// An open bracket.
enum Frame {
    Object { message: Message, first: bool },
    List { field: &'static Field, first: bool },
}

struct Reader<'a> {
    json: Scanner<'a>,
    out: Nest,
    stack: Vec<Frame>,
    max_depth: usize,
    warning: Option<&'static str>,
}

impl Reader<'_> {
    fn request(&mut self) -> Result<(), JsonError> {
        self.json.expect(b'{')?;
        self.stack.push(Frame::Object { message: Message::Request, first: true });
        while let Some(frame) = self.stack.last_mut() {
            match frame {
                Frame::Object { message, first } => {
                    let message = *message;
                    if self.json.more(first, b'}')? {
                        self.member(message)?;
                    } else {
                        self.stack.pop();
                        // Ends nothing for the request itself, which has no length.
                        self.out.close();
                    }
                }
                Frame::List { field, first } => {
                    let field = *field;
                    if self.json.more(first, b']')? {
                        self.element(field)?;
                    } else {
                        self.stack.pop();
                    }
                }
            }
        }
        self.json.end()
    }

    fn member(&mut self, message: Message) -> Result<(), JsonError> {
        let key = self.json.key()?;
        let Some(field) = message.fields().iter().find(|field| field.name.as_bytes() == &*key) else {
            if key.contains(&b'_') && is_snake_case_of(&key, message) {
                self.warning.get_or_insert(SNAKE_CASE);
            }
            return self.json.skip(self.max_depth.saturating_sub(self.stack.len()));
        };
        if self.json.literal(b"null") {
            return Ok(());
        }
        if !field.repeated {
            return self.value(field);
        }
        let at = self.json.pos();
        if !self.json.take_if(b'[') {
            return Err(JsonError::Type(at));
        }
        self.push(Frame::List { field, first: true })
    }

    fn element(&mut self, field: &'static Field) -> Result<(), JsonError> {
        if self.json.literal(b"null") {
            // In an array of values, positions have a meaning.
            if field.ty == Type::Message(Message::AnyValue) {
                put_bytes(self.out.raw(), field.number, &[]);
            }
            return Ok(());
        }
        self.value(field)
    }

    fn push(&mut self, frame: Frame) -> Result<(), JsonError> {
        if self.stack.len() >= self.max_depth {
            return Err(JsonError::TooDeep(self.json.pos()));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// One value that is not null.
    fn value(&mut self, field: &'static Field) -> Result<(), JsonError> {
        let first = self.json.peek();
        let at = self.json.pos();
        let json = &mut self.json;
        let number = field.number;
        match field.ty {
            Type::Message(message) => {
                if !json.take_if(b'{') {
                    return Err(JsonError::Type(at));
                }
                self.push(Frame::Object { message, first: true })?;
                self.out.open(number);
                return Ok(());
            }
            Type::Reference => {
                json.skip(1)?;
                self.warning.get_or_insert(REFERENCE);
                return Ok(());
            }
            Type::Text | Type::Bytes | Type::TraceId | Type::SpanId => {
                if first != Some(b'"') {
                    return Err(JsonError::Type(at));
                }
                let text = json.string()?;
                let out = self.out.raw();
                match field.ty {
                    Type::Bytes => put_bytes(out, number, &base64::decode(&text).ok_or(JsonError::Base64(at))?),
                    Type::TraceId => put_id::<16>(out, number, &text),
                    Type::SpanId => put_id::<8>(out, number, &text),
                    _ => put_bytes(out, number, &text),
                }
                return Ok(());
            }
            _ => {}
        }
        let tag = u64::from(field.tag());
        let bits = match field.ty {
            Type::Bool if json.literal(b"true") => 1,
            Type::Bool if json.literal(b"false") => 0,
            Type::Bool => return Err(JsonError::Type(at)),
            Type::Double => double(json)?.to_bits(),
            Type::Enum(names) => {
                let (value, named) = enumeration(json, names)?;
                if named {
                    self.warning.get_or_insert(ENUM_NAME);
                }
                // Negative enums are sign-extended to 64 bits, like every int32.
                i64::from(value) as u64
            }
            Type::Uint32 | Type::Fixed32 => u64::from(integer::<u32>(json)?),
            Type::Fixed64 => integer::<u64>(json)?,
            _ => integer::<i64>(json)? as u64,
        };
        let out = self.out.raw();
        put_varint(out, tag);
        match field.ty {
            Type::Double | Type::Fixed64 => out.extend_from_slice(&bits.to_le_bytes()),
            Type::Fixed32 => out.extend_from_slice(&(bits as u32).to_le_bytes()),
            _ => put_varint(out, bits),
        }
        Ok(())
    }
}

fn put_id<const N: usize>(out: &mut Vec<u8>, number: u32, text: &[u8]) {
    match base64::unhex::<N>(text) {
        Some(id) => put_bytes(out, number, &id),
        None if text.is_empty() => put_bytes(out, number, &[]),
        None => put_bytes(out, number, NO_ID),
    }
}

/// Would this unknown key be a known one without its underscores?
fn is_snake_case_of(key: &[u8], message: Message) -> bool {
    let letters = || key.iter().filter(|b| **b != b'_').map(u8::to_ascii_lowercase);
    message.fields().iter().any(|field| letters().eq(field.name.bytes().map(|b| b.to_ascii_lowercase())))
}

/// A number, or a string with nothing but a number in it, handed to `read`.
fn numeric<T>(json: &mut Scanner<'_>, read: impl Fn(&str) -> Option<T>) -> Result<T, JsonError> {
    match json.peek() {
        Some(b'"') => {
            let at = json.pos();
            let text = json.string()?;
            let number = number_len(&text) == text.len() && !text.is_empty();
            let text = std::str::from_utf8(&text).ok().filter(|_| number).ok_or(JsonError::Type(at))?;
            read(text).ok_or(JsonError::Range(at))
        }
        Some(b'-' | b'0'..=b'9') => {
            let at = json.pos();
            read(json.number()?).ok_or(JsonError::Range(at))
        }
        _ => Err(JsonError::Type(json.pos())),
    }
}

fn integer<T: TryFrom<i128>>(json: &mut Scanner<'_>) -> Result<T, JsonError> {
    numeric(json, |text| whole(text).and_then(|value| T::try_from(value).ok()))
}

/// `17`, `17.0` and `1.7e1` are whole; the first two exactly, whatever their size.
fn whole(text: &str) -> Option<i128> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    if let Some((integer, fraction)) = text.split_once('.')
        && fraction.bytes().all(|b| b == b'0')
    {
        return integer.parse().ok();
    }
    let value: f64 = text.parse().ok()?;
    (value.fract() == 0.0 && value.abs() < 2f64.powi(64)).then_some(value as i128)
}

fn double(json: &mut Scanner<'_>) -> Result<f64, JsonError> {
    for (word, value) in [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)] {
        if json.quoted(word) {
            return Ok(value);
        }
    }
    numeric(json, |text| text.parse::<f64>().ok().filter(|value| value.is_finite()))
}

/// The value, and whether it came as a name.
fn enumeration(json: &mut Scanner<'_>, names: &[&str]) -> Result<(i32, bool), JsonError> {
    for (name, value) in names.iter().zip(0..) {
        if json.quoted(name) {
            return Ok((value, true));
        }
    }
    integer(json).map(|value| (value, false))
}
