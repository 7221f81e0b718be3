//! A whole trace, as those see it who judge it: spans with their bytes, and who sent them.
//!
//! Policies, metrics and explanations look at the same trace from different sides, and none of them may cost a decoded
//! span. So what they share is a view: of each span what the walk found, its encoded body for whoever needs more (see
//! [`crate::wire::attributes`]), and a [`Header`] that stands for resource and scope and is made once for all spans
//! below it.

use std::sync::Arc;

use crate::model::{ByteRange, SpanEntry, SpanId, Spans, TraceId, UnixNanos};
use crate::wire::attributes::{Value, resource_attributes};
pub use crate::wire::stamp::CLUSTER_KEY;

const SERVICE_KEY: &str = "service.name";

/// A resource, and what is asked of it most. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Fields of the `ResourceSpans` other than `resource` and the scopes, whole.
    pub other_fields: Arc<[u8]>,
    /// The body of the `Resource`; `None`: there is none.
    pub body: Option<Arc<[u8]>>,
    /// Where the span was taken in; empty if nobody said.
    pub cluster: Arc<str>,
    /// `service.name`; empty if there is none.
    pub service: Arc<str>,
}

/// What stands above a span: its resource and its scope. Equal headers are one (see `traces::headers`). Scopes of one
/// resource share its bytes: a request may have thousands of them below one large resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// As in [`Resource::other_fields`].
    pub resource_fields: Arc<[u8]>,
    /// As in [`Resource::body`].
    pub resource: Option<Arc<[u8]>>,
    /// Fields of the `ScopeSpans` other than its spans, whole.
    pub scope_fields: Box<[u8]>,
    /// As in [`Resource`].
    pub cluster: Arc<str>,
    pub service: Arc<str>,
}

fn joined<T: FromIterator<u8>>(ranges: &[ByteRange], bytes: &[u8]) -> T {
    ranges.iter().flat_map(|range| range.of(bytes)).copied().collect()
}

impl Resource {
    /// The one with this index.
    pub fn of(spans: &Spans, resource: u32) -> Resource {
        let bytes = &*spans.bytes;
        let resource = &spans.resources[resource as usize];
        let body: Option<Arc<[u8]>> = (!resource.resource.is_empty()).then(|| joined(&resource.resource, bytes));
        let text = |wanted: &str| {
            let mut values = resource_attributes(body.as_deref().unwrap_or_default());
            let found = values.find_map(|(key, value)| match value {
                Value::Str(text) if key == wanted => Some(text),
                _ => None,
            });
            Arc::from(found.unwrap_or_default())
        };
        let (cluster, service) = (text(CLUSTER_KEY), text(SERVICE_KEY));
        Resource { other_fields: joined(&resource.other_fields, bytes), body, cluster, service }
    }
}

impl Header {
    /// Of the scope with this index.
    pub fn of(spans: &Spans, scope: u32) -> Header {
        let resource = Resource::of(spans, spans.scopes[scope as usize].resource);
        Header::below(&resource, spans, scope)
    }

    /// The same, if its resource is there already.
    pub fn below(resource: &Resource, spans: &Spans, scope: u32) -> Header {
        Header {
            resource_fields: resource.other_fields.clone(),
            resource: resource.body.clone(),
            scope_fields: joined(&spans.scopes[scope as usize].other_fields, &spans.bytes),
            cluster: resource.cluster.clone(),
            service: resource.service.clone(),
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
    let resources: Vec<Resource> = (0..spans.resources.len() as u32).map(|at| Resource::of(spans, at)).collect();
    let scopes = (0..).zip(&spans.scopes);
    scopes.map(|(scope, entry)| Header::below(&resources[entry.resource as usize], spans, scope)).collect()
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
