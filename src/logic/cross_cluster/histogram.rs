//! Durations counted into buckets, each with the latest trace that fell into it.
//!
//! The sum is kept in whole nanoseconds: a sum of floats depends on the order of its summands, and the same calls
//! must give the same metrics on whatever node and in whatever order they are met.

use std::time::Duration;

use super::status::HistogramStatus;
use crate::model::TraceId;

/// Upper bounds, the last one infinite.
pub(super) struct Bounds {
    seconds: Box<[f64]>,
    nanos: Box<[u64]>,
}

impl Bounds {
    /// `seconds` as they were configured: ascending, without infinity.
    pub(super) fn new(seconds: &[f64]) -> Bounds {
        // What does not fit is cut off by the conversion, not wrapped.
        let nanos = seconds.iter().map(|bound| (bound * 1e9).round() as u64);
        Bounds { nanos: nanos.collect(), seconds: seconds.iter().copied().chain([f64::INFINITY]).collect() }
    }
}

pub(super) struct Histogram {
    buckets: Box<[Bucket]>,
    sum_nanos: u128,
}

#[derive(Clone, Default)]
struct Bucket {
    count: u64,
    latest: Option<(TraceId, u64)>,
}

impl Histogram {
    pub(super) fn new(bounds: &Bounds) -> Histogram {
        Histogram { buckets: vec![Bucket::default(); bounds.seconds.len()].into(), sum_nanos: 0 }
    }

    pub(super) fn observe(&mut self, bounds: &Bounds, nanos: u64, trace: TraceId) {
        let at = bounds.nanos.partition_point(|bound| *bound < nanos);
        let Some(bucket) = self.buckets.get_mut(at) else { return };
        bucket.count = bucket.count.saturating_add(1);
        self.sum_nanos = self.sum_nanos.saturating_add(u128::from(nanos));
        bucket.latest = match bucket.latest {
            // Several calls of one trace: the longest, since their order means nothing.
            Some((latest, most)) if latest == trace => Some((trace, most.max(nanos))),
            _ => Some((trace, nanos)),
        };
    }

    pub(super) fn status(&self, bounds: &Bounds) -> HistogramStatus {
        let exemplar = |(at, bucket): (usize, &Bucket)| bucket.latest.map(|(trace, nanos)| (at, seconds(nanos), trace));
        HistogramStatus {
            count: self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count)),
            sum_seconds: self.sum_nanos as f64 / 1e9,
            buckets: bounds.seconds.iter().zip(&self.buckets).map(|(bound, bucket)| (*bound, bucket.count)).collect(),
            exemplars: self.buckets.iter().enumerate().filter_map(exemplar).collect(),
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}
