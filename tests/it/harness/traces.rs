//! Traces to send: numbered ids, so that a test knows what must come out.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::backend::{SpanId, TraceId};

/// The `number`th trace's id: spread over the id space, and the same in every run.
pub fn trace_id(number: u64) -> TraceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&(number + 1).to_be_bytes());
    id
}

/// The id of span `span` of trace `trace`.
pub fn span_id(trace: u64, span: u64) -> SpanId {
    ((trace + 1) << 8 | (span + 1)).to_be_bytes()
}

/// An attribute with a text as its value.
pub fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// The text of a span's attribute.
pub fn text_of<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// One span of a trace; span 0 is the root and parent of all others.
pub fn span(trace: u64, number: u64) -> Span {
    let start = 1_700_000_000_000_000_000 + trace * 1_000_000;
    Span {
        trace_id: trace_id(trace).to_vec(),
        span_id: span_id(trace, number).to_vec(),
        parent_span_id: if number == 0 { Vec::new() } else { span_id(trace, 0).to_vec() },
        name: format!("operation {number}"),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000 + number,
        ..Span::default()
    }
}

/// An encoded request with these spans, of one resource.
pub fn request(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let resource = Resource { attributes: vec![text("service.name", service)], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}
