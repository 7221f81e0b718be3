//! The mesh's front door: where each span lies in a request, and who it says it is.
//!
//! One pass, no allocation per span, no recursion, every length checked before it is used. Ids, times, kind and
//! status are noted, everything else is only checked (see [`super::check`] for why it is looked at at all) and stays
//! as it came. Decoding into structs was rejected: it costs forty times as much and drops unknown fields.
//!
//! Two kinds of refusal. Bytes that are not protobuf refuse the whole request, since a wrong length shifts everything
//! behind it. What is legal protobuf but not a span we may carry is left out of the index and counted, so that one
//! bad span does not cost its 99 neighbours; what is wrong with a resource or a scope costs the spans below it.
//!
//! The index is memory that the sender makes us hold, so it is bounded by the bytes that were sent: a resource or
//! scope without a legal span gets no entry, a legal span is at least 30 bytes, neighbouring unknown fields share one
//! range. Altogether its entries stay below six times the request.

use std::ops::Range;

use bytes::Bytes;
use smallvec::{Array, SmallVec};

use super::check::{self, Fault, TOO_MANY_ATTRIBUTES, text};
use super::edit::{MAX_EDITED_ATTRIBUTES, MAX_EDITED_BYTES};
pub use super::reader::WireError;
use super::reader::{Reader, count_high, high_of, tag};
use super::regroup::select;
use super::schema::Message;
use super::stamp;
use crate::model::{ByteRange, ResourceEntry, ScopeEntry, SpanEntry, SpanId, Spans, TraceId, UnixNanos};

/// Far above what any receiver lets in, far below where 32-bit ranges would end, also after resource edits.
const MAX_REQUEST_BYTES: usize = 256 << 20;

/// What is refused before it is believed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nested arrays and key-value lists of an attribute value.
    pub max_value_depth: u32,
    pub max_span_bytes: usize,
    /// Of a span, an event, a link, a resource, a scope, each.
    pub max_attributes: usize,
    pub max_events: usize,
    pub max_links: usize,
    /// Everything of a resource that is not below its scopes, and everything of a scope that is not a span. It is
    /// repeated for every owner that gets a span of it, so a sender could have it multiplied.
    pub max_header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_value_depth: 128,
            max_span_bytes: 1 << 20,
            max_attributes: 1_000,
            max_events: 10_000,
            max_links: 10_000,
            max_header_bytes: 256 << 10,
        }
    }
}

impl Limits {
    /// What a node must take from its peers so that nothing is rejected there that these limits have let in: their
    /// senders were told that all is well. On its way a resource may grow to the most that [`ResourceEdits`] make of one,
    /// and is then stamped; a span may get a tracestate.
    ///
    /// The same for every node: what the sending one is called and told to edit, nobody else knows.
    ///
    /// [`ResourceEdits`]: super::ResourceEdits
    pub fn of_peers(&self) -> Limits {
        Limits {
            max_span_bytes: self.max_span_bytes.saturating_add(MAX_TRACE_STATE_GROWTH),
            max_attributes: self.max_attributes.max(MAX_EDITED_ATTRIBUTES).saturating_add(stamp::MOST_ATTRIBUTES),
            // Beside the resource itself there is what was let in, a schema's URL and fields that nobody knows.
            max_header_bytes: self.max_header_bytes.saturating_add(MAX_EDITED_BYTES).saturating_add(stamp::MOST_BYTES),
            ..*self
        }
    }
}

/// Of a tracestate that samplers write, with what the lengths in front of it grow by.
const MAX_TRACE_STATE_GROWTH: usize = 2 << 10;

/// Spans left out of the index, for `partial_success`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    pub spans: u32,
    /// English, about the first one; never echoes input. With `spans` = 0 it is a warning in the sense of OTLP.
    pub reason: Option<&'static str>,
}

#[derive(Debug)]
pub struct Walked {
    /// Its `bytes` are the request as it came, without a copy, unless spans were rejected: those are cut out.
    pub spans: Spans,
    pub rejected: Rejected,
}

pub(super) const RESOURCE_SPANS: u32 = tag(1, 2);
const RESOURCE: u32 = tag(1, 2);
const SCOPE_SPANS: u32 = tag(2, 2);
const SCOPE: u32 = tag(1, 2);
const SPAN: u32 = tag(2, 2);
const SCHEMA_URL: u32 = tag(3, 2);

const REFERENCES: &str = "string table indices have no meaning in traces and were taken as absent";
const HEADER_SIZE: Fault = Fault::Rejected("a resource or scope is larger than allowed");

/// Indexes one encoded `ExportTraceServiceRequest`.
pub fn walk(bytes: Bytes, limits: &Limits) -> Result<Walked, WireError> {
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(WireError::TooLarge);
    }
    let spans = Vec::with_capacity(bytes.len() / 512);
    let mut walker = Walker {
        request: &bytes,
        limits,
        resources: Vec::new(),
        scopes: Vec::new(),
        spans,
        rejected: Rejected::default(),
        references: false,
    };
    let mut unknown = 0;
    let mut reader = Reader::new(&bytes);
    let mut start = 0;
    while let Some(tag) = reader.tag()? {
        if tag == RESOURCE_SPANS {
            walker.resource_spans(reader.range()?)?;
        } else {
            reader.skip_unknown(tag, 1)?;
            unknown += reader.pos() - start;
        }
        start = reader.pos();
    }
    // They are found again and go along with every part that is cut from this request.
    if unknown > limits.max_header_bytes {
        return Err(WireError::TooLarge);
    }
    let Walker { resources, scopes, spans, mut rejected, references, .. } = walker;
    if references && rejected.reason.is_none() {
        rejected.reason = Some(REFERENCES);
    }
    let mut spans = Spans { bytes, resources, scopes, spans };
    if rejected.spans > 0 {
        // A backend may refuse a whole request for the sake of one such span.
        spans = select(&spans, |_| true);
    }
    Ok(Walked { spans, rejected })
}

/// Offsets fit: no request is larger than [`MAX_REQUEST_BYTES`].
pub(super) fn byte_range(range: &Range<usize>) -> ByteRange {
    ByteRange { start: range.start as u32, end: range.end as u32 }
}

/// Adds a field to a list of ranges; one that follows the last directly makes it longer.
pub(super) fn push_range<A: Array<Item = ByteRange>>(ranges: &mut SmallVec<A>, range: Range<usize>) {
    let range = byte_range(&range);
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

struct Walker<'a> {
    request: &'a [u8],
    limits: &'a Limits,
    resources: Vec<ResourceEntry>,
    scopes: Vec<ScopeEntry>,
    spans: Vec<SpanEntry>,
    rejected: Rejected,
    references: bool,
}

impl Walker<'_> {
    fn reject(&mut self, spans: usize, reason: &'static str) {
        if spans > 0 {
            self.rejected.spans += spans as u32;
            self.rejected.reason.get_or_insert(reason);
        }
    }

    fn resource_spans(&mut self, body: Range<usize>) -> Result<(), WireError> {
        let (first_scope, first_span) = (self.scopes.len(), self.spans.len());
        let mut entry = ResourceEntry::default();
        let mut header = Header::default();
        let mut reader = Reader::within(self.request, &body);
        let mut start = reader.pos();
        while let Some(tag) = reader.tag()? {
            match tag {
                SCOPE_SPANS => {
                    self.scope_spans(reader.range()?)?;
                    start = reader.pos();
                    continue;
                }
                RESOURCE => {
                    let range = reader.range()?;
                    header.check(&self.request[range.clone()], Message::Resource, self.limits, &mut self.references)?;
                    entry.resource.push(byte_range(&range));
                }
                SCHEMA_URL => header.note(text(reader.bytes()?))?,
                _ => reader.skip_unknown(tag, 3)?,
            }
            if tag != RESOURCE {
                push_range(&mut entry.other_fields, start..reader.pos());
            }
            header.bytes += reader.pos() - start;
            start = reader.pos();
        }
        if let Some(reason) = header.refusal(self.limits) {
            self.reject(self.spans.len() - first_span, reason);
            self.spans.truncate(first_span);
            self.scopes.truncate(first_scope);
        }
        if self.scopes.len() > first_scope {
            self.resources.push(entry);
        }
        Ok(())
    }

    fn scope_spans(&mut self, body: Range<usize>) -> Result<(), WireError> {
        let first_span = self.spans.len();
        let mut entry = ScopeEntry { resource: self.resources.len() as u32, ..ScopeEntry::default() };
        let mut header = Header::default();
        let mut reader = Reader::within(self.request, &body);
        let mut start = reader.pos();
        while let Some(tag) = reader.tag()? {
            match tag {
                SPAN => {
                    let body = reader.range()?;
                    match self.span(start, body) {
                        Ok(span) => self.spans.push(span),
                        Err(Fault::Rejected(reason)) => self.reject(1, reason),
                        Err(Fault::Malformed(error)) => return Err(error),
                    }
                    start = reader.pos();
                    continue;
                }
                SCOPE => header.check(reader.bytes()?, Message::Scope, self.limits, &mut self.references)?,
                SCHEMA_URL => header.note(text(reader.bytes()?))?,
                _ => reader.skip_unknown(tag, 3)?,
            }
            push_range(&mut entry.other_fields, start..reader.pos());
            header.bytes += reader.pos() - start;
            start = reader.pos();
        }
        if let Some(reason) = header.refusal(self.limits) {
            self.reject(self.spans.len() - first_span, reason);
            self.spans.truncate(first_span);
        }
        if self.spans.len() > first_span {
            self.scopes.push(entry);
        }
        Ok(())
    }

    #[inline]
    fn span(&mut self, field_start: usize, body: Range<usize>) -> Result<SpanEntry, Fault> {
        let limits = self.limits;
        if body.len() > limits.max_span_bytes {
            return Err(Fault::Rejected("a span is larger than allowed"));
        }
        let (mut trace_id, mut span_id, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut kind, mut status, mut start, mut end) = (0, 0, 0, 0);
        let (mut attributes, mut events, mut links) = (0, 0, 0);
        let references = &mut self.references;
        // Bytes above 0x7f that are not in strings.
        let mut high = 0;
        let mut reader = Reader::within(self.request, &body);
        while !reader.at_end() {
            let before = reader.pos();
            if reader.next_is([0x0a]) {
                trace_id = reader.bytes()?;
            }
            if reader.next_is([0x12]) {
                span_id = reader.bytes()?;
            }
            if reader.next_is([0x1a]) {
                reader.bytes()?;
            }
            if reader.next_is([0x22]) {
                parent = reader.bytes()?;
            }
            if reader.next_is([0x2a]) {
                reader.bytes()?;
            }
            if reader.next_is([0x30]) {
                kind = reader.varint()?;
            }
            if reader.next_is([0x39]) {
                start = reader.fixed64()?;
                high += high_of(start);
            }
            if reader.next_is([0x41]) {
                end = reader.fixed64()?;
                high += high_of(end);
            }
            while reader.next_is([0x4a]) {
                attributes += 1;
                high += check::attribute(reader.bytes()?, limits, references)?;
            }
            while reader.next_is([0x5a]) {
                events += 1;
                high += event(reader.bytes()?, limits, references)?;
            }
            while reader.next_is([0x6a]) {
                links += 1;
                let link = reader.bytes()?;
                check::check(link, Message::Link, limits, references)?;
                high += count_high(link);
            }
            if reader.next_is([0x7a]) {
                high += status_code(reader.bytes()?, &mut status)?;
            }
            if reader.next_is([0x85, 0x01]) {
                high += 1 + high_of(u64::from(reader.fixed32()?));
            }
            if reader.pos() != before {
                continue;
            }
            match reader.tag()? {
                Some(0x50 | 0x60 | 0x70) => drop(reader.varint()?),
                // Numbers below 17 come here with a wrong wire type, or in a tag of more bytes than it takes.
                Some(tag) => reader.skip_unknown(tag, 16)?,
                None => {}
            }
        }
        if attributes > limits.max_attributes {
            return Err(TOO_MANY_ATTRIBUTES);
        }
        if events > limits.max_events {
            return Err(Fault::Rejected("a span has too many events"));
        }
        if links > limits.max_links {
            return Err(Fault::Rejected("a span has too many links"));
        }
        let trace_id = trace_id.try_into().map(TraceId).unwrap_or_default();
        if trace_id.is_zero() {
            return Err(Fault::Rejected("a trace_id is not 16 bytes, or all zero"));
        }
        let span_id = span_id.try_into().map(SpanId).unwrap_or_default();
        if span_id.is_zero() {
            return Err(Fault::Rejected("a span_id is not 8 bytes, or all zero"));
        }
        let parent_span_id = match parent {
            [] => SpanId::NONE,
            _ => SpanId(parent.try_into().map_err(|_| Fault::Rejected("a parent_span_id is not 8 bytes"))?),
        };
        high += reader.high();
        let id = u128::from_le_bytes(trace_id.0);
        let words = [id as u64, (id >> 64) as u64, u64::from_le_bytes(span_id.0), u64::from_le_bytes(parent_span_id.0)];
        high += words.map(high_of).iter().sum::<usize>();
        if high != count_high(&self.request[body.clone()]) {
            // Some string may have more than ASCII.
            check::check(&self.request[body.clone()], Message::Span, limits, references)?;
        }
        Ok(SpanEntry {
            trace_id,
            span_id,
            parent_span_id,
            start: UnixNanos(start),
            end: UnixNanos(end),
            scope: self.scopes.len() as u32,
            field: byte_range(&(field_start..body.end)),
            // A tag of one to five bytes and a length of one to ten.
            head: (body.start - field_start) as u8,
            kind: enum_byte(kind),
            status: enum_byte(status),
        })
    }
}

/// Protobuf enums are 32 bits of the varint.
fn enum_byte(value: u64) -> u8 {
    u8::try_from(value as u32).unwrap_or(u8::MAX)
}

/// What is known of the part of a resource or scope that all its spans share.
#[derive(Default)]
struct Header {
    bytes: usize,
    reason: Option<&'static str>,
}

impl Header {
    /// Remembers a refusal, since the spans may come later; hands on what ends the walk.
    fn note(&mut self, result: Result<(), Fault>) -> Result<(), WireError> {
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Malformed(error)) => Err(error),
            Err(Fault::Rejected(reason)) => {
                self.reason.get_or_insert(reason);
                Ok(())
            }
        }
    }

    fn check(&mut self, body: &[u8], message: Message, limits: &Limits, seen: &mut bool) -> Result<(), WireError> {
        self.note(check::check(body, message, limits, seen))
    }

    fn refusal(&mut self, limits: &Limits) -> Option<&'static str> {
        if self.bytes > limits.max_header_bytes
            && let Fault::Rejected(reason) = HEADER_SIZE
        {
            self.reason.get_or_insert(reason);
        }
        self.reason
    }
}

/// Events are the one message besides attributes that spans commonly have. Counts as [`check::attribute`] does.
#[inline]
fn event(body: &[u8], limits: &Limits, references: &mut bool) -> Result<usize, Fault> {
    let mut attributes = 0;
    let mut high = 0;
    let mut reader = Reader::new(body);
    while !reader.at_end() {
        let before = reader.pos();
        if reader.next_is([0x09]) {
            high += high_of(reader.fixed64()?);
        }
        if reader.next_is([0x12]) {
            reader.bytes()?;
        }
        while reader.next_is([0x1a]) {
            attributes += 1;
            high += check::attribute(reader.bytes()?, limits, references)?;
        }
        if reader.pos() != before {
            continue;
        }
        match reader.tag()? {
            Some(0x20) => drop(reader.varint()?),
            Some(tag) => reader.skip_unknown(tag, 4)?,
            None => {}
        }
    }
    if attributes > limits.max_attributes { Err(TOO_MANY_ATTRIBUTES) } else { Ok(high + reader.high()) }
}

/// Two statuses of one span merge: a later one without a code leaves the code as it was. Counts likewise.
fn status_code(body: &[u8], code: &mut u64) -> Result<usize, Fault> {
    let mut reader = Reader::new(body);
    while let Some(tag) = reader.tag()? {
        match tag {
            0x12 => drop(reader.bytes()?),
            0x18 => *code = reader.varint()?,
            // Number 1 was retired before OTLP was stable.
            _ if tag >> 3 == 1 => reader.skip(tag)?,
            _ => reader.skip_unknown(tag, 3)?,
        }
    }
    Ok(reader.high())
}
