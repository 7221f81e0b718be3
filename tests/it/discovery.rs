//! Nodes find each other through a real DNS zone, also when it is not there at first, or goes away later.

use std::net::{IpAddr, Ipv4Addr};

use spanmesh::dns_zone::DnsZone;

use crate::harness::backend::Backend;
use crate::harness::certs::Certificates;
use crate::harness::eventually;
use crate::harness::node::{NodeProcess, NodeSpec, node_id};
use crate::harness::traces::{request, span};

const SEED: &str = "dnssrv+_mesh._udp.mesh.test";

struct Site {
    directory: tempfile::TempDir,
    certificates: Certificates,
    backend: Backend,
}

impl Site {
    async fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::in_directory(directory.path());
        Site { directory, certificates, backend: Backend::start().await }
    }

    async fn node(&self, cluster: &str, dns: std::net::SocketAddr) -> NodeProcess {
        let spec = NodeSpec {
            cluster,
            seeds: vec![SEED.to_owned()],
            mesh_extra: format!("    dns_server: {dns}\n    refresh_interval: 1s\n    failover_after: 2s"),
            tls: self.certificates.section(&node_id(cluster)),
            exporter_url: self.backend.url(),
            ..NodeSpec::default()
        };
        NodeProcess::start(self.directory.path(), &spec).await
    }
}

fn publish(zone: &DnsZone, nodes: &[&NodeProcess]) {
    zone.set_a("node.mesh.test", &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap();
    let targets: Vec<(&str, u16)> = nodes.iter().map(|node| ("node.mesh.test", node.address("mesh").port())).collect();
    zone.set_srv("_mesh._udp.mesh.test", &targets).unwrap();
}

async fn see_each_other(nodes: &[&NodeProcess]) {
    for node in nodes {
        eventually("the members to agree", || async { (node.active_members().await == nodes.len()).then_some(()) })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_know_only_a_dns_name_find_each_other() {
    let site = Site::new().await;
    let zone = DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let east = site.node("east", zone.addr()).await;
    publish(&zone, &[&east]);
    let west = site.node("west", zone.addr()).await;
    let north = site.node("north", zone.addr()).await;
    see_each_other(&[&east, &west, &north]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_forms_once_dns_comes_up_and_stays_when_it_goes_down() {
    let site = Site::new().await;
    // An address at which nobody answers yet.
    let zone = DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = zone.addr();
    zone.stop().await;
    let east = site.node("east", address).await;
    let west = site.node("west", address).await;
    assert_eq!(east.active_members().await, 1);
    // It serves alone meanwhile.
    assert!(east.sender().deliver(request("alone", vec![span(0, 0)])).await);
    site.backend.has_distinct(1).await;

    let zone = DnsZone::start(address).unwrap();
    publish(&zone, &[&east, &west]);
    see_each_other(&[&east, &west]).await;

    zone.stop().await;
    eventually("the outage to be noticed", || async {
        let status = east.api("status").await;
        let seeds = status["mesh"]["seeds"].as_array()?.clone();
        seeds.iter().any(|seed| !seed["error"].is_null()).then_some(())
    })
    .await;
    see_each_other(&[&east, &west]).await;
    for trace in 1..50 {
        assert!(west.sender().deliver(request("outage", vec![span(trace, 0)])).await);
    }
    site.backend.has_distinct(50).await;
}
