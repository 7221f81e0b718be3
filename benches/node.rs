//! CPU time per span of whole node processes, in the roles origin and owner, and of a node alone with small requests.
//!
//! Real processes of the binary that this benchmark was built with, real QUIC and mTLS between them, `spanmesh load` as
//! the sender. What counts is the CPU time (user and system) that the kernel books for the measured node's process,
//! divided by the spans it took: unlike a rate it does not depend on what else the machine is doing. Linux only: it
//! reads /proc.
//!
//!     cargo bench --bench node

mod process;

use std::thread::sleep;
use std::time::Duration;

use process::{Bench, Node, measured, report};

/// Spans a second where nodes pass them on: what two cores carry for all processes together without refusing any.
const RATE: &str = "100000";

fn main() {
    // `cargo test --benches` builds and starts benchmarks too: only `cargo bench` passes --bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bench = Bench::start(&["idle", "a", "b", "c", "origin", "owner", "sender", "alone", "small"]);
    println!("{:<58} {:>12} {:>12}", "CPU time of the measured node", "median", "all rounds");

    idle(&bench);
    origin(&bench, "zstd");
    origin(&bench, "lz4");
    origin(&bench, "none");
    owner(&bench, "zstd");
    alone(&bench);
    small_requests(&bench);
}

/// The resident size of a node that does nothing.
fn idle(bench: &Bench) {
    let node = bench.node("idle", 100, &[], "zstd");
    sleep(Duration::from_secs(2));
    println!("{:<58} {:>9.1} MiB", "idle node, resident", node.resident_mib());
}

/// A node that owns nothing sends everything on to three owners.
fn origin(bench: &Bench, compression: &str) {
    let owners: Vec<Node> = ["a", "b", "c"].iter().fold(Vec::new(), |mut nodes, name| {
        let seeds: Vec<String> = nodes.iter().map(|node: &Node| node.address("mesh")).collect();
        nodes.push(bench.node(name, 100, &seeds, compression));
        nodes
    });
    let origin = bench.node("origin", 0, &[owners[0].address("mesh")], compression);
    origin.sees(4);
    let rounds = measured(|| {
        origin.cpu_per_span(&["--rate", RATE, "--spans-per-request", "512", "--seconds", "5"], "otlp_grpc")
    });
    report(&format!("origin: gRPC in, three owners, {compression} links, us/span"), &rounds);
}

/// A node that owns everything gets it from a peer; nine of ten spans are duplicates, one is exported.
fn owner(bench: &Bench, compression: &str) {
    let owner = bench.node("owner", 100, &[], compression);
    let origin = bench.node("sender", 0, &[owner.address("mesh")], compression);
    origin.sees(2);
    let rounds = measured(|| {
        let before = owner.cpu();
        let taken_before = owner.ledger("received_peer");
        origin.load(&["--rate", RATE, "--spans-per-request", "512", "--seconds", "5", "--copies", "10"], "otlp_grpc");
        origin.settles();
        owner.settles();
        (owner.cpu() - before).as_secs_f64() * 1e6 / (owner.ledger("received_peer") - taken_before) as f64
    });
    report(&format!("owner: from a peer ({compression}), dedup, 10 % exported, us/span"), &rounds);
}

/// One node, no mesh: in, dedup, everything out.
fn alone(bench: &Bench) {
    let node = bench.node("alone", 100, &[], "zstd");
    for protocol in ["otlp_grpc", "otlp_http"] {
        let full = ["--rate", RATE, "--spans-per-request", "512", "--seconds", "4"];
        report(
            &format!("alone: {protocol} in, dedup, all exported, us/span"),
            &measured(|| node.cpu_per_span(&full, protocol)),
        );
        let copies = ["--rate", "0", "--spans-per-request", "512", "--seconds", "4", "--copies", "10"];
        report(
            &format!("alone: {protocol} in, dedup, 10 % exported, us/span"),
            &measured(|| node.cpu_per_span(&copies, protocol)),
        );
    }
}

/// One span in each request, nearly all of them duplicates: what a request costs by itself.
fn small_requests(bench: &Bench) {
    let node = bench.node("small", 100, &[], "zstd");
    for protocol in ["otlp_grpc", "otlp_http"] {
        let arguments = ["--rate", "0", "--spans-per-request", "1", "--seconds", "4", "--copies", "50"];
        let rounds = measured(|| node.cpu_per_span(&arguments, protocol));
        report(&format!("small requests: {protocol}, one span each, us/request"), &rounds);
    }
}
