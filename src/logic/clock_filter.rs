//! How far a peer's clock is from this node's, out of a few exchanges of timestamps.
//!
//! Spans carry the time of the cluster that made them, so a cluster whose clock is wrong breaks every view across
//! clusters: children before their parents, negative network times. Nothing here mends that; it says by how much.
//!
//! One exchange gives four times, as in NTP (RFC 5905 §8): asked at t1, heard at t2, answered at t3, heard back at t4.
//! If both ways took equally long, the peer is ((t2-t1)+(t3-t4))/2 ahead; if they did not, that is wrong by at most
//! half of the round trip. So of the last eight exchanges the one with the shortest round trip is believed: the idea of
//! NTP's clock filter (RFC 5905 §10). Its dispersions, which weigh old samples down by the drift of a bad oscillator,
//! are left out: eight samples are little more than a minute, in which 50 ppm drift by 4 ms. What does matter is a clock
//! that is *set*: then the newest exchange contradicts the best one (their bounds do not meet), and the old ones go.
//!
//! A peer may claim any time. The sums are wide enough for that, and an answer that says it was prepared for longer than
//! the whole exchange took counts for nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::UnixNanos;

/// Exchanges remembered: the length of NTP's clock filter.
const SAMPLES: usize = 8;

/// One exchange, as the asker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// By the asker's clock.
    pub asked: UnixNanos,
    /// These two by the peer's clock.
    pub heard: UnixNanos,
    pub answered: UnixNanos,
    /// From the question to its answer, by a clock that nobody sets.
    pub took: Duration,
}

/// A peer's clock minus this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// Positive: the peer is ahead.
    pub nanos: i64,
    /// The truth is at most so far from it, either way.
    pub error_nanos: u64,
}

impl ClockOffset {
    pub fn seconds(self) -> f64 {
        self.nanos as f64 / 1e9
    }

    pub fn error_seconds(self) -> f64 {
        self.error_nanos as f64 / 1e9
    }

    /// Whether the clocks are certainly further apart than this.
    pub fn exceeds(self, limit: Duration) -> bool {
        let apart = u128::from(self.nanos.unsigned_abs());
        apart > limit.as_nanos().saturating_add(u128::from(self.error_nanos))
    }

    /// Whether one true offset can explain both.
    fn agrees(self, other: ClockOffset) -> bool {
        let apart = i128::from(self.nanos) - i128::from(other.nanos);
        apart.unsigned_abs() <= u128::from(self.error_nanos) + u128::from(other.error_nanos)
    }
}

impl Exchange {
    /// What this exchange alone says; `None`: its times cannot be.
    pub fn offset(self) -> Option<ClockOffset> {
        let took = u64::try_from(self.took.as_nanos()).ok()?;
        let prepared = self.answered.0.checked_sub(self.heard.0).filter(|prepared| *prepared <= took)?;
        let (asked, back) = (i128::from(self.asked.0), i128::from(self.asked.0) + i128::from(took));
        let nanos = ((i128::from(self.heard.0) - asked) + (i128::from(self.answered.0) - back)) / 2;
        let nanos = i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX });
        Some(ClockOffset { nanos, error_nanos: (took - prepared).div_ceil(2) })
    }
}

/// The last exchanges with one peer.
#[derive(Clone, Debug, Default)]
pub struct ClockFilter {
    /// Newest last.
    samples: VecDeque<ClockOffset>,
}

impl ClockFilter {
    /// Counts an exchange in.
    pub fn add(&mut self, exchange: Exchange) {
        let Some(sample) = exchange.offset() else { return };
        if self.best().is_some_and(|best| !best.agrees(sample)) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The exchange with the shortest round trip, the newest of equal ones.
    pub fn best(&self) -> Option<ClockOffset> {
        self.samples.iter().rev().min_by_key(|sample| sample.error_nanos).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const NOW: u64 = 1_800_000_000_000_000_000;

    /// An exchange with a peer that is `ahead`, over ways that take `there` and `back`.
    fn exchange(ahead: i64, there: u64, prepared: u64, back: u64) -> Exchange {
        let heard = (NOW + there).saturating_add_signed(ahead);
        Exchange {
            asked: UnixNanos(NOW),
            heard: UnixNanos(heard),
            answered: UnixNanos(heard + prepared),
            took: Duration::from_nanos(there + prepared + back),
        }
    }

    fn best(filter: &ClockFilter) -> (i64, u64) {
        let best = filter.best().unwrap();
        (best.nanos, best.error_nanos)
    }

    #[test]
    fn over_ways_of_equal_length_the_offset_is_exact_and_the_preparation_does_not_count() {
        for ahead in [0, 1_500 * MS as i64, -1_500 * MS as i64] {
            let offset = exchange(ahead, 40 * MS, 7 * MS, 40 * MS).offset().unwrap();
            assert_eq!((offset.nanos, offset.error_nanos), (ahead, 40 * MS));
        }
    }

    #[test]
    fn the_shortest_round_trip_of_the_last_eight_is_believed() {
        let mut filter = ClockFilter::default();
        assert_eq!(filter.best(), None);
        filter.add(exchange(0, 30 * MS, 0, 90 * MS));
        assert_eq!(best(&filter), (-30 * MS as i64, 60 * MS));
        filter.add(exchange(0, 10 * MS, 0, 10 * MS));
        assert_eq!(best(&filter), (0, 10 * MS));
        for _ in 0..7 {
            filter.add(exchange(0, 50 * MS, 0, 30 * MS));
            assert_eq!(best(&filter), (0, 10 * MS));
        }
        filter.add(exchange(0, 50 * MS, 0, 30 * MS));
        assert_eq!(best(&filter), (10 * MS as i64, 40 * MS), "the good one is out of date");
    }

    #[test]
    fn a_clock_that_is_set_is_believed_at_once() {
        let mut filter = ClockFilter::default();
        filter.add(exchange(0, MS, 0, MS));
        filter.add(exchange(2_000 * MS as i64, 40 * MS, 0, 40 * MS));
        assert_eq!(best(&filter), (2_000 * MS as i64, 40 * MS));
    }

    #[test]
    fn only_what_is_certain_counts_as_far_apart() {
        let limit = Duration::from_millis(500);
        let offset = |ms: i64, error: u64| ClockOffset { nanos: ms * MS as i64, error_nanos: error * MS };
        assert!(offset(600, 10).exceeds(limit) && offset(-600, 10).exceeds(limit));
        assert!(!offset(500, 0).exceeds(limit) && !offset(600, 200).exceeds(limit));
        assert!(!ClockOffset { nanos: i64::MIN, error_nanos: u64::MAX }.exceeds(limit));
    }

    #[test]
    fn an_answer_that_was_prepared_for_longer_than_the_exchange_took_counts_for_nothing() {
        let good = exchange(0, MS, 0, MS);
        assert_eq!(Exchange { answered: UnixNanos(good.heard.0 + 3 * MS), ..good }.offset(), None);
        assert_eq!(Exchange { answered: UnixNanos(good.heard.0 - 1), ..good }.offset(), None);
        assert_eq!(Exchange { took: Duration::MAX, ..good }.offset(), None);
        let mut filter = ClockFilter::default();
        filter.add(Exchange { answered: UnixNanos(0), ..good });
        assert_eq!(filter.best(), None);
    }

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_error(
            ahead in -(NOW as i64)..NOW as i64, there in 0..MS * 1_000, prepared in 0..MS, back in 0..MS * 1_000,
        ) {
            let offset = exchange(ahead, there, prepared, back).offset().unwrap();
            prop_assert!(u128::from(offset.nanos.abs_diff(ahead)) <= u128::from(offset.error_nanos) + 1);
        }

        #[test]
        fn no_claimed_times_break_the_sums(asked: u64, heard: u64, answered: u64, took: u64) {
            let exchange = Exchange {
                asked: UnixNanos(asked),
                heard: UnixNanos(heard),
                answered: UnixNanos(answered),
                took: Duration::from_nanos(took),
            };
            let mut filter = ClockFilter::default();
            filter.add(exchange);
            filter.add(Exchange { asked: UnixNanos(!asked), ..exchange });
            if let Some(best) = filter.best() {
                prop_assert!(best.seconds().is_finite() && best.error_seconds().is_finite());
                let _ = best.exceeds(Duration::from_millis(500));
            }
        }
    }
}
