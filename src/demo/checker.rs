//! What was sent held against what came out: the demo's judge, without sockets or clocks.
//!
//! The generator says which spans it is about to send and which the nodes have accepted; the backend says which spans
//! came from which node. Of a trace that is to be kept, every accepted span must come out once, unchanged, and all
//! from one node; of one that is to be dropped, nothing; and where the rules leave it open, all or nothing. A span
//! whose request was never answered may come out or not: its sender was promised nothing.
//!
//! Memory is bounded: beyond [`MAX_TRACES`] the oldest trace is judged as it stands and forgotten. What still comes of it
//! later is counted apart, since nothing is known about it any more.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::Serialize;

use crate::model::{SpanId, TraceId};

/// Most traces remembered: about seven minutes at 50 traces a second, 20 MB.
const MAX_TRACES: usize = 20_000;
/// Most differences that are kept to be listed; all are counted.
const MAX_LISTED: usize = 50;
/// Nodes are told apart in a bit set.
pub const MAX_NODES: usize = 8;

/// A span as the generator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanKey {
    pub trace: TraceId,
    pub span: SpanId,
}

impl fmt::Display for SpanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.trace, self.span)
    }
}

/// What must become of a trace, as far as that is certain beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Outcome {
    Kept,
    Dropped,
    /// All of it comes out, or nothing.
    #[default]
    Either,
}

struct SpanRecord {
    id: SpanId,
    /// Over the encoded span, to see that nothing was changed on the way.
    digest: u64,
    accepted: bool,
    exported: u32,
}

#[derive(Default)]
struct TraceRecord {
    spans: Vec<SpanRecord>,
    /// Nodes that exported any of it, as bits.
    exporters: u8,
    assembled: bool,
    outcome: Outcome,
}

impl TraceRecord {
    /// It came out, or has to.
    fn is_kept(&self) -> bool {
        self.outcome == Outcome::Kept || self.exporters != 0
    }

    fn missing(&self) -> impl Iterator<Item = SpanId> {
        let spans = if self.is_kept() { self.spans.as_slice() } else { &[] };
        spans.iter().filter(|s| s.accepted && s.exported == 0).map(|s| s.id)
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Accepted by a node and never exported.
    Missing(SpanKey),
    /// Exported again.
    Twice { span: SpanKey, node: usize },
    /// Spans of one trace came from several nodes.
    Split { trace: TraceId, nodes: Vec<usize> },
    /// Exported, but never sent, though of a trace of this run.
    Unexpected { span: SpanKey, node: usize },
    /// Of a trace that all rules give up.
    Kept { span: SpanKey, node: usize },
    /// Not the bytes that were sent.
    Altered { span: SpanKey, node: usize },
}

/// The judge's counts, in spans unless the name says traces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub traces: u64,
    /// Distinct spans that were sent at least once.
    pub sent: u64,
    /// Distinct spans that a node has accepted.
    pub accepted: u64,
    /// Everything that came to the backend.
    pub exported: u64,
    /// Distinct spans that came to the backend.
    pub distinct: u64,
    /// Accepted and not yet exported, of traces that are kept; those still so at the end are missing.
    pub on_the_way: u64,
    pub twice: u64,
    pub split_traces: u64,
    /// Exported of traces that all rules give up.
    pub kept_wrongly: u64,
    pub unexpected: u64,
    /// Of traces that this run never made: somebody else sends to its nodes.
    pub foreign: u64,
    pub altered: u64,
    /// Exported after the trace was judged and forgotten.
    pub after_judgement: u64,
    /// Accepted and not exported when the trace was judged and forgotten.
    pub judged_missing: u64,
    /// Traces all of whose spans came out, from one node.
    pub whole_traces: u64,
    /// Traces of which anything came out.
    pub kept_traces: u64,
}

pub struct Checker {
    /// The first half of every trace id of this run.
    run: [u8; 8],
    traces: BTreeMap<TraceId, TraceRecord>,
    /// Oldest first.
    order: VecDeque<TraceId>,
    counts: Counts,
    /// Traces by the node that was first to export any of it.
    owned: [u64; MAX_NODES],
    exported_by: [u64; MAX_NODES],
    differences: Vec<Difference>,
    max_traces: usize,
}

impl Checker {
    pub fn new(run: [u8; 8]) -> Checker {
        Checker {
            run,
            traces: BTreeMap::new(),
            order: VecDeque::new(),
            counts: Counts::default(),
            owned: [0; MAX_NODES],
            exported_by: [0; MAX_NODES],
            differences: Vec::new(),
            max_traces: MAX_TRACES,
        }
    }

    /// What must become of a trace and all its spans, before the first of them is sent: ids and digests.
    pub fn expect(&mut self, trace: TraceId, outcome: Outcome, spans: impl IntoIterator<Item = (SpanId, u64)>) {
        while self.order.len() >= self.max_traces {
            self.judge_oldest();
        }
        let spans: Vec<_> =
            spans.into_iter().map(|(id, digest)| SpanRecord { id, digest, accepted: false, exported: 0 }).collect();
        self.counts.traces += 1;
        self.counts.sent += spans.len() as u64;
        self.traces.insert(trace, TraceRecord { spans, outcome, ..TraceRecord::default() });
        self.order.push_back(trace);
    }

    /// A node has answered with success.
    pub fn accepted(&mut self, key: &SpanKey) {
        let Some(trace) = self.traces.get_mut(&key.trace) else { return };
        let is_kept = trace.is_kept();
        let Some(span) = trace.spans.iter_mut().find(|s| s.id == key.span) else { return };
        if !span.accepted {
            span.accepted = true;
            self.counts.accepted += 1;
            if span.exported == 0 && is_kept {
                self.counts.on_the_way += 1;
            }
        }
    }

    /// A node has answered this span with success.
    pub fn is_accepted(&self, key: &SpanKey) -> bool {
        let trace = self.traces.get(&key.trace);
        trace.is_some_and(|trace| trace.spans.iter().any(|span| span.id == key.span && span.accepted))
    }

    /// A span came to the backend from `node` (below [`MAX_NODES`]). True if its trace is whole with it.
    pub fn exported(&mut self, node: usize, key: &SpanKey, digest: u64) -> bool {
        let node = node.min(MAX_NODES - 1);
        self.counts.exported += 1;
        self.exported_by[node] += 1;
        let Some(trace) = self.traces.get_mut(&key.trace) else {
            if key.trace.0.starts_with(&self.run) {
                self.counts.after_judgement += 1;
            } else {
                self.counts.foreign += 1;
            }
            return false;
        };
        if !trace.spans.iter().any(|s| s.id == key.span) {
            self.counts.unexpected += 1;
            self.list(Difference::Unexpected { span: *key, node });
            return false;
        }
        if trace.exporters == 0 {
            self.counts.kept_traces += 1;
            if trace.outcome != Outcome::Kept {
                // The rules left it open until now.
                self.counts.on_the_way += trace.spans.iter().filter(|s| s.accepted).count() as u64;
            }
        }
        let wrongly = trace.outcome == Outcome::Dropped;
        let Some(span) = trace.spans.iter_mut().find(|s| s.id == key.span) else { return false };
        span.exported += 1;
        let (again, altered) = (span.exported > 1, span.digest != digest);
        if !again {
            self.counts.distinct += 1;
            if span.accepted {
                self.counts.on_the_way -= 1;
            }
        }
        let before = trace.exporters;
        trace.exporters |= 1 << node;
        let split = before != 0 && before != trace.exporters;
        // A third node that exports of a split trace makes it no more split.
        let newly_split = split && before.count_ones() == 1;
        let exporters = trace.exporters;
        let whole = !trace.assembled && exporters.count_ones() == 1 && trace.spans.iter().all(|s| s.exported > 0);
        trace.assembled |= whole;

        if before == 0 {
            self.owned[node] += 1;
        }
        if whole {
            self.counts.whole_traces += 1;
        }
        if again {
            self.counts.twice += 1;
            self.list(Difference::Twice { span: *key, node });
        }
        if wrongly {
            self.counts.kept_wrongly += 1;
            self.list(Difference::Kept { span: *key, node });
        }
        if altered {
            self.counts.altered += 1;
            self.list(Difference::Altered { span: *key, node });
        }
        if newly_split {
            self.counts.split_traces += 1;
            let nodes = (0..MAX_NODES).filter(|n| exporters & 1 << n != 0).collect();
            self.list(Difference::Split { trace: key.trace, nodes });
        }
        whole
    }

    fn judge_oldest(&mut self) {
        let Some(trace) = self.order.pop_front() else { return };
        let Some(record) = self.traces.remove(&trace) else { return };
        for span in record.missing() {
            self.counts.on_the_way -= 1;
            self.counts.judged_missing += 1;
            self.list(Difference::Missing(SpanKey { trace, span }));
        }
    }

    fn list(&mut self, difference: Difference) {
        if self.differences.len() < MAX_LISTED {
            self.differences.push(difference);
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Traces that `node` was the first to export any span of.
    pub fn owned_by(&self, node: usize) -> u64 {
        self.owned.get(node).copied().unwrap_or(0)
    }

    /// Spans that came from `node`.
    pub fn exported_by(&self, node: usize) -> u64 {
        self.exported_by.get(node).copied().unwrap_or(0)
    }

    /// What is wrong if nothing more comes: the first of each kind, at most [`MAX_LISTED`] in all; the counts say how many.
    pub fn differences(&self) -> Vec<Difference> {
        let missing = self.order.iter().flat_map(|trace| {
            let spans = self.traces.get(trace).into_iter().flat_map(TraceRecord::missing);
            spans.map(|span| Difference::Missing(SpanKey { trace: *trace, span }))
        });
        self.differences.iter().cloned().chain(missing).take(MAX_LISTED).collect()
    }

    /// Nothing of this run's is missing, doubled, split, invented or changed.
    #[cfg(test)]
    pub(super) fn flawless(&self) -> bool {
        let c = &self.counts;
        let wrong = [
            c.on_the_way,
            c.judged_missing,
            c.twice,
            c.split_traces,
            c.kept_wrongly,
            c.unexpected,
            c.altered,
            c.after_judgement,
        ];
        wrong == [0; 8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: [u8; 8] = *b"demo-run";

    fn key(trace: u8, span: u8) -> SpanKey {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&RUN);
        id[15] = trace;
        SpanKey { trace: TraceId(id), span: SpanId([span; 8]) }
    }

    /// One trace of three spans, accepted.
    fn checker() -> Checker {
        let mut checker = Checker::new(RUN);
        checker.expect(key(1, 0).trace, Outcome::Kept, (1..=3).map(|s| (SpanId([s; 8]), u64::from(s))));
        for span in 1..=3 {
            checker.accepted(&key(1, span));
        }
        checker
    }

    #[test]
    fn a_trace_that_came_out_once_from_one_node_is_whole() {
        let mut c = checker();
        assert!(!c.exported(1, &key(1, 1), 1));
        assert!(!c.exported(1, &key(1, 2), 2));
        assert!(!c.flawless(), "one is still on the way");
        assert!(c.exported(1, &key(1, 3), 3));
        assert!(c.flawless() && c.differences().is_empty());
        assert_eq!((c.counts().whole_traces, c.owned_by(1), c.exported_by(1), c.exported_by(0)), (1, 1, 3, 0));
    }

    #[test]
    fn an_accepted_span_that_never_came_is_missing() {
        let mut c = checker();
        c.exported(0, &key(1, 1), 1);
        c.exported(0, &key(1, 3), 3);
        assert_eq!(c.differences(), [Difference::Missing(key(1, 2))]);
        assert_eq!(c.counts().on_the_way, 1);
        assert!(!c.flawless());
    }

    #[test]
    fn a_span_that_was_never_accepted_may_come_or_not() {
        let mut c = Checker::new(RUN);
        c.expect(key(1, 0).trace, Outcome::Kept, [(SpanId([1; 8]), 1), (SpanId([2; 8]), 2)]);
        assert!(c.flawless());
        c.exported(0, &key(1, 1), 1);
        assert!(c.flawless());
        c.accepted(&key(1, 1));
        assert_eq!((c.counts().on_the_way, c.counts().accepted), (0, 1));
        assert!(c.flawless(), "the answer may come after the export");
    }

    #[test]
    fn a_span_that_came_twice_is_found_also_from_the_same_node() {
        let mut c = checker();
        for span in [1, 2, 3, 2] {
            c.exported(2, &key(1, span), u64::from(span));
        }
        assert_eq!(c.differences(), [Difference::Twice { span: key(1, 2), node: 2 }]);
        assert_eq!((c.counts().exported, c.counts().distinct), (4, 3));
        assert!(!c.flawless());
    }

    #[test]
    fn a_trace_from_two_nodes_is_split_once() {
        let mut c = checker();
        for (node, span) in [(0, 1), (1, 2), (2, 3)] {
            assert!(!c.exported(node, &key(1, span), u64::from(span)));
        }
        assert_eq!(c.differences(), [Difference::Split { trace: key(1, 0).trace, nodes: vec![0, 1] }]);
        assert_eq!((c.counts().split_traces, c.counts().whole_traces), (1, 0));
    }

    #[test]
    fn spans_that_nobody_sent_and_changed_spans_are_found() {
        let mut c = checker();
        let stranger = SpanKey { trace: TraceId([9; 16]), span: SpanId([1; 8]) };
        c.exported(0, &stranger, 0);
        c.exported(0, &key(1, 9), 0);
        c.exported(0, &key(1, 1), 77);
        assert_eq!((c.counts().foreign, c.counts().unexpected, c.counts().altered), (1, 1, 1));
        assert_eq!(c.differences()[1], Difference::Altered { span: key(1, 1), node: 0 });
    }

    #[test]
    fn of_a_trace_that_the_rules_give_up_nothing_may_come_out() {
        let mut c = Checker::new(RUN);
        c.expect(key(1, 0).trace, Outcome::Dropped, [(SpanId([1; 8]), 1)]);
        c.accepted(&key(1, 1));
        assert!(c.flawless() && c.differences().is_empty());
        c.exported(0, &key(1, 1), 1);
        assert_eq!(c.differences(), [Difference::Kept { span: key(1, 1), node: 0 }]);
        assert!(!c.flawless());
    }

    #[test]
    fn where_the_rules_leave_it_open_all_comes_out_or_nothing() {
        let mut c = Checker::new(RUN);
        c.expect(key(1, 0).trace, Outcome::Either, [(SpanId([1; 8]), 1), (SpanId([2; 8]), 2)]);
        c.accepted(&key(1, 1));
        c.accepted(&key(1, 2));
        assert!(c.flawless());
        c.exported(0, &key(1, 1), 1);
        assert_eq!((c.counts().on_the_way, c.differences()), (1, vec![Difference::Missing(key(1, 2))]));
        c.exported(0, &key(1, 2), 2);
        assert!(c.flawless() && c.differences().is_empty());
    }

    #[test]
    fn the_oldest_trace_is_judged_when_memory_is_full() {
        let mut c = checker();
        c.max_traces = 1;
        c.exported(0, &key(1, 1), 1);
        c.expect(key(2, 0).trace, Outcome::Kept, []);
        assert_eq!((c.counts().judged_missing, c.counts().on_the_way), (2, 0));
        c.exported(0, &key(1, 2), 2);
        assert_eq!((c.counts().after_judgement, c.counts().unexpected), (1, 0));
        assert!(!c.flawless());
        assert_eq!(c.differences(), [Difference::Missing(key(1, 2)), Difference::Missing(key(1, 3))]);
    }
}
