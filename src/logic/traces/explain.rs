//! What is known of one trace, for people.

use std::collections::BTreeMap;

use super::open::{Decided, Trace};
use super::verdicts::Remembered;
use super::{SpanLine, TraceDetails, TraceReport, TraceState, Traces, Wanted};
use crate::logic::cross_cluster::links;
use crate::logic::trace::SpanView;
use crate::model::{Tick, TraceId};
use crate::wire::attributes::{Value, span_attributes, span_name};

/// Spans of a timeline.
const MAX_LINES: usize = 2_000;
/// Of a name, a key, a value.
const MAX_TEXT: usize = 256;
/// Of one span.
const MAX_ATTRIBUTES: usize = 64;
/// Memory of a timeline, about: an answer is made whole before it can be cut to what the asker takes, and many may be
/// asked for at once.
const MAX_TIMELINE_BYTES: usize = 2 << 20;
/// Clusters that are told apart; spans of others count as of one without a name.
const MAX_CLUSTERS: usize = 256;

impl Traces {
    /// What is known of a trace; `None`: nothing.
    pub fn report(&self, trace: &TraceId, wanted: Wanted, now: Tick) -> Option<TraceReport> {
        let hash = self.keys.trace(trace);
        let Some(number) = self.store.find(trace, hash) else {
            return self.verdicts.find(hash).map(|verdict| self.decided(verdict, None));
        };
        let trace = self.store.traces.get(number)?;
        let details = self.details(trace, wanted, now);
        Some(match &trace.decided {
            Some(decided) => self.decided(decided.verdict, Some(details)),
            None => TraceReport {
                state: TraceState::Open,
                policy: None,
                cause: None,
                would_drop: false,
                details: Some(details),
            },
        })
    }

    fn decided(&self, verdict: Remembered, details: Option<TraceDetails>) -> TraceReport {
        let sampler = self.judges.sampler.as_ref();
        TraceReport {
            state: if verdict.kept { TraceState::Kept } else { TraceState::Dropped },
            policy: sampler.and_then(|sampler| Some(sampler.name(verdict.policy?).to_owned())),
            cause: Some(verdict.cause.label().to_owned()),
            would_drop: verdict.would_drop,
            details,
        }
    }

    fn details(&self, trace: &Trace, wanted: Wanted, now: Tick) -> TraceDetails {
        let decided = trace.decided.as_deref();
        let hidden = decided.and_then(|decided| decided.clusters.as_ref());
        let mut clusters = BTreeMap::new();
        let of_spans = self.store.clusters(&self.store.by_header(trace));
        for (cluster, spans) in hidden.unwrap_or(&of_spans) {
            let known = clusters.len() < MAX_CLUSTERS || clusters.contains_key(&**cluster);
            *clusters.entry(if known { cut(cluster) } else { String::new() }).or_default() += u64::from(*spans);
        }
        let (missing_parents, crossings) = match decided {
            Some(Decided { missing_parents, crossings, .. }) => (u64::from(*missing_parents), u64::from(*crossings)),
            None => {
                let links = links(&self.store.view(trace).0);
                (links.missing_parents.len() as u64, links.crossings.len() as u64)
            }
        };
        let timeline = (wanted.spans && hidden.is_none()).then(|| self.timeline(trace, wanted.values));
        TraceDetails {
            first_seen_seconds_ago: now.since(trace.first_seen).as_secs_f64(),
            decision_in_seconds: decided.is_none().then(|| self.due(trace).since(now).as_secs_f64()),
            decided_seconds_ago: decided.map(|decided| now.since(decided.at).as_secs_f64()),
            spans: u64::from(trace.spans),
            bytes: trace.bytes,
            spans_by_cluster: clusters,
            duplicates: u64::from(trace.duplicates),
            late: decided.map_or(0, |decided| decided.late),
            missing_parents,
            crossings,
            left_out: timeline.as_ref().map_or(0, |lines| u64::from(trace.spans).saturating_sub(lines.len() as u64)),
            timeline,
        }
    }

    /// The first spans by start.
    fn timeline(&self, trace: &Trace, values: bool) -> Vec<SpanLine> {
        let (mut view, _) = self.store.view(trace);
        let key = |span: &SpanView<'_>| (span.start, span.end, span.span_id, span.kind);
        if view.spans.len() > MAX_LINES {
            view.spans.select_nth_unstable_by_key(MAX_LINES, key);
            view.spans.truncate(MAX_LINES);
        }
        view.spans.sort_unstable_by_key(key);
        let mut room = MAX_TIMELINE_BYTES;
        let lines = view.spans.iter().map_while(|span| {
            let line = line(span, values);
            room = room.checked_sub(bytes(&line))?;
            Some(line)
        });
        lines.collect()
    }
}

fn line(span: &SpanView<'_>, values: bool) -> SpanLine {
    SpanLine {
        span_id: span.span_id,
        parent_span_id: (!span.parent_span_id.is_zero()).then_some(span.parent_span_id),
        name: cut(span_name(span.body)),
        cluster: cut(&span.header.cluster),
        service: values.then(|| cut(&span.header.service)),
        kind: span.kind,
        status: span.status,
        start: span.start,
        end: span.end,
        attributes: if values { attributes(span.body) } else { Vec::new() },
    }
}

fn bytes(line: &SpanLine) -> usize {
    let pair = |(key, value): &(String, String)| size_of::<(String, String)>() + key.len() + value.len();
    let service = line.service.as_ref().map_or(0, String::len);
    let texts = line.name.len() + line.cluster.len() + service;
    size_of::<SpanLine>() + texts + line.attributes.iter().map(pair).sum::<usize>()
}

fn attributes(body: &[u8]) -> Vec<(String, String)> {
    let text = |value| match value {
        Value::Str(text) => cut(text),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Other => "…".to_owned(),
    };
    span_attributes(body).take(MAX_ATTRIBUTES).map(|(key, value)| (cut(key), text(value))).collect()
}

/// At most [`MAX_TEXT`] bytes of it.
fn cut(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}
