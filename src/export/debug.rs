//! What passes, as text on standard error: the Collector's `debug` exporter with its three verbosities.
//!
//! Written straight to standard error and not as log events: `detailed` is for reading (or piping through `jq`), and
//! neither a log filter nor a JSON log format should stand in between.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;

use super::outcome::brief;
use super::{Backend, EncodeError, Outcome, Sending};
use crate::config::settings::{DebugExporterSettings, Verbosity};
use crate::model::{SpanEntry, Spans};
use crate::wire::json;

/// Standard error, at one verbosity.
pub struct DebugBackend {
    verbosity: Verbosity,
}

impl DebugBackend {
    pub fn new(settings: &DebugExporterSettings) -> DebugBackend {
        DebugBackend { verbosity: settings.verbosity }
    }
}

/// One line: how much of what.
fn basic(spans: &Spans) -> String {
    let (resources, bytes) = (spans.resources.len(), spans.bytes.len());
    format!("traces: {resources} resources, {} scopes, {} spans, {bytes} bytes\n", spans.scopes.len(), spans.len())
}

/// A line for each span.
fn normal(spans: &Spans) -> String {
    let mut text = basic(spans);
    for span in &spans.spans {
        let name = String::from_utf8_lossy(name_of(span, &spans.bytes));
        let millis = span.end.0.saturating_sub(span.start.0) / 1_000_000;
        // Writing to a String cannot fail.
        let _ = write!(text, "  {} trace {} span {}", brief(&name), span.trace_id, span.span_id);
        if !span.parent_span_id.is_zero() {
            let _ = write!(text, " parent {}", span.parent_span_id);
        }
        let _ = writeln!(text, " kind {} status {} {millis} ms", span.kind, span.status);
    }
    text
}

/// `Span.name`, field 5; the walker has checked the span's form, so anything odd just ends the search.
fn name_of<'a>(span: &SpanEntry, bytes: &'a [u8]) -> &'a [u8] {
    const NAME: u64 = 5 << 3 | 2;
    let mut rest = bytes.get(span.body().range()).unwrap_or_default();
    let mut name: &[u8] = &[];
    while let Some((tag, after)) = varint(rest) {
        let skip = match tag & 7 {
            0 => varint(after).map(|(_, left)| after.len() - left.len()),
            1 => Some(8),
            2 => match varint(after) {
                Some((length, left)) => {
                    let Some(body) = usize::try_from(length).ok().and_then(|length| left.get(..length)) else { break };
                    if tag == NAME {
                        name = body;
                    }
                    Some(after.len() - left.len() + body.len())
                }
                None => None,
            },
            5 => Some(4),
            _ => None,
        };
        let Some(left) = skip.and_then(|skip| after.get(skip..)) else { break };
        rest = left;
    }
    name
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

impl Backend for DebugBackend {
    fn kind(&self) -> &'static str {
        "debug"
    }

    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError> {
        let text = match self.verbosity {
            Verbosity::Basic => basic(spans).into_bytes(),
            Verbosity::Normal => normal(spans).into_bytes(),
            Verbosity::Detailed => {
                let mut line = Vec::new();
                json::encode(&spans.bytes, &mut line).map_err(|error| EncodeError::Malformed(error.to_string()))?;
                line.push(b'\n');
                line
            }
        };
        Ok(Bytes::from(text))
    }

    fn send(&self, payload: Bytes) -> Sending<'_> {
        Box::pin(async move {
            // Standard error may be a pipe that nobody reads: that must not stop a worker of the runtime. Whether
            // anybody saw it is no reason to keep spans.
            let _ = tokio::task::spawn_blocking(move || std::io::stderr().write_all(&payload)).await;
            Outcome::Delivered
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::request;
    use crate::wire::{Limits, walk};

    fn shown(verbosity: Verbosity) -> String {
        let spans = walk(request(&["GET /", "line\nbreak"]).into(), &Limits::default()).unwrap().spans;
        let backend = DebugBackend::new(&DebugExporterSettings { verbosity });
        String::from_utf8(backend.encode(&spans).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn basic_counts() {
        assert!(shown(Verbosity::Basic).starts_with("traces: 1 resources, 1 scopes, 2 spans, "));
    }

    #[test]
    fn normal_has_one_line_for_each_span_whatever_its_name_holds() {
        let text = shown(Verbosity::Normal);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("  GET / trace ") && text.contains("  line break trace "), "{text}");
    }

    #[test]
    fn detailed_is_otlp_json() {
        let value: serde_json::Value = serde_json::from_str(&shown(Verbosity::Detailed)).unwrap();
        assert_eq!(value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "GET /");
    }
}
