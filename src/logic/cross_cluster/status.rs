//! The metrics as values, and their sum over several pipelines.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::TraceId;

/// A histogram's present counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistogramStatus {
    pub count: u64,
    pub sum_seconds: f64,
    /// (upper bound in seconds, observations in this bucket alone); the last bound is infinite, written as null.
    pub buckets: Vec<(f64, u64)>,
    /// The latest observation of each bucket that has one: (index into `buckets`, seconds, trace).
    pub exemplars: Vec<(usize, f64, TraceId)>,
}

/// Calls from one cluster to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EdgeStatus {
    pub source_cluster: String,
    pub target_cluster: String,
    /// One observation for every pair: the caller's duration, or what is said at `callee_timed`.
    pub request: HistogramStatus,
    /// Client minus server, where both durations are those of the call; never below 0.
    pub network: HistogramStatus,
    /// Pairs whose server seemed to take longer than the client: counted as 0 in `network`.
    pub clamped: u64,
    /// Pairs observed by the callee's duration: the caller's span has no sensible times, or is itself a SERVER or
    /// CONSUMER and so took more than this call.
    pub callee_timed: u64,
    /// Pairs with an error on either side.
    pub failed: u64,
}

/// All that one `cross_cluster` has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CrossClusterStatus {
    /// In the order of their names.
    pub edges: Vec<EdgeStatus>,
    /// Unique spans of decided traces by the cluster that took them in.
    pub spans: BTreeMap<String, u64>,
    /// (cluster, reason, spans), reason `missing_parent` or `unexpected_root`.
    pub without_parent: Vec<(String, &'static str, u64)>,
    /// Observations that found no room of their own.
    pub overflowed: u64,
}

impl CrossClusterStatus {
    /// Adds what another one has counted, label set by label set.
    pub fn add(&mut self, other: &CrossClusterStatus) {
        let names = |edge: &EdgeStatus| (edge.source_cluster.clone(), edge.target_cluster.clone());
        for edge in &other.edges {
            match self.edges.binary_search_by_key(&names(edge), names) {
                Ok(at) => self.edges[at].add(edge),
                Err(at) => self.edges.insert(at, edge.clone()),
            }
        }
        for (cluster, spans) in &other.spans {
            let sum = self.spans.entry(cluster.clone()).or_default();
            *sum = sum.saturating_add(*spans);
        }
        for one in &other.without_parent {
            match self.without_parent.binary_search_by(|has| (&has.0, has.1).cmp(&(&one.0, one.1))) {
                Ok(at) => self.without_parent[at].2 = self.without_parent[at].2.saturating_add(one.2),
                Err(at) => self.without_parent.insert(at, one.clone()),
            }
        }
        self.overflowed = self.overflowed.saturating_add(other.overflowed);
    }
}

impl EdgeStatus {
    fn add(&mut self, other: &EdgeStatus) {
        self.request.add(&other.request);
        self.network.add(&other.network);
        self.clamped = self.clamped.saturating_add(other.clamped);
        self.callee_timed = self.callee_timed.saturating_add(other.callee_timed);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

impl HistogramStatus {
    /// With other bounds, observations go to the first bucket that is sure to hold them.
    fn add(&mut self, other: &HistogramStatus) {
        let place = |buckets: &[(f64, u64)], bound: f64| {
            buckets.partition_point(|(has, _)| *has < bound).min(buckets.len().saturating_sub(1))
        };
        for (bound, count) in &other.buckets {
            let at = place(&self.buckets, *bound);
            match self.buckets.get_mut(at) {
                Some((_, sum)) => *sum = sum.saturating_add(*count),
                None => self.buckets.push((*bound, *count)),
            }
        }
        for (bucket, value, trace) in &other.exemplars {
            let Some((bound, _)) = other.buckets.get(*bucket) else { continue };
            let at = place(&self.buckets, *bound);
            if let Err(free) = self.exemplars.binary_search_by_key(&at, |(has, ..)| *has) {
                self.exemplars.insert(free, (at, *value, *trace));
            }
        }
        self.count = self.count.saturating_add(other.count);
        self.sum_seconds += other.sum_seconds;
    }
}
