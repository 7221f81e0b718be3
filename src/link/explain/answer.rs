//! What one node says of one trace, and how it is made to fit.
//!
//! The buffer knows ages and not times, since logic has no calendar; ages go stale on their way. So the node that answers
//! turns them into Unix time by its own clock, and says what time that clock shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::logic::traces::{SpanLine, TraceDetails, TraceReport, TraceState, Wanted};
use crate::model::UnixNanos;

/// A span's attributes that take more than this, as JSON, are left out: one span must not push out all others.
const MAX_LINE: usize = 16 << 10;

/// One node's answer. All times are Unix seconds by that node's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// The ring in force there, and who owns the trace by it. Empty where there is no mesh.
    #[serde(default)]
    pub ring_version: String,
    pub owner: Option<String>,
    pub answered_at: f64,
    pub started_at: f64,
    /// What was decided since then is remembered. Absent: the node does nothing that waits for whole traces, so it
    /// remembers none.
    pub remembers_since: Option<f64>,
    /// Absent: the trace is unknown there.
    pub trace: Option<KnownTrace>,
}

/// [`TraceReport`], with times in place of ages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownTrace {
    pub state: TraceState,
    pub policy: Option<String>,
    pub cause: Option<String>,
    #[serde(default)]
    pub would_drop: bool,
    /// Absent: only the verdict is remembered.
    pub details: Option<KnownDetails>,
}

/// [`TraceDetails`], with times in place of ages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownDetails {
    pub first_seen_at: f64,
    /// When it will be decided, unless it is sooner; absent: decided.
    pub decision_at: Option<f64>,
    pub decided_at: Option<f64>,
    pub spans: u64,
    pub bytes: u64,
    pub spans_by_cluster: BTreeMap<String, u64>,
    pub duplicates: u64,
    pub late: u64,
    pub missing_parents: u64,
    pub crossings: u64,
    pub timeline: Option<Vec<SpanLine>>,
    pub left_out: u64,
}

impl PeerAnswer {
    /// The answer of a node whose clock shows `now`, which has been up for `up_seconds` and remembers verdicts for
    /// `remembers_seconds`.
    pub fn new(
        now: UnixNanos,
        up_seconds: f64,
        remembers_seconds: Option<f64>,
        report: Option<TraceReport>,
    ) -> PeerAnswer {
        let now = now.0 as f64 / 1e9;
        let started_at = now - up_seconds;
        PeerAnswer {
            ring_version: String::new(),
            owner: None,
            answered_at: now,
            started_at,
            remembers_since: remembers_seconds.map(|seconds| (now - seconds).max(started_at)),
            trace: report.map(|report| KnownTrace::at(now, report)),
        }
    }

    /// Spans that the answer is about; 0 if only a verdict is known, or nothing.
    pub fn spans(&self) -> u64 {
        self.trace.as_ref().and_then(|trace| trace.details.as_ref()).map_or(0, |details| details.spans)
    }

    /// Takes out what was not asked for, whoever put it in.
    pub(crate) fn restrict(&mut self, wanted: Wanted) {
        let Some(details) = self.details() else { return };
        if !wanted.spans {
            details.timeline = None;
        }
        if !wanted.values {
            for line in details.timeline.iter_mut().flatten() {
                line.service = None;
                line.attributes.clear();
            }
        }
    }

    /// As JSON of at most `max` bytes. Spans that do not fit are left out and counted, then the clusters.
    pub(super) fn encode(mut self, max: usize) -> Vec<u8> {
        let json = |answer: &PeerAnswer| serde_json::to_vec(answer).unwrap_or_default();
        let lines = self.details().and_then(|details| details.timeline.take());
        if json(&self).len() > max
            && let Some(details) = self.details()
        {
            details.spans_by_cluster.clear();
        }
        if let Some(lines) = lines {
            // A count that is longer than the one it replaces must fit as well.
            let room = max.saturating_sub(json(&self).len() + 64);
            let all = lines.len();
            let fitting = fitting(lines, room);
            if let Some(details) = self.details() {
                details.left_out = details.left_out.saturating_add((all - fitting.len()) as u64);
                details.timeline = Some(fitting);
            }
        }
        json(&self)
    }

    fn details(&mut self) -> Option<&mut KnownDetails> {
        self.trace.as_mut()?.details.as_mut()
    }
}

/// Those lines that fit into so many bytes of JSON, in their order.
fn fitting(lines: Vec<SpanLine>, mut room: usize) -> Vec<SpanLine> {
    let size = |line: &SpanLine| serde_json::to_vec(line).map_or(usize::MAX, |json| json.len());
    let fits = |mut line: SpanLine| {
        let mut bytes = size(&line);
        if bytes > MAX_LINE {
            line.attributes.clear();
            bytes = size(&line);
        }
        room = room.checked_sub(bytes.checked_add(1)?)?;
        Some(line)
    };
    lines.into_iter().filter_map(fits).collect()
}

impl KnownTrace {
    fn at(now: f64, report: TraceReport) -> KnownTrace {
        let TraceReport { state, policy, cause, would_drop, details } = report;
        KnownTrace { state, policy, cause, would_drop, details: details.map(|details| KnownDetails::at(now, details)) }
    }
}

impl KnownDetails {
    fn at(now: f64, details: TraceDetails) -> KnownDetails {
        KnownDetails {
            first_seen_at: now - details.first_seen_seconds_ago,
            decision_at: details.decision_in_seconds.map(|seconds| now + seconds),
            decided_at: details.decided_seconds_ago.map(|seconds| now - seconds),
            spans: details.spans,
            bytes: details.bytes,
            spans_by_cluster: details.spans_by_cluster,
            duplicates: details.duplicates,
            late: details.late,
            missing_parents: details.missing_parents,
            crossings: details.crossings,
            timeline: details.timeline,
            left_out: details.left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{line, report};
    use super::*;

    const NOW: UnixNanos = UnixNanos(2_000_000_000_000_000_000);

    #[test]
    fn ages_become_times_and_nobody_remembers_what_was_before_it_started() {
        let answer = PeerAnswer::new(NOW, 40.0, Some(3_600.0), Some(report(2)));
        assert_eq!((answer.started_at, answer.remembers_since), (1_999_999_960.0, Some(1_999_999_960.0)));
        let details = answer.trace.unwrap().details.unwrap();
        assert_eq!((details.first_seen_at, details.decided_at), (1_999_999_970.0, Some(1_999_999_999.0)));
        assert_eq!(PeerAnswer::new(NOW, 4e3, Some(60.0), None).remembers_since, Some(1_999_999_940.0));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_counted() {
        let answer = PeerAnswer::new(NOW, 40.0, None, Some(report(5_000)));
        let whole = serde_json::to_vec(&answer).unwrap().len();
        let bytes = answer.clone().encode(whole / 2);
        assert!(bytes.len() <= whole / 2 && bytes.len() > whole / 2 - 1_000, "{} of {whole}", bytes.len());
        let read: PeerAnswer = serde_json::from_slice(&bytes).unwrap();
        let details = read.trace.unwrap().details.unwrap();
        assert_eq!(details.timeline.unwrap().len() as u64 + details.left_out, 5_000);
        assert_eq!(answer.clone().encode(whole + 100), serde_json::to_vec(&answer).unwrap());
    }

    #[test]
    fn a_span_with_huge_attributes_keeps_its_line_and_leaves_room_for_others() {
        let mut report = report(3);
        let lines = report.details.as_mut().unwrap().timeline.as_mut().unwrap();
        lines[0].attributes = vec![("k".into(), "v".repeat(1 << 20))];
        lines[1].name = "n".repeat(1 << 20);
        let bytes = PeerAnswer::new(NOW, 40.0, None, Some(report)).encode(64 << 10);
        let read: PeerAnswer = serde_json::from_slice(&bytes).unwrap();
        let details = read.trace.unwrap().details.unwrap();
        let without_attributes = SpanLine { attributes: Vec::new(), ..line(0) };
        assert_eq!((details.timeline.unwrap(), details.left_out), (vec![without_attributes, line(2)], 1));
    }

    #[test]
    fn clusters_without_end_do_not_make_an_answer_without_end() {
        let mut report = report(1);
        let clusters = &mut report.details.as_mut().unwrap().spans_by_cluster;
        *clusters = (0..10_000).map(|n| (format!("cluster-{n}"), 1)).collect();
        assert!(PeerAnswer::new(NOW, 40.0, None, Some(report)).encode(64 << 10).len() < 64 << 10);
    }

    #[test]
    fn what_was_not_asked_for_is_taken_out() {
        let mut answer = PeerAnswer::new(NOW, 40.0, None, Some(report(1)));
        let line = |answer: &PeerAnswer| answer.trace.clone().unwrap().details.unwrap().timeline.map(|t| t[0].clone());
        answer.restrict(Wanted { spans: true, values: true });
        assert!(line(&answer).unwrap().service.is_some());
        answer.restrict(Wanted { spans: true, values: false });
        let (service, attributes) = line(&answer).map(|line| (line.service, line.attributes)).unwrap();
        assert!(service.is_none() && attributes.is_empty());
        answer.restrict(Wanted::default());
        assert_eq!(line(&answer), None);
    }
}
