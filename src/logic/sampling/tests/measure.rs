//! What a verdict costs:
//! `cargo test --release --no-default-features --lib sampling::tests::measure -- --ignored --nocapture`.

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::logic::testing::span;

/// CPU time of this thread in nanoseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// 8 spans with 10 attributes each, as a web service's, below two resources of 6.
fn traces(count: u64) -> Vec<TestTrace> {
    let build = |trace: u64| {
        let spans: Vec<TestSpan> = (0..8)
            .map(|n| {
                let with = span(n + 1).parent(n).named("GET /api/v1/orders/{id}").kind(2).millis(n, 40 + n);
                let with = with
                    .attribute("http.request.method", "GET")
                    .attribute("http.route", &*format!("/api/v{}/orders/{{id}}", trace % 7))
                    .attribute("http.status_code", 200)
                    .attribute("url.scheme", "https")
                    .attribute("url.path", &*format!("/api/v1/orders/{trace}"))
                    .attribute("server.address", "orders.shop.svc.cluster.local")
                    .attribute("server.port", 8_443)
                    .attribute("network.protocol.version", "1.1")
                    .attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101")
                    .attribute("thread.id", 1_234);
                with.service(if n < 4 { "front" } else { "orders" })
                    .cluster("us-east-1")
                    .resource("service.version", "1.2.3")
                    .resource("k8s.pod.name", "orders-6c5b9d7f5d-x2x7k")
                    .resource("telemetry.sdk.language", "java")
                    .resource("host.name", "ip-10-0-0-1")
            })
            .collect();
        let id = trace.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        TestTrace::new(TraceId(u128::from(id).to_be_bytes()), &spans)
    };
    (0..count).map(build).collect()
}

#[test]
#[ignore = "measures"]
fn verdicts() {
    let traces = traces(512);
    let bytes: u64 = traces.iter().map(|trace| trace.view().bytes()).sum();
    println!("{} bytes per span; CPU per span, best and median of 200 rounds over 512 traces of 8", bytes / (512 * 8));
    let five = |route| {
        [errors(), latency(5_000, None), route, number("http.status_code", Some(500), None), probabilistic(10.0)]
    };
    let cases: [(&str, Vec<PolicyKind>); 7] = [
        ("five policies, literal route", five(string("http.route", &["/checkout", "/login"])).into()),
        ("five policies, pattern with cache", five(pattern("http.route", &["^/checkout", "/login$"])).into()),
        ("errors, latency", vec![errors(), latency(5_000, None)]),
        ("probabilistic", vec![probabilistic(10.0)]),
        ("one attribute", vec![string("http.route", &["/checkout"])]),
        ("one resource attribute that fits", vec![string("service.name", &["front"])]),
        ("20 attributes", (0..20).map(|n| string(&format!("key.number.{n}"), &["x"])).collect()),
    ];
    for (what, kinds) in cases {
        let sampler = sampler(kinds);
        let links = Links::default();
        let views: Vec<_> = traces.iter().map(TestTrace::view).collect();
        let mut rounds: Vec<f64> = (0..200)
            .map(|_| {
                let begin = cpu();
                for view in &views {
                    black_box(sampler.decide(black_box(view), &links, Tick::ZERO));
                }
                (cpu() - begin) / (512.0 * 8.0)
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{what:>36} {:>7.1} {:>7.1} ns", rounds[0], rounds[100]);
    }
}
