//! A node's status as tests use it: one of everything, with names that try to be markup.

use super::status::{BudgetStatus, NamedDedup, NodeFacts, NodeState, NodeStatus, OwnerStatus, ProcessStatus};
use super::trace::TraceAnswer;
use crate::export::ExporterStatus;
use crate::link::explain::example::report;
use crate::link::explain::{Explanation, PeerAnswer};
use crate::link::status::{LinkStatus, MemberStatus, MeshStatus, RingStatus, ShareStatus};
use crate::logic::cross_cluster::{CrossClusterStatus, EdgeStatus, HistogramStatus};
use crate::logic::dedup::DedupStatus;
use crate::logic::sampling::PolicyStatus;
use crate::logic::traces::{TracesStatus, Wanted};
use crate::model::{TraceId, UnixNanos};
use crate::pipeline::ledger::LedgerStatus;
use crate::pipeline::{AssembleStatus, PipelineStatus};
use crate::receive::otlp::{ReceiverStatus, TransportStatus};

/// What a hostile peer could put where free text is shown.
pub(crate) const MARKUP: &str = "<script>alert(\"1\\\n2\")</script>";

pub(crate) fn owner(trace: &TraceId) -> OwnerStatus {
    let owner = Some("us-east-1/node-1".to_owned());
    OwnerStatus { trace_id: trace.to_string(), slot: 77, owner, me: true, ring_version: "00ff".into() }
}

/// A node that knows every trace, of three spans with markup in their names, and keeps to what is asked for.
pub(crate) fn explain(trace_id: TraceId, wanted: Wanted) -> TraceAnswer {
    let mut report = report(3);
    let timeline = &mut report.details.as_mut().unwrap().timeline;
    for line in timeline.iter_mut().flatten() {
        line.name = MARKUP.to_owned();
    }
    let mut answer = PeerAnswer::new(UnixNanos(1_800_000_000_000_000_000), 5_000.0, Some(3_600.0), Some(report));
    answer.restrict(wanted);
    answer.ring_version = "00ff".into();
    let explanation = Explanation {
        slot: 77,
        ring_version: "00ff".into(),
        owner: Some("us-east-1/node-1".parse().unwrap()),
        answer: Ok(answer),
        elsewhere: Vec::new(),
        others_asked: 0,
        others_silent: 0,
    };
    TraceAnswer::new(trace_id, explanation, "us-east-1/node-1")
}

pub(crate) fn status() -> NodeStatus {
    let member = MemberStatus {
        id: "us-east-1/node-1".into(),
        state: "active",
        since_seconds: 12.0,
        address: None,
        weight: 100,
        region: MARKUP.into(),
        zone: String::new(),
        environment: String::new(),
        version: MARKUP.into(),
        linked: true,
        me: true,
    };
    let ring = RingStatus {
        version: "00ff".into(),
        changes: 1,
        members: vec![ShareStatus { id: member.id.clone(), slots: 65_536, share: 1.0 }],
    };
    let link = LinkStatus {
        peer: "eu-west-1/node-1".into(),
        connected: true,
        clock_offset_seconds: Some(-0.75),
        clock_offset_error_seconds: Some(0.05),
        ..LinkStatus::default()
    };
    let mesh = MeshStatus {
        links: vec![link],
        node: member.id.clone(),
        mesh: "default".into(),
        members: vec![member],
        ring,
        hop_limit_spans: 3,
        certificate_expires: Some(1_900_000_000),
        ..MeshStatus::default()
    };
    let grpc = TransportStatus {
        transport: "grpc",
        accepted_spans_total: 41,
        refused_spans_total: [("queue_full", 2), ("memory_limit", 3)].into(),
        failed_requests_total: [("malformed", 4)].into(),
        ..TransportStatus::default()
    };
    let exporter = ExporterStatus {
        id: "otlp_http/backend".into(),
        kind: "otlp_http",
        sent_spans: 30,
        send_failed_spans: 1,
        enqueue_failed_spans: 0,
        rejected_spans: 0,
        possible_duplicate_spans: 0,
        queue_bytes: 100,
        queue_capacity_bytes: 1_000,
        in_flight_requests: 1,
        last_error: Some(MARKUP.into()),
    };
    NodeStatus {
        node: NodeFacts {
            version: "0.1.0",
            cluster: "us-east-1".into(),
            node: "node-1".into(),
            state: NodeState::Ready,
            insecure: true,
            started_at: 1_800_000_000,
            uptime_seconds: 100.5,
            warnings: vec![],
        },
        process: ProcessStatus { cpu_seconds: 1.25, resident_bytes: 20 << 20, open_files: 12, available_bytes: None },
        budget: BudgetStatus { held_bytes: 500, peak_bytes: 900, limit_bytes: Some(1 << 30) },
        ledger: LedgerStatus {
            received_local: 47,
            exported: 30,
            duplicate: 10,
            sampled_out: 6,
            dropped: [("backend_refused", 1)].into(),
            balanced: true,
            ..LedgerStatus::default()
        },
        receivers: vec![ReceiverStatus { id: "otlp".into(), transports: vec![grpc] }],
        pipelines: vec![PipelineStatus {
            id: "traces/owned".into(),
            incoming_spans: 41,
            memory_limited_spans: 0,
            sampled_out_spans: 3,
            sampling_error_spans: 1,
            resource_actions_left_out: 2,
            batching_spans: 0,
            sent_batches: 2,
        }],
        exporters: vec![exporter],
        dedup: vec![NamedDedup {
            pipeline: "traces/owned".into(),
            id: "span_dedup".into(),
            status: DedupStatus { duplicates: 10, load_ratio: 0.5, error_ratio: 1e-10, ..DedupStatus::default() },
        }],
        traces: vec![traces()],
        mesh: Some(mesh),
    }
}

/// A pipeline that decided some traces and counted some calls, one of them from a cluster with a name that tries to
/// be markup.
fn traces() -> AssembleStatus {
    let histogram = |count: u64, sum_seconds: f64| HistogramStatus {
        count,
        sum_seconds,
        buckets: vec![(0.1, count - 1), (1.0, 0), (f64::INFINITY, 1)],
        exemplars: vec![(0, 0.04, TraceId([0xab; 16])), (2, 2.5, TraceId([0xcd; 16]))],
    };
    let edge = |source: &str, target: &str| EdgeStatus {
        source_cluster: source.into(),
        target_cluster: target.into(),
        request: histogram(4, 2.75),
        network: histogram(3, 2.5),
        clamped: 1,
        callee_timed: 2,
        failed: 3,
    };
    let cross_cluster = CrossClusterStatus {
        edges: vec![edge(MARKUP, "us-east-1"), edge("us-east-1", "eu-west-1")],
        spans: [("eu-west-1".into(), 20), ("us-east-1".into(), 21)].into(),
        without_parent: vec![("us-east-1".into(), "missing_parent", 2), ("us-east-1".into(), "unexpected_root", 1)],
        overflowed: 7,
    };
    let policy = PolicyStatus {
        name: "errors".into(),
        kind: "status_code",
        sampled: 3,
        not_sampled: 4,
        dropped: 1,
        decided_traces: 2,
        decided_spans: 20,
    };
    AssembleStatus {
        pipeline: "traces/owned".into(),
        traces: TracesStatus {
            open_traces: 7,
            open_spans: 70,
            held_bytes: 5_000,
            limit_bytes: 1 << 20,
            oldest_seconds: 29.5,
            late_seconds: 0.25,
            latest_decision_seconds: 0.75,
            new_traces: 17,
            decided: [4, 1, 2, 0, 3, 0, 0],
            kept_traces: 6,
            kept_spans: 60,
            dropped_traces: 4,
            dropped_spans: 40,
            duplicates: 10,
            late_kept_spans: 5,
            late_dropped_spans: 6,
            would_drop_traces: 1,
            would_drop_spans: 12,
            kept_verdicts: 100,
            dropped_verdicts: 200,
            verdicts_seconds: 600.0,
        },
        waiting_bytes: 512,
        refused_spans: 9,
        policies: vec![policy],
        cross_cluster: Some(cross_cluster),
    }
}
