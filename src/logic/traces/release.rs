//! Kept spans on their way out: requests of about half a megabyte, with their index.
//!
//! Traces that are decided together share requests, and in a request each resource and scope stands once, whatever the
//! number of traces: a resource is often half as long as a span, and whoever compresses, sends and stores it pays again. Since
//! lengths stand in front in protobuf, spans are first collected, edited where they are, and written in order when a request
//! is full. The index is made on the way: the same that a walk of the bytes would find.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::index::spread;
use super::shares::Shares;
use crate::logic::dedup::SpanKey;
use crate::logic::trace::Header;
use crate::model::{ByteRange, Receipt, ResourceEntry, ScopeEntry, SpanEntry, Spans};
use crate::wire::reader::{put_head, put_varint, varint_len};
use crate::wire::span_edit::{SpanEdits, write_span};

/// Kept spans on their way out. Whoever has them resolves the receipts, and tells the dedup of the
/// [`Traces`](super::Traces) the fate of the keys.
pub struct Release {
    pub spans: Spans,
    /// Together they answer for exactly these spans, in no order.
    pub receipts: Vec<Receipt>,
    /// In custody of the dedup until settled; empty without one.
    pub keys: Vec<SpanKey>,
}

/// A request is full above this.
const FULL: usize = 512 << 10;

/// Tags of `resource_spans`, `resource`, `scope_spans` and `spans`.
const RESOURCE_SPANS: u32 = 1;
const RESOURCE: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SPANS: u32 = 2;

/// A scope of the request, with its resource.
struct Scope {
    number: u32,
    header: Arc<Header>,
    resource: u32,
    spans: u32,
    /// Of all its spans' fields.
    bytes: usize,
    /// Of the body of its `ScopeSpans`, and where its first span stands in the order of the request.
    body: usize,
    next: u32,
}

/// Where the header of a span is: its number and content, and the number of its resource.
#[derive(Clone, Copy)]
pub(super) struct Under<'a> {
    pub(super) number: u32,
    pub(super) header: &'a Arc<Header>,
    pub(super) resource: u32,
}

#[derive(Default)]
pub(super) struct Writer {
    /// Bodies of the spans, edited.
    bodies: Vec<u8>,
    /// `scope` is an index into `scopes` and `field` the range of the body in `bodies`.
    spans: Vec<SpanEntry>,
    scopes: Vec<Scope>,
    by_number: HashTable<u32>,
    /// Numbers of the resources, each of which stands once in the request.
    resources: HashTable<u32>,
    header_bytes: usize,
    receipts: Vec<Receipt>,
    /// Spans whose receipts are not here yet.
    owed: u32,
    keys: Vec<SpanKey>,
}

impl Writer {
    /// `span`'s ids, times, kind and status count; `body` is the encoded `Span`.
    pub(super) fn push(&mut self, span: SpanEntry, body: &[u8], under: Under<'_>, edits: &SpanEdits<'_>) {
        let scope = self.scope(under);
        let start = self.bodies.len();
        if edits.trace_state.is_none() && edits.attributes.is_empty() {
            self.bodies.extend_from_slice(body);
        } else {
            write_span(&mut self.bodies, body, edits);
        }
        let field = ByteRange { start: start as u32, end: self.bodies.len() as u32 };
        let known = &mut self.scopes[scope as usize];
        known.spans += 1;
        known.bytes += field_len(field.len());
        self.spans.push(SpanEntry { scope, field, head: 0, ..span });
        self.owed += 1;
    }

    pub(super) fn push_key(&mut self, key: SpanKey) {
        self.keys.push(key);
    }

    /// The index of the scope with this header.
    fn scope(&mut self, under: Under<'_>) -> u32 {
        use hashbrown::hash_table::Entry::{Occupied, Vacant};
        let Writer { scopes, by_number, resources, .. } = self;
        // The number may have been another header's since this request was begun.
        let same = |scope: &u32| {
            let scope = &scopes[*scope as usize];
            scope.number == under.number && Arc::ptr_eq(&scope.header, under.header)
        };
        let hash = |number: u32| spread(u64::from(number) + 1);
        match by_number.entry(hash(under.number), same, |scope| hash(scopes[*scope as usize].number)) {
            Occupied(known) => *known.get(),
            Vacant(vacant) => {
                let index = scopes.len() as u32;
                vacant.insert(index);
                let header = under.header.clone();
                self.header_bytes += header.scope_fields.len();
                let known =
                    resources.entry(hash(under.resource), |known| *known == under.resource, |known| hash(*known));
                if let Vacant(new) = known {
                    new.insert(under.resource);
                    self.header_bytes +=
                        header.resource_fields.len() + header.resource.as_deref().map_or(0, <[u8]>::len);
                }
                scopes.push(Scope {
                    number: under.number,
                    header,
                    resource: under.resource,
                    spans: 0,
                    bytes: 0,
                    body: 0,
                    next: 0,
                });
                index
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bodies.len() + self.header_bytes >= FULL
    }

    /// Takes the receipts of the spans that were pushed since.
    pub(super) fn settle(&mut self, shares: &mut Shares) {
        self.receipts.extend(shares.take(self.owed));
        self.owed = 0;
    }

    /// Sends what there is.
    pub(super) fn flush(&mut self, out: &mut Vec<Release>) {
        if self.spans.is_empty() {
            return;
        }
        let spans = self.write();
        self.bodies.clear();
        self.spans.clear();
        self.scopes.clear();
        self.by_number.clear();
        self.resources.clear();
        self.header_bytes = 0;
        if self.bodies.capacity() > 4 * FULL {
            self.bodies = Vec::new();
        }
        let (receipts, keys) = (std::mem::take(&mut self.receipts), std::mem::take(&mut self.keys));
        out.push(Release { spans, receipts, keys });
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.bodies.capacity()
            + self.spans.capacity() * size_of::<SpanEntry>()
            + self.scopes.capacity() * size_of::<Scope>()
            + self.by_number.allocation_size()
            + self.resources.allocation_size();
        bytes as u64
    }

    /// The whole request.
    fn write(&mut self) -> Spans {
        let Writer { bodies, spans, scopes, .. } = self;
        let mut order: Vec<u32> = (0..scopes.len() as u32).collect();
        order.sort_by_key(|scope| (scopes[*scope as usize].resource, *scope));
        let mut first = 0;
        for scope in &order {
            let scope = &mut scopes[*scope as usize];
            scope.body = scope.header.scope_fields.len() + scope.bytes;
            scope.next = first;
            first += scope.spans;
        }
        let mut places = vec![0; spans.len()];
        for (place, span) in spans.iter().enumerate() {
            let scope = &mut scopes[span.scope as usize];
            places[scope.next as usize] = place as u32;
            scope.next += 1;
        }
        // Its number may have been another resource's since this request was begun.
        let same_resource = |one: &u32, other: &u32| {
            let (one, other) = (&scopes[*one as usize], &scopes[*other as usize]);
            let same_body = match (&one.header.resource, &other.header.resource) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            one.resource == other.resource
                && same_body
                && Arc::ptr_eq(&one.header.resource_fields, &other.header.resource_fields)
        };
        let mut request = Request::default();
        let resources: Vec<(&[u32], usize)> = order
            .chunk_by(same_resource)
            .map(|resource| (resource, resource_body(resource.iter().map(|scope| &scopes[*scope as usize]))))
            .collect();
        request.bytes.reserve_exact(resources.iter().map(|(_, body)| field_len(*body)).sum());
        request.spans.reserve_exact(spans.len());
        let mut places = &places[..];
        for (resource, body) in resources {
            put_head(&mut request.bytes, RESOURCE_SPANS, body);
            for (at, scope) in resource.iter().enumerate() {
                let scope = &scopes[*scope as usize];
                if at == 0 {
                    request.resource(&scope.header);
                }
                request.scope(scope);
                let (those, rest) = places.split_at(scope.spans as usize);
                places = rest;
                for place in those {
                    let span = &spans[*place as usize];
                    request.span(span, span.field.of(bodies));
                }
            }
        }
        Spans {
            bytes: Bytes::from(request.bytes),
            resources: request.resources,
            scopes: request.scopes,
            spans: request.spans,
        }
    }
}

/// Bytes of a length-delimited field of ours: all have one byte of tag.
fn field_len(body: usize) -> usize {
    1 + varint_len(body as u64) + body
}

/// Of the body of a `ResourceSpans` with these scopes.
fn resource_body<'a>(scopes: impl Iterator<Item = &'a Scope> + Clone) -> usize {
    let header = scopes.clone().next().map_or(0, |scope| {
        let header = &scope.header;
        header.resource_fields.len() + header.resource.as_deref().map_or(0, |resource| field_len(resource.len()))
    });
    header + scopes.map(|scope| field_len(scope.body)).sum::<usize>()
}

/// Bytes and index, as they grow.
#[derive(Default)]
struct Request {
    bytes: Vec<u8>,
    resources: Vec<ResourceEntry>,
    scopes: Vec<ScopeEntry>,
    spans: Vec<SpanEntry>,
}

impl Request {
    fn put(&mut self, bytes: &[u8]) -> ByteRange {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        ByteRange { start, end: self.bytes.len() as u32 }
    }

    fn resource(&mut self, header: &Header) {
        let mut entry = ResourceEntry::default();
        if let Some(resource) = &header.resource {
            put_head(&mut self.bytes, RESOURCE, resource.len());
            entry.resource.push(self.put(resource));
        }
        if !header.resource_fields.is_empty() {
            entry.other_fields.push(self.put(&header.resource_fields));
        }
        self.resources.push(entry);
    }

    fn scope(&mut self, scope: &Scope) {
        put_head(&mut self.bytes, SCOPE_SPANS, scope.body);
        let mut other_fields = SmallVec::new();
        if !scope.header.scope_fields.is_empty() {
            other_fields.push(self.put(&scope.header.scope_fields));
        }
        self.scopes.push(ScopeEntry { resource: self.resources.len() as u32 - 1, other_fields });
    }

    fn span(&mut self, span: &SpanEntry, body: &[u8]) {
        let start = self.bytes.len() as u32;
        put_varint(&mut self.bytes, u64::from(SPANS << 3 | 2));
        put_varint(&mut self.bytes, body.len() as u64);
        let head = (self.bytes.len() as u32 - start) as u8;
        self.bytes.extend_from_slice(body);
        let field = ByteRange { start, end: self.bytes.len() as u32 };
        self.spans.push(SpanEntry { scope: self.scopes.len() as u32 - 1, field, head, ..*span });
    }
}
