//! The tree that YAML is read into: every key and value remembers where it was written.
//!
//! serde's data model has no place for a position, and generic YAML values lose it, so a mistake found after
//! parsing (a reference to nothing, two components on one port) could only be reported as "somewhere". A plain
//! tree of our own costs a hundred lines and keeps the position until the last check.
//!
//! Scalars keep their text as written. What a text means is asked by the reader of a field, who knows which type it
//! wants: `cluster: 007` stays `007`, and `limit_mib: 007` is a number.

use super::scalar::{self, Typed};

/// A range of characters in one source. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index into the sources given to [`load`](super::load).
    pub source: u16,
    pub line: u32,
    pub column: u32,
    pub end_line: u32,
    /// One past the last character.
    pub end_column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: Place,
    pub value: Value,
    /// Never shown: not in problems, not in `print-config`.
    pub secret: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Its substitution failed. The problem is reported already; readers pass over it in silence.
    Unresolved,
}

/// One `key: value` of a map. Keys of a map are unique.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Place,
    pub node: Node,
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// In quotes, a block scalar or tagged `!!str`: a string whatever it looks like.
    pub quoted: bool,
    /// The text before substitution, if any took place. Shown in place of the value: the environment may hold secrets.
    pub written: Option<String>,
}

impl Scalar {
    pub(super) fn plain(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), quoted: false, written: None }
    }

    pub(super) fn typed(&self) -> Typed {
        if self.quoted { Typed::Text } else { scalar::typed(&self.text) }
    }
}

impl Node {
    /// `key:` with nothing behind it, `~`, `null`, or an environment variable that is empty.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(Scalar { quoted: false, written: Some(_), text }) => text.is_empty(),
            Value::Scalar(scalar) => scalar.typed() == Typed::Null,
            _ => false,
        }
    }

    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    pub(super) fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// What a message may say about the value: never a secret, never what the environment held.
    pub(super) fn shown(&self) -> String {
        const LONGEST: usize = 80;
        match &self.value {
            _ if self.secret => "[redacted]".to_owned(),
            Value::Scalar(scalar) => {
                let text = scalar.written.as_deref().unwrap_or(&scalar.text);
                let short: String = text.chars().take(LONGEST).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                format!("`{}{dots}`", short.escape_debug())
            }
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Unresolved => "unknown".to_owned(),
        }
    }

    /// The tree under this node, itself included.
    pub(super) fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.node.count()).sum(),
            Value::Scalar(_) | Value::Unresolved => 0usize,
        }
    }

    /// Levels of the tree under this node; a scalar has 1.
    pub(super) fn height(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::height).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|e| e.node.height()).max().unwrap_or(0),
            Value::Scalar(_) | Value::Unresolved => 0,
        }
    }
}
