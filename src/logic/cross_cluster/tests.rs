//! Traces made by hand, and what is said of them.

mod links;
mod metrics;
mod properties;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::model::{SpanId, UnixNanos};

const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const MS: u64 = 1_000_000;
/// When these spans began.
const T0: u64 = 1_700_000_000_000_000_000;

/// A span, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    id: u64,
    parent: u64,
    kind: u8,
    cluster: String,
    service: String,
    start: u64,
    end: u64,
    status: u8,
}

/// An INTERNAL span of a service named like its cluster.
fn span(id: u64, parent: u64, cluster: &str) -> Made {
    Made {
        id,
        parent,
        kind: INTERNAL,
        cluster: cluster.into(),
        service: cluster.into(),
        start: T0,
        end: T0 + 10 * MS,
        status: 0,
    }
}

fn client(id: u64, parent: u64, cluster: &str) -> Made {
    Made { kind: CLIENT, ..span(id, parent, cluster) }
}

fn server(id: u64, parent: u64, cluster: &str) -> Made {
    Made { kind: SERVER, ..span(id, parent, cluster) }
}

impl Made {
    fn took(self, ms: u64) -> Made {
        self.at(T0, T0 + ms * MS)
    }

    fn at(self, start: u64, end: u64) -> Made {
        Made { start, end, ..self }
    }

    fn of(self, service: &str) -> Made {
        Made { service: service.into(), ..self }
    }

    fn failed(self) -> Made {
        Made { status: ERROR, ..self }
    }

    fn header(&self) -> Header {
        Header {
            resource_fields: Default::default(),
            resource: None,
            scope_fields: Box::default(),
            cluster: Arc::from(&*self.cluster),
            service: Arc::from(&*self.service),
        }
    }
}

/// Looks at the spans as a trace in which each has a header of its own, so that names are compared and not places.
fn with_view<T>(trace: u8, spans: &[Made], look: impl FnOnce(&TraceView<'_>) -> T) -> T {
    let headers: Vec<Header> = spans.iter().map(Made::header).collect();
    let view = |(span, header)| view(span, header);
    look(&TraceView { id: TraceId([trace; 16]), spans: spans.iter().zip(&headers).map(view).collect() })
}

fn view<'a>(span: &Made, header: &'a Header) -> SpanView<'a> {
    SpanView {
        span_id: SpanId(span.id.to_be_bytes()),
        parent_span_id: SpanId(span.parent.to_be_bytes()),
        start: UnixNanos(span.start),
        end: UnixNanos(span.end),
        kind: span.kind,
        status: span.status,
        body: &[],
        header,
        crossing: None,
    }
}

fn links_of(spans: &[Made]) -> Links {
    with_view(1, spans, super::links)
}

fn pairs(spans: &[Made]) -> Vec<(u32, u32)> {
    links_of(spans).crossings.iter().map(|edge| (edge.caller, edge.callee)).collect()
}

fn settings() -> CrossClusterSettings {
    CrossClusterSettings {
        wait_duration: std::time::Duration::from_secs(30),
        max_memory_bytes: 1 << 30,
        write_attributes: false,
        buckets: vec![0.005, 0.01, 0.1, 1.0],
        entry_services: Vec::new(),
        max_series: 2_000,
    }
}

fn observe(metrics: &CrossCluster, trace: u8, spans: &[Made]) {
    with_view(trace, spans, |view| metrics.observe(view, &super::links(view)));
}

/// The metrics of one trace.
fn metrics_of(spans: &[Made]) -> CrossClusterStatus {
    let metrics = CrossCluster::new(&settings());
    observe(&metrics, 1, spans);
    metrics.status()
}

fn edge(status: &CrossClusterStatus) -> &EdgeStatus {
    assert_eq!(status.edges.len(), 1, "{:?}", status.edges);
    &status.edges[0]
}
