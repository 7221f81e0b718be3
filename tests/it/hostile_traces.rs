//! Traces that are too large, too many, doubled or forged, at one real node: it stays within its bounds, says so, and
//! everybody else's traces are as they were.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::backend::Backend;
use crate::harness::eventually;
use crate::harness::node::{NodeProcess, NodeSpec, get};
use crate::harness::traces::{request, span, span_id, text, trace_id};

/// A node alone that keeps everything, with these settings of `tail_sampling`.
async fn node(backend: &Backend, settings: &str) -> (NodeProcess, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let spec = NodeSpec {
        cluster: "east",
        tls: "{}".into(),
        exporter_url: backend.url(),
        processors: format!(
            "  cross_cluster: {{}}\n  tail_sampling: {{{settings}, policies: [{{name: all, type: always_sample}}]}}"
        ),
        owned: "cross_cluster, tail_sampling".into(),
        ..NodeSpec::default()
    };
    (NodeProcess::start(directory.path(), &spec).await, directory)
}

async fn traces(node: &NodeProcess) -> Value {
    node.api("status").await["traces"][0].clone()
}

/// Traces decided for a cause: counts stand in the order of the causes' names on the metrics page.
async fn decided(node: &NodeProcess, cause: &str) -> u64 {
    let page = get(&format!("http://{}/metrics", node.address("metrics"))).await.expect("the metrics page");
    let page = String::from_utf8(page.to_vec()).unwrap();
    let line = page
        .lines()
        .find(|line| line.starts_with("spanmesh_traces_decided_total") && line.contains(&format!("cause=\"{cause}\"")));
    line.unwrap_or_else(|| panic!("no count of {cause}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// One span of a giant trace, as small as a span can be: 10,000 of them are written in no time.
fn tiny_spans(trace: u64, numbers: std::ops::Range<u64>) -> Vec<Span> {
    let tiny = |number: u64| Span {
        trace_id: trace_id(trace).to_vec(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        parent_span_id: if number == 0 { Vec::new() } else { 1_u64.to_be_bytes().to_vec() },
        ..Span::default()
    };
    numbers.map(tiny).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_a_million_spans_is_decided_at_its_cap_and_others_wait_for_theirs() {
    const SPANS: u64 = 1_000_000;
    let backend = Backend::start().await;
    let (node, _directory) = node(&backend, "decision_wait: 120s, maximum_trace_spans: 10000").await;
    let sender = node.sender();
    for other in 1..=100 {
        assert!(sender.deliver(request("others", vec![span(other, 0), span(other, 1)])).await);
    }
    for first in (0..SPANS).step_by(20_000) {
        assert!(sender.deliver(request("giant", tiny_spans(0, first..first + 20_000))).await);
    }
    eventually("the giant to have been exported", || async {
        (node.ledger().await["exported"] == SPANS).then_some(())
    })
    .await;
    assert_eq!(decided(&node, "too_many_spans").await, 1);
    let status = traces(&node).await;
    assert_eq!((status["open_traces"].as_u64(), status["open_spans"].as_u64()), (Some(100), Some(200)), "{status}");
    assert!(status["late_kept_spans"].as_u64().unwrap() >= SPANS - 2 * 20_000, "{status}");
    let arrived = backend.arrived();
    assert_eq!((arrived.traces.len(), arrived.distinct(), arrived.twice()), (1, SPANS as usize, 0));
    assert!(node.stop().await.success());
    // What was open when the node stopped was decided and not forgotten.
    assert_eq!(backend.arrived().distinct(), SPANS as usize + 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_traces_than_the_buffer_holds_are_decided_early_and_none_is_lost() {
    const TRACES: u64 = 60_000;
    let backend = Backend::start().await;
    let (node, _directory) = node(&backend, "decision_wait: 120s, max_memory: 8MiB").await;
    let mut most: u64 = 0;
    for first in (0..TRACES).step_by(500) {
        let spans = (first..first + 500).map(|trace| Span { name: "n".repeat(200), ..span(trace, 0) }).collect();
        assert!(node.sender().deliver(request("flood", spans)).await);
        if first % 5_000 == 0 {
            let status = traces(&node).await;
            most = most.max(status["held_bytes"].as_u64().unwrap());
        }
    }
    let status = traces(&node).await;
    let limit = status["limit_bytes"].as_u64().unwrap();
    assert!(most > limit / 2 && most <= limit + limit / 4, "at most {most} were held, and {limit} may be");
    let early = decided(&node, "memory").await;
    assert_eq!(early + status["open_traces"].as_u64().unwrap(), TRACES, "{status}");
    assert!(early > TRACES / 2);
    assert!(node.stop().await.success());
    let arrived = backend.arrived();
    assert_eq!((arrived.distinct(), arrived.twice()), (TRACES as usize, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_comes_a_thousand_times_comes_out_once_and_one_of_the_same_ids_beside_it() {
    let backend = Backend::start().await;
    let (node, _directory) = node(&backend, "decision_wait: 1s").await;
    let (once, other_kind) = (span(1, 0), Span { kind: 3, ..span(1, 0) });
    let later_end = Span { end_time_unix_nano: span(1, 0).end_time_unix_nano + 1, ..span(1, 0) };
    for _ in 0..10 {
        let mut spans = vec![once.clone(); 100];
        spans.extend([other_kind.clone(), later_end.clone()]);
        assert!(node.sender().deliver(request("again", spans)).await);
    }
    backend.has_distinct(1).await;
    eventually("the trace to be settled", || async { (node.ledger().await["in_flight"] == 0).then_some(()) }).await;
    // After the verdict as well, while the first ones are settled.
    assert!(node.sender().deliver(request("again", vec![once; 100])).await);
    eventually("all copies to have met their fate", || async {
        (node.ledger().await["duplicate"] == 10 * 102 - 3 + 100).then_some(())
    })
    .await;
    assert_eq!((backend.arrived().spans, node.ledger().await["exported"].as_u64()), (3, Some(3)));
    assert!(node.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_senders_choice_do_not_make_the_metrics_grow() {
    let backend = Backend::start().await;
    let (node, _directory) = node(&backend, "decision_wait: 500ms").await;
    let page = async || get(&format!("http://{}/metrics", node.address("metrics"))).await.unwrap().len();
    let ask = |from: u64, to: u64| {
        let resources = (from..to).map(|trace| {
            let spans = vec![Span { name: format!("name {trace}"), ..span(trace, 0) }];
            ExportTraceServiceRequest::decode(&*request(&format!("service-{trace}"), spans)).unwrap().resource_spans
        });
        ExportTraceServiceRequest { resource_spans: resources.flatten().collect() }.encode_to_vec()
    };
    assert!(node.sender().deliver(ask(0, 10)).await);
    backend.has_distinct(10).await;
    let small = page().await;
    for first in (10..5_010).step_by(500) {
        assert!(node.sender().deliver(ask(first, first + 500)).await);
    }
    backend.has_distinct(5_010).await;
    let large = page().await;
    // Counts have more digits now; that is all.
    assert!(large < small + small / 10 + 1_000, "the page grew from {small} to {large} bytes");
    assert!(node.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_cluster_is_replaced_and_what_was_said_is_kept_beside_it() {
    let backend = Backend::start().await;
    let (node, _directory) = node(&backend, "decision_wait: 500ms").await;
    let target = Span { attributes: vec![text("k8s.cluster.name", "mars")], ..span(1, 0) };
    let mut forged = ExportTraceServiceRequest::decode(&*request("forger", vec![target])).unwrap();
    forged.resource_spans[0].resource.as_mut().unwrap().attributes.push(text("k8s.cluster.name", "venus"));
    assert!(node.sender().deliver(forged.encode_to_vec()).await);
    let arrived = backend.has_distinct(1).await;
    let out = ExportTraceServiceRequest::decode(arrived.bodies[0].clone()).unwrap();
    let resource = out.resource_spans[0].resource.clone().unwrap();
    let said: BTreeSet<String> = resource.attributes.iter().map(|a| format!("{}={:?}", a.key, a.value)).collect();
    let has = |key: &str, value: &str| said.iter().any(|a| a.starts_with(&format!("{key}=")) && a.contains(value));
    assert!(has("k8s.cluster.name", "east") && has("spanmesh.original.k8s.cluster.name", "venus"), "{said:?}");
    assert_eq!(resource.attributes.iter().filter(|a| a.key == "k8s.cluster.name").count(), 1);
    // What an application says of its target is its own.
    let span = &out.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(
        (span.span_id.clone(), &span.attributes),
        (span_id(1, 0).to_vec(), &vec![text("k8s.cluster.name", "mars")])
    );
    assert!(node.stop().await.success());
}
