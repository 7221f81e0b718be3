//! What operators and their machines rely on: how a node starts, says how it is, and ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use spanmesh::model::Tick;
use spanmesh::runtime::clock::Clock;

use crate::harness::backend::Backend;
use crate::harness::eventually;
use crate::harness::node::{NodeProcess, NodeSpec, get, node_id, spanmesh, status_of};
use crate::harness::traces::{request, span};

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";
const SPANS: u64 = 300;

/// A node that runs alone and exports to this URL.
fn alone(exporter_url: String) -> NodeSpec<'static> {
    NodeSpec { cluster: "east", tls: "{}".into(), exporter_url, ..NodeSpec::default() }
}

async fn start(directory: &Path, backend: &Backend) -> NodeProcess {
    NodeProcess::start(directory, &alone(backend.url())).await
}

async fn take_spans(node: &NodeProcess) {
    for trace in 0..SPANS / 10 {
        let spans = (0..10).map(|number| span(trace, number)).collect();
        assert!(node.sender().deliver(request("in hand", spans)).await);
    }
}

/// Waits until the node says that it is leaving.
async fn drains(node: &NodeProcess) {
    let ready = format!("http://{}/ready", node.address("health"));
    eventually("the node to drain", || async { (status_of(&ready).await? == 503).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_delivers_what_is_in_hand_to_a_slow_backend_and_is_not_ready_meanwhile() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let mut node = start(directory.path(), &backend).await;
    for path in ["", "ready", "live"] {
        assert_eq!(status_of(&format!("http://{}/{path}", node.address("health"))).await, Some(200), "{path}");
    }
    backend.hold();
    take_spans(&node).await;
    node.signal("TERM");
    drains(&node).await;
    assert_eq!(status_of(&format!("http://{}/live", node.address("health"))).await, Some(200));
    assert_eq!(node.api("status").await["node"]["state"], "draining");
    assert_eq!(node.ledger().await["in_flight"], SPANS);
    assert_eq!(backend.arrived().spans, 0);

    backend.release();
    assert_eq!(node.ended().await.code(), Some(0));
    let arrived = backend.arrived();
    assert_eq!((arrived.distinct() as u64, arrived.spans as u64), (SPANS, SPANS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_cannot_deliver_ends_with_3_within_its_grace_and_says_how_many() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start_with(directory.path(), &alone(NOBODY.into()), &["--grace", "5s"]).await;
    take_spans(&node).await;
    let clock = Clock::start();
    node.signal("TERM");
    drains(&node).await;
    assert_eq!(node.ledger().await["in_flight"], SPANS);
    assert_eq!(node.ended().await.code(), Some(3));
    assert!(clock.now() < Tick::ZERO + Duration::from_secs(20), "{:?}", clock.now());
    let last = node.log().lines().last().unwrap().to_owned();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["level"], &last["spans"]), (&"ERROR".into(), &SPANS.into()), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_node_at_once() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let mut node = start(directory.path(), &backend).await;
    backend.hold();
    take_spans(&node).await;
    node.signal("TERM");
    drains(&node).await;
    // The grace of 50 s has hardly begun.
    let clock = Clock::start();
    node.signal("TERM");
    assert_eq!(node.ended().await.code(), Some(3));
    assert!(clock.now() < Tick::ZERO + Duration::from_secs(20), "{:?}", clock.now());
    assert!(node.log().contains("asked to stop at once"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_end_with_its_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    for by_signal in [false, true] {
        let config = NodeProcess::configured(directory.path(), &alone(NOBODY.into()));
        let mut command = spanmesh();
        command.args(["run", "--config"]).arg(config).env("SPANMESH_EXIT_WITH_STDIN", "1").stdin(Stdio::piped());
        let mut node = NodeProcess::spawn(directory.path(), node_id("east"), command).await.unwrap();
        assert_eq!(status_of(&format!("http://{}/ready", node.address("health"))).await, Some(200));
        // Or by a signal, while nothing was read from the pipe and nothing closed it.
        if by_signal {
            node.signal("TERM");
        } else {
            node.close_stdin();
        }
        assert_eq!(node.ended().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collectors_bare_form_runs_and_a_hangup_changes_nothing() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let config = NodeProcess::configured(directory.path(), &alone(backend.url()));
    let mut command = spanmesh();
    command.arg(format!("--config={}", config.display())).stdin(Stdio::null());
    let node = NodeProcess::spawn(directory.path(), node_id("east"), command).await.unwrap();
    std::fs::write(&config, "receivers: 7\n").unwrap();
    node.signal("HUP");
    eventually("the new configuration to be refused", || async { node.log().contains("become invalid").then_some(()) })
        .await;
    take_spans(&node).await;
    backend.has_distinct(SPANS as usize).await;
    assert_eq!(node.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_and_a_url_are_enough_to_run() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let mut command = spanmesh();
    command.args(["run", "--cluster", "laptop", "--export", &backend.url()]).stdin(Stdio::null());
    match NodeProcess::spawn(directory.path(), node_id("laptop"), command).await {
        Ok(node) => {
            assert_eq!(node.address("otlp_grpc").port(), 4317);
            assert_eq!(node.address("admin").port(), 4320);
            exports_what_it_takes(node, &backend).await;
        }
        // Another collector runs on this machine: then its ports are the reason, and the only one.
        Err(log) => assert!(log.contains("another process has the port"), "{log}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_print_config_shows_of_the_built_in_configuration_runs() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let printed = spanmesh()
        .args(["print-config", "--defaults", "--cluster", "laptop", "--node", "node-0", "--export", &backend.url()])
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let mut text = String::from_utf8(printed.stdout).unwrap();
    for port in ["4317", "4318", "4320", "8888", "13133"] {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    let config = directory.path().join("printed.yaml");
    std::fs::write(&config, text).unwrap();
    let mut command = spanmesh();
    command.args(["run", "--config"]).arg(config).stdin(Stdio::null());
    let node = NodeProcess::spawn(directory.path(), node_id("laptop"), command).await.unwrap();
    exports_what_it_takes(node, &backend).await;
}

async fn exports_what_it_takes(node: NodeProcess, backend: &Backend) {
    take_spans(&node).await;
    let arrived = backend.has_distinct(SPANS as usize).await;
    assert_eq!(arrived.twice(), 0);
    let cluster = b"laptop";
    assert!(arrived.bodies.iter().all(|body| body.windows(cluster.len()).any(|window| window == cluster)));
    assert_eq!(node.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_and_the_commands_that_read_it_agree() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let node = start(directory.path(), &backend).await;
    let trace = "5b8efff798038103d269b633813fc60c";
    let owner = format!("ring/owner/{trace}");
    for path in ["status", "members", "ring", "links", "ledger", &owner] {
        assert_eq!(node.api(path).await["schema"], 1, "{path}");
    }
    let base = format!("http://{}", node.address("admin"));
    assert_eq!(status_of(&format!("{base}/api/v1/nothing")).await, Some(404));
    assert_eq!(status_of(&format!("{base}/api/v1/ring/owner/7")).await, Some(400));
    let page = get(&base).await.unwrap();
    assert!(String::from_utf8_lossy(&page).contains("east/node-0"));

    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = spanmesh().args(arguments).args(["-o", "json", "--admin", &base]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json(&["members"])["members"][0]["id"], "east/node-0");
    let share = &json(&["ring"])["ring"]["members"][0];
    assert_eq!((&share["id"], &share["share"], &share["slots"]), (&"east/node-0".into(), &1.0.into(), &65_536.into()));
    let owned = json(&["ring", "owner", trace]);
    assert_eq!((&owned["owner"], &owned["me"]), (&"east/node-0".into(), &true.into()));
    // The same for people, and by the environment.
    let text = spanmesh().args(["ring", "owner", trace]).env("SPANMESH_ADMIN", &base).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("east/node-0 (this node)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_is_prometheus_text_and_has_the_promised_names() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let node = start(directory.path(), &backend).await;
    take_spans(&node).await;
    backend.has_distinct(SPANS as usize).await;
    let page = get(&format!("http://{}/metrics", node.address("metrics"))).await.unwrap();
    let samples = parsed(std::str::from_utf8(&page).unwrap());
    let sum = |name: &str| -> f64 {
        let found: Vec<f64> = samples.iter().filter(|(sample, _)| sample == name).map(|(_, value)| *value).collect();
        assert!(!found.is_empty(), "no {name}");
        found.iter().sum()
    };
    for name in [
        "otelcol_receiver_accepted_spans_total",
        "otelcol_exporter_sent_spans_total",
        "spanmesh_ledger_received_spans_total",
        "spanmesh_dedup_admitted_total",
    ] {
        assert_eq!(sum(name), SPANS as f64, "{name}");
    }
    for name in [
        "otelcol_receiver_refused_spans_total",
        "otelcol_exporter_send_failed_spans_total",
        "otelcol_exporter_enqueue_failed_spans_total",
        "otelcol_exporter_queue_size",
        "spanmesh_ledger_in_flight_spans",
        "spanmesh_dedup_error_ratio",
    ] {
        assert!(sum(name) < 1e-6, "{name}");
    }
    assert_eq!((sum("spanmesh_ledger_balanced"), sum("spanmesh_ring_share_ratio")), (1.0, 1.0));
}

/// Reads the text format strictly: a type before each family's samples, no sample twice, an end.
fn parsed(page: &str) -> Vec<(String, f64)> {
    let body = page.strip_suffix("# EOF\n").expect("the page ends");
    let mut families: Vec<&str> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut samples = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, family) = (words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind) && words.next().is_some(), "{line}");
            if families.last() != Some(&family) {
                assert!(!families.contains(&family), "{family} comes in two parts");
                families.push(family);
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(name.starts_with(families.last().expect("a family")), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        assert!(labels.ends_with('}') && labels.matches('"').count() % 2 == 0, "{line}");
        assert!(seen.insert(series), "{series} twice");
        samples.push((name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}"))));
    }
    samples
}
