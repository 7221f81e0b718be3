//! Real lookups against a real DNS server on loopback.

use super::*;
use crate::dns_zone::{DnsZone, Fault};

const REFRESH: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
const HASTE: Patience = Patience { question: Duration::from_millis(100), look: Duration::from_millis(400) };

fn zone() -> DnsZone {
    DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn set(list: &[&str]) -> BTreeSet<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn dns(host: &str) -> Seed {
    Seed::Dns { host: host.to_owned(), port: 4319 }
}

fn start(seeds: Vec<Seed>, zone: &DnsZone) -> Discovery {
    Discovery::start(seeds, Some(zone.addr()), REFRESH)
}

async fn sees(discovery: &Discovery, wanted: &BTreeSet<SocketAddr>) {
    let mut candidates = discovery.candidates();
    let waited = tokio::time::timeout(PATIENCE, candidates.wait_for(|seen| seen == wanted)).await;
    if waited.is_err() {
        panic!("want {wanted:?}, status is {:?}", discovery.status());
    }
}

/// Waits until the first seed has failed `times` more, and the last look was a failure saying `why`.
async fn fails(discovery: &Discovery, times: u64, why: &str) {
    let before = discovery.status()[0].failures_total;
    let failing = async {
        loop {
            let seed = discovery.status().swap_remove(0);
            if seed.failures_total >= before + times && seed.error.as_ref().is_some_and(|error| error.contains(why)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, failing).await.is_err() {
        panic!("want {times} failures saying {why:?}, status is {:?}", discovery.status());
    }
}

#[tokio::test]
async fn every_address_of_both_families_is_found_and_changes_are_seen() {
    let zone = zone();
    zone.set_a("nodes.mesh.test", &ips(&["10.0.0.1", "10.0.0.2", "fd00::1"])).unwrap();
    let discovery = start(vec![dns("nodes.mesh.test")], &zone);
    sees(&discovery, &set(&["10.0.0.1:4319", "10.0.0.2:4319", "[fd00::1]:4319"])).await;
    zone.set_a("nodes.mesh.test", &ips(&["10.0.0.2", "10.0.0.3"])).unwrap();
    sees(&discovery, &set(&["10.0.0.2:4319", "10.0.0.3:4319"])).await;
    let status = discovery.status();
    assert_eq!((status[0].seed.as_str(), &status[0].error), ("dns+nodes.mesh.test:4319", &None));
}

#[tokio::test]
async fn services_are_found_with_their_ports_and_all_their_addresses() {
    let zone = zone();
    let name = "_mesh._udp.mesh.test";
    zone.set_srv(name, &[("a.mesh.test", 4319), ("b.mesh.test", 5000), (".", 1)]).unwrap();
    zone.set_a("a.mesh.test", &ips(&["10.0.0.1", "fd00::1"])).unwrap();
    zone.set_a("b.mesh.test", &ips(&["10.0.0.2"])).unwrap();
    let discovery = start(vec![Seed::Srv { name: name.to_owned() }], &zone);
    sees(&discovery, &set(&["10.0.0.1:4319", "[fd00::1]:4319", "10.0.0.2:5000"])).await;
    // A target whose name is gone is an answer, not a failure.
    zone.set_a("b.mesh.test", &[]).unwrap();
    sees(&discovery, &set(&["10.0.0.1:4319", "[fd00::1]:4319"])).await;
    zone.set_srv(name, &[("b.mesh.test", 5000)]).unwrap();
    fails(&discovery, 1, "NXDOMAIN").await;
    sees(&discovery, &set(&["10.0.0.1:4319", "[fd00::1]:4319"])).await;
}

#[tokio::test]
async fn an_outage_of_any_kind_keeps_what_was_found() {
    let zone = zone();
    zone.set_a("nodes.mesh.test", &ips(&["10.0.0.1"])).unwrap();
    let discovery = Discovery::start_with(vec![dns("nodes.mesh.test")], Some(zone.addr()), REFRESH, HASTE);
    let found = set(&["10.0.0.1:4319"]);
    sees(&discovery, &found).await;
    let mut candidates = discovery.candidates();
    candidates.mark_unchanged();

    zone.clear();
    fails(&discovery, 2, "NXDOMAIN").await;
    zone.set_srv("nodes.mesh.test", &[("x.mesh.test", 1)]).unwrap();
    fails(&discovery, 2, "no such records").await;
    zone.set_fault(Fault::ServFail);
    fails(&discovery, 2, "").await;
    zone.set_fault(Fault::Silent);
    fails(&discovery, 1, "").await;
    zone.set_fault(Fault::None);
    zone.set_a("nodes.mesh.test", &ips(&["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"]))
        .unwrap();
    fails(&discovery, 2, "impossible to dial").await;
    assert!(discovery.status()[0].dropped_total >= 6);
    let addr = zone.addr();
    zone.stop().await;
    fails(&discovery, 2, "").await;
    assert!(!candidates.has_changed().unwrap(), "nobody was told of anything");
    assert_eq!(*candidates.borrow(), found);

    let zone = DnsZone::start(addr).unwrap();
    zone.set_a("nodes.mesh.test", &ips(&["10.0.0.9"])).unwrap();
    sees(&discovery, &set(&["10.0.0.9:4319"])).await;
    assert_eq!(discovery.status()[0].error, None);
}

#[tokio::test]
async fn dns_that_comes_up_after_the_node_is_found() {
    let zone = zone();
    let addr = zone.addr();
    zone.stop().await;
    let discovery = Discovery::start_with(vec![dns("nodes.mesh.test")], Some(addr), REFRESH, HASTE);
    fails(&discovery, 2, "").await;
    assert!(discovery.candidates().borrow().is_empty());
    let zone = DnsZone::start(addr).unwrap();
    zone.set_a("nodes.mesh.test", &ips(&["10.0.0.1"])).unwrap();
    sees(&discovery, &set(&["10.0.0.1:4319"])).await;
}

#[tokio::test]
async fn a_thousand_records_are_64_candidates_and_in_time_others() {
    let zone = zone();
    let many: Vec<IpAddr> = (0..1_000u16).map(|n| IpAddr::from([10, 1, (n >> 8) as u8, n as u8])).collect();
    zone.set_a("many.mesh.test", &many).unwrap();
    let discovery = start(vec![dns("many.mesh.test")], &zone);
    let mut candidates = discovery.candidates();
    let mut met = BTreeSet::new();
    let meeting = async {
        while met.len() <= MAX_ADDRESSES {
            candidates.changed().await.unwrap();
            let seen = candidates.borrow_and_update().clone();
            assert_eq!(seen.len(), MAX_ADDRESSES);
            met.extend(seen);
        }
    };
    tokio::time::timeout(PATIENCE, meeting).await.unwrap();
    let seed = discovery.status().swap_remove(0);
    assert_eq!((seed.dropped_total, seed.error), (936 * seed.lookups_total, None));
}

#[tokio::test]
async fn a_thousand_services_are_64_targets() {
    let zone = zone();
    let targets: Vec<(&str, u16)> = (1..=300).map(|port| ("a.mesh.test", port)).collect();
    zone.set_srv("_mesh._udp.mesh.test", &targets).unwrap();
    zone.set_a("a.mesh.test", &ips(&["10.0.0.1", "10.0.0.2"])).unwrap();
    let discovery = start(vec![Seed::Srv { name: "_mesh._udp.mesh.test".to_owned() }], &zone);
    let mut candidates = discovery.candidates();
    let seen = tokio::time::timeout(PATIENCE, candidates.wait_for(|seen| !seen.is_empty())).await.unwrap().unwrap();
    assert_eq!(seen.len(), MAX_ADDRESSES);
}

#[tokio::test]
async fn a_wrong_host_or_a_slow_server_of_one_seed_delays_no_other() {
    let zone = zone();
    zone.set_fault(Fault::Silent);
    let literal = Seed::Host { host: "fd00::7".to_owned(), port: 4319 };
    let wrong = ["", ".", "a..b", "x y", &"n".repeat(300), "nowhere.mesh.test"].map(dns);
    let seeds = wrong.into_iter().chain([literal, Seed::Host { host: "localhost".to_owned(), port: 7 }]).collect();
    let discovery = Discovery::start(seeds, Some(zone.addr()), REFRESH);
    let mut candidates = discovery.candidates();
    let local: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let waited = candidates.wait_for(|seen| seen.contains(&local) && seen.contains(&"[fd00::7]:4319".parse().unwrap()));
    tokio::time::timeout(Duration::from_secs(3), waited)
        .await
        .expect("well before a silent server is given up")
        .unwrap();
}

#[tokio::test]
async fn names_of_the_hosts_file_are_found_with_the_systems_resolver() {
    let seeds = vec![Seed::Host { host: "localhost".to_owned(), port: 4319 }];
    let discovery = Discovery::start(seeds, None, REFRESH);
    let mut candidates = discovery.candidates();
    let local = "127.0.0.1:4319".parse().unwrap();
    tokio::time::timeout(PATIENCE, candidates.wait_for(|seen| seen.contains(&local))).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_it_ends_the_lookups() {
    let zone = zone();
    let discovery = start(vec![dns("nodes.mesh.test")], &zone);
    fails(&discovery, 1, "NXDOMAIN").await;
    let shared = Arc::downgrade(&discovery.shared);
    drop(discovery);
    let ending = async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ending).await.expect("the tasks end");
}

#[test]
fn half_an_answer_adds_what_it_has_and_removes_nothing() {
    let mut seed = SeedStatus {
        seed: "dns+x:1".to_owned(),
        addresses: Vec::new(),
        error: None,
        failures_total: 0,
        lookups_total: 0,
        dropped_total: 0,
    };
    let found = |addresses: &[&str], complete: bool| Found {
        addresses: set(addresses),
        complete,
        error: (!complete).then(|| "AAAA timed out".to_owned()),
        dropped: 0,
    };
    assert!(seed.take(found(&["10.0.0.1:1", "[fd00::1]:1"], true)));
    assert!(!seed.take(found(&["10.0.0.2:1"], false)));
    assert_eq!(
        seed.addresses.iter().copied().collect::<BTreeSet<_>>(),
        set(&["10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"])
    );
    assert_eq!((seed.failures_total, seed.error.as_deref()), (1, Some("AAAA timed out")));
    assert!(seed.take(found(&["[::ffff:10.0.0.2]:1"], true)));
    assert_eq!(seed.addresses, ["10.0.0.2:1".parse().unwrap()]);
}
