//! One trace, one verdict: in whatever order its spans came, however they were grouped.

use proptest::prelude::*;

use super::*;
use crate::logic::testing::span;

/// One policy of each kind that has no rate.
fn all_kinds() -> Vec<PolicyKind> {
    vec![
        drop_if([string("s", &["x"]), not(errors())]),
        latency(400, Some(900)),
        number("n", Some(3), Some(5)),
        probabilistic(30.0),
        salted(20.0, "salt"),
        inverted(boolean("b", true)),
        pattern("s", &["^y"]),
        PolicyKind::TraceState { key: "k".to_owned(), values: vec!["v".to_owned()] },
        PolicyKind::TraceFlags,
        PolicyKind::SpanCount { min_spans: 7, max_spans: None },
        and([errors(), string("s", &["z"]), probabilistic(60.0)]),
    ]
}

/// Whether it is there and stands in the resource, and the value.
type Place<T> = (Option<bool>, T);
type Drawn = ((u64, u64, u8, u32, usize), Place<usize>, Place<i64>, Place<bool>);

fn spans() -> impl Strategy<Value = Vec<TestSpan>> {
    let place = || prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    let one = (
        (0..1_000_u64, 0..1_000_u64, 0..4_u8, 0..3_u32, 0..4_usize),
        (place(), 0..3_usize),
        (place(), 0..8_i64),
        (place(), any::<bool>()),
    );
    prop::collection::vec(one, 1..9).prop_map(|drawn| {
        let build = |(index, (head, text, number, bit)): (usize, Drawn)| {
            let (start, took, status, flags, state) = head;
            let states = ["", "k=v", "ot=rv:00000000000000", "a=b,ot=rv:d0000000000000"];
            let mut built = span(index as u64 + 1)
                .parent(index as u64 / 2)
                .named("operation")
                .kind(2)
                .millis(start, start + took)
                .status(status)
                .flags(flags)
                .trace_state(states[state]);
            built = put(built, text.0, "s", ["x", "y", "z"][text.1]);
            built = put(built, number.0, "n", number.1);
            put(built, bit.0, "b", bit.1)
        };
        drawn.into_iter().enumerate().map(build).collect()
    })
}

fn put(
    span: TestSpan,
    in_resource: Option<bool>,
    key: &str,
    value: impl Into<crate::logic::testing::Attr>,
) -> TestSpan {
    match in_resource {
        None => span,
        Some(true) => span.resource(key, value),
        Some(false) => span.attribute(key, value),
    }
}

proptest! {
    #[test]
    fn the_order_of_the_spans_changes_nothing(
        (spans, shuffled) in spans().prop_flat_map(|spans| (Just(spans.clone()), Just(spans).prop_shuffle())),
        id in any::<[u8; 16]>().prop_filter("not zero", |id| *id != [0; 16]),
    ) {
        let verdict = |sampler: &Sampler, spans: &[TestSpan]| {
            sampler.decide(&TestTrace::new(TraceId(id), spans).view(), &Links::default(), Tick::ZERO)
        };
        for build in [|kinds: Vec<PolicyKind>| sampler(kinds), |kinds: Vec<PolicyKind>| first_match(kinds)] {
            let (one, other) = (build(all_kinds()), build(all_kinds()));
            prop_assert_eq!(verdict(&one, &spans), verdict(&other, &shuffled));
            prop_assert_eq!(one.status(), other.status());
            // Nor does what was decided before.
            prop_assert_eq!(verdict(&one, &shuffled), verdict(&other, &spans));
        }
        // Each by itself, since in a row of many the first ones hide the others.
        for kind in all_kinds() {
            let sampler = sampler([kind]);
            prop_assert_eq!(verdict(&sampler, &spans), verdict(&sampler, &shuffled));
        }
    }
}

#[test]
fn a_trace_of_many_spans_and_headers_is_decided_in_time() {
    // Each span below a resource of its own, none of them fits; quadratic work would take minutes.
    let spans: Vec<TestSpan> = (1..=32_000).map(|n| span(n).service(&n.to_string())).collect();
    let kinds = [string("service.name", &["0"]), pattern("k", &["x"]), probabilistic(1.0), errors()];
    assert_eq!(outcome(&sampler(kinds), &spans), dropped_by("nobody"));
}

#[test]
fn a_trace_without_spans_has_a_verdict() {
    let empty = TraceView { id: ID, spans: Vec::new() };
    for kind in all_kinds() {
        sampler([kind]).decide(&empty, &Links::default(), Tick::ZERO);
    }
    assert!(!sampler([string("k", &["x"]), errors()]).decide(&empty, &Links::default(), Tick::ZERO).keep);
}
