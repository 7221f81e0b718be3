//! What the calls between clusters cost: `cargo bench --no-default-features --bench cross_cluster`.
//!
//! Traces of 8 spans (pairs of client and server in four services) as the buffer holds them: each service's spans under one
//! header, and headers' names not shared. Times are of this thread's CPU clock; medians over batches of 1,000 traces.

// A benchmark that cannot go on should stop.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use spanmesh::config::settings::CrossClusterSettings;
use spanmesh::logic::cross_cluster::{CrossCluster, links};
use spanmesh::logic::trace::{Header, SpanView, TraceView};
use spanmesh::model::{SpanId, TraceId, UnixNanos};

const BATCH: u64 = 1_000;
const ROUNDS: usize = 301;

fn main() {
    println!("{:>44} {:>14} {:>14} {:>14}", "8-span traces", "links ns/span", "observe", "together");
    for clusters in [1, 2, 4] {
        let headers: Vec<Header> = (0..4).map(|n| header(&format!("cluster-{}", n % clusters), n)).collect();
        let (links, observe) = measure(BATCH, |n| trace(n, 8, &headers));
        println!("{:>44} {links:>14.1} {observe:>14.1} {:>14.1}", format!("{clusters} cluster(s)"), links + observe);
    }
    println!("\n{:>44}", "large traces, ns/span");
    let headers: Vec<Header> = (0..4).map(|n| header(&format!("cluster-{}", n % 2), n)).collect();
    for spans in [100, 1_000, 32_000] {
        let (links, observe) = measure(32_000 / spans, |n| trace(n, spans, &headers));
        println!(
            "{:>44} {links:>14.1} {observe:>14.1} {:>14.1}",
            format!("{spans} spans, 2 clusters"),
            links + observe
        );
    }
}

/// CPU time of this thread that `work` takes, in ns.
fn cpu<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let begin = now();
    let done = work();
    (now() - begin, done)
}

/// Nanoseconds of a span for links and for the metrics.
fn measure<'a>(traces: u64, make: impl Fn(u64) -> TraceView<'a>) -> (f64, f64) {
    let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let metrics = CrossCluster::new(&CrossClusterSettings {
        wait_duration: Duration::from_secs(30),
        max_memory_bytes: 1 << 30,
        write_attributes: false,
        buckets,
        entry_services: Vec::new(),
        max_series: 2_000,
    });
    let traces: Vec<TraceView<'_>> = (0..traces).map(make).collect();
    let spans = traces.iter().map(|trace| trace.spans.len()).sum::<usize>() as f64;
    let (mut linking, mut observing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS.min(3_000_000 / spans as usize) {
        let (ns, found) = cpu(|| traces.iter().map(|trace| links(black_box(trace))).collect::<Vec<_>>());
        linking.push(ns / spans);
        let (ns, ()) = cpu(|| traces.iter().zip(&found).for_each(|(trace, links)| metrics.observe(trace, links)));
        observing.push(ns / spans);
    }
    black_box(metrics.status());
    (median(linking), median(observing))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn header(cluster: &str, service: usize) -> Header {
    Header {
        resource_fields: Default::default(),
        resource: None,
        scope_fields: Box::default(),
        cluster: Arc::from(cluster),
        service: Arc::from(format!("service-{service}")),
    }
}

/// Servers and their clients in turn, each called by the one before, services one after the other.
fn trace(n: u64, spans: u64, headers: &[Header]) -> TraceView<'_> {
    // Ids as a generator of random numbers makes them.
    let id = |at: u64| match at {
        0 => SpanId::NONE,
        at => SpanId((n * 1_000_003 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()),
    };
    let view = |at: u64| SpanView {
        span_id: id(at + 1),
        parent_span_id: id(at),
        start: UnixNanos(1_700_000_000_000_000_000 + at * 1_000_000),
        end: UnixNanos(1_700_000_000_100_000_000 - at * 1_000),
        kind: if at.is_multiple_of(2) { 2 } else { 3 },
        status: 0,
        body: &[],
        header: &headers[at as usize / 2 % headers.len()],
        crossing: None,
    };
    TraceView { id: TraceId((u128::from(n) + 1).to_be_bytes()), spans: (0..spans).map(view).collect() }
}
