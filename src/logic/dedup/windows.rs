//! What is settled, in filters that follow each other in time.
//!
//! The newest filter takes what is settled now; it is succeeded when its slice of the window is over *or* when it is
//! full, so none is ever past its design load, whatever the load does. The successor is sized by the rate just seen.
//! When the memory is used up the oldest goes early: the window is shorter then, and says so.

use std::collections::VecDeque;
use std::time::Duration;

use super::filter::{FILL, Filter, LINE_BYTES};
use crate::model::Tick;

/// Parts of the window. More of them mean less memory beyond the window and more look-ups; with two, a span is
/// remembered for 1 to 1.5 windows, in three filters.
const SLICES: u32 = 2;
/// Smallest filter: what one that has not seen a rate yet begins with.
const FIRST_BYTES: usize = 16 * 1024;
/// A filter has at most this many times its predecessor's keys: a short burst must not claim the memory for minutes.
const GROWTH: usize = 16;
/// Reserve over the rate just seen.
const RESERVE: f64 = 1.25;
/// Filters at once: a bound on the cost of a look-up while the rate climbs.
const MAX_FILTERS: usize = 12;

struct Generation {
    filter: Filter,
    begun: Tick,
    /// When the last key came in.
    last: Tick,
}

pub(super) struct Windows {
    /// How long a key is to be remembered.
    keep: Duration,
    max_bytes: usize,
    /// The newest is the last.
    generations: VecDeque<Generation>,
    /// When the youngest key was settled that had to be forgotten early.
    forgotten: Option<Tick>,
}

impl Windows {
    /// At least 64 KiB are used, though `max_bytes` be less.
    pub(super) fn new(keep: Duration, max_bytes: usize) -> Windows {
        let max_bytes = max_bytes.max(4 * FIRST_BYTES);
        Windows { keep, max_bytes, generations: VecDeque::new(), forgotten: None }
    }

    /// Drops what is older than the window.
    pub(super) fn expire(&mut self, now: Tick) {
        while self.generations.front().is_some_and(|oldest| now.since(oldest.last) > self.keep) {
            self.generations.pop_front();
        }
    }

    /// For each key, whether it is remembered, as bits from the lowest on. At most 64 keys.
    pub(super) fn contain(&self, keys: &[u128]) -> u64 {
        for generation in &self.generations {
            keys.iter().for_each(|key| generation.filter.touch(*key));
        }
        let mut known = 0;
        for generation in &self.generations {
            for (bit, key) in keys.iter().enumerate() {
                known |= u64::from(generation.filter.contains(*key)) << bit;
            }
        }
        known
    }

    /// The keys are not in any of the filters.
    pub(super) fn remember(&mut self, keys: &[u128], now: Tick) {
        if let Some(newest) = self.generations.back() {
            keys.iter().for_each(|key| newest.filter.touch(*key));
        }
        let slice = (self.keep / SLICES).max(Duration::from_millis(1));
        for key in keys {
            if let Some(newest) = self.generations.back_mut().filter(|newest| now.since(newest.begun) < slice)
                && newest.filter.insert(*key)
            {
                newest.last = now;
            } else {
                let mut filter = self.successor(slice, now);
                filter.insert(*key);
                self.generations.push_back(Generation { filter, begun: now, last: now });
            }
        }
    }

    fn successor(&mut self, slice: Duration, now: Tick) -> Filter {
        let first = FIRST_BYTES / LINE_BYTES * FILL;
        let keys = self.generations.back().map_or(first, |newest| {
            let seconds = now.since(newest.begun).as_secs_f64().max(1e-3);
            let expected = newest.filter.keys() as f64 / seconds * slice.as_secs_f64() * RESERVE;
            (expected as usize).clamp(first, GROWTH * newest.filter.capacity())
        });
        // A third each: two full ones and the one being filled.
        let filter = Filter::new(keys, self.max_bytes / (SLICES as usize + 1));
        while self.generations.len() >= MAX_FILTERS || self.bytes() + filter.bytes() > self.max_bytes {
            let Some(oldest) = self.generations.pop_front() else { break };
            self.forgotten = Some(oldest.last);
        }
        filter
    }

    pub(super) fn bytes(&self) -> usize {
        self.generations.iter().map(|generation| generation.filter.bytes()).sum()
    }

    pub(super) fn keys(&self) -> usize {
        self.generations.iter().map(|generation| generation.filter.keys()).sum()
    }

    /// Keys in the newest filter, and its design load.
    pub(super) fn load(&self) -> (usize, usize) {
        self.generations.back().map_or((0, 0), |newest| (newest.filter.keys(), newest.filter.capacity()))
    }

    /// The chance that a stranger is found in one of them.
    pub(super) fn error_ratio(&self) -> f64 {
        self.generations.iter().map(|generation| generation.filter.error_ratio()).sum()
    }

    /// How far back all is remembered.
    pub(super) fn reach(&self, now: Tick) -> Duration {
        self.forgotten.map_or(self.keep, |at| now.since(at).min(self.keep))
    }
}
