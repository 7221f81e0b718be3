//! What a trace buffer says of itself: its shards added up.

use serde::Serialize;

use crate::config::settings::ComponentId;
use crate::logic::cross_cluster::CrossClusterStatus;
use crate::logic::sampling::PolicyStatus;
use crate::logic::traces::TracesStatus;

/// The trace buffer of one pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AssembleStatus {
    pub pipeline: ComponentId,
    #[serde(flatten)]
    pub traces: TracesStatus,
    /// Kept spans that no exporter has taken yet, in bytes.
    pub waiting_bytes: u64,
    /// Spans refused because the buffer was full of what exporters do not take.
    pub refused_spans: u64,
    /// In the order of the configuration.
    pub policies: Vec<PolicyStatus>,
    pub cross_cluster: Option<CrossClusterStatus>,
}

/// Counts are sums; of ages the worst counts: the oldest trace, the latest decision, the shortest memory.
pub(super) fn sum(shards: impl Iterator<Item = TracesStatus>) -> TracesStatus {
    shards.reduce(add).unwrap_or_default()
}

fn add(one: TracesStatus, other: TracesStatus) -> TracesStatus {
    TracesStatus {
        open_traces: one.open_traces + other.open_traces,
        open_spans: one.open_spans + other.open_spans,
        held_bytes: one.held_bytes + other.held_bytes,
        limit_bytes: one.limit_bytes + other.limit_bytes,
        oldest_seconds: one.oldest_seconds.max(other.oldest_seconds),
        late_seconds: one.late_seconds.max(other.late_seconds),
        latest_decision_seconds: one.latest_decision_seconds.max(other.latest_decision_seconds),
        new_traces: one.new_traces + other.new_traces,
        decided: std::array::from_fn(|cause| one.decided[cause] + other.decided[cause]),
        kept_traces: one.kept_traces + other.kept_traces,
        kept_spans: one.kept_spans + other.kept_spans,
        dropped_traces: one.dropped_traces + other.dropped_traces,
        dropped_spans: one.dropped_spans + other.dropped_spans,
        duplicates: one.duplicates + other.duplicates,
        late_kept_spans: one.late_kept_spans + other.late_kept_spans,
        late_dropped_spans: one.late_dropped_spans + other.late_dropped_spans,
        would_drop_traces: one.would_drop_traces + other.would_drop_traces,
        would_drop_spans: one.would_drop_spans + other.would_drop_spans,
        kept_verdicts: one.kept_verdicts + other.kept_verdicts,
        dropped_verdicts: one.dropped_verdicts + other.dropped_verdicts,
        verdicts_seconds: one.verdicts_seconds.min(other.verdicts_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_of_ages_the_worst_counts() {
        let one = TracesStatus {
            open_traces: 3,
            decided: [1; 7],
            oldest_seconds: 20.0,
            late_seconds: 0.1,
            verdicts_seconds: 600.0,
            ..TracesStatus::default()
        };
        let other = TracesStatus { open_traces: 4, decided: [2; 7], late_seconds: 0.5, verdicts_seconds: 500.0, ..one };
        let sum = sum([one, other].into_iter());
        assert_eq!((sum.open_traces, sum.decided), (7, [3; 7]));
        assert_eq!((sum.oldest_seconds, sum.late_seconds, sum.verdicts_seconds), (20.0, 0.5, 500.0));
    }
}
