//! The stage `probabilistic_sampler`: span by span, without waiting for the whole trace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::settings::ProbabilisticSamplerSettings;
use crate::logic::sampler::{Decision, Sampler};
use crate::model::{Batch, Fate, SpanEntry};
use crate::wire::{self, SpanEdits};

/// Spans that are not kept meet their fate here; those that are go on with what the sampler wrote into them.
pub struct ProbabilisticSampler {
    sampler: Sampler,
    dropped_spans: AtomicU64,
    error_spans: AtomicU64,
}

impl ProbabilisticSampler {
    pub fn new(settings: &ProbabilisticSamplerSettings) -> ProbabilisticSampler {
        ProbabilisticSampler {
            sampler: Sampler::new(settings),
            dropped_spans: AtomicU64::new(0),
            error_spans: AtomicU64::new(0),
        }
    }

    /// Spans dropped so far.
    pub fn dropped_spans(&self) -> u64 {
        self.dropped_spans.load(Relaxed)
    }

    /// Spans so far whose earlier sampling made no sense (see [`Decision::error`]).
    pub fn error_spans(&self) -> u64 {
        self.error_spans.load(Relaxed)
    }

    pub(super) fn apply(&self, mut batch: Batch) -> Option<Batch> {
        let spans = &batch.spans;
        let decide = |span: &SpanEntry| self.sampler.decide(&span.trace_id, span.body().of(&spans.bytes));
        let decisions: Vec<Decision> = spans.spans.iter().map(decide).collect();
        self.error_spans.fetch_add(decisions.iter().filter(|decision| decision.error).count() as u64, Relaxed);
        let dropped = decisions.iter().filter(|decision| !decision.keep).count();
        self.dropped_spans.fetch_add(dropped as u64, Relaxed);
        if dropped == decisions.len() {
            batch.receipt.resolve(Fate::SampledOut);
            return None;
        }
        if dropped > 0 {
            let count = u32::try_from(dropped).unwrap_or(u32::MAX);
            batch.receipt.split(count).resolve(Fate::SampledOut);
        }
        if dropped > 0 || decisions.iter().any(|decision| decision.trace_state.is_some()) {
            batch.spans = wire::rewrite(&batch.spans, |index| {
                let decision = decisions.get(index).filter(|decision| decision.keep)?;
                Some(SpanEdits { trace_state: decision.trace_state.as_deref(), attributes: &[] })
            });
            batch.held.resize(batch.spans.bytes.len());
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests;
