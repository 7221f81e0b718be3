//! Whole traces at their owner: which ones come out, what the metrics say of them, and what late spans meet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::harness::backend::{Arrived, Backend, TraceId};
use crate::harness::eventually;
use crate::harness::node::{Mesh, get};
use crate::harness::traces::{request, span_id, text};

const CLUSTERS: [&str; 3] = ["east", "west", "north"];
const TRACES: u64 = 5_000;
/// Share of the rest that is kept by chance.
const PERCENT: u64 = 20;

const PROCESSORS: &str = r#"
  cross_cluster: {}
  tail_sampling:
    decision_wait: 2s
    policies:
      - {name: errors, type: status_code, status_code: {status_codes: [ERROR]}}
      - {name: slow, type: latency, latency: {threshold_ms: 1000}}
      - {name: between-clusters, type: cross_cluster, cross_cluster: {}}
      - {name: gold, type: string_attribute, string_attribute: {key: customer.tier, values: [gold]}}
      - {name: a-share, type: probabilistic, probabilistic: {sampling_percentage: 20}}
"#;

/// What a trace is like; its number says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Failed,
    Slow,
    Crossing,
    Gold,
    Plain,
}

fn kind(trace: u64) -> Kind {
    match trace % 10 {
        0 => Kind::Failed,
        1 => Kind::Slow,
        2 | 3 => Kind::Crossing,
        4 => Kind::Gold,
        _ => Kind::Plain,
    }
}

/// Spread over all 16 bytes, since the last seven decide about sampling.
fn id(trace: u64) -> TraceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(trace + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&(trace + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).to_be_bytes());
    id
}

/// The specification's rule, written once more: the last seven bytes against the share that is to go.
fn kept_by_chance(trace: u64) -> bool {
    let id = id(trace);
    let randomness = id[9..].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    randomness >= (1 << 56) / 100 * (100 - PERCENT)
}

/// The policy that keeps a trace; `None`: it goes.
fn policy(trace: u64) -> Option<&'static str> {
    match kind(trace) {
        Kind::Failed => Some("errors"),
        Kind::Slow => Some("slow"),
        Kind::Crossing => Some("between-clusters"),
        Kind::Gold => Some("gold"),
        Kind::Plain => kept_by_chance(trace).then_some("a-share"),
    }
}

/// Cluster that the first span of a trace comes from, and that of its last two.
fn home(trace: u64) -> (usize, usize) {
    let first = (trace / 10 % 3) as usize;
    (first, if kind(trace) == Kind::Crossing { (first + 1) % 3 } else { first })
}

/// A server, its client span, the server that this called, and what that did inside: a chain of parents. With each the
/// cluster whose node is sent it.
fn spans_of(trace: u64) -> Vec<(usize, Span)> {
    let (near, far) = home(trace);
    let start = 1_700_000_000_000_000_000 + trace * 1_000_000;
    let length = if kind(trace) == Kind::Slow { 1_500_000_000 } else { 200_000_000 };
    let kinds = [(near, 2), (near, 3), (far, 2), (far, 1)];
    let span = |(number, (cluster, kind)): (u64, (usize, i32))| {
        let span = Span {
            trace_id: id(trace).to_vec(),
            span_id: span_id(trace, number).to_vec(),
            parent_span_id: if number == 0 { Vec::new() } else { span_id(trace, number - 1).to_vec() },
            name: format!("step {number}"),
            kind,
            start_time_unix_nano: start + number * 1_000_000,
            end_time_unix_nano: start + length - number * 1_000_000,
            attributes: match (crate::sampling::kind(trace), number) {
                (Kind::Gold, 1) => vec![text("customer.tier", "gold")],
                _ => vec![text("customer.tier", "wood")],
            },
            status: (crate::sampling::kind(trace) == Kind::Failed && number == 3)
                .then(|| Status { code: 2, message: "out of stock".to_owned() }),
            ..Span::default()
        };
        (cluster, span)
    };
    (0..).zip(kinds).map(span).collect()
}

/// Sends some traces, every span to the node of its cluster and every fifth twice, the youngest spans first.
async fn send(mesh: &Mesh, traces: impl Iterator<Item = u64> + Clone) -> u64 {
    let mut sent = 0;
    for (cluster, node) in mesh.nodes.iter().enumerate() {
        let mut spans: Vec<Span> =
            traces.clone().flat_map(spans_of).filter(|(of, _)| *of == cluster).map(|(_, span)| span).collect();
        spans.reverse();
        let again: Vec<Span> = spans.iter().step_by(5).cloned().collect();
        for spans in [spans, again] {
            sent += spans.len() as u64;
            assert!(node.sender().deliver(request(&format!("service-{cluster}"), spans)).await);
        }
    }
    sent
}

/// Sum over all nodes of a metric's samples, by their labels.
async fn metric(mesh: &Mesh, name: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for node in &mesh.nodes {
        let page = get(&format!("http://{}/metrics", node.address("metrics"))).await.expect("the metrics page");
        let page = String::from_utf8(page.to_vec()).unwrap();
        for line in page.lines().filter(|line| line.starts_with(name)) {
            let line = line.split(" # ").next().unwrap();
            let (series, value) = line.rsplit_once(' ').unwrap();
            let labels = series[name.len()..].trim_matches(['{', '}']);
            if series.as_bytes().get(name.len()).is_none_or(|next| *next == b'{') {
                *sums.entry(labels.to_owned()).or_default() += value.parse::<f64>().unwrap();
            }
        }
    }
    sums
}

async fn all_are_decided(mesh: &Mesh) {
    eventually("every trace to be decided", || async {
        let mut open = 0;
        for node in &mesh.nodes {
            open += node.api("status").await["traces"][0]["open_traces"].as_u64().expect("a count of open traces");
        }
        (open == 0).then_some(())
    })
    .await;
    eventually("everything to be exported", || async { (mesh.sum_of_ledgers("in_flight").await == 0).then_some(()) })
        .await;
}

/// How many traces each policy kept, over all nodes.
async fn kept_by_policy(mesh: &Mesh) -> BTreeMap<String, u64> {
    let mut kept = BTreeMap::new();
    for node in &mesh.nodes {
        let status = node.api("status").await;
        for policy in status["traces"][0]["policies"].as_array().expect("policies") {
            let name = policy["name"].as_str().expect("a name").to_owned();
            *kept.entry(name).or_default() += policy["decided_traces"].as_u64().expect("a count");
        }
    }
    kept
}

fn numbers_of(arrived: &Arrived) -> BTreeSet<TraceId> {
    arrived.traces.keys().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_traces_that_the_rules_keep_come_out_whole_and_the_metrics_know_them_all() {
    let backend = Backend::start().await;
    let mesh = Mesh::with_processors(CLUSTERS, &backend, PROCESSORS, "cross_cluster, tail_sampling").await;
    let mut sent = 0;
    for first in (0..TRACES).step_by(250) {
        sent += send(&mesh, first..first + 250).await;
    }
    let kept: BTreeSet<TraceId> = (0..TRACES).filter(|trace| policy(*trace).is_some()).map(id).collect();
    let arrived = backend.has_distinct(kept.len() * 4).await;
    all_are_decided(&mesh).await;

    assert_eq!(numbers_of(&backend.arrived()), kept);
    assert!(arrived.traces.values().all(|spans| spans.len() == 4), "a trace came out in part");
    assert_eq!((backend.arrived().spans, backend.arrived().twice(), backend.arrived().split()), (kept.len() * 4, 0, 0));

    // The ledger of the mesh adds up to what the sender knows.
    let spans = TRACES * 4;
    let exported = kept.len() as u64 * 4;
    assert_eq!(mesh.sum_of_ledgers("received_local").await, sent);
    assert_eq!(mesh.sum_of_ledgers("exported").await, exported);
    assert_eq!(mesh.sum_of_ledgers("sampled_out").await, spans - exported);
    assert_eq!(mesh.sum_of_ledgers("duplicate").await, sent - spans);
    for node in &mesh.nodes {
        assert_eq!(node.ledger().await["balanced"], true);
    }

    // Each policy kept what it should.
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for name in (0..TRACES).filter_map(policy) {
        *expected.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(kept_by_policy(&mesh).await, expected);

    // Metrics are of all traces, kept or not, and of every span once.
    let mut clusters: BTreeMap<String, f64> = BTreeMap::new();
    let mut edges: BTreeMap<String, f64> = BTreeMap::new();
    for trace in 0..TRACES {
        spans_of(trace).iter().for_each(|(cluster, _)| {
            *clusters.entry(format!("cluster=\"{}\"", CLUSTERS[*cluster])).or_default() += 1.0;
        });
        if kind(trace) == Kind::Crossing {
            let (near, far) = home(trace);
            let labels = format!("source_cluster=\"{}\",target_cluster=\"{}\"", CLUSTERS[near], CLUSTERS[far]);
            *edges.entry(labels).or_default() += 1.0;
        }
    }
    assert_eq!(metric(&mesh, "spans_total").await, clusters);
    assert_eq!(metric(&mesh, "cross_cluster_request_duration_seconds_count").await, edges);
    assert_eq!(metric(&mesh, "cross_cluster_network_seconds_count").await, edges);
    // A client span of 198 ms and the server span of 196 ms that it called.
    let network: f64 = metric(&mesh, "cross_cluster_network_seconds_sum").await.values().sum();
    let calls: f64 = edges.values().sum();
    assert!((network / calls - 0.002).abs() < 1e-6, "{network} s in {calls} calls");
    let without: f64 = metric(&mesh, "spans_without_parent_context_total").await.values().sum();
    assert_eq!(without, 0.0);

    late_spans_follow_the_verdict(&mesh, &backend).await;
    mesh.stop().await;
}

/// What came out of these traces: the number of spans, by trace.
fn of_traces(arrived: &Arrived, traces: &[u64]) -> Vec<usize> {
    traces.iter().map(|trace| arrived.traces.get(&id(*trace)).map_or(0, BTreeMap::len)).collect()
}

async fn late_spans_follow_the_verdict(mesh: &Mesh, backend: &Backend) {
    let (kept, dropped): (Vec<u64>, Vec<u64>) = (0..60).partition(|trace| policy(*trace).is_some());
    let before = backend.arrived().distinct();
    let sampled_out = mesh.sum_of_ledgers("sampled_out").await;
    for (late, seconds) in [(4, 1), (5, 10)] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let spans: Vec<Span> = (0..60)
            .map(|trace| Span { span_id: span_id(trace, late).to_vec(), ..spans_of(trace)[1].1.clone() })
            .collect();
        // Any node takes them, and their owners know.
        assert!(mesh.nodes[late as usize % 3].sender().deliver(request("late", spans)).await);
    }
    let arrived = backend.has_distinct(before + kept.len() * 2).await;
    assert_eq!(of_traces(&arrived, &kept), vec![6; kept.len()]);
    assert_eq!(of_traces(&arrived, &dropped), vec![0; dropped.len()]);
    eventually("late spans of dropped traces to be dropped", || async {
        (mesh.sum_of_ledgers("sampled_out").await == sampled_out + dropped.len() as u64 * 2).then_some(())
    })
    .await;
    let counts = metric(mesh, "spanmesh_traces_late_spans_total").await;
    let of = |verdict: &str| -> f64 {
        counts.iter().filter(|(labels, _)| labels.contains(&format!("verdict=\"{verdict}\""))).map(|(_, n)| n).sum()
    };
    assert_eq!((of("kept"), of("dropped")), (kept.len() as f64 * 2.0, dropped.len() as f64 * 2.0));
}
