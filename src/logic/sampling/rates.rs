//! Limits over time: a bucket of tokens, and counts of the running second.
//!
//! Both hold for the node and not for a shard of it, whatever the number of shards: a limit that each of them had for
//! itself would let through a multiple of it. So the state is behind a lock, which is taken once for a trace that comes
//! so far and held for a few additions.
//!
//! Shards read their clocks by themselves, so the time may come in slightly out of order; it is never turned back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Tick;

const SECOND: u64 = 1_000_000_000;

/// Nothing is left half done under these locks.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket as that of Go's `golang.org/x/time/rate`, which the Collector uses: full at first, filled evenly, never
/// above `burst`. Who asks for more than is there gets nothing and takes nothing, so what is larger than `burst` never
/// passes.
pub(super) struct Bucket {
    per_second: u64,
    burst: u64,
    level: Mutex<Level>,
}

struct Level {
    /// In billionths, so that no rounding adds up.
    tokens: u128,
    /// `None`: nobody has asked yet.
    filled: Option<Tick>,
}

impl Bucket {
    pub(super) fn new(per_second: u64, burst: u64) -> Bucket {
        Bucket { per_second, burst, level: Mutex::new(Level { tokens: 0, filled: None }) }
    }

    /// Takes so many tokens if they are there.
    pub(super) fn take(&self, tokens: u64, now: Tick) -> bool {
        let full = u128::from(self.burst) * u128::from(SECOND);
        let wanted = u128::from(tokens) * u128::from(SECOND);
        let mut level = lock(&self.level);
        level.tokens = match level.filled {
            None => full,
            Some(filled) => {
                let gained = u128::from(now.0.saturating_sub(filled.0)) * u128::from(self.per_second);
                level.tokens.saturating_add(gained).min(full)
            }
        };
        level.filled = level.filled.max(Some(now));
        let enough = wanted <= level.tokens;
        if enough {
            level.tokens -= wanted;
        }
        enough
    }
}

/// Spans that several parts have passed in the running second, and all of them together: the Collector's `composite`
/// counts by seconds of the clock, not with a bucket.
pub(super) struct Seconds {
    total: u64,
    passed: Mutex<Passed>,
}

struct Passed {
    second: u64,
    total: u64,
    parts: Vec<u64>,
}

impl Seconds {
    /// At most `total` spans a second for all of so many parts.
    pub(super) fn new(total: u64, parts: usize) -> Seconds {
        Seconds { total, passed: Mutex::new(Passed { second: 0, total: 0, parts: vec![0; parts] }) }
    }

    /// Counts so many spans for a part if the part stays within `limit` with them, and all parts within theirs.
    pub(super) fn pass(&self, part: usize, limit: u64, spans: u64, now: Tick) -> bool {
        let mut passed = lock(&self.passed);
        let second = now.0 / SECOND;
        if second > passed.second {
            passed.second = second;
            passed.total = 0;
            passed.parts.fill(0);
        }
        let total = passed.total.saturating_add(spans);
        let of_part = passed.parts[part].saturating_add(spans);
        let fits = of_part <= limit && total <= self.total;
        if fits {
            passed.total = total;
            passed.parts[part] = of_part;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick(millis * 1_000_000)
    }

    #[test]
    fn a_bucket_is_full_at_first_and_fills_evenly() {
        let bucket = Bucket::new(10, 20);
        assert!(bucket.take(20, at(5_000)));
        assert!(!bucket.take(1, at(5_000)));
        assert!(!bucket.take(1, at(5_099)));
        assert!(bucket.take(1, at(5_100)));
        assert!(!bucket.take(20, at(7_099)), "not yet full again");
        assert!(bucket.take(20, at(7_100)));
    }

    #[test]
    fn a_bucket_holds_no_more_than_its_burst() {
        let bucket = Bucket::new(10, 20);
        assert!(!bucket.take(21, at(0)), "more than the burst never passes");
        assert!(!bucket.take(21, at(1_000_000)));
        assert!(bucket.take(20, at(1_000_000)), "and has taken nothing");
    }

    #[test]
    fn a_bucket_without_a_rate_is_emptied_once() {
        let bucket = Bucket::new(0, 2);
        assert!(bucket.take(2, at(0)));
        assert!(!bucket.take(1, at(u64::MAX / 1_000_000)));
    }

    #[test]
    fn time_that_comes_out_of_order_fills_nothing_twice() {
        let bucket = Bucket::new(10, 10);
        assert!(bucket.take(10, at(2_000)));
        assert!(!bucket.take(1, at(1_000)));
        assert!(bucket.take(1, at(2_100)));
        assert!(!bucket.take(1, at(2_100)));
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let bucket = Bucket::new(u64::MAX, u64::MAX);
        assert!(bucket.take(u64::MAX, Tick(0)));
        assert!(bucket.take(u64::MAX, Tick(u64::MAX)));
        let seconds = Seconds::new(u64::MAX, 1);
        assert!(seconds.pass(0, u64::MAX, u64::MAX, Tick(u64::MAX)));
        assert!(seconds.pass(0, u64::MAX, u64::MAX, Tick(u64::MAX)), "a sum stops at the greatest number");
    }

    #[test]
    fn seconds_begin_anew_and_never_again() {
        let seconds = Seconds::new(10, 2);
        assert!(seconds.pass(0, 6, 6, at(1_900)));
        assert!(!seconds.pass(0, 6, 1, at(1_999)), "its own share");
        assert!(!seconds.pass(1, 6, 5, at(1_999)), "that of all");
        assert!(seconds.pass(1, 6, 4, at(1_999)));
        assert!(seconds.pass(0, 6, 6, at(2_000)));
        assert!(!seconds.pass(0, 6, 1, at(1_999)), "a late shard counts for the second that runs");
    }
}
