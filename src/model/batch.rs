//! Spans as they came, plus an index of where each one lies.
//!
//! Decoding a span into structs and encoding it again costs about forty times the walk that finds its ids, and loses
//! every field that this build does not know. So a batch is the sender's own bytes (one OTLP
//! `ExportTraceServiceRequest`, which has the wire form of `TracesData`), and an index of offsets into it. Routing,
//! forwarding, dedup and export copy byte ranges.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::budget::Held;
use super::ids::{SpanId, TraceId};
use super::receipt::Receipt;
use super::time::UnixNanos;

/// A range of bytes in [`Spans::bytes`]. Requests are far below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ByteRange {
    pub start: u32,
    pub end: u32,
}

impl ByteRange {
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.range()]
    }

    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One `ResourceSpans`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceEntry {
    /// Its fields other than `scope_spans` and `resource`, each whole with its tag: `schema_url` and whatever this
    /// build does not know. Fields that stand side by side share a range.
    pub other_fields: SmallVec<[ByteRange; 1]>,
    /// The body of its `resource` field. Protobuf merges a message field that occurs twice, and the concatenation of
    /// bodies is that merge: so normally one range, and all of them in order otherwise.
    pub resource: SmallVec<[ByteRange; 1]>,
}

/// One `ScopeSpans`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeEntry {
    /// Index into [`Spans::resources`].
    pub resource: u32,
    /// Its fields other than `spans`, each whole with its tag: `scope`, `schema_url`, unknown ones. Fields that stand
    /// side by side share a range.
    pub other_fields: SmallVec<[ByteRange; 2]>,
}

/// One span: what routing, dedup and sampling ask for, and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanEntry {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    /// [`SpanId::NONE`] for a root.
    pub parent_span_id: SpanId,
    pub start: UnixNanos,
    pub end: UnixNanos,
    /// Index into [`Spans::scopes`].
    pub scope: u32,
    /// The whole field: tag, length and body.
    pub field: ByteRange,
    /// Length of tag and length in front of the body.
    pub head: u8,
    /// OTLP `SpanKind`; values that do not fit are 255.
    pub kind: u8,
    /// OTLP `Status.code`; values that do not fit are 255.
    pub status: u8,
}

impl SpanEntry {
    /// The range of the encoded `Span` message itself.
    pub fn body(&self) -> ByteRange {
        ByteRange { start: self.field.start + u32::from(self.head), end: self.field.end }
    }
}

/// Encoded spans and their index. The index holds only spans with legal ids; spans are in the order of their bytes,
/// so that those of one scope, and the scopes of one resource, stand together.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    pub bytes: Bytes,
    pub resources: Vec<ResourceEntry>,
    pub scopes: Vec<ScopeEntry>,
    pub spans: Vec<SpanEntry>,
}

impl Spans {
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// What travels between stages: spans, who answers for them, and the bytes they are counted with.
pub struct Batch {
    pub spans: Spans,
    pub receipt: Receipt,
    pub held: Held,
    /// How often these spans were sent from node to node already; 0 for those of a local sender.
    pub hops: u8,
}
