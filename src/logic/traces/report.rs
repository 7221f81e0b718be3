//! What the owner says of one trace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{SpanId, UnixNanos};

/// Where a trace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceState {
    /// Waiting for its decision.
    Open,
    Kept,
    Dropped,
}

/// What the buffer knows of one trace. Ages and not times: the logic has no calendar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceReport {
    pub state: TraceState,
    /// The policy that decided; absent: still open, or none did.
    pub policy: Option<String>,
    /// Why it was decided when it was ([`super::Cause::label`]); absent while open.
    pub cause: Option<String>,
    /// Kept for `dry_run` alone: the rules would have dropped it.
    #[serde(default)]
    pub would_drop: bool,
    /// Absent: only the verdict is remembered.
    pub details: Option<TraceDetails>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceDetails {
    /// Since the first span came.
    pub first_seen_seconds_ago: f64,
    /// Until it is decided, unless it is sooner; absent: decided.
    pub decision_in_seconds: Option<f64>,
    pub decided_seconds_ago: Option<f64>,
    pub spans: u64,
    pub bytes: u64,
    pub spans_by_cluster: BTreeMap<String, u64>,
    pub duplicates: u64,
    /// Spans that came after the verdict.
    pub late: u64,
    /// Spans whose named parent is not there.
    pub missing_parents: u64,
    /// Calls between clusters.
    pub crossings: u64,
    /// Present if asked for and still there, by start.
    pub timeline: Option<Vec<SpanLine>>,
    /// Spans that `timeline` has no room for.
    pub left_out: u64,
}

/// One span for people to look at. Values of attributes are there only if the asker may see them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanLine {
    pub span_id: SpanId,
    /// Absent: a root.
    pub parent_span_id: Option<SpanId>,
    pub name: String,
    pub cluster: String,
    /// `service.name`, if the asker may see values.
    pub service: Option<String>,
    pub kind: u8,
    pub status: u8,
    pub start: UnixNanos,
    pub end: UnixNanos,
    /// Empty unless the asker may see values; as text.
    pub attributes: Vec<(String, String)>,
}

/// What of a trace is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub spans: bool,
    /// Values of attributes: for callers on loopback only.
    pub values: bool,
}
