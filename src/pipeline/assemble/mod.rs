//! The stage that waits for whole traces: `groupbytrace`, `cross_cluster` and `tail_sampling` of one pipeline in one
//! buffer.
//!
//! In the Collector each of them holds every span for itself, one after the other. Here the processors that stand side by
//! side in a pipeline are one stage with one buffer, one wait and one bound in bytes; and a `span_dedup` in front of
//! them gives its machine to the buffer, where a duplicate is found among the spans of its own trace.
//!
//! The rule of custody: **a batch is taken whole or not at all.** Whether it is taken is known before any span of it is
//! (the buffer is not closing, not too much of what was kept waits for exporters); from then on nothing is refused, and
//! what the next stage refuses waits and is offered again ([`release`]). So a sender's retry is never one of spans
//! that are here already.
//!
//! - [`settings`]: what the processors ask for together. [`shards`]: traces divided over locks.
//! - [`decide`]: the thread that keeps the time. [`release`]: the way out. [`status`]: the counts.

mod decide;
mod release;
mod settings;
mod shards;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use tracing::warn;

use self::decide::Decider;
pub use self::decide::Failures;
use self::release::Exit;
pub use self::settings::AssembleSettings;
use self::shards::Shards;
pub use self::status::AssembleStatus;
use super::Consume;
use crate::config::settings::ComponentId;
use crate::logic::cross_cluster::CrossCluster;
use crate::logic::dedup::Dedup;
use crate::logic::sampling::Sampler;
use crate::logic::traces::{Judges, Release, TraceReport, Traces, TracesStatus, Wanted};
use crate::model::{Batch, Budget, Fate, Reason, Refusal, Tick, TraceId};
use crate::runtime::clock::Clock;

/// How long after the deadline of its stop the buffer may take to give up what is in it: it is only counting then.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the trace buffer takes from the node.
#[derive(Clone)]
pub struct Surroundings {
    pub clock: Clock,
    pub budget: Budget,
    /// Keys the hashes; never leaves the node.
    pub seed: u64,
    /// `cluster/node` of this node.
    pub owner: String,
    pub failures: Failures,
}

/// The trace buffer of one pipeline.
pub struct Assemble {
    pipeline: ComponentId,
    clock: Clock,
    limit_bytes: u64,
    /// How long the thread may sleep while no trace is open.
    idle: Duration,
    shards: Shards,
    exit: Arc<Exit>,
    judges: Arc<Judges>,
    refused_spans: AtomicU64,
    /// Nothing new is taken.
    closed: AtomicBool,
    /// Threads that are taking a batch.
    inside: AtomicU64,
    decider: Arc<Decider>,
}

impl Assemble {
    /// Starts the buffer's thread; it ends with [`Assemble::stop`]. `dedup` is the machine of `settings.dedup`.
    pub fn start(
        pipeline: ComponentId,
        settings: &AssembleSettings,
        dedup: Option<Arc<Dedup>>,
        node: Surroundings,
        next: Arc<dyn Consume>,
    ) -> std::io::Result<Arc<Assemble>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::start_with(pipeline, settings, dedup, node, next, settings.shards(cores))
    }

    fn start_with(
        pipeline: ComponentId,
        settings: &AssembleSettings,
        dedup: Option<Arc<Dedup>>,
        node: Surroundings,
        next: Arc<dyn Consume>,
        shards: usize,
    ) -> std::io::Result<Arc<Assemble>> {
        let Surroundings { clock, budget, seed, owner, failures } = node;
        let judges = Arc::new(Judges {
            cross_cluster: settings.cross_cluster.as_ref().map(|settings| Arc::new(CrossCluster::new(settings))),
            write_crossings: settings.cross_cluster.as_ref().is_some_and(|settings| settings.write_attributes),
            sampler: settings.sampling.as_ref().map(|settings| Arc::new(Sampler::new(settings))),
            dry_run: settings.sampling.as_ref().is_some_and(|settings| settings.dry_run),
            marks: settings.marks(),
            owner,
            drop_at_shutdown: settings.sampling.as_ref().is_some_and(|s| s.drop_pending_traces_on_shutdown),
        });
        let bounds = settings.bounds(shards);
        let after_root = Some(bounds.wait_after_root).filter(|wait| !wait.is_zero());
        let soonest = after_root.map_or(bounds.wait, |wait| wait.min(bounds.wait));
        let shards =
            Shards::new(shards, seed, &budget, |seed| Traces::new(bounds.clone(), judges.clone(), dedup.clone(), seed));
        let assemble = Arc::new(Assemble {
            pipeline,
            clock,
            limit_bytes: settings.limit_bytes(),
            idle: decide::idle(soonest),
            shards,
            exit: Exit::new(next, dedup, clock, budget),
            judges,
            refused_spans: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            inside: AtomicU64::new(0),
            decider: Decider::new(failures),
        });
        Decider::start(assemble.decider.clone(), Arc::downgrade(&assemble))?;
        Ok(assemble)
    }

    /// Takes nothing more, decides all open traces and sends on what is kept, until `until`; what the next stage has not
    /// taken by then is dropped. Returns how many spans that were. A second call only waits.
    pub async fn stop(&self, until: Tick) -> u64 {
        self.closed.store(true, SeqCst);
        let patience = self.clock.instant(until.max(self.clock.now()) + PATIENCE);
        self.decider.stop(until, patience).await;
        let lost = self.unsettled_spans();
        if lost > 0 {
            warn!(pipeline = self.pipeline, spans = lost, "spans of whole traces that no exporter took are given up");
        }
        lost
    }

    /// Spans that were given up since the stop, and those that it did not come to. More can become of what the next stage
    /// had taken and not answered for.
    pub fn unsettled_spans(&self) -> u64 {
        let open = if self.decider.has_ended() { 0 } else { self.traces().open_spans };
        self.exit.given_up_spans() + open
    }

    pub fn status(&self) -> AssembleStatus {
        AssembleStatus {
            pipeline: self.pipeline.clone(),
            traces: self.traces(),
            waiting_bytes: self.exit.parked_bytes(),
            refused_spans: self.refused_spans.load(Relaxed),
            policies: self.judges.sampler.as_ref().map(|sampler| sampler.status()).unwrap_or_default(),
            cross_cluster: self.judges.cross_cluster.as_ref().map(|cross_cluster| cross_cluster.status()),
        }
    }

    /// How far back verdicts are remembered, in seconds.
    pub fn remembers_seconds(&self) -> f64 {
        self.traces().verdicts_seconds
    }

    fn traces(&self) -> TracesStatus {
        let now = self.clock.now();
        let shards = (0..self.shards.len()).filter_map(|shard| self.shards.lock(shard));
        status::sum(shards.map(|shard| shard.traces.status(now)))
    }

    /// What the buffer knows of a trace; `None`: nothing.
    pub fn report(&self, trace: &TraceId, wanted: Wanted) -> Option<TraceReport> {
        let shard = self.shards.lock(self.shards.of(trace))?;
        shard.traces.report(trace, wanted, self.clock.now())
    }

    /// Why no batch can be taken now. Peers' spans have a share that local senders cannot take: they were accepted
    /// somewhere already.
    fn refusal(&self, hops: u8) -> Option<Reason> {
        let share = self.limit_bytes / 4;
        let waiting = self.exit.parked_bytes();
        if self.closed.load(SeqCst) {
            Some(Reason::ShuttingDown)
        } else if self.shards.is_broken() {
            Some(Reason::Internal)
        } else if waiting > if hops == 0 { share } else { share + share / 2 } {
            Some(Reason::QueueFull)
        } else if self.shards.held_bytes() > self.limit_bytes + share {
            Some(Reason::MemoryLimit)
        } else {
            None
        }
    }

    /// Hands the batch's spans to their shards; what must go out at once is returned.
    fn take(&self, batch: Batch) -> Vec<Release> {
        let Batch { spans, receipt, held, .. } = batch;
        let (sorted, mut out) = (self.shards.sort(&spans), Vec::new());
        let (mut receipt, mut left) = (Some(receipt), sorted.parts().len());
        for (shard, indexes) in sorted.parts() {
            left -= 1;
            // The last part answers for all that is left, so that no span goes without an answer.
            let count = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
            let share = if left > 0 { receipt.as_mut().map(|all| all.split(count)) } else { receipt.take() };
            let Some(share) = share else { break };
            let part = (&spans, indexes);
            if let Err(share) = self.shards.offer(shard, part, share, || self.clock.now(), &mut out) {
                share.resolve(Fate::Refused(Refusal::passing(Reason::Internal)));
            }
        }
        drop(held);
        out
    }
}

impl Consume for Assemble {
    fn consume(&self, batch: Batch) {
        let _inside = Inside::of(&self.inside);
        if let Some(reason) = self.refusal(batch.hops) {
            self.refused_spans.fetch_add(u64::from(batch.receipt.spans()), Relaxed);
            return batch.receipt.resolve(Fate::Refused(Refusal::passing(reason)));
        }
        if batch.spans.is_empty() {
            return batch.receipt.resolve(Fate::Exported);
        }
        let releases = self.take(batch);
        let any = !releases.is_empty();
        releases.into_iter().for_each(|release| self.exit.send(release));
        if any && self.exit.parked_bytes() > 0 {
            self.decider.wake();
        }
    }
}

impl Drop for Assemble {
    fn drop(&mut self) {
        self.decider.leave();
    }
}

/// A thread that is taking a batch: the buffer is not closed before it has gone.
struct Inside<'a>(&'a AtomicU64);

impl<'a> Inside<'a> {
    fn of(count: &'a AtomicU64) -> Inside<'a> {
        count.fetch_add(1, SeqCst);
        Inside(count)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests;
