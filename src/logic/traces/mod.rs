//! The owner's trace buffer: one shard of it.
//!
//! A trace is judged as a whole, so its spans wait here from the first one's arrival until `decision_wait` is over, and
//! that is most of what a node holds. Spans are copied once, into an arena (`arena`), behind each other and without their
//! resources, of which one copy is kept (`headers`); a trace is an entry of fixed size that knows its pieces (`open`).
//! What is decided goes out as encoded requests (`release`) or is gone, and its verdict stays (`verdicts`): what comes
//! later follows it. For a while the trace itself stays, for explanations (`recent`).
//!
//! Everything is bounded, and a bound that is reached decides traces early, with a reason ([`Cause`]): a cap of one trace ends
//! that trace, the memory's ends the heaviest and oldest (`pressure`). Decisions cannot starve either: whoever brings spans
//! to a shard that is behind decides as many traces as it brings.
//!
//! Duplicates of open traces are found exactly (`seen`). A kept span enters the custody of [`Dedup`] in the same moment that it
//! leaves; of a dropped trace no span needs to be remembered, as the verdict answers for all that ever comes. So the
//! settled spans' filters are asked only for spans that come after a kept trace's verdict, and for all others when verdicts
//! had to be forgotten sooner than settled spans are.

mod arena;
mod decide;
mod explain;
mod groups;
mod headers;
mod index;
mod keys;
mod offer;
mod open;
mod pressure;
mod queues;
mod recent;
mod release;
pub mod report;
mod seen;
mod shares;
mod slab;
#[cfg(test)]
mod tests;
mod verdicts;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::groups::Groups;
use self::keys::Keys;
use self::offer::Scopes;
use self::open::{Store, Trace};
use self::queues::{By, ByWeight, Queue};
pub use self::release::Release;
use self::release::Writer;
pub use self::report::{SpanLine, TraceDetails, TraceReport, TraceState, Wanted};
use self::shares::Shares;
use self::verdicts::Verdicts;
use super::cross_cluster::CrossCluster;
use super::dedup::Dedup;
use super::sampling::Sampler;
use crate::config::settings::SamplingMarks;
use crate::model::{Fate, Receipt, Spans, Tick};

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
    /// Caps of one trace: when one is reached the trace is decided at once, and what follows of it is late. Bytes are those
    /// of its spans, and of the resources and scopes that it was the first to need.
    pub max_trace_bytes: u64,
    pub max_trace_spans: u32,
    /// Verdicts to remember; 0: ten times the most open traces there were.
    pub kept_verdicts: usize,
    pub dropped_verdicts: usize,
    /// How long a verdict is remembered, if there is room.
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
    /// Traces decided, by [`Cause::ALL`]; in JSON by [`Cause::label`].
    #[serde(serialize_with = "by_label")]
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

fn by_label<S: serde::Serializer>(decided: &[u64; Cause::ALL.len()], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(Cause::ALL.iter().map(|cause| cause.label()).zip(decided))
}

/// Share of the memory that verdicts may take, at most.
const VERDICTS: u64 = 4;
/// A shard whose next decision is later than this makes those who bring spans decide.
const BEHIND: Duration = Duration::from_millis(100);
/// Traces that are then decided besides as many as were brought.
const CATCH_UP: usize = 8;
/// Spans of decided traces after which a call leaves the rest to the next: of giant traces one takes milliseconds.
const MOST_SPANS: u32 = 4096;

/// One shard: the traces whose ids fall to it.
pub struct Traces {
    bounds: Bounds,
    judges: Arc<Judges>,
    dedup: Option<Arc<Dedup>>,
    keys: Keys,
    store: Store,
    verdicts: Verdicts,
    /// Open traces by the arrival of their first span, which is the order of their deadlines.
    open: Queue,
    /// Those of them whose root is there, by its arrival.
    rooted: Queue,
    by_weight: ByWeight,
    /// Decided traces that can be explained, and those of them with their spans; the oldest verdict first.
    recent: Queue,
    shown: Queue,
    shown_bytes: u64,
    open_spans: u64,
    counts: TracesStatus,
    now: Tick,
    writer: Writer,
    /// Of the batch at hand: receipts without a place yet, scopes, and spans to be copied.
    shares: Shares,
    scopes: Scopes,
    fresh: Vec<u32>,
    groups: Groups,
    /// Traces in the batch at hand.
    came: usize,
}

impl Traces {
    /// `dedup` is present if duplicates are to be dropped. `seed` keys the hashes.
    pub fn new(bounds: Bounds, judges: Arc<Judges>, dedup: Option<Arc<Dedup>>, seed: u64) -> Traces {
        let (kept, dropped, time) = (bounds.kept_verdicts, bounds.dropped_verdicts, bounds.verdict_time);
        Traces {
            keys: Keys::new(seed),
            store: Store::new(bounds.max_bytes),
            verdicts: Verdicts::new(kept, dropped, time, bounds.max_bytes / VERDICTS),
            open: Queue::new(By::Age),
            rooted: Queue::new(By::Root),
            by_weight: ByWeight::new(),
            recent: Queue::new(By::Age),
            shown: Queue::new(By::Weight),
            shown_bytes: 0,
            open_spans: 0,
            counts: TracesStatus::default(),
            now: Tick::ZERO,
            writer: Writer::default(),
            shares: Shares::default(),
            scopes: Scopes::default(),
            fresh: Vec::new(),
            groups: Groups::default(),
            came: 0,
            bounds,
            judges,
            dedup,
        }
    }

    /// Takes custody of the spans at `indexes` (ascending) of `spans`; `receipt` answers for exactly those. Duplicates and
    /// late spans meet their fate here; what must go out at once is appended to `out`.
    pub fn offer(&mut self, spans: &Spans, indexes: &[u32], mut receipt: Receipt, now: Tick, out: &mut Vec<Release>) {
        debug_assert_eq!(indexes.len(), receipt.spans() as usize);
        self.now = self.now.max(now);
        receipt.accept();
        if indexes.is_empty() {
            receipt.resolve(Fate::Duplicate);
            return;
        }
        self.shares.push(receipt);
        let before = self.store.bytes();
        self.take(spans, indexes, out);
        let came = usize::try_from(self.store.bytes().saturating_sub(before)).unwrap_or(usize::MAX);
        self.shares.rest().for_each(drop);
        if self.due_since(self.now).is_some_and(|late| late > BEHIND) {
            self.decide_due(self.came + CATCH_UP, out);
        }
        self.relieve(came, out);
        self.writer.flush(out);
    }

    /// Decides what is due, at most `most` traces and no further one above [`MOST_SPANS`], and appends what is kept
    /// to `out`. True: more is due.
    pub fn advance(&mut self, now: Tick, most: usize, out: &mut Vec<Release>) -> bool {
        self.now = self.now.max(now);
        self.verdicts.expire(self.now);
        self.decide_due(most, out);
        self.relieve(0, out);
        self.writer.flush(out);
        if self.open.len() == 0 {
            self.rest();
        }
        self.due_since(self.now).is_some()
    }

    /// Decides open traces though their time has not come, at most `most`, oldest first. True: some are left.
    pub fn close(&mut self, now: Tick, most: usize, out: &mut Vec<Release>) -> bool {
        self.now = self.now.max(now);
        let mut spans: u32 = 0;
        for _ in 0..most {
            let Some(oldest) = self.open.first().filter(|_| spans < MOST_SPANS) else { break };
            spans = spans.saturating_add(self.store.traces.get(oldest).map_or(0, |trace| trace.spans));
            if self.judges.drop_at_shutdown {
                self.abandon(oldest);
            } else {
                self.decide(oldest, Cause::Shutdown, out);
            }
        }
        self.writer.flush(out);
        self.open.len() > 0
    }

    /// Nothing is open: scratch memory is given back.
    fn rest(&mut self) {
        self.writer = Writer::default();
        self.groups = Groups::default();
        self.scopes = Scopes::default();
        self.fresh = Vec::new();
    }

    /// When the next trace is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.next_due().map(|(due, _, _)| due)
    }

    /// The trace that is due next, when, and why.
    fn next_due(&self) -> Option<(Tick, u32, Cause)> {
        let due = |queue: &Queue| Some((queue.first()?, self.store.traces.get(queue.first()?)?));
        let waited =
            due(&self.open).map(|(number, trace)| (trace.first_seen + self.bounds.wait, number, Cause::Waited));
        let rooted = due(&self.rooted).map(|(number, trace)| (trace.root_due, number, Cause::RootReceived));
        match (waited, rooted) {
            (Some(waited), Some(rooted)) if rooted.0 < waited.0 => Some(rooted),
            (waited, rooted) => waited.or(rooted),
        }
    }

    /// When an open trace is due.
    fn due(&self, trace: &Trace) -> Tick {
        trace.root_due.min(trace.first_seen + self.bounds.wait)
    }

    /// For how long the next trace has been due; `None`: none is.
    fn due_since(&self, now: Tick) -> Option<Duration> {
        self.next_deadline().filter(|due| *due <= now).map(|due| now.since(due))
    }

    fn decide_due(&mut self, most: usize, out: &mut Vec<Release>) {
        let mut spans: u32 = 0;
        for _ in 0..most {
            if spans >= MOST_SPANS {
                break;
            }
            let Some((due, number, cause)) = self.next_due().filter(|(due, _, _)| *due <= self.now) else { break };
            let late = self.now.since(due).as_secs_f64();
            self.counts.latest_decision_seconds = self.counts.latest_decision_seconds.max(late);
            spans = spans.saturating_add(self.store.traces.get(number).map_or(0, |trace| trace.spans));
            self.decide(number, cause, out);
        }
    }

    /// Memory in use, to be counted with the node's.
    pub fn held_bytes(&self) -> u64 {
        let scratch = self.groups.bytes() + self.scopes.bytes() + (self.fresh.capacity() * size_of::<u32>()) as u64;
        self.held() + self.writer.bytes() + scratch + size_of::<Traces>() as u64
    }

    pub fn status(&self, now: Tick) -> TracesStatus {
        let oldest = self.open.first().and_then(|number| self.store.traces.get(number));
        let (kept_verdicts, dropped_verdicts) = self.verdicts.len();
        let late_seconds = self.due_since(now).map_or(0.0, |late| late.as_secs_f64());
        TracesStatus {
            open_traces: self.open.len() as u64,
            open_spans: self.open_spans,
            held_bytes: self.held_bytes(),
            limit_bytes: self.bounds.max_bytes,
            oldest_seconds: oldest.map_or(0.0, |trace| now.since(trace.first_seen).as_secs_f64()),
            late_seconds,
            latest_decision_seconds: self.counts.latest_decision_seconds.max(late_seconds),
            kept_verdicts,
            dropped_verdicts,
            verdicts_seconds: self.verdicts.reach(now).as_secs_f64(),
            ..self.counts.clone()
        }
    }
}
