//! OTLP written as YAML to OTLP/JSON, for the reader that the node's own door uses.

use super::InlineTraces;
use crate::config::scalar::Typed;
use crate::config::tree::{Node, Value};

/// Keys of OTLP whose values are texts though they may look like numbers: `stringValue: 200`, `traceId: 1234…`.
const TEXT_KEYS: &[&str] = &[
    "traceId",
    "spanId",
    "parentSpanId",
    "traceState",
    "name",
    "version",
    "schemaUrl",
    "key",
    "stringValue",
    "bytesValue",
    "message",
];

/// Writes the tree as JSON. It is as deep as the YAML reader allows, so recursion is bounded.
pub(in crate::config) fn json_of(node: &Node) -> InlineTraces {
    let mut traces = InlineTraces::default();
    write(&mut traces, node, false);
    traces
}

fn write(out: &mut InlineTraces, node: &Node, is_text: bool) {
    out.places.push((out.json.len(), node.at));
    match &node.value {
        Value::Scalar(scalar) => {
            let typed = if is_text && !node.is_null() { Typed::Text } else { scalar.typed() };
            match typed {
                Typed::Null => out.json.push_str("null"),
                Typed::Bool(bool) => out.json.push_str(if bool { "true" } else { "false" }),
                Typed::Int(int) => out.json.push_str(&int.to_string()),
                // As text, which OTLP/JSON takes for numbers: not every one of YAML's can be written as one of JSON's.
                Typed::Float(float) if float.is_nan() => out.json.push_str("\"NaN\""),
                Typed::Float(float) if float == f64::INFINITY => out.json.push_str("\"Infinity\""),
                Typed::Float(float) if float == f64::NEG_INFINITY => out.json.push_str("\"-Infinity\""),
                Typed::Float(_) | Typed::Text => string(out, &scalar.text),
            }
        }
        Value::List(items) => {
            out.json.push('[');
            for (index, item) in items.iter().enumerate() {
                out.json.push_str(if index == 0 { "" } else { "," });
                write(out, item, is_text);
            }
            out.json.push(']');
        }
        Value::Map(entries) => {
            out.json.push('{');
            for (index, entry) in entries.iter().enumerate() {
                out.json.push_str(if index == 0 { "" } else { "," });
                string(out, &entry.key);
                out.json.push(':');
                write(out, &entry.node, TEXT_KEYS.contains(&entry.key.as_str()));
            }
            out.json.push('}');
        }
        Value::Unresolved => out.json.push_str("null"),
    }
}

fn string(out: &mut InlineTraces, text: &str) {
    // A JSON string cannot fail to be written.
    out.json.push_str(&serde_json::Value::from(text).to_string());
}
