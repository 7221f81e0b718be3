//! What a whole trace tells of the calls between clusters.

pub mod write;

use std::collections::BTreeMap;

use serde::Serialize;

use super::trace::TraceView;
use crate::config::settings::CrossClusterSettings;
use crate::model::TraceId;

/// A parent and a child in different clusters, as indexes into [`TraceView::spans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub caller: u32,
    pub callee: u32,
}

/// How the spans of a trace hang together; the same for any order of the spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Calls between clusters.
    pub crossings: Vec<Edge>,
    /// Spans whose named parent is not there.
    pub missing_parents: Vec<u32>,
    /// Spans that name no parent.
    pub roots: Vec<u32>,
}

/// Finds out how the spans of a trace hang together.
pub fn links(trace: &TraceView<'_>) -> Links {
    let _ = trace;
    Links::default()
}

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
    /// The caller's duration, for every pair.
    pub request: HistogramStatus,
    /// Caller minus callee, where both are there; never below 0.
    pub network: HistogramStatus,
    /// Pairs whose callee seemed to take longer than the caller: counted as 0 in `network`.
    pub clamped: u64,
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

/// The metrics of one `cross_cluster`, shared by all shards of the buffer.
pub struct CrossCluster {}

impl CrossCluster {
    pub fn new(settings: &CrossClusterSettings) -> CrossCluster {
        let _ = settings;
        CrossCluster {}
    }

    /// Counts a whole trace, once.
    pub fn observe(&self, trace: &TraceView<'_>, links: &Links) {
        let _ = (trace, links);
    }

    pub fn status(&self) -> CrossClusterStatus {
        CrossClusterStatus::default()
    }
}

/// TEMP
pub fn quantile(buckets: &[(f64, u64)], q: f64) -> f64 {
    let _ = (buckets, q);
    0.3
}
