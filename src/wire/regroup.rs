//! Cutting a batch up by owner, on bytes.
//!
//! Every part is a whole request of its own, so the resource and scope a span stands under are repeated in each part
//! that gets a span of theirs. Protobuf puts lengths in front, hence two passes over the index: the first adds up how
//! long each scope and resource of each part will be, the second writes everything once into buffers of exactly that
//! size, one copy per run of neighbouring spans. Shifting bytes to make room for a length, or one buffer per scope
//! joined afterwards, copies every span twice.
//!
//! The index of a part is written along with its bytes: a second walk would cost more than the cutting itself.
//! Keeping some spans and editing the resources of all are the same cut with one part.

use std::ops::Range;

use bytes::Bytes;

use super::edit::ResourceEdits;
use super::key_value::field_len;
use super::reader::{Reader, put_head};
use super::walk::{RESOURCE_SPANS, byte_range};
use crate::model::{ByteRange, ResourceEntry, ScopeEntry, SpanEntry, Spans};

/// The spans of one group: a whole encoded request of its own, with its index.
#[derive(Debug)]
pub struct Part {
    pub group: u16,
    pub spans: Spans,
}

/// Most bytes of the tags and lengths of a resource with one scope in it.
const FRAMING: u64 = 24;

/// The group of spans that are left out.
const NOWHERE: u16 = u16::MAX;

/// `group_of[i]` is the group of span `i`, below `groups`. Empty groups give no part; parts come in the order of their
/// groups, and keep the order of the spans. A group that is not below `groups` is a mistake of the caller's: debug
/// builds stop, others leave the span out.
pub fn regroup(spans: &Spans, group_of: &[u16], groups: u16, edits: Option<&ResourceEdits>) -> Vec<Part> {
    debug_assert_eq!(group_of.len(), spans.len());
    debug_assert!(group_of.iter().all(|&group| group < groups));
    cut(spans, group_of, groups, edits)
}

/// The most bytes that [`regroup`] can make of these spans with this many groups. A scope and its resource are repeated in
/// each part that has a span of theirs, and fields of the request that this build does not know in every part, so what is
/// mostly headers grows with the number of owners.
pub fn most_bytes(spans: &Spans, groups: usize) -> u64 {
    let mut spans_of = vec![0_u64; spans.scopes.len()];
    let mut in_spans = 0;
    for span in &spans.spans {
        in_spans += span.field.len() as u64;
        if let Some(count) = spans_of.get_mut(span.scope as usize) {
            *count += 1;
        }
    }
    let (mut once, mut repeated) = (0, 0);
    for (scope, count) in spans.scopes.iter().zip(spans_of) {
        let resource = spans.resources.get(scope.resource as usize);
        let ranges = resource.into_iter().flat_map(|resource| resource.other_fields.iter().chain(&resource.resource));
        let bytes = ranges.chain(&scope.other_fields).map(|range| range.len() as u64).sum::<u64>() + FRAMING;
        once += bytes;
        repeated += bytes * count.min(groups as u64);
    }
    let rest = (spans.bytes.len() as u64).saturating_sub(in_spans + once);
    in_spans + repeated + (rest + FRAMING) * spans.spans.len().min(groups) as u64
}

/// The spans that `keep` says, as a request of their own.
pub fn select(spans: &Spans, mut keep: impl FnMut(usize) -> bool) -> Spans {
    let group_of: Vec<u16> = (0..spans.len()).map(|i| if keep(i) { 0 } else { NOWHERE }).collect();
    cut(spans, &group_of, 1, None).pop().map_or_else(Spans::default, |part| part.spans)
}

/// All spans, their resources edited.
pub fn edit_resources(spans: &Spans, edits: &ResourceEdits) -> Spans {
    cut(spans, &vec![0; spans.len()], 1, Some(edits)).pop().map_or_else(Spans::default, |part| part.spans)
}

const NONE: u32 = u32::MAX;

/// One part while it is measured, then written.
#[derive(Clone)]
struct Group {
    /// Where it is in the input, and in which of [`ScopeRun`]s and [`ResourceRun`]s.
    scope: u32,
    scope_run: u32,
    resource: u32,
    resource_run: u32,
    bytes: usize,
    resources: usize,
    scopes: usize,
    spans: usize,
    out: Output,
}

#[derive(Clone, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    pub(super) resources: Vec<ResourceEntry>,
    pub(super) scopes: Vec<ScopeEntry>,
    pub(super) spans: Vec<SpanEntry>,
}

/// A scope in a part.
struct ScopeRun {
    resource_run: u32,
    /// Of the body of its `ScopeSpans`.
    bytes: usize,
}

/// A resource in a part.
struct ResourceRun {
    group: u16,
    /// Of the body of its `ResourceSpans`.
    bytes: usize,
}

/// The fields of a `ResourceSpans` that are not scopes, as every part that has it will repeat them.
#[derive(Clone, Default)]
pub(super) struct Header {
    /// In the scratch buffer; empty until the resource is met.
    pub(super) all: Range<usize>,
    /// Length of the fields in front of `resource`.
    other: usize,
    /// The body of `resource`, relative to `all`.
    resource: Option<Range<usize>>,
}

fn cut(spans: &Spans, group_of: &[u16], groups: u16, edits: Option<&ResourceEdits>) -> Vec<Part> {
    let request = &*spans.bytes;
    let unknown = unknown_of_request(request);
    let mut cut = Cut {
        spans,
        headers: Headers::new(spans, edits),
        groups: vec![Group::new(); usize::from(groups)],
        scope_runs: Vec::with_capacity(spans.scopes.len()),
        resource_runs: Vec::with_capacity(spans.resources.len()),
    };
    cut.measure(group_of);
    cut.allocate(unknown.iter().map(|range| range.len()).sum());
    cut.write(group_of);
    let parts = cut.groups.into_iter().zip(0..).filter(|(group, _)| group.spans > 0);
    parts.map(|(Group { out, .. }, group)| Part { group, spans: out.finish(&unknown, request) }).collect()
}

/// Fields of the request itself that this build does not know. There are none in practice, so they are looked for
/// when they are needed (one step per resource) rather than carried in every index.
pub(super) fn unknown_of_request(request: &[u8]) -> Vec<ByteRange> {
    let mut unknown = Vec::new();
    let mut reader = Reader::new(request);
    let mut start = 0;
    while let Ok(Some(tag)) = reader.tag() {
        if reader.skip(tag).is_err() {
            break;
        }
        if tag != RESOURCE_SPANS {
            unknown.push(byte_range(&(start..reader.pos())));
        }
        start = reader.pos();
    }
    unknown
}

impl Group {
    fn new() -> Group {
        Group {
            scope: NONE,
            scope_run: NONE,
            resource: NONE,
            resource_run: NONE,
            bytes: 0,
            resources: 0,
            scopes: 0,
            spans: 0,
            out: Output::default(),
        }
    }
}

struct Cut<'a> {
    spans: &'a Spans,
    headers: Headers<'a>,
    groups: Vec<Group>,
    /// In the order in which spans call for them, which both passes share: the second pass finds the run that it
    /// needs next where it left off.
    scope_runs: Vec<ScopeRun>,
    resource_runs: Vec<ResourceRun>,
}

impl Cut<'_> {
    fn measure(&mut self, group_of: &[u16]) {
        for (span, &index) in self.spans.spans.iter().zip(group_of) {
            let Some(group) = self.groups.get_mut(usize::from(index)) else { continue };
            if group.scope != span.scope {
                let scope = &self.spans.scopes[span.scope as usize];
                if group.resource != scope.resource {
                    let bytes = self.headers.of(self.spans, scope.resource).all.len();
                    group.resource = scope.resource;
                    group.resource_run = self.resource_runs.len() as u32;
                    group.resources += 1;
                    self.resource_runs.push(ResourceRun { group: index, bytes });
                }
                group.scope = span.scope;
                group.scope_run = self.scope_runs.len() as u32;
                group.scopes += 1;
                let bytes = scope.other_fields.iter().map(|range| range.len()).sum();
                self.scope_runs.push(ScopeRun { resource_run: group.resource_run, bytes });
            }
            group.spans += 1;
            self.scope_runs[group.scope_run as usize].bytes += span.field.len();
        }
        for scope in &self.scope_runs {
            self.resource_runs[scope.resource_run as usize].bytes += field_len(scope.bytes);
        }
        for resource in &self.resource_runs {
            self.groups[usize::from(resource.group)].bytes += field_len(resource.bytes);
        }
    }

    fn allocate(&mut self, unknown: usize) {
        for group in self.groups.iter_mut().filter(|group| group.spans > 0) {
            (group.scope, group.resource) = (NONE, NONE);
            group.out = Output {
                bytes: Vec::with_capacity(group.bytes + unknown),
                resources: Vec::with_capacity(group.resources),
                scopes: Vec::with_capacity(group.scopes),
                spans: Vec::with_capacity(group.spans),
            };
        }
    }

    fn write(&mut self, group_of: &[u16]) {
        let request = &*self.spans.bytes;
        let (mut next_scope, mut next_resource) = (0, 0);
        let mut at = 0;
        while let Some(span) = self.spans.spans.get(at) {
            let index = group_of[at];
            let first = at;
            at += 1;
            let Some(group) = self.groups.get_mut(usize::from(index)) else { continue };
            let out = &mut group.out;
            if group.scope != span.scope {
                let scope = &self.spans.scopes[span.scope as usize];
                if group.resource != scope.resource {
                    group.resource = scope.resource;
                    put_head(&mut out.bytes, 1, self.resource_runs[next_resource].bytes);
                    next_resource += 1;
                    let header = self.headers.of(self.spans, scope.resource).clone();
                    out.resource(&header, &self.headers.scratch);
                }
                group.scope = span.scope;
                put_head(&mut out.bytes, 2, self.scope_runs[next_scope].bytes);
                next_scope += 1;
                out.scope(scope, request);
            }
            let mut end = span.field.end;
            while let (Some(next), Some(&group)) = (self.spans.spans.get(at), group_of.get(at)) {
                if group != index || next.scope != span.scope || next.field.start != end {
                    break;
                }
                end = next.field.end;
                at += 1;
            }
            out.spans(&self.spans.spans[first..at], &request[span.field.start as usize..end as usize]);
        }
        debug_assert_eq!((next_scope, next_resource), (self.scope_runs.len(), self.resource_runs.len()));
    }
}

impl Output {
    pub(super) fn resource(&mut self, header: &Header, scratch: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&scratch[header.all.clone()]);
        let mut entry = ResourceEntry::default();
        if header.other > 0 {
            entry.other_fields.push(byte_range(&(start..start + header.other)));
        }
        if let Some(resource) = &header.resource {
            entry.resource.push(byte_range(&(start + resource.start..start + resource.end)));
        }
        self.resources.push(entry);
    }

    pub(super) fn scope(&mut self, scope: &ScopeEntry, request: &[u8]) {
        let start = self.bytes.len();
        scope.other_fields.iter().for_each(|range| self.bytes.extend_from_slice(range.of(request)));
        let mut entry = ScopeEntry { resource: self.resources.len() as u32 - 1, ..ScopeEntry::default() };
        if self.bytes.len() > start {
            entry.other_fields.push(byte_range(&(start..self.bytes.len())));
        }
        self.scopes.push(entry);
    }

    /// `bytes` are the fields of `spans`, which follow each other without a gap.
    #[inline]
    pub(super) fn spans(&mut self, spans: &[SpanEntry], bytes: &[u8]) {
        let scope = self.scopes.len() as u32 - 1;
        let mut start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.spans.extend(spans.iter().map(|span| {
            let end = start + span.field.len() as u32;
            let field = ByteRange { start, end };
            start = end;
            SpanEntry { scope, field, ..*span }
        }));
    }

    /// `span` with another body, which says the same wherever the index looks.
    pub(super) fn edited_span(&mut self, span: &SpanEntry, body: &[u8]) {
        let scope = self.scopes.len() as u32 - 1;
        let start = self.bytes.len();
        put_head(&mut self.bytes, 2, body.len());
        let head = (self.bytes.len() - start) as u8;
        self.bytes.extend_from_slice(body);
        self.spans.push(SpanEntry { scope, field: byte_range(&(start..self.bytes.len())), head, ..*span });
    }

    /// The whole request, to which `fields` of its own were added.
    pub(super) fn finish(mut self, fields: &[ByteRange], request: &[u8]) -> Spans {
        fields.iter().for_each(|range| self.bytes.extend_from_slice(range.of(request)));
        let Output { bytes, resources, scopes, spans } = self;
        Spans { bytes: Bytes::from(bytes), resources, scopes, spans }
    }
}

/// The headers that were asked for, each made (and edited) once.
pub(super) struct Headers<'a> {
    edits: Option<&'a ResourceEdits>,
    pub(super) scratch: Vec<u8>,
    of: Vec<Option<Header>>,
}

impl<'a> Headers<'a> {
    pub(super) fn new(spans: &Spans, edits: Option<&'a ResourceEdits>) -> Headers<'a> {
        Headers { edits, scratch: Vec::new(), of: vec![None; spans.resources.len()] }
    }

    pub(super) fn of(&mut self, spans: &Spans, resource: u32) -> &Header {
        let Headers { edits, scratch, of } = self;
        of[resource as usize].get_or_insert_with(|| {
            let entry = &spans.resources[resource as usize];
            let request = &*spans.bytes;
            let start = scratch.len();
            entry.other_fields.iter().for_each(|range| scratch.extend_from_slice(range.of(request)));
            let other = scratch.len() - start;
            let parts = entry.resource.iter().map(|range| range.of(request));
            let mut body = Vec::new();
            match edits {
                Some(edits) => edits.apply(parts, &mut body),
                None => parts.for_each(|part| body.extend_from_slice(part)),
            }
            // An absent resource stays absent, unless an edit has put something into it.
            let mut resource = None;
            if !(entry.resource.is_empty() && body.is_empty()) {
                put_head(scratch, 1, body.len());
                let from = scratch.len() - start;
                scratch.extend_from_slice(&body);
                resource = Some(from..from + body.len());
            }
            Header { all: start..scratch.len(), other, resource }
        })
    }
}
