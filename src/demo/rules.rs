//! What the demo's nodes sample by, and what must come of it: the same rules once as configuration, once as expectation.
//!
//! A trace is decided half a second after its root, and some spans come later than that by design. So what is expected
//! has bounds: what the spans say that come in time, and what all of them say. A span more can only make an earlier rule
//! match, never a later one; so where both agree, the verdict is certain, whatever comes late.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::checker::Outcome;
use super::traffic::Shipment;

/// The rules in their order; the first that matches keeps the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Errors,
    Slow,
    BetweenClusters,
    Share,
}

/// From here on a trace is slow.
pub const SLOW_MILLIS: u64 = 1_000;
/// Kept of what no rule asks for.
const SHARE_PERCENT: u64 = 25;

impl Rule {
    pub const ALL: [Rule; 4] = [Rule::Errors, Rule::Slow, Rule::BetweenClusters, Rule::Share];

    /// The policy's name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Errors => "errors",
            Rule::Slow => "slow",
            Rule::BetweenClusters => "between-clusters",
            Rule::Share => "a-share-of-the-rest",
        }
    }
}

/// The processors of a node that decides, as in its configuration.
pub fn processors() -> String {
    let [errors, slow, between, share] = Rule::ALL.map(Rule::name);
    format!(
        r"  cross_cluster: {{entry_services: [api]}}
  tail_sampling:
    # Short, so that there is something to see: in earnest a trace is waited for half a minute.
    decision_wait: 5s
    decision_wait_after_root_received: 500ms
    marks: [policy]
    policies:
      - {{name: {errors}, type: status_code, status_code: {{status_codes: [ERROR]}}}}
      - {{name: {slow}, type: latency, latency: {{threshold_ms: {SLOW_MILLIS}}}}}
      - {{name: {between}, type: cross_cluster, cross_cluster: {{}}}}
      - {{name: {share}, type: probabilistic, probabilistic: {{sampling_percentage: {SHARE_PERCENT}}}}}"
    )
}

/// What must become of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The rule that keeps it if only what is in time counts; `None`: it goes.
    in_time: Option<Rule>,
    /// If all of it counts.
    all: Option<Rule>,
}

impl Expected {
    pub fn outcome(self) -> Outcome {
        match (self.in_time, self.all) {
            (Some(_), _) => Outcome::Kept,
            (None, None) => Outcome::Dropped,
            (None, Some(_)) => Outcome::Either,
        }
    }
}

/// At least and at most so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bounds {
    pub least: u64,
    pub most: u64,
}

impl Bounds {
    fn add(&mut self, least: u64, most: u64) {
        self.least += least;
        self.most += most;
    }

    pub fn hold(self, count: u64) -> bool {
        (self.least..=self.most).contains(&count)
    }
}

/// What the nodes together must have counted when all traces are decided.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Traces kept by each rule, in the order of [`Rule::ALL`].
    pub kept_by: [Bounds; Rule::ALL.len()],
    pub dropped: Bounds,
    /// Calls by caller's and callee's cluster.
    pub calls: BTreeMap<(usize, usize), Bounds>,
    /// Spans whose named parent is missing.
    pub orphans: Bounds,
}

impl Forecast {
    /// Adds a trace: its distinct spans, each with whether it comes in time.
    pub fn add(&mut self, spans: &[(&Shipment, bool)]) -> Expected {
        let in_time: Vec<&Shipment> = spans.iter().filter(|(_, in_time)| *in_time).map(|(span, _)| *span).collect();
        let all: Vec<&Shipment> = spans.iter().map(|(span, _)| *span).collect();
        let expected = Expected { in_time: rule(&in_time), all: rule(&all) };
        let certain = expected.in_time == expected.all;
        // A late span can make any rule from the one that all give to the one that is certain the first to match.
        for (rule, bounds) in Rule::ALL.into_iter().zip(&mut self.kept_by) {
            let possible =
                expected.all.is_some_and(|first| first <= rule) && expected.in_time.is_none_or(|last| rule <= last);
            bounds.add(u64::from(certain && possible), u64::from(possible));
        }
        self.dropped.add(u64::from(expected.all.is_none()), u64::from(expected.in_time.is_none()));

        let (sure, possible) = (calls(&in_time), calls(&all));
        for (edge, count) in possible {
            self.calls.entry(edge).or_default().add(sure.get(&edge).copied().unwrap_or(0), count);
        }
        // At least those in time whose parent is never sent; at most those whose parent is not there in time.
        self.orphans.add(orphans(&in_time, &all), orphans(&all, &in_time));
        expected
    }
}

/// The first rule that matches these spans of a trace.
fn rule(spans: &[&Shipment]) -> Option<Rule> {
    let failed = |s: &&Shipment| s.span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    let start = spans.iter().map(|s| s.span.start_time_unix_nano).min()?;
    let end = spans.iter().map(|s| s.span.end_time_unix_nano).max()?;
    let matches = |rule: &Rule| match rule {
        Rule::Errors => spans.iter().any(failed),
        Rule::Slow => end.saturating_sub(start) >= SLOW_MILLIS * 1_000_000,
        Rule::BetweenClusters => !calls(spans).is_empty(),
        Rule::Share => spans.first().is_some_and(|s| is_in_share(&s.span.trace_id)),
    };
    Rule::ALL.into_iter().find(matches)
}

/// Consistent probability sampling: the last seven bytes of the trace id, held against the share that goes.
fn is_in_share(trace_id: &[u8]) -> bool {
    let randomness = trace_id.iter().rev().take(7).rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    randomness >= (1 << 56) / 100 * (100 - SHARE_PERCENT)
}

/// Pairs of parent and child in different clusters, counted by the two.
fn calls(spans: &[&Shipment]) -> BTreeMap<(usize, usize), u64> {
    let mut calls = BTreeMap::new();
    for child in spans {
        let parent = spans.iter().find(|parent| parent.span.span_id == child.span.parent_span_id);
        if let Some(parent) = parent.filter(|parent| parent.home() != child.home()) {
            *calls.entry((parent.home(), child.home())).or_default() += 1;
        }
    }
    calls
}

/// Those of `spans` that name a parent which is not among `parents`.
fn orphans(spans: &[&Shipment], parents: &[&Shipment]) -> u64 {
    let has_none = |child: &&&Shipment| {
        !child.span.parent_span_id.is_empty() && !parents.iter().any(|p| p.span.span_id == child.span.parent_span_id)
    };
    spans.iter().filter(has_none).count() as u64
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::Status;

    use super::super::traffic::Traffic;
    use super::*;
    use crate::model::UnixNanos;

    /// A trace that only looks around, and one that crosses twice.
    fn shipments(spans: usize) -> Vec<Shipment> {
        let mut traffic = Traffic::new(7, *b"demo-run");
        let mut trace = || traffic.trace(UnixNanos(1_790_000_000_000_000_000));
        let whole = std::iter::from_fn(|| Some(trace())).find(|shipments| {
            let distinct: Vec<_> = shipments.iter().filter(|shipment| !shipment.copy).collect();
            distinct.len() == spans
                && distinct.iter().all(|s| !s.late && s.span.status.is_none() && !is_in_share(&s.span.trace_id))
        });
        whole.unwrap().into_iter().filter(|shipment| !shipment.copy).collect()
    }

    fn forecast(shipments: &[Shipment], late: &[usize]) -> (Forecast, Expected) {
        let mut forecast = Forecast::default();
        let spans: Vec<_> = shipments.iter().enumerate().map(|(i, s)| (s, !late.contains(&i))).collect();
        let expected = forecast.add(&spans);
        (forecast, expected)
    }

    #[test]
    fn a_trace_that_no_rule_wants_is_dropped_and_an_error_keeps_it() {
        let mut local = shipments(5);
        assert_eq!(forecast(&local, &[]).1.outcome(), Outcome::Dropped);
        local[2].span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
        let (kept, expected) = forecast(&local, &[]);
        assert_eq!(expected.outcome(), Outcome::Kept);
        assert_eq!((kept.kept_by[0], kept.dropped), (Bounds { least: 1, most: 1 }, Bounds::default()));
    }

    #[test]
    fn what_only_late_spans_say_leaves_the_verdict_open() {
        let mut local = shipments(5);
        local[2].span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
        let (open, expected) = forecast(&local, &[2]);
        assert_eq!(expected.outcome(), Outcome::Either);
        assert_eq!((open.kept_by[0], open.dropped), (Bounds { least: 0, most: 1 }, Bounds { least: 0, most: 1 }));
        // Its child has no parent in time, and would have one.
        assert_eq!(open.orphans, Bounds { least: 0, most: 1 });
    }

    #[test]
    fn calls_between_clusters_are_foreseen_with_what_late_spans_take_from_them() {
        let whole = shipments(15);
        let (sure, expected) = forecast(&whole, &[]);
        assert_eq!(expected.outcome(), Outcome::Kept);
        assert_eq!(sure.calls.values().collect::<Vec<_>>(), [&Bounds { least: 1, most: 1 }; 2]);
        let child = whole.iter().position(|s| s.home() == 1).unwrap();
        let (open, _) = forecast(&whole, &[child]);
        assert_eq!(open.calls[&(0, 1)], Bounds { least: 0, most: 1 });
    }
}
