//! A whole trace, as those see it who judge it: spans with their bytes, and who sent them.
//!
//! Policies, metrics and explanations look at the same trace from different sides, and none of them may cost a decoded
//! span. So what they share is a view: of each span what the walk found, its encoded body for whoever needs more (see
//! [`crate::wire::attributes`]), and a [`Header`] that stands for resource and scope and is made once for all spans
//! below it.

use std::sync::Arc;

use crate::model::{SpanEntry, SpanId, Spans, TraceId, UnixNanos};
use crate::wire::attributes::{Value, resource_attributes};
pub use crate::wire::stamp::CLUSTER_KEY;

const SERVICE_KEY: &str = "service.name";

/// What stands above a span: its resource and its scope. Equal headers are one (see `traces::headers`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Fields of the `ResourceSpans` other than `resource` and the scopes, whole.
    pub resource_fields: Box<[u8]>,
    /// The body of the `Resource`; `None`: there is none.
    pub resource: Option<Box<[u8]>>,
    /// Fields of the `ScopeSpans` other than its spans, whole.
    pub scope_fields: Box<[u8]>,
    /// Where the span was taken in; empty if nobody said.
    pub cluster: Arc<str>,
    /// `service.name`; empty if there is none.
    pub service: Arc<str>,
}

impl Header {
    /// Of the scope with this index.
    pub fn of(spans: &Spans, scope: u32) -> Header {
        let bytes = &*spans.bytes;
        let scope = &spans.scopes[scope as usize];
        let resource = &spans.resources[scope.resource as usize];
        let joined =
            |ranges: &[crate::model::ByteRange]| ranges.iter().flat_map(|range| range.of(bytes)).copied().collect();
        let body: Option<Box<[u8]>> = (!resource.resource.is_empty()).then(|| joined(&resource.resource));
        let text = |wanted: &str| {
            let mut values = resource_attributes(body.as_deref().unwrap_or_default());
            let found = values.find_map(|(key, value)| match value {
                Value::Str(text) if key == wanted => Some(text),
                _ => None,
            });
            Arc::from(found.unwrap_or_default())
        };
        let (cluster, service) = (text(CLUSTER_KEY), text(SERVICE_KEY));
        Header {
            resource_fields: joined(&resource.other_fields),
            resource: body,
            scope_fields: joined(&scope.other_fields),
            cluster,
            service,
        }
    }
}

/// A call between clusters that a span is one side of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing<'a> {
    pub source: &'a str,
    pub target: &'a str,
}

/// One span of a trace.
#[derive(Clone, Copy, Debug)]
pub struct SpanView<'a> {
    pub span_id: SpanId,
    /// [`SpanId::NONE`] for a root.
    pub parent_span_id: SpanId,
    pub start: UnixNanos,
    pub end: UnixNanos,
    /// OTLP `SpanKind`; values that do not fit are 255.
    pub kind: u8,
    /// OTLP `Status.code`; values that do not fit are 255.
    pub status: u8,
    /// The encoded `Span`, legal as the walk checked it.
    pub body: &'a [u8],
    pub header: &'a Header,
    /// Set where `cross_cluster.write_attributes` is on: counts as the attributes `cross_cluster.source` and
    /// `cross_cluster.target` of the span.
    pub crossing: Option<Crossing<'a>>,
}

/// All spans of a trace that are there, in the order of their arrival: nothing may depend on it.
#[derive(Clone, Debug)]
pub struct TraceView<'a> {
    pub id: TraceId,
    pub spans: Vec<SpanView<'a>>,
}

/// Headers of all scopes of some spans, by index.
pub fn headers_of(spans: &Spans) -> Vec<Header> {
    (0..spans.scopes.len() as u32).map(|scope| Header::of(spans, scope)).collect()
}

impl<'a> TraceView<'a> {
    /// The spans of one trace in `spans`, whose headers are `headers` (see [`headers_of`]).
    pub fn of(id: TraceId, spans: &'a Spans, headers: &'a [Header]) -> TraceView<'a> {
        let of_trace = spans.spans.iter().filter(|span| span.trace_id == id);
        let view = |span: &SpanEntry| SpanView {
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            start: span.start,
            end: span.end,
            kind: span.kind,
            status: span.status,
            body: span.body().of(&spans.bytes),
            header: &headers[span.scope as usize],
            crossing: None,
        };
        TraceView { id, spans: of_trace.map(view).collect() }
    }

    /// Encoded bytes of the spans, without their headers.
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.body.len() as u64).sum()
    }
}
