//! When and how one node decides on the traces that it holds: by its policies, by chance, in a trial of them, and at its
//! stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::Value;

use crate::harness::backend::{Backend, TraceId};
use crate::harness::eventually;
use crate::harness::node::{NodeProcess, NodeSpec};
use crate::harness::traces::{request, span, text_of, trace_id};

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";
const ERRORS: &str = "{name: errors, type: status_code, status_code: {status_codes: [ERROR]}}";

/// A node alone with these processors behind `span_dedup`.
async fn node(directory: &Path, cluster: &str, url: String, processors: &str, arguments: &[&str]) -> NodeProcess {
    let name = processors.split(':').next().unwrap().trim().to_owned();
    let spec = NodeSpec {
        cluster,
        tls: "{}".into(),
        exporter_url: url,
        processors: format!("  {processors}"),
        owned: name,
        ..NodeSpec::default()
    };
    NodeProcess::start_with(directory, &spec, arguments).await
}

fn failed(span: Span) -> Span {
    Span { status: Some(Status { code: 2, ..Status::default() }), ..span }
}

/// Spread over all 16 bytes, since the last seven decide about sampling.
fn id(trace: u64) -> TraceId {
    let mut id = trace_id(trace);
    id[8..].copy_from_slice(&(trace + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).to_be_bytes());
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn chance_keeps_the_same_traces_on_every_node_and_a_dry_run_marks_what_would_have_gone() {
    const TRACES: u64 = 500;
    let directory = tempfile::tempdir().unwrap();
    let mut arrived = Vec::new();
    for (cluster, dry_run) in [("east", false), ("west", true)] {
        let backend = Backend::start().await;
        let settings = format!(
            "tail_sampling: {{decision_wait: 2s, dry_run: {dry_run}, policies: [{ERRORS}, \
             {{name: a-fifth, type: probabilistic, probabilistic: {{sampling_percentage: 20}}}}]}}"
        );
        let node = node(directory.path(), cluster, backend.url(), &settings, &[]).await;
        let of = |number| {
            move |trace: u64| {
                let span = Span { trace_id: id(trace).to_vec(), ..span(trace, number) };
                if trace.is_multiple_of(10) { failed(span) } else { span }
            }
        };
        for number in 0..2 {
            assert!(node.sender().deliver(request("shop", (0..TRACES).map(of(number)).collect())).await);
        }
        eventually("all traces to be decided", || async {
            let ledger = node.ledger().await;
            (ledger["in_flight"] == 0 && ledger["received_local"] == 2 * TRACES).then_some(())
        })
        .await;
        assert!(node.stop().await.success());
        arrived.push(backend.arrived().decoded());
    }
    let (dry, real) = (arrived.pop().unwrap(), arrived.pop().unwrap());
    let kept: BTreeSet<TraceId> = real.keys().copied().collect();
    let failed: BTreeSet<TraceId> = (0..TRACES).step_by(10).map(id).collect();
    let by_chance = kept.difference(&failed).count();
    assert!(kept.is_superset(&failed) && (50..130).contains(&by_chance), "{by_chance} of 450 were kept by chance");

    // Of the dry run everything came out, and what has no mark is what the other node kept.
    assert_eq!(dry.len() as u64, TRACES);
    let would_stay = |spans: &Vec<Span>| spans.iter().all(|span| text_of(span, "spanmesh.dry_run").is_none());
    let unmarked: BTreeSet<TraceId> = dry.iter().filter(|(_, spans)| would_stay(spans)).map(|(id, _)| *id).collect();
    assert_eq!(unmarked, kept);
    for (trace, spans) in &dry {
        assert_eq!(spans.len(), 2);
        let mark = (!kept.contains(trace)).then_some("drop");
        assert!(spans.iter().all(|span| text_of(span, "spanmesh.dry_run") == mark), "{spans:?}");
    }
    // A share of 20 percent is told, where it was chance.
    for (trace, spans) in real.iter().chain(&dry) {
        let chance = kept.contains(trace) && !failed.contains(trace);
        let told = if chance { "ot=th:cccd" } else { "" };
        assert!(spans.iter().all(|span| span.trace_state == told), "{told:?} in {spans:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groupbytrace_alone_passes_whole_traces_on() {
    const TRACES: u64 = 50;
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let node = node(directory.path(), "east", backend.url(), "groupbytrace: {wait_duration: 4s}", &[]).await;
    for number in (0..4).rev() {
        assert!(node.sender().deliver(request("shop", (0..TRACES).map(|trace| span(trace, number)).collect())).await);
    }
    assert_eq!(backend.arrived().spans, 0);
    let arrived = backend.has_distinct(4 * TRACES as usize).await;
    // No trace is in two requests.
    let mut seen: BTreeMap<TraceId, usize> = BTreeMap::new();
    for body in &arrived.bodies {
        let of_body = crate::harness::backend::Arrived { bodies: vec![body.clone()], ..Default::default() };
        for (trace, spans) in of_body.encoded() {
            assert_eq!((spans.len(), seen.insert(trace, spans.len())), (4, None));
        }
    }
    assert_eq!(seen.len() as u64, TRACES);
    assert!(node.stop().await.success());
}

/// 20 traces of two spans, every fifth of them failed, that wait for a decision which is far away.
async fn holds_open_traces(directory: &Path, url: String, more: &str, arguments: &[&str]) -> NodeProcess {
    let settings = format!("tail_sampling: {{decision_wait: 300s, policies: [{ERRORS}]{more}}}");
    let node = node(directory, "east", url, &settings, arguments).await;
    let spans = |trace| [span(trace, 0), if trace.is_multiple_of(5) { failed(span(trace, 1)) } else { span(trace, 1) }];
    assert!(node.sender().deliver(request("shop", (0..20).flat_map(spans).collect())).await);
    assert_eq!(node.api("status").await["traces"][0]["open_traces"], 20);
    node
}

/// The line of the node's log that begins with this message.
fn logged(node: &NodeProcess, message: &str) -> Value {
    let log = node.log();
    // What is odd about the configuration is told in front, as text.
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_it = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
    lines.find(is_it).unwrap_or_else(|| panic!("no {message:?} in\n{log}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_decides_on_open_traces_and_exports_what_it_keeps() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let mut node = holds_open_traces(directory.path(), backend.url(), ", marks: [policy, reason]", &[]).await;
    node.signal("TERM");
    assert_eq!(node.ended().await.code(), Some(0));
    let arrived = backend.arrived().decoded();
    assert_eq!(arrived.keys().copied().collect::<BTreeSet<_>>(), [0, 5, 10, 15].map(trace_id).into());
    for spans in arrived.values() {
        assert_eq!(spans.len(), 2);
        assert!(spans.iter().all(|span| text_of(span, "tailsampling.policy") == Some("errors")));
        assert!(spans.iter().all(|span| text_of(span, "spanmesh.decision_cause") == Some("shutdown")));
    }
    let stopped = logged(&node, "stopped");
    assert_eq!((&stopped["exported"], &stopped["sampled_out"]), (&8.into(), &32.into()), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drops_open_traces_if_told_to_and_says_how_many() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let more = ", drop_pending_traces_on_shutdown: true";
    let mut node = holds_open_traces(directory.path(), backend.url(), more, &[]).await;
    node.signal("TERM");
    assert_eq!(node.ended().await.code(), Some(0));
    assert_eq!(backend.arrived().spans, 0);
    let stopped = logged(&node, "stopped");
    assert_eq!((&stopped["exported"], &stopped["sampled_out"]), (&0.into(), &0.into()), "{stopped}");
    let dropped = logged(&node, "spans were dropped");
    assert_eq!((&dropped["reason"], &dropped["spans"]), (&"shutdown".into(), &40.into()), "{dropped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_cannot_deliver_what_it_decided_to_keep_ends_with_3() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = holds_open_traces(directory.path(), NOBODY.into(), "", &["--grace", "4s"]).await;
    node.signal("TERM");
    assert_eq!(node.ended().await.code(), Some(3));
    let stopped = logged(&node, "stopped");
    assert_eq!((&stopped["unsettled_spans"], &stopped["sampled_out"]), (&8.into(), &32.into()), "{stopped}");
}
