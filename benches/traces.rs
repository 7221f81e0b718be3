//! What it costs a node to wait for whole traces and to decide: CPU, memory, and what happens when there is too much.
//!
//! A node alone takes the reference payload over gRPC, drops duplicates, holds every trace, asks five policies, counts
//! cross-cluster metrics and exports about a tenth. As in the benchmark `node`, what counts is the CPU time that the
//! kernel books for the node's process. `R` is prost's decode, encode and drop of the same payload, in the same run.
//!
//!     cargo bench --bench traces [-- decide|memory|overload|small]

mod process;

use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use process::{Bench, Node, measured, report, until};
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use spanmesh::load::payload::{Payload, Shape};
use spanmesh::model::UnixNanos;

const OWNED: &str = ", cross_cluster, tail_sampling";

/// About a tenth of the traces of the reference payload is kept by these.
fn processors(decision_wait: &str, more: &str) -> String {
    format!(
        r#"
  cross_cluster: {{}}
  tail_sampling:
    decision_wait: {decision_wait}
    {more}
    policies:
      - name: some-errors
        type: and
        and:
          and_sub_policy:
            - {{name: errors, type: status_code, status_code: {{status_codes: [ERROR]}}}}
            - {{name: a-third, type: probabilistic, probabilistic: {{sampling_percentage: 30}}}}
      - {{name: slow, type: latency, latency: {{threshold_ms: 400}}}}
      - {{name: overload, type: numeric_attribute, numeric_attribute: {{key: http.response.status_code, min_value: 505, max_value: 599}}}}
      - {{name: gold, type: string_attribute, string_attribute: {{key: customer.tier, values: [gold, platinum]}}}}
      - {{name: a-share, type: probabilistic, probabilistic: {{sampling_percentage: 3}}}}
"#
    )
}

fn main() {
    // `cargo test --benches` builds and starts benchmarks too: only `cargo bench` passes --bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let bench = Bench::start(&["decide", "memory", "overload", "small"]);
    if runs("decide") {
        decide(&bench);
    }
    if runs("memory") {
        memory(&bench);
    }
    if runs("overload") {
        overload(&bench);
    }
    if runs("small") {
        small(&bench);
    }
}

fn start(bench: &Bench, name: &str, decision_wait: &str, more: &str) -> Node {
    bench.node_with(name, 100, &[], "zstd", (&processors(decision_wait, more), OWNED))
}

fn of_traces(node: &Node, count: &str) -> f64 {
    node.api("status")["traces"][0][count].as_f64().unwrap_or_default()
}

/// CPU of a span from the socket to its verdict, and out if it is kept.
fn decide(bench: &Bench) {
    let node = start(bench, "decide", "2s", "");
    let reference = reference();
    println!("{:<58} {reference:>12.2}", "R: prost decode + encode of the payload, us/span");
    let rounds = measured(|| {
        node.cpu_per_span(&["--rate", "100000", "--spans-per-request", "512", "--seconds", "6"], "otlp_grpc")
    });
    report("gRPC in, dedup, buffer, 5 policies, metrics, us/span", &rounds);
    let ratios: Vec<f64> = rounds.iter().map(|micros| micros / reference).collect();
    report("the same, of R", &ratios);
    let (kept, dropped) = (of_traces(&node, "kept_spans"), of_traces(&node, "dropped_spans"));
    println!("{:<58} {:>10.1} %", "spans exported", kept / (kept + dropped) * 100.0);
    println!("{:<58} {:>9.1} ms", "latest decision", of_traces(&node, "latest_decision_seconds") * 1e3);
}

/// Microseconds of this thread's CPU.
fn reference() -> f64 {
    let mut payload = Payload::new(1, Shape::full());
    let requests: Vec<Vec<u8>> = (0..32).map(|_| payload.request(512, UnixNanos(1_700_000_000_000_000_000))).collect();
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let before = thread_time();
            for request in &requests {
                let decoded = ExportTraceServiceRequest::decode(&request[..]).expect("legal");
                black_box(decoded.encode_to_vec());
            }
            (thread_time() - before).as_secs_f64() * 1e6 / (requests.len() * 512) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What holding a span takes beyond its bytes.
fn memory(bench: &Bench) {
    for size in ["682", "260"] {
        let node = start(bench, "memory", "600s", "");
        // Connections, buffers and the first segments are there before it is measured.
        node.load(&["--rate", "50000", "--seconds", "1", "--seed", "9", "--span-size", size], "otlp_grpc");
        sleep(Duration::from_secs(1));
        let before = (node.resident_mib(), of_traces(&node, "open_spans"), of_traces(&node, "held_bytes"));
        node.load(&["--rate", "100000", "--seconds", "8", "--seed", "7", "--span-size", size], "otlp_grpc");
        sleep(Duration::from_secs(2));
        let spans = of_traces(&node, "open_spans") - before.1;
        let resident = (node.resident_mib() - before.0) * (1 << 20) as f64 / spans;
        let counted = (of_traces(&node, "held_bytes") - before.2) / spans;
        let encoded: f64 = size.parse().expect("a number");
        println!(
            "{:<58} {resident:>7.0} resident, {counted:>5.0} counted, goal {:.0}",
            format!("bytes of a held span of {size} ({spans:.0} spans)"),
            encoded * 1.1 + 30.0
        );
    }
}

/// Twice what the machine can carry, 30 s of it to be held.
fn overload(bench: &Bench) {
    let node = start(bench, "overload", "30s", "max_memory: 2GiB");
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| offer(&node, &["--rate", "200000", "--seconds", "60", "--spans-per-request", "512"]));
        println!(
            "{:>8} {:>12} {:>10} {:>12} {:>12} {:>10}",
            "second", "held MiB", "RSS MiB", "open spans", "late now s", "latest s"
        );
        let mut second = 0;
        while !load.is_finished() {
            sleep(Duration::from_secs(5));
            second += 5;
            println!(
                "{:>8} {:>12.0} {:>10.0} {:>12.0} {:>12.3} {:>10.3}",
                second,
                of_traces(&node, "held_bytes") / (1 << 20) as f64,
                node.resident_mib(),
                of_traces(&node, "open_spans"),
                of_traces(&node, "late_seconds"),
                of_traces(&node, "latest_decision_seconds"),
            );
        }
        load.join().expect("the load ends")
    });
    println!("offered 200,000 spans/s, 30 s to wait, a buffer of 2 GiB: {loaded}");
    println!("decided, by cause: {}", node.api("status")["traces"][0]["decided"]);
    let limit = of_traces(&node, "limit_bytes");
    until("all is decided or held within the limit", || (of_traces(&node, "held_bytes") <= limit).then_some(()));
}

/// Every span a trace of its own: nothing but the buffer's own books.
fn small(bench: &Bench) {
    let node = start(bench, "small", "10s", "max_memory: 256MiB");
    let shape = ["--spans-per-trace", "1", "--span-size", "260", "--spans-per-request", "512"];
    let arguments: Vec<&str> = ["--rate", "100000", "--seconds", "60"].into_iter().chain(shape).collect();
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| offer(&node, &arguments));
        println!("{:>8} {:>12} {:>10} {:>12} {:>12}", "second", "held MiB", "RSS MiB", "open traces", "verdicts");
        let mut second = 0;
        while !load.is_finished() {
            sleep(Duration::from_secs(10));
            second += 10;
            println!(
                "{:>8} {:>12.0} {:>10.0} {:>12.0} {:>12.0}",
                second,
                of_traces(&node, "held_bytes") / (1 << 20) as f64,
                node.resident_mib(),
                of_traces(&node, "open_traces"),
                of_traces(&node, "kept_verdicts") + of_traces(&node, "dropped_verdicts"),
            );
        }
        load.join().expect("the load ends")
    });
    println!("100,000 new single-span traces a second, a buffer of 256 MiB: {loaded}");
    println!("decided, by cause: {}", node.api("status")["traces"][0]["decided"]);
}

/// Sends and says what came of it, whether or not all was taken.
fn offer(node: &Node, arguments: &[&str]) -> String {
    node.try_load(arguments, "otlp_grpc")
}
