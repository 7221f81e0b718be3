//! The shards of a trace buffer: which trace falls to which, and who may look at one.
//!
//! A trace is wholly in one shard, chosen by a hash with a key of its own: of the traces that the ring gave this node,
//! and of the buckets inside a shard, no pattern is left in it. Each shard has a lock, held for one batch's spans or
//! for one small step of decisions.
//!
//! **Fairness.** The standard library's lock wakes a waiter and lets a thread that comes along in between have the lock
//! first. So under a flood of batches the thread that decides could lose every race. Therefore whoever has brought
//! spans to a shard and finds decisions overdue makes some of them itself ([`Shards::offer`]): the more the
//! thread is kept out, the more is decided by those who keep it out.
//!
//! **Panics.** What a panic leaves behind in a shard may be anything, and a lock that was held is poisoned: such a
//! shard is not used any more, and the node stops (see [`super::decide`]).

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::logic::traces::{Release, Traces};
use crate::model::{Budget, Held, Receipt, Spans, Tick, TraceId};

/// Decisions later than this are made by whoever comes to the shard. The thread is never so late unless it is kept out.
const OVERDUE: Duration = Duration::from_millis(200);
/// How many of them each, so that nobody's request waits for all.
const HELP: usize = 16;
/// Apart from what other stages make of the node's seed.
const SEED: u64 = 0x7472_6163_6573_2e31;

pub(super) struct Shards {
    seed: u64,
    shards: Vec<Mutex<Shard>>,
    /// All shards' memory together.
    held: Budget,
}

pub(super) struct Shard {
    pub(super) traces: Traces,
    /// In the node's budget, and in that of the buffer.
    counted: [Held; 2],
}

/// Indexes of a batch's spans by shard, ascending within each.
pub(super) struct Sorted {
    order: Vec<u32>,
    /// (shard, end in `order`), of shards that have spans.
    ends: Vec<(usize, usize)>,
}

impl Shards {
    /// `make` is given each shard's seed.
    pub(super) fn new(count: usize, seed: u64, budget: &Budget, mut make: impl FnMut(u64) -> Traces) -> Shards {
        let mut seeds = ChaCha8Rng::seed_from_u64(seed ^ SEED);
        let (seed, held) = (seeds.next_u64(), Budget::default());
        let shard = |_| {
            let mut shard = Shard { traces: make(seeds.next_u64()), counted: [budget.hold(0), held.hold(0)] };
            shard.count();
            Mutex::new(shard)
        };
        let shards = (0..count.max(1)).map(shard).collect();
        Shards { seed, shards, held }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Memory of all shards.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// The shard of a trace.
    pub(super) fn of(&self, trace: &TraceId) -> usize {
        let hash = u128::from(xxh3_64_with_seed(&trace.0, self.seed));
        ((hash * self.shards.len() as u128) >> 64) as usize
    }

    /// `None`: something panicked there.
    pub(super) fn lock(&self, shard: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards[shard].lock().ok()
    }

    /// Whether something panicked in one of them.
    pub(super) fn is_broken(&self) -> bool {
        self.shards.iter().any(Mutex::is_poisoned)
    }

    /// Sorts a batch's spans.
    pub(super) fn sort(&self, spans: &Spans) -> Sorted {
        let all = spans.len();
        if self.shards.len() == 1 {
            let ends = if all == 0 { Vec::new() } else { vec![(0, all)] };
            return Sorted { order: (0..all as u32).collect(), ends };
        }
        // Spans of a trace mostly come side by side.
        let mut last = (TraceId::default(), self.of(&TraceId::default()));
        let mut shard_of = |trace: TraceId| {
            if trace != last.0 {
                last = (trace, self.of(&trace));
            }
            last.1
        };
        let mut next = vec![0; self.shards.len()];
        spans.spans.iter().for_each(|span| next[shard_of(span.trace_id)] += 1);
        let (mut ends, mut sum) = (Vec::new(), 0);
        for (shard, slot) in next.iter_mut().enumerate() {
            let count = std::mem::replace(slot, sum);
            sum += count;
            if count > 0 {
                ends.push((shard, sum));
            }
        }
        let mut order = vec![0; all];
        for (index, span) in spans.spans.iter().enumerate() {
            let slot = &mut next[shard_of(span.trace_id)];
            order[*slot] = index as u32;
            *slot += 1;
        }
        Sorted { order, ends }
    }

    /// Gives a shard the spans at `indexes`, and makes some of its decisions if they are overdue. `Err`: the shard is
    /// broken, nothing was taken.
    pub(super) fn offer(
        &self,
        shard: usize,
        (spans, indexes): (&Spans, &[u32]),
        receipt: Receipt,
        now: impl Fn() -> Tick,
        out: &mut Vec<Release>,
    ) -> Result<(), Receipt> {
        let Some(mut shard) = self.lock(shard) else { return Err(receipt) };
        // Asked under the lock, so that a shard's time never goes back.
        let now = now();
        shard.traces.offer(spans, indexes, receipt, now, out);
        if shard.traces.next_deadline().is_some_and(|due| now.since(due) > OVERDUE) {
            shard.traces.advance(now, HELP, out);
        }
        shard.count();
        Ok(())
    }
}

impl Shard {
    /// Counts the memory in use; to be called after every change.
    pub(super) fn count(&mut self) {
        let bytes = usize::try_from(self.traces.held_bytes()).unwrap_or(usize::MAX);
        self.counted.iter_mut().for_each(|held| held.resize(bytes));
    }
}

impl Sorted {
    /// (shard, indexes) of each shard that has spans.
    pub(super) fn parts(&self) -> impl ExactSizeIterator<Item = (usize, &[u32])> {
        let mut begin = 0;
        self.ends.iter().map(move |&(shard, end)| {
            let indexes = &self.order[begin..end];
            begin = end;
            (shard, indexes)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::export::testing;
    use crate::logic::traces::Judges;
    use crate::pipeline::assemble::AssembleSettings;

    fn shards(count: usize, seed: u64) -> Shards {
        let bounds = AssembleSettings::default().bounds(count);
        Shards::new(count, seed, &Budget::default(), |seed| {
            Traces::new(bounds.clone(), Arc::new(Judges::default()), None, seed)
        })
    }

    fn some_spans() -> Spans {
        let names: Vec<String> = (0..1_000).map(|name| name.to_string()).collect();
        testing::spans(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn every_span_goes_once_to_the_shard_of_its_trace_and_in_order() {
        let spans = some_spans();
        for count in [1, 2, 5, 16] {
            let shards = shards(count, 7);
            let sorted = shards.sort(&spans);
            let mut seen = Vec::new();
            for (shard, indexes) in sorted.parts() {
                assert!(!indexes.is_empty() && indexes.is_sorted());
                assert!(indexes.iter().all(|index| shards.of(&spans.spans[*index as usize].trace_id) == shard));
                seen.extend_from_slice(indexes);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..1_000).collect::<Vec<u32>>());
        }
        assert_eq!(shards(4, 7).sort(&Spans::default()).parts().len(), 0);
    }

    #[test]
    fn traces_spread_over_all_shards_and_another_seed_spreads_them_otherwise() {
        let spans = some_spans();
        let (one, other) = (shards(8, 1), shards(8, 2));
        let sizes: Vec<usize> = one.sort(&spans).parts().map(|(_, indexes)| indexes.len()).collect();
        assert_eq!(sizes.len(), 8);
        // 125 each, and a standard deviation of 10.
        assert!(sizes.iter().all(|size| (75..175).contains(size)), "{sizes:?}");
        let same = spans.spans.iter().filter(|span| one.of(&span.trace_id) == other.of(&span.trace_id)).count();
        assert!(same < 250, "{same}");
    }

    #[test]
    fn a_shard_in_which_something_panicked_takes_nothing() {
        let shards = shards(1, 7);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = shards.lock(0);
            std::panic::resume_unwind(Box::new("on purpose"));
        }));
        assert!(panicked.is_err() && shards.is_broken());
        let sender = crate::pipeline::testing::Watched::default();
        let (spans, receipt) = (testing::spans(&["a"]), sender.receipt(1));
        let offered = shards.offer(0, (&spans, &[0]), receipt, || Tick::ZERO, &mut Vec::new());
        let receipt = offered.unwrap_err();
        assert_eq!(sender.finished(), None);
        receipt.resolve(crate::model::Fate::Exported);
    }
}
