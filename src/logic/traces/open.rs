//! What is known of one trace, and all of them with their spans.

use std::sync::Arc;

use smallvec::{Array, SmallVec};

use super::arena::{Arena, Piece, Place};
use super::headers::Headers;
use super::index::Index;
use super::keys::Keys;
use super::queues::Link;
use super::seen::Seen;
use super::slab::Slab;
use super::verdicts::Remembered;
use crate::logic::trace::{SpanView, TraceView};
use crate::model::{Receipt, Tick, TraceId};

/// Some of a trace's spans, and who waits to hear of them: one receipt for all pieces of a batch.
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) receipt: Option<Receipt>,
}

pub(super) struct Trace {
    pub(super) id: TraceId,
    pub(super) first_seen: Tick,
    /// When it is due because its root came; later than any time if none did.
    pub(super) root_due: Tick,
    pub(super) parts: SmallVec<[Part; 1]>,
    pub(super) spans: u32,
    pub(super) duplicates: u32,
    /// Encoded spans.
    pub(super) bytes: u64,
    /// Resources and scopes that nobody held before it came.
    pub(super) headers: u32,
    /// Its part of what the receipts of its batches take; 0 once it is decided.
    pub(super) receipts: u32,
    /// What it takes in memory, as far as it makes a difference.
    pub(super) weight: u64,
    pub(super) seen: Seen,
    /// `None`: open.
    pub(super) decided: Option<Box<Decided>>,
    pub(super) links: [Link; 3],
}

/// A trace that is kept for explanations only.
pub(super) struct Decided {
    pub(super) at: Tick,
    pub(super) verdict: Remembered,
    pub(super) late: u64,
    pub(super) missing_parents: u32,
    pub(super) crossings: u32,
    /// Spans by cluster, once the spans themselves are gone.
    pub(super) clusters: Option<Vec<(Arc<str>, u32)>>,
}

impl Trace {
    pub(super) fn new(id: TraceId, now: Tick) -> Trace {
        Trace {
            id,
            first_seen: now,
            root_due: Tick(u64::MAX),
            parts: SmallVec::new(),
            spans: 0,
            duplicates: 0,
            bytes: 0,
            headers: 0,
            receipts: 0,
            weight: 0,
            seen: Seen::default(),
            decided: None,
            links: [Link::NONE; 3],
        }
    }

    /// Memory that its entry points to, without the arena's.
    pub(super) fn extra_bytes(&self) -> u64 {
        let parts = if self.parts.spilled() { self.parts.capacity() * size_of::<Part>() } else { 0 };
        let decided = self.decided.as_ref().map_or(0, |decided| {
            let clusters =
                decided.clusters.as_ref().map_or(0, |clusters| clusters.capacity() * size_of::<(Arc<str>, u32)>());
            size_of::<Decided>() + clusters
        });
        (parts + decided) as u64 + u64::from(self.receipts) + self.seen.bytes()
    }
}

/// Numbers of headers, and how many spans stand under each.
pub(super) type ByHeader = SmallVec<[(u32, u32); 8]>;

/// Adds up neighbours that are the same.
fn join<A: Array<Item = (K, u32)>, K: PartialEq>(counts: &mut SmallVec<A>) {
    counts.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
}

/// Traces and where their spans are.
pub(super) struct Store {
    pub(super) arena: Arena,
    pub(super) headers: Headers,
    pub(super) traces: Slab<Trace>,
    pub(super) index: Index,
    /// Sum of [`Trace::extra_bytes`].
    pub(super) extra: u64,
}

impl Store {
    pub(super) fn new(max_bytes: u64) -> Store {
        Store {
            arena: Arena::new(max_bytes),
            headers: Headers::new(),
            traces: Slab::new(),
            index: Index::new(),
            extra: 0,
        }
    }

    pub(super) fn find(&self, id: &TraceId, hash: u64) -> Option<u32> {
        self.index.find(hash, |number| self.traces.get(number).is_some_and(|trace| trace.id == *id))
    }

    /// Changes a trace, and what its entry counts for.
    pub(super) fn change<T>(&mut self, number: u32, change: impl FnOnce(&mut Trace) -> T) -> Option<T> {
        let trace = self.traces.get_mut(number)?;
        let before = trace.extra_bytes();
        let changed = change(trace);
        self.extra = self.extra + trace.extra_bytes() - before;
        Some(changed)
    }

    pub(super) fn pieces<'a>(&'a self, trace: &'a Trace) -> impl Iterator<Item = Piece<'a>> {
        trace.parts.iter().map(|part| self.arena.piece(part.place))
    }

    /// The trace as those see it who judge it, and the numbers of its spans' headers.
    pub(super) fn view(&self, trace: &Trace) -> (TraceView<'_>, Vec<u32>) {
        let mut spans = Vec::with_capacity(trace.spans as usize);
        let mut numbers = Vec::with_capacity(trace.spans as usize);
        let mut last = None;
        for part in &trace.parts {
            for (record, body) in self.arena.piece(part.place).spans() {
                let header = match last {
                    Some((number, header)) if number == record.header => header,
                    _ => match self.headers.get(record.header) {
                        Some(interned) => &*interned.header,
                        // Every record holds its header.
                        None => continue,
                    },
                };
                last = Some((record.header, header));
                numbers.push(record.header);
                spans.push(SpanView {
                    span_id: record.span_id,
                    parent_span_id: record.parent_span_id,
                    start: record.start,
                    end: record.end,
                    kind: record.kind,
                    status: record.status,
                    body,
                    header,
                    crossing: None,
                });
            }
        }
        (TraceView { id: trace.id, spans }, numbers)
    }

    /// Spans of a trace by the number of their header, in the order of the numbers.
    pub(super) fn by_header(&self, trace: &Trace) -> ByHeader {
        let mut counts = ByHeader::new();
        for record in self.pieces(trace).flat_map(|piece| piece.records()) {
            match counts.last_mut() {
                Some((header, spans)) if *header == record.header => *spans += 1,
                _ => counts.push((record.header, 1)),
            }
        }
        counts.sort_unstable();
        join(&mut counts);
        counts
    }

    /// The same spans by the cluster that took them in, in the order of the names.
    pub(super) fn clusters(&self, by_header: &ByHeader) -> Vec<(Arc<str>, u32)> {
        let of = |(header, spans): &(u32, u32)| Some((self.headers.get(*header)?.header.cluster.clone(), *spans));
        let mut clusters: SmallVec<[(Arc<str>, u32); 8]> = by_header.iter().filter_map(of).collect();
        clusters.sort_unstable();
        join(&mut clusters);
        clusters.to_vec()
    }

    /// Lets go of a trace's spans, of which [`Store::by_header`] was just asked.
    pub(super) fn free_spans(&mut self, number: u32, by_header: &ByHeader) {
        by_header.iter().for_each(|(header, spans)| self.headers.release(*header, u64::from(*spans)));
        let parts = self.change(number, |trace| {
            trace.weight = 0;
            std::mem::take(&mut trace.parts)
        });
        parts.unwrap_or_default().iter().for_each(|part| self.arena.free(part.place));
    }

    /// Lets go of a trace that is in no queue.
    pub(super) fn remove(&mut self, number: u32, keys: &Keys) {
        if let Some(trace) = self.traces.get(number) {
            let by_header = self.by_header(trace);
            self.free_spans(number, &by_header);
        }
        if let Some(trace) = self.traces.remove(number) {
            self.extra -= trace.extra_bytes();
            self.index.remove(keys.trace(&trace.id), number);
        }
    }

    /// Moves live pieces together. How many bytes were moved; `None`: there is nothing to gain.
    pub(super) fn compact(&mut self) -> Option<usize> {
        let Store { arena, traces, .. } = self;
        arena.evacuate(|owner, position, place| {
            if let Some(trace) = traces.get_mut(owner)
                && let Some(part) = trace.parts.get_mut(position as usize)
            {
                part.place = place;
            }
        })
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.arena.allocated() + self.headers.bytes() + self.traces.bytes() + self.index.bytes() + self.extra
    }
}
