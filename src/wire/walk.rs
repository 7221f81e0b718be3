//! The walker.
use crate::model::Spans;
use bytes::Bytes;

/// What is refused before it is believed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nested arrays and key-value lists of an attribute value.
    pub max_value_depth: u32,
    pub max_span_bytes: usize,
    pub max_attributes: usize,
    pub max_events: usize,
    pub max_links: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_value_depth: 128,
            max_span_bytes: 1 << 20,
            max_attributes: 1_000,
            max_events: 10_000,
            max_links: 10_000,
        }
    }
}

/// The whole request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("truncated")]
    Truncated,
}

/// Spans left out of the index, for `partial_success`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    pub spans: u32,
    /// English, about the first one; never echoes input.
    pub reason: Option<&'static str>,
}

pub struct Walked {
    pub spans: Spans,
    pub rejected: Rejected,
}

/// Indexes one encoded `ExportTraceServiceRequest`.
pub fn walk(_bytes: Bytes, _limits: &Limits) -> Result<Walked, WireError> {
    todo!()
}
