//! Who may not join: certificates of another CA, expired ones, and those of another node.

use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use spanmesh::link::frame::{Code, Compression, Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use spanmesh::link::tls::SERVER_NAME;
use spanmesh::logic::membership::Identity;
use spanmesh::model::{BootId, UnixNanos};
use spanmesh::runtime::clock::unix_now;

use crate::harness::backend::Backend;
use crate::harness::certs::{Certificates, DAY};
use crate::harness::node::{NodeProcess, NodeSpec, node_id};
use crate::harness::traces::{request, span, trace_id};
use crate::harness::{eventually, within};

async fn start(
    directory: &std::path::Path,
    cluster: &str,
    seeds: Vec<String>,
    tls: String,
    backend: &Backend,
) -> NodeProcess {
    let spec = NodeSpec { cluster, seeds, tls, exporter_url: backend.url(), ..NodeSpec::default() };
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
async fn a_mesh_of_another_name_stays_apart_though_the_certificates_are_good() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let certificates = Certificates::in_directory(directory.path());
    let east = start(directory.path(), "east", vec![], certificates.section(&node_id("east")), &backend).await;
    let other = NodeSpec {
        cluster: "west",
        seeds: vec![east.address("mesh").to_string()],
        mesh_extra: "    name: staging".into(),
        tls: certificates.section(&node_id("west")),
        exporter_url: backend.url(),
        ..NodeSpec::default()
    };
    let other = NodeProcess::start(directory.path(), &other).await;
    eventually("the reason to be told", || async {
        other.log().contains("the peer refused: this node is in the mesh").then_some(())
    })
    .await;
    assert_eq!((east.active_members().await, other.active_members().await), (1, 1));
}

/// Dials a node with a certificate of `certified` and says to be `claimed`; the code that the node closes with.
async fn greeted(node: &NodeProcess, certificates: &Certificates, certified: &str, claimed: &str) -> Option<VarInt> {
    let identities = certificates.identities(&node_id(certified));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let dialled = endpoint.connect_with(identities.client_config(), node.address("mesh"), SERVER_NAME).unwrap();
    let quic = within("the handshake", dialled).await.unwrap();
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        mesh: "default".into(),
        identity: Identity { id: node_id(claimed), boot: BootId(1), revision: 0, address: None, weight: 100 },
        address_learned: false,
        region: String::new(),
        zone: String::new(),
        environment: String::new(),
        version: "by hand".into(),
        decodes: Compression::all_bits(),
        observed: None,
    };
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    send.write_all(&hello.encode()).await.unwrap();
    let _ = send.finish();
    let answer = within("an answer to the hello", recv.read_to_end(64 << 10)).await;
    match (answer, quic.close_reason()) {
        (Ok(_), None) => None,
        (_, Some(ConnectionError::ApplicationClosed(close))) => Some(close.error_code),
        (answer, reason) => panic!("{answer:?}, {reason:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_names_another_cluster_than_the_certificate_is_turned_away_and_an_alarm() {
    let (backend, directory) = (Backend::start().await, tempfile::tempdir().unwrap());
    let certificates = Certificates::in_directory(directory.path());
    let east = start(directory.path(), "east", vec![], certificates.section(&node_id("east")), &backend).await;
    // The same by-hand peer is a member when it says the truth.
    assert_eq!(greeted(&east, &certificates, "honest", "honest").await, None);
    for claimed in ["north", "east"] {
        let code = greeted(&east, &certificates, "west", claimed).await;
        assert_eq!(code, Some(Code::Identity.varint()), "{claimed}");
    }
    let status = east.api("status").await;
    assert_eq!(status["mesh"]["identity_mismatches"], 2);
    let members = status["mesh"]["members"].as_array().unwrap();
    assert!(!members.iter().any(|member| member["id"] == "north/node-0" || member["id"] == "west/node-0"), "{status}");
    assert!(east.log().contains("claims to be another than its certificate says"), "{}", east.log());
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
