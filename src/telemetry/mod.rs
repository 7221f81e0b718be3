//! What a node says of itself to machines: logs on stderr, metrics for Prometheus.

pub mod logs;
pub mod metrics;
