//! What a whole trace tells of the calls between clusters.
//!
//! A collector that pairs clients with servers in a store of some seconds loses the pairs whose halves went to
//! different instances, and sees gaps where there are none. Here the trace is whole when it is looked at, so a pair is
//! a parent and a child, and a missing parent is missing. What is counted:
//!
//! - **Calls**: a parent and a child in different clusters, whatever their kinds: proxies and gateways add spans on both
//!   sides, but only one link passes the boundary. The duration is that of the caller's span, and what the network took is
//!   client minus server: differences of one clock each, so clusters whose clocks disagree do not matter.
//! - **Where the caller cannot tell the duration** the callee's is taken, and counted apart: times that no clock wrote
//!   (zero, the end before the start, more than [`LONGEST`]), or a caller that is itself the SERVER or CONSUMER span of
//!   its service (nobody instrumented its client), which took all of its own work beside this call.
//! - **What the network took** is known where a client waited for a server. A producer waits for nobody, a SERVER as
//!   the caller or a CLIENT as the callee took more than their part of the call: such pairs give no observation, for a
//!   wrong one is worse than none.
//! - **Spans** of each cluster, and those **without their parent**, from the same traces, so that one can be divided by
//!   the other. Not every root is one: see [`services`].
//!
//! A span's cluster is what its resource says, as the origin stamped it. Attributes of the span itself are not looked at:
//! clients put the *target's* name there, which would turn the edge around.
//!
//! Times and names are the senders'. Durations are bounded, sums saturate, names are cut at [`LONGEST_NAME`] bytes,
//! series are bounded ([`series`]).

mod histogram;
mod links;
mod quantile;
mod series;
mod services;
mod status;
#[cfg(test)]
mod tests;
pub mod write;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::histogram::{Bounds, Histogram};
use self::links::{CONSUMER, PRODUCER, Side};
pub use self::links::{Edge, Links, links};
pub use self::quantile::quantile;
use self::series::{ByCluster, ByPair};
use self::services::{Lesson, Services};
pub use self::status::{CrossClusterStatus, EdgeStatus, HistogramStatus};
use super::trace::{Header, SpanView, TraceView};
use crate::config::settings::CrossClusterSettings;
use crate::model::TraceId;

/// Nanoseconds above which a duration is not believed: a day. One made-up time would else outweigh all others in the sum.
const LONGEST: u64 = 86_400_000_000_000;
/// Of a cluster in a label, in bytes. Nodes' own names are shorter.
const LONGEST_NAME: usize = 128;
/// The cluster of spans that nobody stamped.
const UNKNOWN: &str = "unknown";
/// Why a span counts as one without parent context.
const REASONS: [&str; 2] = ["missing_parent", "unexpected_root"];
const MISSING_PARENT: usize = 0;
const UNEXPECTED_ROOT: usize = 1;

/// OTLP `Status.code`.
const ERROR: u8 = 2;

/// The metrics of one `cross_cluster`, shared by all shards of the buffer.
pub struct CrossCluster {
    bounds: Bounds,
    counts: Mutex<Counts>,
}

struct Counts {
    calls: ByPair<Calls>,
    spans: ByCluster<u64>,
    /// By [`REASONS`].
    without_parent: ByCluster<[u64; 2]>,
    services: Services,
    overflowed: u64,
}

struct Calls {
    request: Histogram,
    network: Histogram,
    clamped: u64,
    callee_timed: u64,
    failed: u64,
}

/// What one pair of spans tells, in nanoseconds.
struct Call {
    request: u64,
    /// Client and server, if both are known.
    both: Option<(u64, u64)>,
    callee_timed: bool,
    failed: bool,
}

impl CrossCluster {
    pub fn new(settings: &CrossClusterSettings) -> CrossCluster {
        let series = settings.max_series;
        let counts = Counts {
            calls: ByPair::new(series),
            spans: ByCluster::new(series),
            // Each cluster may need a label set for each reason.
            without_parent: ByCluster::new(series / REASONS.len()),
            services: Services::new(&settings.entry_services),
            overflowed: 0,
        };
        CrossCluster { bounds: Bounds::new(&settings.buckets), counts: Mutex::new(counts) }
    }

    /// Counts a whole trace, once. `links` are those of this trace.
    pub fn observe(&self, trace: &TraceView<'_>, links: &Links) {
        let mut counts = self.counts();
        counts.spans(trace);
        counts.parents(trace, links);
        for Edge { caller, callee } in &links.crossings {
            let span = |at: &u32| trace.spans.get(*at as usize);
            if let (Some(caller), Some(callee)) = (span(caller), span(callee)) {
                counts.call(&self.bounds, trace.id, caller, callee);
            }
        }
    }

    pub fn status(&self) -> CrossClusterStatus {
        let counts = self.counts();
        let edge = |(source, target, calls): (&str, &str, &Calls)| EdgeStatus {
            source_cluster: source.to_owned(),
            target_cluster: target.to_owned(),
            request: calls.request.status(&self.bounds),
            network: calls.network.status(&self.bounds),
            clamped: calls.clamped,
            callee_timed: calls.callee_timed,
            failed: calls.failed,
        };
        let reasons = |(cluster, spans): (&str, &[u64; 2])| {
            let cluster = cluster.to_owned();
            let each = REASONS.into_iter().zip(*spans).filter(|(_, spans)| *spans > 0);
            each.map(move |(reason, spans)| (cluster.clone(), reason, spans))
        };
        CrossClusterStatus {
            edges: counts.calls.iter().map(edge).collect(),
            spans: counts.spans.iter().map(|(cluster, spans)| (cluster.to_owned(), *spans)).collect(),
            without_parent: counts.without_parent.iter().flat_map(reasons).collect(),
            overflowed: counts.overflowed,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Spans of one cluster mostly stand together, so there is a look-up for each run of them.
    fn spans(&mut self, trace: &TraceView<'_>) {
        for run in trace.spans.chunk_by(|a, b| links::same_cluster(a.header, b.header)) {
            let Some(first) = run.first() else { continue };
            let n = run.len() as u64;
            let fits = self.spans.change(cluster_of(first.header), |spans| *spans = spans.saturating_add(n));
            self.overflowed = self.overflowed.saturating_add(if fits { 0 } else { n });
        }
    }

    fn parents(&mut self, trace: &TraceView<'_>, links: &Links) {
        for &at in &links.missing_parents {
            if let Some(span) = trace.spans.get(at as usize) {
                self.without_parent(span, MISSING_PARENT);
            }
        }
        // All roots are judged by what earlier traces taught, whatever their order in this one.
        let mut lesson = Lesson::default();
        let (mut roots, mut missing) = (links.roots.iter().peekable(), links.missing_parents.iter().peekable());
        for (span, at) in trace.spans.iter().zip(0..) {
            let is_root = roots.next_if_eq(&&at).is_some();
            let is_missing = missing.next_if_eq(&&at).is_some();
            if is_missing || Side::of(span) != Side::Callee {
                continue;
            }
            lesson.add(&span.header.service, is_root);
            if is_root && self.services.is_inner(&span.header.service) {
                self.without_parent(span, UNEXPECTED_ROOT);
            }
        }
        self.services.learn(lesson);
    }

    fn without_parent(&mut self, span: &SpanView<'_>, reason: usize) {
        let count = |spans: &mut [u64; 2]| spans[reason] = spans[reason].saturating_add(1);
        let fits = self.without_parent.change(cluster_of(span.header), count);
        self.overflowed = self.overflowed.saturating_add(u64::from(!fits));
    }

    fn call(&mut self, bounds: &Bounds, trace: TraceId, caller: &SpanView<'_>, callee: &SpanView<'_>) {
        let call = Call::of(caller, callee);
        let new = || Calls {
            request: Histogram::new(bounds),
            network: Histogram::new(bounds),
            clamped: 0,
            callee_timed: 0,
            failed: 0,
        };
        let fits = self.calls.change(cluster_of(caller.header), cluster_of(callee.header), new, |calls| {
            calls.request.observe(bounds, call.request, trace);
            if let Some((client, server)) = call.both {
                calls.network.observe(bounds, client.saturating_sub(server), trace);
                calls.clamped = calls.clamped.saturating_add(u64::from(server > client));
            }
            calls.callee_timed = calls.callee_timed.saturating_add(u64::from(call.callee_timed));
            calls.failed = calls.failed.saturating_add(u64::from(call.failed));
        });
        self.overflowed = self.overflowed.saturating_add(u64::from(!fits));
    }
}

impl Call {
    fn of(caller: &SpanView<'_>, callee: &SpanView<'_>) -> Call {
        let (callers, callees) = (duration(caller), duration(callee));
        let waited = Side::of(caller) != Side::Callee && caller.kind != PRODUCER;
        let served = Side::of(callee) != Side::Caller && callee.kind != CONSUMER;
        let told = callers.filter(|_| Side::of(caller) != Side::Callee);
        Call {
            // If neither tells anything, the pair still counts, and as nothing: made-up times must not raise alarms.
            request: told.or(callees).unwrap_or(0),
            both: if waited && served { callers.zip(callees) } else { None },
            callee_timed: told.is_none() && callees.is_some(),
            failed: caller.status == ERROR || callee.status == ERROR,
        }
    }
}

/// In nanoseconds; `None`: its times cannot be those of a clock.
fn duration(span: &SpanView<'_>) -> Option<u64> {
    let nanos = span.end.0.checked_sub(span.start.0)?;
    (span.start.0 > 0 && nanos <= LONGEST).then_some(nanos)
}

/// The name that a header's cluster has in labels, and by which clusters are told apart.
fn cluster_of(header: &Header) -> &str {
    match &*header.cluster {
        "" => UNKNOWN,
        name if name.len() <= LONGEST_NAME => name,
        name => {
            let end = (0..=LONGEST_NAME).rev().find(|end| name.is_char_boundary(*end));
            &name[..end.unwrap_or_default()]
        }
    }
}
