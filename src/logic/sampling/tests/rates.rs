//! Rates over virtual time, for one thread and for several that share a sampler.

use super::*;
use crate::config::settings::CompositePart;
use crate::logic::testing::span;

fn spans_rate(spans_per_second: u64, burst_capacity: u64) -> PolicyKind {
    PolicyKind::RateLimiting { spans_per_second, burst_capacity }
}

fn trace(spans: u64) -> TestTrace {
    TestTrace::new(ID, &(1..=spans).map(span).collect::<Vec<_>>())
}

/// Spans kept of traces of `spans` spans that come every so many milliseconds, second by second.
fn kept(sampler: &Sampler, spans: u64, every_ms: u64, seconds: u64) -> Vec<u64> {
    let trace = trace(spans);
    let mut kept = vec![0; seconds as usize];
    for now in (0..seconds * 1_000).step_by(every_ms as usize) {
        let verdict = sampler.decide(&trace.view(), &Links::default(), Tick(now * 1_000_000));
        kept[(now / 1_000) as usize] += if verdict.keep { spans } else { 0 };
    }
    kept
}

#[test]
fn rate_limiting_lets_the_burst_pass_and_then_its_rate() {
    // 200 spans a second are offered: the bucket empties over what the rate adds in the first second.
    let kept = kept(&sampler([spans_rate(50, 100)]), 2, 10, 5);
    assert_eq!(kept[1..], [50, 50, 50, 50]);
    assert_eq!(kept[0], 148, "the burst, and what flowed in before the last trace of the second");
}

#[test]
fn rate_limiting_saves_up_while_nothing_comes() {
    let sampler = sampler([spans_rate(10, 20)]);
    let burst = |at_s: u64| {
        let now = Tick(at_s * 1_000_000_000);
        (0..30).filter(|_| sampler.decide(&trace(1).view(), &Links::default(), now).keep).count()
    };
    assert_eq!([burst(0), burst(1), burst(100)], [20, 10, 20]);
}

#[test]
fn a_trace_larger_than_the_burst_never_passes() {
    let sampler = || sampler([spans_rate(1_000, 5)]);
    assert_eq!(kept(&sampler(), 6, 1_000, 10), [0; 10]);
    assert_eq!(kept(&sampler(), 5, 1_000, 10), [5; 10]);
}

#[test]
fn a_trace_that_was_refused_takes_nothing() {
    let sampler = sampler([spans_rate(1, 4)]);
    let at_once = |spans| sampler.decide(&trace(spans).view(), &Links::default(), Tick::ZERO).keep;
    assert_eq!([at_once(3), at_once(2), at_once(1), at_once(1)], [true, false, true, false]);
}

#[test]
fn bytes_limiting_counts_spans_and_each_resource_once() {
    let trace = TestTrace::new(ID, &[span(1).service("a"), span(2).service("b"), span(3).service("a")]);
    let mut view = trace.view();
    // As the buffer has it: equal headers are one.
    view.spans[2].header = view.spans[0].header;
    let resource = |index: usize| view.spans[index].header.resource.as_ref().unwrap().len() as u64;
    let bytes = view.bytes() + resource(0) + resource(1);
    let passes = |burst_capacity| {
        let kind = PolicyKind::BytesLimiting { bytes_per_second: 1, burst_capacity };
        sampler([kind]).decide(&view, &Links::default(), Tick::ZERO).keep
    };
    assert!(passes(bytes) && !passes(bytes - 1));
}

#[test]
fn scopes_of_one_resource_are_charged_it_once() {
    let trace = TestTrace::new(ID, &[span(1).service("a"), span(2).service("b")]);
    let mut view = trace.view();
    let mut header = view.spans[0].header.clone();
    header.scope_fields = Box::from(*b"another scope");
    view.spans[1].header = &header;
    let bytes = view.bytes() + header.resource.as_ref().unwrap().len() as u64 + 13;
    let passes = |burst_capacity| {
        let kind = PolicyKind::BytesLimiting { bytes_per_second: 1, burst_capacity };
        sampler([kind]).decide(&view, &Links::default(), Tick::ZERO).keep
    };
    assert!(passes(bytes) && !passes(bytes - 1));
}

#[test]
fn what_another_policy_keeps_takes_tokens_as_well() {
    let sampler = sampler([errors(), spans_rate(1, 1)]);
    assert_eq!(outcome(&sampler, &[span(1).status(2)]), kept_by("a"));
    assert_eq!(outcome(&sampler, &[span(1)]), dropped_by("nobody"), "the token is gone");
    // A part of `and` that is not reached takes none.
    let and = super::sampler([and([errors(), spans_rate(1, 1)])]);
    assert_eq!(outcome(&and, &[span(1)]), dropped_by("nobody"));
    assert_eq!(outcome(&and, &[span(1).status(2)]), kept_by("a"));
}

#[test]
fn within_and_a_rate_keeps_its_place() {
    let has_x = || string("k", &["x"]);
    let behind = super::sampler([and([has_x(), spans_rate(1, 1)])]);
    assert_eq!(outcome(&behind, &[span(1)]), dropped_by("nobody"));
    assert_eq!(outcome(&behind, &[span(1).attribute("k", "x")]), kept_by("a"), "nothing was taken before");
    // Asked in front of the errors it is used up by what is none, as in the Collector.
    let sampler = sampler([and([spans_rate(1, 1), errors()])]);
    assert_eq!(outcome(&sampler, &[span(1)]), dropped_by("nobody"));
    assert_eq!(outcome(&sampler, &[span(1).status(2)]), dropped_by("nobody"));
}

fn composite(total: u64, parts: &[(PolicyKind, u64)]) -> PolicyKind {
    let part = |(kind, spans_per_second): &(PolicyKind, u64)| CompositePart {
        policy: policy("part", kind.clone()),
        spans_per_second: *spans_per_second,
    };
    PolicyKind::Composite { max_total_spans_per_second: total, parts: parts.iter().map(part).collect() }
}

#[test]
fn composite_gives_each_part_its_share_of_every_second() {
    let sampler = sampler([composite(100, &[(errors(), 50), (PolicyKind::AlwaysSample, 25)])]);
    let (error, plain) = (TestTrace::new(ID, &[span(1).status(2)]), trace(1));
    for second in 0..3_u64 {
        let kept = |trace: &TestTrace| {
            let decide = |n: u64| {
                let now = Tick(second * 1_000_000_000 + n * 10_000_000);
                sampler.decide(&trace.view(), &Links::default(), now).keep
            };
            (0..100).filter(|n| decide(*n)).count()
        };
        assert_eq!((kept(&error), kept(&plain)), (50, 25), "second {second}");
    }
}

#[test]
fn composite_holds_the_total_of_all_parts() {
    let sampler = sampler([composite(60, &[(errors(), 50), (PolicyKind::AlwaysSample, 50)])]);
    let kept = |trace: &TestTrace| {
        (0..100).filter(|_| sampler.decide(&trace.view(), &Links::default(), Tick::ZERO).keep).count()
    };
    assert_eq!((kept(&TestTrace::new(ID, &[span(1).status(2)])), kept(&trace(1))), (50, 10));
}

#[test]
fn a_part_without_room_leaves_it_to_a_smaller_trace() {
    let sampler = sampler([composite(10, &[(PolicyKind::AlwaysSample, 10)])]);
    let fits = |spans| sampler.decide(&trace(spans).view(), &Links::default(), Tick::ZERO).keep;
    assert_eq!([fits(7), fits(4), fits(3), fits(1)], [true, false, true, false]);
}

#[test]
fn rates_hold_for_all_threads_together() {
    const THREADS: u64 = 4;
    let sampler = sampler([
        spans_rate(100, 200),
        composite(1_000, &[(PolicyKind::AlwaysSample, 300)]),
        PolicyKind::BytesLimiting { bytes_per_second: 0, burst_capacity: 10 * trace(1).view().bytes() },
    ]);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..500 {
                    sampler.decide(&trace(1).view(), &Links::default(), Tick(5_000_000_000));
                }
            });
        }
    });
    let status = sampler.status();
    assert_eq!(status.iter().map(|one| one.sampled).collect::<Vec<_>>(), [200, 300, 10]);
    assert!(status.iter().all(|one| one.sampled + one.not_sampled == THREADS * 500));
}
