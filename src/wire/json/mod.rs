//! OTLP/JSON, by way of protobuf.
//!
//! Everything behind the door works on encoded protobuf, so JSON is translated at the door, both ways, by the tables
//! of [`super::schema`]. serde was measured and rejected: the derived types refuse what ProtoJSON and OTLP allow
//! (`null`, `"NaN"`, empty values), refuse a whole request for one bad id, and a depth limit of 128 JSON levels ends
//! below the 64 nested attribute values that SDKs may send. Here nesting lives on an explicit stack.
//!
//! The reader is as tolerant as senders in the field need: enums by name, 64-bit numbers as text or number, base64 of
//! either alphabet, lone surrogates (a JavaScript SDK that cuts a string in the middle of a pair writes them). What it
//! cannot keep to itself it says in [`Decoded::warning`]. The writer emits what the specification prescribes.

mod base64;
mod nest;
mod read;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Decoded, decode};
pub use write::encode;

/// Why a JSON request is refused as a whole. Each variant carries the byte offset, and repeats nothing of the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    #[error("a value of the wrong type at byte {0}")]
    Type(usize),
    #[error("a number out of range at byte {0}")]
    Range(usize),
    #[error("not base64 at byte {0}")]
    Base64(usize),
    #[error("nested too deeply at byte {0}")]
    TooDeep(usize),
}
