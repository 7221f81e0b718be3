//! The stage that waits for whole traces: `groupbytrace`, `cross_cluster` and `tail_sampling` of one pipeline in one buffer.

use serde::Serialize;

use crate::config::settings::ComponentId;
use crate::logic::cross_cluster::CrossClusterStatus;
use crate::logic::sampling::PolicyStatus;
use crate::logic::traces::TracesStatus;

/// The trace buffer of one pipeline.
#[derive(Clone, Debug, Serialize)]
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
