//! What a pipeline does to a batch before it leaves: a closed list of stages, each a plain call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::sampler::ProbabilisticSampler;
use crate::config::settings::MemoryLimiterSettings;
use crate::logic::dedup::Dedup;
use crate::model::{Batch, Fate, Reason, Refusal};
use crate::runtime::clock::Clock;
use crate::wire::{self, ResourceEdits};

/// One stage.
pub enum Stage {
    MemoryLimiter(Arc<MemoryLimiter>),
    Resource(ResourceEdits),
    SpanDedup(SpanDedup),
    ProbabilisticSampler(Arc<ProbabilisticSampler>),
}

impl Stage {
    /// The batch for the next stage; `None` when all of its spans have met their fate here.
    pub fn apply(&self, batch: Batch) -> Option<Batch> {
        match self {
            Stage::MemoryLimiter(limiter) => limiter.apply(batch),
            Stage::Resource(edits) => Some(edited(batch, edits)),
            Stage::SpanDedup(dedup) => dedup.apply(batch),
            Stage::ProbabilisticSampler(sampler) => sampler.apply(batch),
        }
    }
}

/// `memory_limiter`: refuses while the node holds more bytes than it may.
///
/// Two thresholds. Local senders are refused at the soft one, other nodes only at the hard one: what a peer forwards
/// was accepted from a sender already, and refusing it first would fill the mesh while senders are still let in. The
/// sum is exact at every moment (see [`crate::model::Budget`]), so there is no interval to overshoot in.
pub struct MemoryLimiter {
    settings: MemoryLimiterSettings,
    refused_spans: AtomicU64,
}

impl MemoryLimiter {
    pub fn new(settings: MemoryLimiterSettings) -> MemoryLimiter {
        MemoryLimiter { settings, refused_spans: AtomicU64::new(0) }
    }

    /// Spans refused so far.
    pub fn refused_spans(&self) -> u64 {
        self.refused_spans.load(Relaxed)
    }

    fn apply(&self, batch: Batch) -> Option<Batch> {
        let limit = if batch.hops == 0 { self.settings.soft_limit_bytes } else { self.settings.limit_bytes };
        // The batch's own bytes are in the sum.
        if batch.held.budget().bytes() <= limit {
            return Some(batch);
        }
        self.refused_spans.fetch_add(u64::from(batch.receipt.spans()), Relaxed);
        batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::MemoryLimit)));
        None
    }
}

fn edited(mut batch: Batch, edits: &ResourceEdits) -> Batch {
    batch.spans = wire::edit_resources(&batch.spans, edits);
    batch.held.resize(batch.spans.bytes.len());
    batch
}

/// `span_dedup`: true duplicates end here; the others are remembered once their fate is known.
pub struct SpanDedup {
    pub dedup: Arc<Dedup>,
    pub clock: Clock,
}

impl SpanDedup {
    fn apply(&self, mut batch: Batch) -> Option<Batch> {
        let admitted = self.dedup.admit(&batch.spans, self.clock.now());
        if admitted.duplicates.len() == batch.spans.len() {
            batch.receipt.resolve(Fate::Duplicate);
            return None;
        }
        if !admitted.duplicates.is_empty() {
            let count = u32::try_from(admitted.duplicates.len()).unwrap_or(u32::MAX);
            batch.receipt.split(count).resolve(Fate::Duplicate);
            let mut duplicates = admitted.duplicates.iter().map(|&index| index as usize).peekable();
            // Both run in ascending order.
            batch.spans = wire::select(&batch.spans, |index| duplicates.next_if_eq(&index).is_none());
            batch.held.resize(batch.spans.bytes.len());
        }
        let (dedup, clock) = (self.dedup.clone(), self.clock);
        let keys = admitted.keys;
        batch.receipt = batch.receipt.watch(move |fate| dedup.settle(&keys, fate, clock.now()));
        Some(batch)
    }
}

#[cfg(test)]
mod tests;
