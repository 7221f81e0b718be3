//! A trace as tests know it.

use crate::logic::traces::{SpanLine, TraceDetails, TraceReport, TraceState};
use crate::model::{SpanId, UnixNanos};

/// A span with a service and an attribute.
pub(crate) fn line(n: u64) -> SpanLine {
    SpanLine {
        span_id: SpanId((n + 1).to_be_bytes()),
        parent_span_id: (n > 0).then_some(SpanId(n.to_be_bytes())),
        name: format!("span {n}"),
        cluster: if n.is_multiple_of(2) { "us" } else { "eu" }.into(),
        service: Some("shop".into()),
        kind: 2,
        status: 0,
        start: UnixNanos(1_000 + n * 10),
        end: UnixNanos(1_000_000 - n),
        attributes: vec![("http.route".into(), "/cart".into())],
    }
}

/// A trace of so many spans that was kept a second ago.
pub(crate) fn report(spans: u64) -> TraceReport {
    let details = TraceDetails {
        first_seen_seconds_ago: 30.0,
        decision_in_seconds: None,
        decided_seconds_ago: Some(1.0),
        spans,
        bytes: spans * 100,
        spans_by_cluster: [("us".to_owned(), spans.div_ceil(2)), ("eu".to_owned(), spans / 2)].into(),
        duplicates: 3,
        late: 2,
        missing_parents: 1,
        crossings: spans.saturating_sub(1),
        timeline: Some((0..spans).map(line).collect()),
        left_out: 0,
    };
    TraceReport {
        state: TraceState::Kept,
        policy: Some("errors".into()),
        cause: Some("waited".into()),
        would_drop: false,
        details: Some(details),
    }
}
