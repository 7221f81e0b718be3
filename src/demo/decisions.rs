//! What the nodes decided and measured, added up over all of them and held against the forecast.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::places::CLUSTERS;
use super::rules::{Bounds, Forecast, Rule};
use crate::logic::cross_cluster::quantile;

/// What is read of one pipeline in a node's `/api/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TracesView {
    pub open_traces: u64,
    pub dropped_traces: u64,
    pub late_kept_spans: u64,
    pub late_dropped_spans: u64,
    pub policies: Vec<PolicyView>,
    pub cross_cluster: Option<CrossClusterView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyView {
    pub name: String,
    pub decided_traces: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CrossClusterView {
    pub edges: Vec<EdgeView>,
    pub spans: BTreeMap<String, u64>,
    /// Cluster, reason, spans.
    pub without_parent: Vec<(String, String, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EdgeView {
    pub source_cluster: String,
    pub target_cluster: String,
    pub request: HistogramView,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HistogramView {
    pub count: u64,
    /// Upper bound in seconds (absent: infinite) and observations of each bucket.
    pub buckets: Vec<(Option<f64>, u64)>,
}

/// A count beside what it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub counted: u64,
    pub expected: Bounds,
}

/// One policy and the traces that it kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleLine {
    pub policy: &'static str,
    #[serde(flatten)]
    pub traces: Counted,
}

/// Calls from one cluster to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallLine {
    pub source: &'static str,
    pub target: &'static str,
    #[serde(flatten)]
    pub calls: Counted,
    /// Absent: there were none.
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
}

/// All nodes together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Decisions {
    /// In the order of the rules.
    pub rules: Vec<RuleLine>,
    pub dropped_traces: Counted,
    pub calls: Vec<CallLine>,
    /// Spans whose named parent was missing when their trace was decided.
    pub orphans: Counted,
    /// Roots where there should be none; the demo has none.
    pub unexpected_roots: u64,
    /// Distinct spans of decided traces.
    pub decided_spans: u64,
    /// Spans that came after the verdict and followed it.
    pub late_kept_spans: u64,
    pub late_dropped_spans: u64,
}

impl Decisions {
    pub fn of(views: &[&TracesView], forecast: &Forecast) -> Decisions {
        let sum = |count: fn(&TracesView) -> u64| views.iter().map(|view| count(view)).sum();
        let rules = Rule::ALL.into_iter().zip(forecast.kept_by).map(|(rule, expected)| {
            let of_rule = views.iter().flat_map(|view| &view.policies).filter(|policy| policy.name == rule.name());
            let counted = of_rule.map(|policy| policy.decided_traces).sum();
            RuleLine { policy: rule.name(), traces: Counted { counted, expected } }
        });
        let metrics = || views.iter().filter_map(|view| view.cross_cluster.as_ref());
        let without = |wanted: &str| -> u64 {
            let counts = metrics().flat_map(|metrics| &metrics.without_parent);
            counts.filter(|(_, reason, _)| reason == wanted).map(|(_, _, spans)| spans).sum()
        };
        Decisions {
            rules: rules.collect(),
            dropped_traces: Counted { counted: sum(|view| view.dropped_traces), expected: forecast.dropped },
            calls: forecast.calls.iter().map(|(edge, expected)| call(*edge, *expected, metrics())).collect(),
            orphans: Counted { counted: without("missing_parent"), expected: forecast.orphans },
            unexpected_roots: without("unexpected_root"),
            decided_spans: metrics().flat_map(|metrics| metrics.spans.values()).sum(),
            late_kept_spans: sum(|view| view.late_kept_spans),
            late_dropped_spans: sum(|view| view.late_dropped_spans),
        }
    }

    /// What does not add up, one sentence each. `accepted` is the number of distinct spans that nodes have accepted.
    pub fn differences(&self, accepted: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut hold = |what: String, Counted { counted, expected }: Counted| {
            if !expected.hold(counted) {
                let Bounds { least, most } = expected;
                wrong.push(format!("{what}: the nodes counted {counted}, it must be {least} to {most}"));
            }
        };
        for rule in &self.rules {
            hold(format!("traces kept by the policy {}", rule.policy), rule.traces);
        }
        hold("traces dropped".to_owned(), self.dropped_traces);
        for call in &self.calls {
            hold(format!("calls from {} to {}", call.source, call.target), call.calls);
        }
        hold("spans without their parent".to_owned(), self.orphans);
        hold("unexpected roots".to_owned(), Counted { counted: self.unexpected_roots, expected: Bounds::default() });
        // Every accepted span was decided with its trace, or came late. Copies of late spans are late as well.
        let late = self.late_kept_spans + self.late_dropped_spans;
        let expected = Bounds { least: accepted.saturating_sub(late), most: accepted };
        hold("distinct spans of decided traces".to_owned(), Counted { counted: self.decided_spans, expected });
        wrong
    }
}

fn call<'a>(
    (source, target): (usize, usize),
    expected: Bounds,
    metrics: impl Iterator<Item = &'a CrossClusterView>,
) -> CallLine {
    let name = |number: usize| CLUSTERS.get(number).copied().unwrap_or_default();
    let (source, target) = (name(source), name(target));
    let mut counted = 0;
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let of_edge = |edge: &&EdgeView| edge.source_cluster == source && edge.target_cluster == target;
    for edge in metrics.flat_map(|metrics| &metrics.edges).filter(of_edge) {
        counted += edge.request.count;
        for (index, (bound, count)) in edge.request.buckets.iter().enumerate() {
            match buckets.get_mut(index) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound.unwrap_or(f64::INFINITY), *count)),
            }
        }
    }
    CallLine {
        source,
        target,
        calls: Counted { counted, expected },
        p50_seconds: quantile(&buckets, 0.5),
        p99_seconds: quantile(&buckets, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(kept_by_errors: u64, calls: u64) -> TracesView {
        let request = HistogramView { count: calls, buckets: vec![(Some(0.25), 0), (Some(0.5), calls), (None, 0)] };
        let edge = EdgeView { source_cluster: "us-east-1".to_owned(), target_cluster: "us-west-2".to_owned(), request };
        TracesView {
            dropped_traces: 1,
            late_dropped_spans: 1,
            policies: vec![PolicyView { name: "errors".to_owned(), decided_traces: kept_by_errors }],
            cross_cluster: Some(CrossClusterView {
                edges: vec![edge],
                spans: [("us-east-1".to_owned(), 10)].into(),
                without_parent: vec![("us-east-1".to_owned(), "missing_parent".to_owned(), 1)],
            }),
            ..TracesView::default()
        }
    }

    fn forecast() -> Forecast {
        let two = Bounds { least: 2, most: 2 };
        let mut forecast = Forecast { dropped: two, orphans: two, ..Forecast::default() };
        forecast.kept_by[0] = two;
        forecast.calls.insert((0, 1), Bounds { least: 8, most: 9 });
        forecast
    }

    #[test]
    fn counts_of_all_nodes_are_added_and_hold_against_the_forecast() {
        let (one, two) = (view(1, 4), view(1, 5));
        let decisions = Decisions::of(&[&one, &two], &forecast());
        assert_eq!((decisions.rules[0].traces.counted, decisions.calls[0].calls.counted), (2, 9));
        assert!((0.25..=0.5).contains(&decisions.calls[0].p50_seconds.unwrap()));
        assert_eq!(decisions.differences(21), Vec::<String>::new());
    }

    #[test]
    fn whatever_does_not_add_up_is_named() {
        let (one, two) = (view(1, 4), view(2, 9));
        let wrong = Decisions::of(&[&one, &two], &forecast()).differences(30);
        for wanted in
            ["the policy errors: the nodes counted 3", "us-east-1 to us-west-2: the nodes counted 13", "distinct spans"]
        {
            assert!(wrong.iter().any(|line| line.contains(wanted)), "{wanted} in {wrong:?}");
        }
        assert_eq!(wrong.len(), 3);
    }
}
