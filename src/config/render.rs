//! The configuration as it came out of files, flags and environment, printed as YAML that loads again.
//!
//! Printed from the tree, so that it has the user's keys in the user's order. Secrets become `[redacted]`, and a
//! dollar sign is doubled, since what is printed will be substituted again when it is loaded.

use super::scalar::{self, Typed};
use super::tree::{Entry, Node, Place, Scalar, Value};

/// The merged and substituted configuration, and the defaults of what it leaves out.
#[derive(Clone, Debug)]
pub struct Expanded {
    pub(super) root: Node,
    /// Path and value of every key that was not given.
    pub(super) defaults: Vec<(Vec<String>, String)>,
}

impl Expanded {
    /// As YAML; with `defaults`, every key that has a default is written out.
    pub fn to_yaml(&self, defaults: bool) -> String {
        let mut out = String::new();
        if defaults {
            let mut root = self.root.clone();
            for (path, value) in &self.defaults {
                set_default(&mut root, path, value);
            }
            write_node(&mut out, &root, 0, false);
        } else {
            write_node(&mut out, &self.root, 0, false);
        }
        out
    }
}

fn set_default(node: &mut Node, path: &[String], value: &str) {
    let Some((key, rest)) = path.split_first() else { return };
    let at = node.at;
    if let (Value::List(items), Some(item)) = (&mut node.value, key.parse::<usize>().ok()) {
        if let Some(item) = items.get_mut(item) {
            set_default(item, rest, value);
        }
        return;
    }
    if node.is_null() {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let index = entries.iter().position(|e| e.key == *key).unwrap_or_else(|| {
        entries.push(Entry { key: key.clone(), key_at: at, node: null(at) });
        entries.len() - 1
    });
    let Some(entry) = entries.get_mut(index) else { return };
    if !rest.is_empty() {
        set_default(&mut entry.node, rest, value);
    } else if entry.node.is_null() {
        entry.node.value = match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
            Some(list) => {
                let item = |text: &str| Node { at, value: Value::Scalar(Scalar::plain(text)), secret: false };
                Value::List(list.split(", ").filter(|text| !text.is_empty()).map(item).collect())
            }
            None => Value::Scalar(Scalar { quoted: value.is_empty(), ..Scalar::plain(value) }),
        };
    }
}

fn null(at: Place) -> Node {
    Node { at, value: Value::Scalar(Scalar::plain("")), secret: false }
}

/// Writes a node behind `key:` (`inline`) or as a whole document.
fn write_node(out: &mut String, node: &Node, indent: usize, inline: bool) {
    match &node.value {
        Value::Scalar(scalar) => {
            let text = if node.secret && !node.is_null() { "\"[redacted]\"".to_owned() } else { scalar_text(scalar) };
            if !text.is_empty() {
                out.push_str(if inline { " " } else { "" });
                out.push_str(&text);
            }
            out.push('\n');
        }
        Value::List(items) if items.is_empty() => out.push_str(if inline { " []\n" } else { "[]\n" }),
        Value::Map(entries) if entries.is_empty() => out.push_str(if inline { " {}\n" } else { "{}\n" }),
        Value::List(items) => {
            out.push_str(if inline { "\n" } else { "" });
            for item in items {
                pad(out, indent);
                out.push('-');
                write_item(out, item, indent + 2);
            }
        }
        Value::Map(entries) => {
            out.push_str(if inline { "\n" } else { "" });
            write_entries(out, entries, indent, false);
        }
        Value::Unresolved => out.push_str(if inline { " null\n" } else { "null\n" }),
    }
}

/// A list's item: a map starts on the line of its dash.
fn write_item(out: &mut String, item: &Node, indent: usize) {
    match &item.value {
        Value::Map(entries) if !entries.is_empty() => {
            out.push(' ');
            write_entries(out, entries, indent, true);
        }
        _ => write_node(out, item, indent, true),
    }
}

fn write_entries(out: &mut String, entries: &[Entry], indent: usize, mut started: bool) {
    for entry in entries {
        if !started {
            pad(out, indent);
        }
        started = false;
        out.push_str(&text(&entry.key, false));
        out.push(':');
        write_node(out, &entry.node, indent + 2, true);
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar_text(scalar: &Scalar) -> String {
    let typed = scalar.typed();
    if scalar.quoted || typed == Typed::Text {
        return text(&scalar.text, true);
    }
    scalar.text.clone()
}

/// A string, quoted if it could be taken for anything else.
fn text(text: &str, value: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '+');
    let safe = text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_'))
        && text.chars().all(plain)
        && !text.ends_with(':')
        && scalar::typed(text) == Typed::Text;
    if safe {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '$' if value => quoted.push_str("$$"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
