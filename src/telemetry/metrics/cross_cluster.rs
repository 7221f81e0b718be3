//! Metrics of the calls between clusters, the sum of all pipelines that count them.
//!
//! A node normally has one such pipeline, so a label for it would make every query longer for nothing. The names without
//! a prefix are those that dashboards for traces across clusters ask for.
//!
//! Histograms are written here and not by prometheus_client: its exemplars can only be made by its own counters and
//! histograms, and these counts were made elsewhere. It is a few lines of the same text format.

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::Samples;
use super::table::{Metric, counter};
use crate::admin::status::NodeStatus;
use crate::logic::cross_cluster::{CrossClusterStatus, EdgeStatus, HistogramStatus};

const EDGE: &[&str] = &["source_cluster", "target_cluster"];

pub(super) const COUNTERS: &[Metric] = &[
    counter("spans", None, "Spans of decided traces by the cluster that took them in", &["cluster"], |s, out| {
        if let Some(counts) = sum(s) {
            counts.spans.iter().for_each(|(cluster, spans)| out.add([cluster], *spans));
        }
    }),
    counter(
        "spans_without_parent_context",
        None,
        "Spans of decided traces whose parent is not there, or of services that are always called and were not",
        &["cluster", "reason"],
        |s, out| {
            if let Some(counts) = sum(s) {
                counts.without_parent.iter().for_each(|(cluster, reason, spans)| out.add([cluster, reason], *spans));
            }
        },
    ),
    counter(
        "spanmesh_cross_cluster_failed_requests",
        None,
        "Calls between clusters with an error on either side",
        EDGE,
        |s, out| edges(s, out, |edge| edge.failed),
    ),
    counter(
        "spanmesh_cross_cluster_clamped_observations",
        None,
        "Calls whose server seemed to take longer than their client, counted as no network time",
        EDGE,
        |s, out| edges(s, out, |edge| edge.clamped),
    ),
    counter(
        "spanmesh_cross_cluster_callee_timed_observations",
        None,
        "Calls observed by the callee's duration, because the caller's span does not tell it",
        EDGE,
        |s, out| edges(s, out, |edge| edge.callee_timed),
    ),
    counter(
        "spanmesh_cross_cluster_overflowed_observations",
        None,
        "Observations counted under _overflow because max_series was reached",
        &[],
        |s, out| {
            if let Some(counts) = sum(s) {
                out.add([], counts.overflowed);
            }
        },
    ),
];

/// A histogram family, in seconds, with a series for each pair of clusters.
pub(super) struct Histograms {
    pub(super) name: &'static str,
    help: &'static str,
    of: fn(&EdgeStatus) -> &HistogramStatus,
}

pub(super) const HISTOGRAMS: &[Histograms] = &[
    Histograms {
        name: "cross_cluster_request_duration_seconds",
        help: "Duration of calls between clusters, as their caller saw it",
        of: |edge| &edge.request,
    },
    Histograms {
        name: "cross_cluster_network_seconds",
        help: "What calls between clusters took beside their server: client minus server duration",
        of: |edge| &edge.network,
    },
];

/// Of all pipelines; `None`: nobody counts.
fn sum(status: &NodeStatus) -> Option<Cow<'_, CrossClusterStatus>> {
    let mut all = status.traces.iter().filter_map(|traces| traces.cross_cluster.as_ref());
    let first = Cow::Borrowed(all.next()?);
    Some(all.fold(first, |mut sum, next| {
        sum.to_mut().add(next);
        sum
    }))
}

fn edges(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&EdgeStatus) -> u64) {
    if let Some(counts) = sum(status) {
        counts.edges.iter().for_each(|edge| out.add([&edge.source_cluster, &edge.target_cluster], value(edge)));
    }
}

/// Appends the histogram families.
pub(super) fn write_histograms(status: &NodeStatus, exemplars: bool, page: &mut String) -> fmt::Result {
    let counts = sum(status);
    for Histograms { name, help, of } in HISTOGRAMS {
        writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram\n# UNIT {name} seconds")?;
        for edge in counts.iter().flat_map(|counts| &counts.edges) {
            // Messages have no network time.
            if of(edge).count > 0 {
                write_histogram(page, name, edge, of(edge), exemplars)?;
            }
        }
    }
    Ok(())
}

fn write_histogram(
    page: &mut String,
    name: &str,
    edge: &EdgeStatus,
    histogram: &HistogramStatus,
    exemplars: bool,
) -> fmt::Result {
    let (source, target) = (Escaped(&edge.source_cluster), Escaped(&edge.target_cluster));
    let labels = format!(r#"source_cluster="{source}",target_cluster="{target}""#);
    let mut exemplars = histogram.exemplars.iter().filter(|_| exemplars).peekable();
    let mut below = 0_u64;
    for (index, (bound, count)) in histogram.buckets.iter().enumerate() {
        below = below.saturating_add(*count);
        match bound.is_finite() {
            true => write!(page, r#"{name}_bucket{{{labels},le="{bound:?}"}} {below}"#)?,
            false => write!(page, r#"{name}_bucket{{{labels},le="+Inf"}} {below}"#)?,
        }
        if let Some((_, value, trace)) = exemplars.next_if(|(bucket, ..)| *bucket == index) {
            write!(page, r#" # {{trace_id="{trace}"}} {value:?}"#)?;
        }
        page.push('\n');
    }
    writeln!(page, "{name}_sum{{{labels}}} {:?}\n{name}_count{{{labels}}} {}", histogram.sum_seconds, histogram.count)
}

/// A label's value, as the format wants it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str(r"\\"),
            '"' => f.write_str(r#"\""#),
            '\n' => f.write_str(r"\n"),
            c => f.write_char(c),
        })
    }
}
