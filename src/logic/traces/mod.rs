//! The owner's trace buffer: one shard of it.

pub mod report;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use self::report::{SpanLine, TraceDetails, TraceReport, TraceState, Wanted};
use super::cross_cluster::CrossCluster;
use super::dedup::{Dedup, SpanKey};
use super::sampling::Sampler;
use crate::config::settings::SamplingMarks;
use crate::model::{Fate, Receipt, Spans, Tick, TraceId};

/// How long and how much one shard holds.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// From a trace's first span to its decision.
    pub wait: Duration,
    /// From the arrival of its root, if that is sooner; zero: the root changes nothing.
    pub wait_after_root: Duration,
    /// Most memory of all that is held: open traces, and decided ones kept for explanations.
    pub max_bytes: u64,
    /// 0: as many as fit.
    pub max_traces: usize,
    /// Caps of one trace; what is above is decided at once.
    pub max_trace_bytes: u64,
    pub max_trace_spans: u32,
    /// Verdicts to remember; 0: ten times the most open traces there were.
    pub kept_verdicts: usize,
    pub dropped_verdicts: usize,
    /// How long a verdict is remembered at most.
    pub verdict_time: Duration,
    /// Decided traces that can still be shown: their spans' bytes, and their number.
    pub recent_bytes: u64,
    pub recent_traces: usize,
}

/// What is done with a whole trace, in this order; the same for all shards.
#[derive(Clone, Default)]
pub struct Judges {
    pub cross_cluster: Option<Arc<CrossCluster>>,
    /// Write the crossing pairs' clusters to their spans, before the policies look.
    pub write_crossings: bool,
    /// Absent: everything is kept.
    pub sampler: Option<Arc<Sampler>>,
    pub dry_run: bool,
    pub marks: SamplingMarks,
    /// `cluster/node` of this node, for the marks.
    pub owner: String,
    /// Open traces are dropped at shutdown and not decided.
    pub drop_at_shutdown: bool,
}

/// Why a trace was decided when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// `decision_wait` was over.
    Waited,
    /// `decision_wait_after_root_received` was over.
    RootReceived,
    TooManySpans,
    TooManyBytes,
    /// The buffer was full, and this was the heaviest and oldest.
    Memory,
    /// More than `num_traces`, and this was the oldest.
    TooManyTraces,
    Shutdown,
}

impl Cause {
    pub const ALL: [Cause; 7] = [
        Cause::Waited,
        Cause::RootReceived,
        Cause::TooManySpans,
        Cause::TooManyBytes,
        Cause::Memory,
        Cause::TooManyTraces,
        Cause::Shutdown,
    ];

    /// The stable label, `snake_case`.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Waited => "waited",
            Cause::RootReceived => "root_received",
            Cause::TooManySpans => "too_many_spans",
            Cause::TooManyBytes => "too_many_bytes",
            Cause::Memory => "memory",
            Cause::TooManyTraces => "too_many_traces",
            Cause::Shutdown => "shutdown",
        }
    }
}

/// Kept spans on their way out. Whoever has them resolves the receipts, and tells [`Traces`]' dedup the fate of the keys.
pub struct Release {
    pub spans: Spans,
    /// Together they answer for exactly these spans, in their order.
    pub receipts: Vec<Receipt>,
    /// In custody of the dedup until settled; empty without one.
    pub keys: Vec<SpanKey>,
}

/// Counts and measures of one shard, or of several added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TracesStatus {
    pub open_traces: u64,
    pub open_spans: u64,
    /// Memory in use, with what is kept for explanations.
    pub held_bytes: u64,
    pub limit_bytes: u64,
    /// Since the first span of the oldest open trace came.
    pub oldest_seconds: f64,
    /// By how much the next decision is late, now; 0 if none is due.
    pub late_seconds: f64,
    /// The most it ever was.
    pub latest_decision_seconds: f64,
    pub new_traces: u64,
    /// Traces decided, by [`Cause::ALL`].
    pub decided: [u64; Cause::ALL.len()],
    pub kept_traces: u64,
    pub kept_spans: u64,
    pub dropped_traces: u64,
    pub dropped_spans: u64,
    pub duplicates: u64,
    /// Spans that came after the verdict, and followed it.
    pub late_kept_spans: u64,
    pub late_dropped_spans: u64,
    /// Kept for `dry_run` only.
    pub would_drop_traces: u64,
    pub would_drop_spans: u64,
    pub kept_verdicts: u64,
    pub dropped_verdicts: u64,
    /// How far back all verdicts are remembered.
    pub verdicts_seconds: f64,
}

/// One shard: the traces whose ids fall to it.
pub struct Traces {
    parked: Vec<Release>,
}

impl Traces {
    /// `dedup` is present if duplicates are to be dropped. `seed` keys the hashes.
    pub fn new(bounds: Bounds, judges: Arc<Judges>, dedup: Option<Arc<Dedup>>, seed: u64) -> Traces {
        let _ = (bounds, judges, dedup, seed);
        Traces { parked: Vec::new() }
    }

    /// Takes custody of the spans at `indexes` (ascending) of `spans`; `receipt` answers for exactly those. Duplicates and
    /// late spans meet their fate here; what must go out at once is appended to `out`.
    pub fn offer(&mut self, spans: &Spans, indexes: &[u32], receipt: Receipt, now: Tick, out: &mut Vec<Release>) {
        let _ = (spans, indexes, now, out);
        receipt.resolve(Fate::SampledOut);
    }

    /// Decides what is due, at most `most` traces, and appends what is kept to `out`. True: more is due.
    pub fn advance(&mut self, now: Tick, most: usize, out: &mut Vec<Release>) -> bool {
        let _ = (now, most);
        out.append(&mut self.parked);
        false
    }

    /// Decides open traces though their time has not come, at most `most`, oldest first. True: some are left.
    pub fn close(&mut self, now: Tick, most: usize, out: &mut Vec<Release>) -> bool {
        let _ = (now, most, out);
        false
    }

    /// When the next trace is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        None
    }

    /// Memory in use, to be counted with the node's.
    pub fn held_bytes(&self) -> u64 {
        0
    }

    /// What is known of a trace; `None`: nothing.
    pub fn report(&self, trace: &TraceId, wanted: Wanted, now: Tick) -> Option<TraceReport> {
        let _ = (trace, wanted, now);
        None
    }

    pub fn status(&self, now: Tick) -> TracesStatus {
        let _ = now;
        TracesStatus::default()
    }
}
