//! Who may not join: certificates of another CA, expired ones, and those of another node.

use std::time::Duration;

use spanmesh::model::UnixNanos;
use spanmesh::runtime::clock::unix_now;

use crate::harness::backend::Backend;
use crate::harness::certs::{Certificates, DAY};
use crate::harness::eventually;
use crate::harness::node::{NodeProcess, NodeSpec, node_id};
use crate::harness::traces::{request, span, trace_id};

async fn start(
    directory: &std::path::Path,
    cluster: &str,
    seeds: Vec<String>,
    tls: String,
    backend: &Backend,
) -> NodeProcess {
    let spec = NodeSpec { cluster, seeds, mesh_extra: String::new(), tls, exporter_url: backend.url() };
    NodeProcess::start(directory, &spec).await
}

/// Waits until the node has tried its seed and failed at it, then holds that neither has taken the other in.
async fn stays_out(insider: &NodeProcess, outsider: &NodeProcess) {
    eventually("the outsider to be turned away", || async {
        let log = format!("{}{}", outsider.log(), insider.log());
        log.contains("handshake").then_some(())
    })
    .await;
    assert_eq!(insider.active_members().await, 1);
    assert_eq!(outsider.active_members().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_certificate_of_another_ca_stays_alone() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let ours = Certificates::named(directory.path(), "ours");
    let theirs = Certificates::named(directory.path(), "theirs");
    let insider = start(directory.path(), "east", vec![], ours.section(&node_id("east")), &backend).await;
    let seeds = vec![insider.address("mesh").to_string()];
    let outsider = start(directory.path(), "west", seeds, theirs.section(&node_id("west")), &backend).await;
    stays_out(&insider, &outsider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_has_expired_does_not_start_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::in_directory(directory.path());
    let two_days_ago = UnixNanos(unix_now().0 - 2 * DAY.as_nanos() as u64);
    let tls = certificates.section_from(&node_id("east"), two_days_ago, Duration::from_secs(3_600));
    let text = refused_start(directory.path(), "east", &tls);
    assert!(text.contains("expired"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_configured_as_another_than_its_certificate_names_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::in_directory(directory.path());
    let tls = certificates.section(&node_id("west"));
    let text = refused_start(directory.path(), "east", &tls);
    assert!(text.contains("west/node-0") && text.contains("east/node-0"), "{text}");
}

/// Runs a node that must not start; its standard error.
fn refused_start(directory: &std::path::Path, cluster: &str, tls: &str) -> String {
    let config = directory.join("refused.yaml");
    let text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: \"127.0.0.1:0\"}}}}}}}}\n\
         exporters: {{debug: {{}}}}\n\
         connectors: {{mesh: {{cluster: {cluster}, node: node-0, listen: \"127.0.0.1:0\", durability: memory, tls: {tls}}}}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}}}\n  admin: {{endpoint: \"127.0.0.1:0\"}}\n  pipelines:\n    \
         traces/local: {{receivers: [otlp], exporters: [mesh]}}\n    traces/owned: {{receivers: [mesh], exporters: [debug]}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_spanmesh"))
        .args(["run", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_on_disk_is_used_without_a_restart() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let certificates = Certificates::in_directory(directory.path());
    let east = start(directory.path(), "east", vec![], certificates.section(&node_id("east")), &backend).await;
    let expiry = |status: &serde_json::Value| status["mesh"]["certificate_expires"].as_u64();
    let before = expiry(&east.api("status").await).expect("an expiry");
    certificates.section_from(&node_id("east"), unix_now(), DAY / 2);
    eventually("the new certificate", || async {
        let after = expiry(&east.api("status").await)?;
        (after < before).then_some(())
    })
    .await;
    // A node that knows only the new certificate's CA joins, and traces flow.
    let seeds = vec![east.address("mesh").to_string()];
    let west = start(directory.path(), "west", seeds, certificates.section(&node_id("west")), &backend).await;
    eventually("both to see each other", || async {
        (east.active_members().await == 2 && west.active_members().await == 2).then_some(())
    })
    .await;
    for trace in 0..20 {
        assert!(west.sender().deliver(request("rotated", vec![span(trace, 0)])).await);
    }
    let arrived = backend.has_distinct(20).await;
    assert!(arrived.traces.contains_key(&trace_id(0)));
}
