//! Three real nodes and more: one owner for every trace, duplicates out, and what a change of members costs today.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::backend::Backend;
use crate::harness::node::{Mesh, NodeProcess};
use crate::harness::traces::{request, span, trace_id};

const TRACES: u64 = 10_000;
const SPANS_PER_TRACE: u64 = 6;

/// Sends traces `from..to`, span by span to another node each, in requests of many traces.
async fn send_spread(nodes: &[&NodeProcess], from: u64, to: u64) -> u64 {
    const TRACES_PER_ROUND: u64 = 100;
    let mut sent = 0;
    for first in (from..to).step_by(TRACES_PER_ROUND as usize) {
        let round = first..to.min(first + TRACES_PER_ROUND);
        for (index, node) in (0u64..).zip(nodes) {
            let spans: Vec<_> = round
                .clone()
                .flat_map(|trace| (0..SPANS_PER_TRACE).map(move |number| (trace, number)))
                .filter(|(trace, number)| (trace + number) % nodes.len() as u64 == index)
                .map(|(trace, number)| span(trace, number))
                .collect();
            let count = spans.len() as u64;
            if node.sender().deliver(request(&node.id.to_string(), spans)).await {
                sent += count;
            }
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trace_is_exported_whole_by_exactly_the_node_that_the_ring_names() {
    let backend = Backend::start().await;
    let mesh = Mesh::of(["east", "west", "north"], &backend).await;
    let nodes: Vec<&NodeProcess> = mesh.nodes.iter().collect();

    let sent = send_spread(&nodes, 0, TRACES).await;
    assert_eq!(sent, TRACES * SPANS_PER_TRACE);
    let arrived = backend.has_distinct(sent as usize).await;

    assert_eq!(arrived.traces.len(), TRACES as usize);
    assert_eq!((arrived.split(), arrived.twice()), (0, 0));
    for trace in (0..TRACES).step_by(997) {
        let owner = nodes[0].owner_of(&trace_id(trace)).await;
        assert_eq!(arrived.exporters_of(&trace_id(trace)).into_iter().collect::<Vec<_>>(), [owner.as_str()]);
    }
    for node in nodes {
        assert!(arrived.traces.keys().any(|trace| arrived.exporters_of(trace).contains(node.id.to_string().as_str())));
        let ledger = node.ledger().await;
        assert_eq!(ledger["balanced"], true, "{ledger}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_is_sent_three_times_to_three_nodes_comes_out_once() {
    const TRACES: u64 = 500;
    let backend = Backend::start().await;
    let mesh = Mesh::of(["east", "west", "north"], &backend).await;

    for first in (0..TRACES).step_by(50) {
        let spans: Vec<_> = (first..first + 50).flat_map(|t| (0..SPANS_PER_TRACE).map(move |n| span(t, n))).collect();
        let body = request("thrice", spans);
        for node in &mesh.nodes {
            assert!(node.sender().deliver(body.clone()).await);
        }
    }
    let expected = (TRACES * SPANS_PER_TRACE) as usize;
    backend.has_distinct(expected).await;
    mesh.has_settled(expected as u64 * 3).await;

    let arrived = backend.arrived();
    assert_eq!((arrived.spans, arrived.twice(), arrived.split()), (expected, 0, 0));
    let duplicates = mesh.sum_of_ledgers("duplicate").await;
    assert_eq!(duplicates, expected as u64 * 2);
    mesh.stop().await;
}

/// Load on the first nodes of a mesh, in the background, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    traces: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<u64>,
}

impl Load {
    fn on(mesh: &Mesh) -> Load {
        let senders: Vec<_> = mesh.nodes.iter().map(NodeProcess::sender).collect();
        let (stop, traces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), traces.clone());
        let task = tokio::spawn(async move {
            let mut acknowledged = 0;
            let mut trace = 0;
            while !stopped.load(Ordering::Relaxed) {
                for number in 0..SPANS_PER_TRACE {
                    let sender = &senders[((trace + number) % senders.len() as u64) as usize];
                    let spans = (trace..trace + 10).map(|trace| span(trace, number)).collect();
                    acknowledged += if sender.deliver(request("load", spans)).await { 10 } else { 0 };
                }
                trace += 10;
                counted.store(trace, Ordering::Relaxed);
            }
            acknowledged
        });
        Load { stop, traces, task }
    }

    /// Waits until this many traces more than now have been sent.
    async fn goes_on(&self, traces: u64) {
        let target = self.traces.load(Ordering::Relaxed) + traces;
        crate::harness::eventually("more load", || async {
            (self.traces.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Ends the load; spans that senders got a success for.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Prints what a change of members cost: the base for promises that are not kept yet.
fn print_cost(change: &str, acknowledged: u64, backend: &Backend) {
    let arrived = backend.arrived();
    let lost = acknowledged.saturating_sub(arrived.distinct() as u64);
    println!(
        "{change}: {acknowledged} spans acknowledged, {lost} lost, {} exported twice, {} of {} traces split",
        arrived.twice(),
        arrived.split(),
        arrived.traces.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_under_load_takes_its_share_and_nothing_is_lost() {
    let backend = Backend::start().await;
    let mut mesh = Mesh::of(["east", "west", "north"], &backend).await;
    let load = Load::on(&mesh);
    load.goes_on(100).await;
    mesh.join("south").await;
    load.goes_on(200).await;
    let acknowledged = load.end().await;

    let arrived = backend.has_distinct(acknowledged as usize).await;
    let newcomer = mesh.nodes.last().unwrap().id.to_string();
    assert!(arrived.traces.keys().any(|trace| arrived.exporters_of(trace).contains(newcomer.as_str())));
    print_cost("a fourth node joined", acknowledged, &backend);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_under_load_hands_its_share_back_and_loses_nothing() {
    let backend = Backend::start().await;
    let mut mesh = Mesh::of(["east", "west", "north"], &backend).await;
    // Senders beside the leaver would lose their node: only the others are sent to.
    let leaver = mesh.nodes.pop().unwrap();
    let load = Load::on(&mesh);
    load.goes_on(100).await;
    let status = leaver.stop().await;
    assert!(status.success(), "{status}");
    mesh.sees_active(2).await;
    load.goes_on(100).await;
    let acknowledged = load.end().await;

    backend.has_distinct(acknowledged as usize).await;
    print_cost("one of three nodes left", acknowledged, &backend);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_under_load_is_replaced_by_the_others() {
    let backend = Backend::start().await;
    let mut mesh = Mesh::of(["east", "west", "north"], &backend).await;
    let mut victim = mesh.nodes.pop().unwrap();
    let load = Load::on(&mesh);
    load.goes_on(100).await;
    victim.kill();
    mesh.sees_active(2).await;
    load.goes_on(100).await;
    let acknowledged = load.end().await;
    mesh.has_settled(0).await;

    print_cost("one of three nodes was killed", acknowledged, &backend);
    // New traces all have living owners again.
    for trace in 1_000_000..1_000_100 {
        let owner = mesh.nodes[0].owner_of(&trace_id(trace)).await;
        assert!(mesh.nodes.iter().any(|node| node.id.to_string() == owner));
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_reading_does_not_hold_up_the_spans_of_others() {
    let backend = Backend::start().await;
    let mesh = Mesh::of(["east", "west", "north"], &backend).await;
    let frozen = &mesh.nodes[2];
    frozen.freeze();

    let mut trace = 0;
    let mut expected = 0;
    // Traces that the two living nodes own, sent crosswise while the third one is silent.
    while expected < 200 {
        let owner = mesh.nodes[0].owner_of(&trace_id(trace)).await;
        if owner == mesh.nodes[1].id.to_string() {
            assert!(mesh.nodes[0].sender().deliver(request("crosswise", vec![span(trace, 0)])).await);
            expected += 1;
        } else if owner == frozen.id.to_string() {
            assert!(mesh.nodes[0].sender().deliver(request("stuck", vec![span(trace, 0)])).await);
        }
        trace += 1;
    }
    let living = mesh.nodes[1].id.to_string();
    crate::harness::eventually("the living owner's traces", || async {
        let arrived = backend.arrived();
        let whole = arrived.traces.keys().filter(|trace| arrived.exporters_of(trace).contains(living.as_str())).count();
        (whole >= expected).then_some(())
    })
    .await;
    frozen.thaw();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_sends_everything_on_to_the_hubs_and_exports_nothing() {
    const TRACES: u64 = 500;
    let backend = Backend::start().await;
    let mut mesh = Mesh::of(["hub-east", "hub-west"], &backend).await;
    mesh.join_with("spoke", "weight: 0").await;
    let spoke = &mesh.nodes[2];

    let sent = send_spread(&[spoke], 0, TRACES).await;
    let arrived = backend.has_distinct(sent as usize).await;
    assert_eq!((arrived.traces.len(), arrived.split(), arrived.twice()), (TRACES as usize, 0, 0));
    let exporters: BTreeSet<&str> = arrived.traces.keys().flat_map(|trace| arrived.exporters_of(trace)).collect();
    assert_eq!(exporters.into_iter().collect::<Vec<_>>(), ["hub-east/node-0", "hub-west/node-0"]);
    mesh.has_settled(sent).await;
    let ledger = spoke.ledger().await;
    assert_eq!((&ledger["forwarded"], &ledger["exported"]), (&sent.into(), &0.into()), "{ledger}");
    assert_eq!((&ledger["received_peer"], &ledger["balanced"]), (&0.into(), &true.into()), "{ledger}");
    let ring = spoke.api("ring").await;
    assert!(!ring["ring"]["members"].as_array().unwrap().iter().any(|share| share["id"] == "spoke/node-0"), "{ring}");
    mesh.stop().await;
}
