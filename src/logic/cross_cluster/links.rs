//! Who called whom in a trace, where that call left a cluster, and whose parent is not there.
//!
//! Parents are found by span id, and ids are not as unique as they should be:
//!
//! - **Zipkin's shared spans.** Client and server of one call have the same id there, and so the same parent. The server
//!   half is then the callee of the client half, whatever it names as its parent; spans that name the shared id were made
//!   inside the server, unless they stand in the client's own service.
//! - **The same span twice.** A span that was sent unfinished comes again with a later end. Only the last one stands for
//!   the call: two observations of one call would be wrong.
//! - **A span that names itself** has named a parent, and it is not there: its context is broken. So it is counted
//!   with the missing ones and not with the roots, which name none.
//!
//! A cycle needs no care: every span is asked for its parent once, and nobody walks upwards.
//!
//! One sorted index and a binary search for each span: hashing would be faster for long traces, but the id is chosen
//! by the sender, and nearly all traces are short. Ties are broken by what the spans say and never by their place, so
//! the order of arrival changes nothing.

use std::cmp::Ordering;
use std::ptr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::cluster_of;
use crate::logic::trace::{Header, SpanView, TraceView};
use crate::model::SpanId;

const SERVER: u8 = 2;
const CLIENT: u8 = 3;
pub(super) const PRODUCER: u8 = 4;
pub(super) const CONSUMER: u8 = 5;

/// A parent and a child in different clusters, as indexes into [`TraceView::spans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub caller: u32,
    pub callee: u32,
}

/// How the spans of a trace hang together; the same for any order of the spans. Each list is in the order of its
/// (callees') indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Calls between clusters.
    pub crossings: Vec<Edge>,
    /// Spans whose named parent is not there.
    pub missing_parents: Vec<u32>,
    /// Spans that name no parent.
    pub roots: Vec<u32>,
}

/// On which side of a call a span stands, by its kind; in the order in which a shared id's spans are preferred as parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// SERVER, CONSUMER.
    Callee,
    Neither,
    /// CLIENT, PRODUCER.
    Caller,
}

impl Side {
    pub(super) fn of(span: &SpanView<'_>) -> Side {
        match span.kind {
            SERVER | CONSUMER => Side::Callee,
            CLIENT | PRODUCER => Side::Caller,
            _ => Side::Neither,
        }
    }
}

/// Finds out how the spans of a trace hang together.
pub fn links(trace: &TraceView<'_>) -> Links {
    let index = Index::of(&trace.spans);
    let mut links = Links::default();
    for (place, entry) in index.entries.iter().enumerate() {
        match index.parent_of(place) {
            Parent::Unnamed => links.roots.push(entry.at),
            Parent::Missing => links.missing_parents.push(entry.at),
            Parent::Span(caller) if same_cluster(index.span(caller).header, index.span(entry).header) => {}
            Parent::Span(caller) => links.crossings.push(Edge { caller: caller.at, callee: entry.at }),
        }
    }
    links.roots.sort_unstable();
    links.missing_parents.sort_unstable();
    links.crossings.sort_unstable_by_key(|edge| edge.callee);
    links
}

/// Headers that are one, or that share their name, need no comparison of names.
pub(super) fn same_cluster(a: &Header, b: &Header) -> bool {
    ptr::eq(a, b) || Arc::ptr_eq(&a.cluster, &b.cluster) || cluster_of(a) == cluster_of(b)
}

enum Parent<'i> {
    Unnamed,
    Missing,
    Span(&'i Entry),
}

#[derive(Clone, Copy)]
struct Entry {
    id: u64,
    side: Side,
    /// Index into the trace's spans.
    at: u32,
}

/// The spans that stand for something, by id; those of one id by side, cluster and service.
struct Index<'t, 'a> {
    spans: &'t [SpanView<'a>],
    entries: SmallVec<[Entry; 32]>,
}

impl<'t, 'a> Index<'t, 'a> {
    fn of(spans: &'t [SpanView<'a>]) -> Index<'t, 'a> {
        let entries = spans.iter().zip(0..).map(|(span, at)| Entry { id: key(span.span_id), side: Side::of(span), at });
        let mut index = Index { spans, entries: entries.collect() };
        index.entries.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| order(spans, a, b)));
        index.entries.dedup_by(|later, earlier| {
            let again =
                later.id == earlier.id && is_later_version(&spans[later.at as usize], &spans[earlier.at as usize]);
            if again {
                *earlier = *later;
            }
            again
        });
        index
    }

    fn span(&self, entry: &Entry) -> &'t SpanView<'a> {
        &self.spans[entry.at as usize]
    }

    fn parent_of(&self, place: usize) -> Parent<'_> {
        let entry = &self.entries[place];
        let span = self.span(entry);
        if let Some(caller) = self.other_half(place) {
            return Parent::Span(caller);
        }
        if span.parent_span_id.is_zero() {
            return Parent::Unnamed;
        }
        if span.parent_span_id == span.span_id {
            return Parent::Missing;
        }
        self.named(key(span.parent_span_id), span).map_or(Parent::Missing, Parent::Span)
    }

    /// The client half of a shared span, for its server half.
    fn other_half(&self, place: usize) -> Option<&Entry> {
        let Entry { id, side, .. } = self.entries[place];
        if side != Side::Callee || self.entries.get(place + 1)?.id != id {
            return None;
        }
        let found = self.entries.partition_point(|other| (other.id, other.side) < (id, Side::Caller));
        self.entries.get(found).filter(|other| other.id == id)
    }

    /// Of the spans with this id the one that `child` was made in.
    fn named(&self, id: u64, child: &SpanView<'_>) -> Option<&Entry> {
        let first_place = self.entries.partition_point(|entry| entry.id < id);
        let first = self.entries.get(first_place).filter(|entry| entry.id == id)?;
        if self.entries.get(first_place + 1).is_none_or(|second| second.id != id) {
            return Some(first);
        }
        let (cluster, service) = (cluster_of(child.header), &*child.header.service);
        let place_of = |side: Side, service: &str| {
            let place = self.entries.partition_point(|entry| {
                (entry.id, entry.side).cmp(&(id, side)).then_with(|| {
                    let header = self.span(entry).header;
                    cluster_of(header).cmp(cluster).then_with(|| (*header.service).cmp(service))
                }) == Ordering::Less
            });
            self.entries
                .get(place)
                .filter(|entry| (entry.id, entry.side) == (id, side) && cluster_of(self.span(entry).header) == cluster)
        };
        // In the child's own process, or else in its cluster, if there is one: that cannot invent a crossing.
        let in_its_service =
            |side| place_of(side, service).filter(|entry| *self.span(entry).header.service == *service);
        in_its_service(first.side)
            .or_else(|| in_its_service(Side::Caller))
            .or_else(|| place_of(first.side, ""))
            .or(Some(first))
    }
}

fn key(id: SpanId) -> u64 {
    u64::from_be_bytes(id.0)
}

/// Of two spans with one id: total but for spans that nobody here can tell apart.
fn order(spans: &[SpanView<'_>], a: &Entry, b: &Entry) -> Ordering {
    let (x, y) = (&spans[a.at as usize], &spans[b.at as usize]);
    let rest = |span: &SpanView<'_>| (span.kind, span.parent_span_id, span.start, span.end, span.status);
    let by_header = || match ptr::eq(x.header, y.header) {
        true => Ordering::Equal,
        false => cluster_of(x.header).cmp(cluster_of(y.header)).then_with(|| x.header.service.cmp(&y.header.service)),
    };
    a.side.cmp(&b.side).then_with(by_header).then_with(|| rest(x).cmp(&rest(y)))
}

/// The two have one id, and stand side by side in the index.
fn is_later_version(later: &SpanView<'_>, earlier: &SpanView<'_>) -> bool {
    let same = |span: &SpanView<'_>| (span.kind, span.parent_span_id, span.start);
    let (x, y) = (later.header, earlier.header);
    same(later) == same(earlier) && (ptr::eq(x, y) || (cluster_of(x) == cluster_of(y) && x.service == y.service))
}
