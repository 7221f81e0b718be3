//! What one trace buffer is to do, put together from the processors that share it, and divided among its shards.
//!
//! The processors say the same things in different words: how long to wait, how much to hold. Waiting is the longest
//! of what was asked for, since whoever asked for less still gets whole traces; room is the least.
//!
//! Everything that is counted for the node is divided by the shards. Traces do not fall to them quite evenly, and a
//! shard that is full decides early though others have room. So there are only as many shards as leave each of them
//! room for enough traces that the difference does not matter.

use std::time::Duration;

use crate::config::settings::{
    CrossClusterSettings, DedupSettings, GroupByTraceSettings, SamplingMarks, TailSamplingSettings,
};
use crate::logic::traces::Bounds;

/// Above this shards bring nothing: they are locked for microseconds.
const MOST_SHARDS: usize = 16;
/// Each shard's share of the buffer is at least this, or there are fewer.
const SHARD_BYTES: u64 = 8 << 20;
/// And at least this of `num_traces`.
const SHARD_TRACES: usize = 1_000;
/// A trace of more spans is decided early, where `tail_sampling` does not say it.
const MAX_TRACE_SPANS: u32 = 32_000;
/// Verdicts are remembered at least this long: senders and peers that were cut off try again for minutes.
const VERDICT_TIME: Duration = Duration::from_secs(600);
/// Most of the buffer that is kept of decided traces, for explanations.
const RECENT_BYTES: u64 = 64 << 20;
const RECENT_TRACES: usize = 20_000;

/// The processors of one trace buffer. At least one of the last three is there.
#[derive(Clone, Debug, Default)]
pub struct AssembleSettings {
    /// Its stage stood in front of the others.
    pub dedup: Option<DedupSettings>,
    pub group: Option<GroupByTraceSettings>,
    pub cross_cluster: Option<CrossClusterSettings>,
    pub sampling: Option<TailSamplingSettings>,
}

impl AssembleSettings {
    /// Bytes of the whole buffer.
    pub(super) fn limit_bytes(&self) -> u64 {
        let all = [
            self.group.as_ref().map(|group| group.max_memory_bytes),
            self.cross_cluster.as_ref().map(|cross_cluster| cross_cluster.max_memory_bytes),
            self.sampling.as_ref().map(|sampling| sampling.max_memory_bytes),
        ];
        all.into_iter().flatten().min().unwrap_or(0)
    }

    /// Shards for a node of so many cores.
    pub(super) fn shards(&self, cores: usize) -> usize {
        let by_bytes = usize::try_from(self.limit_bytes() / SHARD_BYTES).unwrap_or(MOST_SHARDS);
        let by_traces = match self.num_traces() {
            0 => MOST_SHARDS,
            traces => traces / SHARD_TRACES,
        };
        let by_largest = match self.sampling.as_ref().map_or(0, |sampling| sampling.maximum_trace_size_bytes) {
            0 => MOST_SHARDS,
            // One trace must leave its shard room for others.
            largest => usize::try_from(self.limit_bytes() / 2 / largest).unwrap_or(MOST_SHARDS),
        };
        cores.min(by_bytes).min(by_traces).min(by_largest).clamp(1, MOST_SHARDS)
    }

    /// The share of one shard.
    pub(super) fn bounds(&self, shards: usize) -> Bounds {
        let sampling = self.sampling.as_ref();
        let buffer = self.limit_bytes();
        let shard = buffer / (shards as u64).max(1);
        let max_trace_bytes = match sampling.map_or(0, |sampling| sampling.maximum_trace_size_bytes) {
            0 => (buffer / 8).min(shard / 2),
            given => given,
        };
        Bounds {
            wait: self.wait(),
            wait_after_root: sampling.map_or(Duration::ZERO, |sampling| sampling.decision_wait_after_root_received),
            max_bytes: shard.max(1),
            max_traces: share(self.num_traces(), shards),
            max_trace_bytes: max_trace_bytes.max(1),
            max_trace_spans: sampling.map_or(MAX_TRACE_SPANS, |sampling| sampling.maximum_trace_spans),
            kept_verdicts: share(sampling.map_or(0, |sampling| sampling.sampled_cache_size), shards),
            dropped_verdicts: share(sampling.map_or(0, |sampling| sampling.non_sampled_cache_size), shards),
            verdict_time: self.verdict_time(),
            recent_bytes: RECENT_BYTES.min(buffer / 16) / (shards as u64).max(1),
            recent_traces: share(RECENT_TRACES, shards),
        }
    }

    pub(super) fn marks(&self) -> SamplingMarks {
        self.sampling.as_ref().map(|sampling| sampling.marks).unwrap_or_default()
    }

    fn wait(&self) -> Duration {
        let decision = self.sampling.as_ref().map(|sampling| sampling.decision_wait);
        let group = self.group.as_ref().map(|group| group.wait_duration);
        let metrics = self.cross_cluster.as_ref().map(|cross_cluster| cross_cluster.wait_duration);
        decision.max(group).or(metrics).unwrap_or_default()
    }

    /// 0: as many as fit.
    fn num_traces(&self) -> usize {
        let group = self.group.as_ref().map_or(0, |group| group.num_traces);
        let sampling = self.sampling.as_ref().map_or(0, |sampling| sampling.num_traces);
        [group, sampling].into_iter().filter(|traces| *traces != 0).min().unwrap_or(0)
    }

    /// A span must not come back as one of a new trace while its duplicates are still known, nor soon after the
    /// traces that were open beside its own.
    fn verdict_time(&self) -> Duration {
        let window = self.dedup.as_ref().map_or(Duration::ZERO, |dedup| dedup.wait_duration);
        self.wait().saturating_mul(10).max(window).max(VERDICT_TIME)
    }
}

/// A shard's part of a count; 0 stays "not given".
fn share(count: usize, shards: usize) -> usize {
    count.div_ceil(shards.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sampling() -> TailSamplingSettings {
        TailSamplingSettings {
            decision_wait: 30 * SECOND,
            decision_wait_after_root_received: Duration::ZERO,
            num_traces: 0,
            sampled_cache_size: 0,
            non_sampled_cache_size: 0,
            sample_on_first_match: false,
            maximum_trace_size_bytes: 0,
            maximum_trace_spans: 32_000,
            drop_pending_traces_on_shutdown: false,
            max_memory_bytes: 1 << 30,
            dry_run: false,
            marks: SamplingMarks::default(),
            policies: Vec::new(),
        }
    }

    fn group() -> GroupByTraceSettings {
        GroupByTraceSettings { wait_duration: SECOND, num_traces: 1_000_000, max_memory_bytes: 1 << 29 }
    }

    fn cross_cluster() -> CrossClusterSettings {
        CrossClusterSettings {
            wait_duration: 60 * SECOND,
            max_memory_bytes: 1 << 31,
            write_attributes: false,
            buckets: Vec::new(),
            entry_services: Vec::new(),
            max_series: 2_000,
        }
    }

    #[test]
    fn the_longest_wait_and_the_least_room_hold_for_all() {
        let (sampling, group) = (Some(sampling()), Some(group()));
        let all = AssembleSettings { sampling, group, cross_cluster: Some(cross_cluster()), dedup: None };
        let bounds = all.bounds(1);
        assert_eq!((bounds.wait, bounds.max_bytes, bounds.max_traces), (30 * SECOND, 1 << 29, 1_000_000));
        let grouped = AssembleSettings { sampling: None, ..all };
        assert_eq!(grouped.bounds(1).wait, SECOND);
        let alone = AssembleSettings { group: None, ..grouped };
        assert_eq!((alone.bounds(1).wait, alone.bounds(1).max_traces), (60 * SECOND, 0));
        assert_eq!(alone.bounds(1).max_trace_spans, 32_000);
    }

    #[test]
    fn what_is_counted_for_the_node_is_divided_and_what_is_a_traces_own_is_not() {
        let given = TailSamplingSettings {
            num_traces: 50_001,
            sampled_cache_size: 3,
            maximum_trace_size_bytes: 1 << 20,
            maximum_trace_spans: 500,
            ..sampling()
        };
        let bounds = AssembleSettings { sampling: Some(given), ..AssembleSettings::default() }.bounds(4);
        assert_eq!((bounds.max_bytes, bounds.max_traces, bounds.kept_verdicts), (1 << 28, 12_501, 1));
        // Not given: ten times the open traces, whatever the shards.
        assert_eq!(bounds.dropped_verdicts, 0);
        assert_eq!((bounds.max_trace_bytes, bounds.max_trace_spans), (1 << 20, 500));
        assert_eq!((bounds.recent_bytes, bounds.recent_traces), (16 << 20, 5_000));
    }

    #[test]
    fn a_trace_may_take_an_eighth_of_the_buffer_but_never_its_shard_alone() {
        let settings = AssembleSettings { sampling: Some(sampling()), ..AssembleSettings::default() };
        assert_eq!(settings.bounds(2).max_trace_bytes, 1 << 27);
        assert_eq!(settings.bounds(16).max_trace_bytes, 1 << 25);
    }

    #[test]
    fn verdicts_outlive_open_traces_and_the_dedup_window() {
        let dedup = |wait_duration| Some(DedupSettings { wait_duration, max_memory_bytes: 1 << 20 });
        let of = |decision_wait, window| {
            let sampling = Some(TailSamplingSettings { decision_wait, ..sampling() });
            AssembleSettings { sampling, dedup: dedup(window), ..AssembleSettings::default() }.bounds(1).verdict_time
        };
        assert_eq!(of(30 * SECOND, 300 * SECOND), 600 * SECOND);
        assert_eq!(of(90 * SECOND, 300 * SECOND), 900 * SECOND);
        assert_eq!(of(30 * SECOND, 3_600 * SECOND), 3_600 * SECOND);
    }

    #[test]
    fn a_small_buffer_has_few_shards() {
        let of = |max_memory_bytes, num_traces| {
            let sampling = Some(TailSamplingSettings { max_memory_bytes, num_traces, ..sampling() });
            AssembleSettings { sampling, ..AssembleSettings::default() }.shards(8)
        };
        assert_eq!((of(1 << 30, 0), of(1 << 20, 0), of(32 << 20, 0)), (8, 1, 4));
        assert_eq!((of(1 << 30, 50_000), of(1 << 30, 100), of(1 << 30, 3_000)), (8, 1, 3));
    }

    #[test]
    fn the_largest_trace_leaves_its_shard_room_for_others() {
        let of = |maximum_trace_size_bytes| {
            let sampling = TailSamplingSettings { max_memory_bytes: 256 << 20, maximum_trace_size_bytes, ..sampling() };
            AssembleSettings { sampling: Some(sampling), ..AssembleSettings::default() }.shards(16)
        };
        assert_eq!((of(0), of(8 << 20), of(50 << 20), of(200 << 20)), (16, 16, 2, 1));
    }

    #[test]
    fn nothing_given_is_no_crash() {
        let bounds = AssembleSettings::default().bounds(0);
        assert_eq!((bounds.max_bytes, bounds.max_trace_bytes), (1, 1));
    }
}
