//! Traces for tests: spans written as one would say them, encoded as OTLP and walked like a sender's.
//!
//! Encoded by hand, since the logic's tests run without prost. Each span stands below a resource of its own unless the
//! one before it has the same.

use bytes::Bytes;

use super::trace::{Header, TraceView, headers_of};
use crate::model::{Spans, TraceId};
use crate::wire::{Limits, walk};

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attr {
    Str(String),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// A list without elements: no policy can compare it.
    List,
}

impl From<&str> for Attr {
    fn from(value: &str) -> Attr {
        Attr::Str(value.to_owned())
    }
}

impl From<bool> for Attr {
    fn from(value: bool) -> Attr {
        Attr::Bool(value)
    }
}

impl From<i64> for Attr {
    fn from(value: i64) -> Attr {
        Attr::Int(value)
    }
}

impl From<f64> for Attr {
    fn from(value: f64) -> Attr {
        Attr::Double(value)
    }
}

/// One span; what is not said has OTLP's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TestSpan {
    id: u64,
    parent: u64,
    name: String,
    kind: u8,
    start: u64,
    end: u64,
    status: u8,
    flags: u32,
    trace_state: String,
    attributes: Vec<(String, Attr)>,
    resource: Vec<(String, Attr)>,
}

/// A span with this id, not 0.
pub(crate) fn span(id: u64) -> TestSpan {
    TestSpan { id, ..TestSpan::default() }
}

impl TestSpan {
    pub(crate) fn parent(mut self, id: u64) -> Self {
        self.parent = id;
        self
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// OTLP `SpanKind`.
    pub(crate) fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// Start and end in nanoseconds since the epoch.
    pub(crate) fn time(mut self, start: u64, end: u64) -> Self {
        (self.start, self.end) = (start, end);
        self
    }

    /// Start and end in milliseconds since some moment that is not the epoch.
    pub(crate) fn millis(self, start: u64, end: u64) -> Self {
        const BASE: u64 = 1_700_000_000_000;
        self.time((BASE + start) * 1_000_000, (BASE + end) * 1_000_000)
    }

    /// OTLP `Status.code`: 1 is OK, 2 is an error.
    pub(crate) fn status(mut self, code: u8) -> Self {
        self.status = code;
        self
    }

    pub(crate) fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn trace_state(mut self, text: &str) -> Self {
        self.trace_state = text.to_owned();
        self
    }

    pub(crate) fn attribute(mut self, key: &str, value: impl Into<Attr>) -> Self {
        self.attributes.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn resource(mut self, key: &str, value: impl Into<Attr>) -> Self {
        self.resource.push((key.to_owned(), value.into()));
        self
    }

    /// The cluster that took it in.
    pub(crate) fn cluster(self, name: &str) -> Self {
        self.resource(super::trace::CLUSTER_KEY, name)
    }

    pub(crate) fn service(self, name: &str) -> Self {
        self.resource("service.name", name)
    }

    fn encode(&self, trace: TraceId) -> Vec<u8> {
        let mut out = Vec::new();
        bytes(&mut out, 1, &trace.0);
        bytes(&mut out, 2, &self.id.to_be_bytes());
        bytes(&mut out, 3, self.trace_state.as_bytes());
        if self.parent != 0 {
            bytes(&mut out, 4, &self.parent.to_be_bytes());
        }
        bytes(&mut out, 5, self.name.as_bytes());
        number(&mut out, 6, u64::from(self.kind));
        fixed64(&mut out, 7, self.start);
        fixed64(&mut out, 8, self.end);
        self.attributes.iter().for_each(|pair| bytes(&mut out, 9, &key_value(pair)));
        if self.status != 0 {
            let mut status = Vec::new();
            number(&mut status, 3, u64::from(self.status));
            bytes(&mut out, 15, &status);
        }
        varint(&mut out, 16 << 3 | 5);
        out.extend(self.flags.to_le_bytes());
        out
    }
}

/// The spans of one trace, encoded and walked.
pub(crate) struct TestTrace {
    id: TraceId,
    spans: Spans,
    headers: Vec<Header>,
}

impl TestTrace {
    pub(crate) fn new(id: TraceId, spans: &[TestSpan]) -> TestTrace {
        let walked = walk(Bytes::from(request(id, spans)), &Limits::default()).unwrap();
        assert_eq!(walked.rejected.spans, 0, "{:?}", walked.rejected.reason);
        let headers = headers_of(&walked.spans);
        TestTrace { id, spans: walked.spans, headers }
    }

    pub(crate) fn view(&self) -> TraceView<'_> {
        TraceView::of(self.id, &self.spans, &self.headers)
    }
}

/// An encoded `ExportTraceServiceRequest`.
pub(crate) fn request(trace: TraceId, spans: &[TestSpan]) -> Vec<u8> {
    let mut out = Vec::new();
    for group in spans.chunk_by(|one, next| one.resource == next.resource) {
        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        group[0].resource.iter().for_each(|pair| bytes(&mut resource, 1, &key_value(pair)));
        group.iter().for_each(|span| bytes(&mut scope, 2, &span.encode(trace)));
        let mut resource_spans = Vec::new();
        bytes(&mut resource_spans, 1, &resource);
        bytes(&mut resource_spans, 2, &scope);
        bytes(&mut out, 1, &resource_spans);
    }
    out
}

fn key_value((key, value): &(String, Attr)) -> Vec<u8> {
    let mut any = Vec::new();
    match value {
        Attr::Str(text) => bytes(&mut any, 1, text.as_bytes()),
        Attr::Bool(bit) => number(&mut any, 2, u64::from(*bit)),
        Attr::Int(int) => number(&mut any, 3, *int as u64),
        Attr::Double(double) => fixed64(&mut any, 4, double.to_bits()),
        Attr::List => bytes(&mut any, 5, &[]),
    }
    let mut out = Vec::new();
    bytes(&mut out, 1, key.as_bytes());
    bytes(&mut out, 2, &any);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, body: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, body.len() as u64);
    out.extend(body);
}
