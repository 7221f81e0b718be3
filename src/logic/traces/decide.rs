//! The verdict on a trace, and what follows from it at once.

use super::open::Decided;
use super::release::{Release, Under};
use super::shares::Shares;
use super::verdicts::Remembered;
use super::{Cause, Judges, Traces};
use crate::config::settings::AttributeValue;
use crate::logic::cross_cluster::write::write_crossings;
use crate::logic::cross_cluster::{Links, links};
use crate::logic::sampling::threshold::Threshold;
use crate::logic::sampling::tracestate::with_threshold;
use crate::logic::trace::Crossing;
use crate::model::{ByteRange, DropReason, Fate, SpanEntry, Spans};
use crate::wire::attributes::trace_state;
use crate::wire::span_edit::SpanEdits;

const POLICY_MARK: &str = "tailsampling.policy";
const OWNER_MARK: &str = "spanmesh.owner";
const CAUSE_MARK: &str = "spanmesh.decision_cause";
const DRY_RUN_MARK: &str = "spanmesh.dry_run";
const LATE_MARK: &str = "spanmesh.late";
const SOURCE: &str = "cross_cluster.source";
const TARGET: &str = "cross_cluster.target";

type Attribute = (&'static str, AttributeValue);

fn text(key: &'static str, value: &str) -> Attribute {
    (key, AttributeValue::String(value.to_owned()))
}

/// What is written on every kept span of a trace.
struct Edits {
    attributes: Vec<Attribute>,
    threshold: Option<Threshold>,
}

impl Edits {
    fn of(judges: &Judges, verdict: Remembered, threshold: Option<Threshold>, late: bool) -> Edits {
        let mut attributes = Vec::new();
        if judges.marks.policy
            && let (Some(sampler), Some(policy)) = (&judges.sampler, verdict.policy)
        {
            attributes.push(text(POLICY_MARK, sampler.name(policy)));
        }
        if judges.marks.owner {
            attributes.push(text(OWNER_MARK, &judges.owner));
        }
        if judges.marks.reason {
            attributes.push(text(CAUSE_MARK, verdict.cause.label()));
        }
        if verdict.would_drop {
            attributes.push(text(DRY_RUN_MARK, "drop"));
        }
        if late {
            attributes.push((LATE_MARK, AttributeValue::Bool(true)));
        }
        Edits { attributes, threshold }
    }

    /// Calls `write` with what is to be written into this span.
    fn apply(&self, body: &[u8], crossing: Option<Crossing<'_>>, write: impl FnOnce(&SpanEdits<'_>)) {
        let trace_state = self.threshold.and_then(|threshold| with_threshold(trace_state(body), threshold));
        let trace_state = trace_state.as_deref();
        match crossing {
            None => write(&SpanEdits { trace_state, attributes: &self.attributes }),
            Some(crossing) => {
                let mut attributes = self.attributes.clone();
                attributes.push(text(SOURCE, crossing.source));
                attributes.push(text(TARGET, crossing.target));
                write(&SpanEdits { trace_state, attributes: &attributes });
            }
        }
    }
}

impl Traces {
    /// Ends an open trace.
    pub(super) fn decide(&mut self, number: u32, cause: Cause, out: &mut Vec<Release>) {
        self.close_trace(number);
        let Some((mut shares, spans)) = self.take_receipts(number) else { return };
        let open = self.open.len();
        let Traces { store, judges, verdicts, writer, dedup, keys, counts, .. } = self;
        let Some(trace) = store.traces.get(number) else { return };
        let (mut view, headers) = store.view(trace);
        let looked_at = judges.sampler.is_some() || judges.cross_cluster.is_some() || self.bounds.recent_traces > 0;
        let links = if looked_at { links(&view) } else { Links::default() };
        if judges.write_crossings {
            write_crossings(&mut view, &links.crossings);
        }
        if let Some(metrics) = &judges.cross_cluster {
            metrics.observe(&view, &links);
        }
        let verdict = judges.sampler.as_ref().map(|sampler| sampler.decide(&view, &links, self.now));
        let keep = verdict.is_none_or(|verdict| verdict.keep);
        let policy = verdict.and_then(|verdict| verdict.policy);
        let threshold = verdict.filter(|verdict| verdict.keep).and_then(|verdict| verdict.threshold);
        let usual = judges.sampler.as_ref().and_then(|sampler| sampler.threshold(policy?));
        let remembered = Remembered {
            kept: keep || judges.dry_run,
            would_drop: !keep && judges.dry_run,
            policy,
            by_chance: threshold.is_some() && threshold == usual,
            cause,
        };
        verdicts.remember(keys.trace(&trace.id), remembered, open, self.now);
        counts.decided[cause as usize] += 1;
        if remembered.kept {
            counts.kept_traces += 1;
            counts.would_drop_traces += u64::from(remembered.would_drop);
            let edits = Edits::of(judges, remembered, threshold, false);
            for (span, number) in view.spans.iter().zip(headers) {
                let Some(interned) = store.headers.get(number) else { continue };
                if let Some(dedup) = dedup {
                    let key = dedup.key_of(&view.id, span.span_id, span.kind, span.end);
                    if !dedup.take(key) {
                        // Its copy is with an exporter longer than verdicts are remembered.
                        shares.take(1).for_each(|receipt| receipt.resolve(Fate::Duplicate));
                        counts.duplicates += 1;
                        continue;
                    }
                    writer.push_key(key);
                }
                let entry = SpanEntry {
                    trace_id: view.id,
                    span_id: span.span_id,
                    parent_span_id: span.parent_span_id,
                    start: span.start,
                    end: span.end,
                    scope: 0,
                    field: ByteRange::default(),
                    head: 0,
                    kind: span.kind,
                    status: span.status,
                };
                let under = Under { number, header: &interned.header, resource: interned.resource };
                edits.apply(span.body, span.crossing, |edits| writer.push(entry, span.body, under, edits));
                counts.kept_spans += 1;
                counts.would_drop_spans += u64::from(remembered.would_drop);
                if writer.is_full() {
                    writer.settle(&mut shares);
                    writer.flush(out);
                }
            }
            writer.settle(&mut shares);
        } else {
            counts.dropped_traces += 1;
            counts.dropped_spans += u64::from(spans);
            shares.rest().for_each(|receipt| receipt.resolve(Fate::SampledOut));
        }
        let decided = Decided {
            at: self.now,
            verdict: remembered,
            late: 0,
            missing_parents: links.missing_parents.len() as u32,
            crossings: links.crossings.len() as u32,
            clusters: None,
        };
        drop(view);
        self.retain(number, decided);
    }

    /// Ends an open trace without asking anybody: the node stops.
    pub(super) fn abandon(&mut self, number: u32) {
        self.close_trace(number);
        let Some((mut shares, spans)) = self.take_receipts(number) else { return };
        let Some(trace) = self.store.traces.get(number) else { return };
        let verdict =
            Remembered { kept: false, would_drop: false, policy: None, by_chance: false, cause: Cause::Shutdown };
        self.verdicts.remember(self.keys.trace(&trace.id), verdict, self.open.len(), self.now);
        self.counts.decided[Cause::Shutdown as usize] += 1;
        self.counts.dropped_traces += 1;
        self.counts.dropped_spans += u64::from(spans);
        shares.rest().for_each(|receipt| receipt.resolve(Fate::Dropped(DropReason::Shutdown)));
        self.store.remove(number, &self.keys);
    }

    /// Takes an open trace out of all queues.
    fn close_trace(&mut self, number: u32) {
        let Some(trace) = self.store.traces.get(number) else { return };
        let (rooted, weight) = (trace.root_due.0 != u64::MAX, trace.weight);
        self.open_spans -= u64::from(trace.spans);
        let traces = &mut self.store.traces;
        self.open.remove(traces, number);
        self.by_weight.remove(traces, number, weight);
        if rooted {
            self.rooted.remove(traces, number);
        }
    }

    /// The receipts of a trace that is decided, and how many spans it has.
    fn take_receipts(&mut self, number: u32) -> Option<(Shares, u32)> {
        self.store.change(number, |trace| {
            trace.seen = Default::default();
            trace.receipts = 0;
            let mut shares = Shares::default();
            trace.parts.iter_mut().filter_map(|part| part.receipt.take()).for_each(|receipt| shares.push(receipt));
            (shares, trace.spans)
        })
    }

    /// Spans that come after the verdict on their trace. `number` is its entry, if it has one still.
    pub(super) fn late(
        &mut self,
        number: Option<u32>,
        verdict: Remembered,
        spans: &Spans,
        indexes: &[u32],
        out: &mut Vec<Release>,
    ) {
        let count = indexes.len() as u32;
        if !verdict.kept {
            self.counts.late_dropped_spans += u64::from(count);
            self.note_late(number, u64::from(count));
            self.shares.take(count).for_each(|receipt| receipt.resolve(Fate::SampledOut));
            return;
        }
        let admitted = self.dedup.as_ref().map(|dedup| {
            let span = |index: &u32| &spans.spans[*index as usize];
            let key = |span: &SpanEntry| dedup.key_of(&span.trace_id, span.span_id, span.kind, span.end);
            dedup.admit_keys(indexes.iter().map(|index| key(span(index))).collect(), self.now)
        });
        let (duplicates, keys) = admitted.map(|admitted| (admitted.duplicates, admitted.keys)).unwrap_or_default();
        if !duplicates.is_empty() {
            self.counts.duplicates += duplicates.len() as u64;
            self.shares.take(duplicates.len() as u32).for_each(|receipt| receipt.resolve(Fate::Duplicate));
            if let Some(trace) = number.and_then(|number| self.store.traces.get_mut(number)) {
                trace.duplicates = trace.duplicates.saturating_add(duplicates.len() as u32);
            }
        }
        let late = u64::from(count) - duplicates.len() as u64;
        self.counts.late_kept_spans += late;
        self.note_late(number, late);
        let Traces { store, judges, writer, shares, scopes, keys: hashes, .. } = self;
        let sampler = judges.sampler.as_ref().filter(|_| verdict.by_chance);
        let threshold = sampler.and_then(|sampler| sampler.threshold(verdict.policy?));
        let edits = Edits::of(judges, verdict, threshold, true);
        let (mut duplicates, mut keys) = (duplicates.into_iter().peekable(), keys.into_iter());
        for (at, index) in (0..).zip(indexes) {
            if duplicates.next_if_eq(&at).is_some() {
                continue;
            }
            let span = &spans.spans[*index as usize];
            let number = scopes.number(&mut store.headers, spans, span.scope, hashes).0;
            let Some(interned) = store.headers.get(number) else { continue };
            let under = Under { number, header: &interned.header, resource: interned.resource };
            let body = span.body().of(&spans.bytes);
            keys.next().into_iter().for_each(|key| writer.push_key(key));
            edits.apply(body, None, |edits| writer.push(*span, body, under, edits));
            if writer.is_full() {
                writer.settle(shares);
                writer.flush(out);
            }
        }
        writer.settle(shares);
    }

    fn note_late(&mut self, number: Option<u32>, spans: u64) {
        let trace = number.and_then(|number| self.store.traces.get_mut(number));
        if let Some(decided) = trace.and_then(|trace| trace.decided.as_mut()) {
            decided.late += spans;
        }
    }
}
