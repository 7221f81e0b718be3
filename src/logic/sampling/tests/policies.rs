//! Each policy by itself: what fits, what does not, the bounds, what is missing, where it is found.

use super::*;
use crate::logic::cross_cluster::Edge;
use crate::logic::testing::{Attr, span};
use crate::logic::trace::Crossing;

#[test]
fn always_sample_keeps_everything() {
    assert!(keeps(&PolicyKind::AlwaysSample, &[span(1)]));
}

#[test]
fn latency_is_from_the_earliest_start_to_the_latest_end() {
    let took = |from_ms, to_ms| span(1).millis(from_ms, to_ms);
    let table = [
        ("shorter", latency(5000, None), vec![took(0, 4999)], false),
        ("equal", latency(5000, None), vec![took(0, 5000)], true),
        ("longer", latency(5000, None), vec![took(0, 9000)], true),
        ("long only together", latency(5000, None), vec![took(0, 3000), took(2500, 5500)], true),
        ("long only together, the last first", latency(5000, None), vec![took(2500, 5500), took(0, 3000)], true),
        ("with an upper bound the lower one is not enough", latency(5000, Some(6000)), vec![took(0, 5000)], false),
        ("between", latency(5000, Some(6000)), vec![took(0, 5001)], true),
        ("the upper bound", latency(5000, Some(6000)), vec![took(0, 6000)], true),
        ("above the upper bound", latency(5000, Some(6000)), vec![took(0, 6001)], false),
        ("the whole is above it, a part is not", latency(5000, Some(6000)), vec![took(0, 5500), took(0, 7000)], false),
        ("ends before it starts", latency(1, None), vec![took(9000, 0)], false),
        ("never is not too short for nothing", latency(0, None), vec![took(9000, 0)], true),
        ("an unknown start is not 1970", latency(5000, None), vec![span(1).time(0, 0), took(0, 4999)], false),
        ("an unknown start alone", latency(5000, None), vec![span(1).time(0, 1_700_000_000_000_000_000)], false),
        ("the greatest times", latency(5000, None), vec![span(1).time(u64::MAX, u64::MAX), took(0, 0)], true),
    ];
    for (what, kind, spans, expected) in table {
        assert_eq!(keeps(&kind, &spans), expected, "{what}");
    }
    let nanos = |end: u64| span(1).time(1, 1 + end);
    assert!(!keeps(&latency(5, None), &[nanos(4_999_999)]), "whole milliseconds");
    assert!(keeps(&latency(5, Some(6)), &[nanos(6_999_999)]));
    assert!(!keeps(&latency(5, Some(6)), &[nanos(5_999_999)]));
}

#[test]
fn numeric_attribute_is_within_its_bounds() {
    let both = number("n", Some(50), Some(100));
    let table: [(&str, PolicyKind, Attr, bool); 17] = [
        ("below", both.clone(), 49.into(), false),
        ("lower bound", both.clone(), 50.into(), true),
        ("between", both.clone(), 75.into(), true),
        ("upper bound", both.clone(), 100.into(), true),
        ("above", both.clone(), 101.into(), false),
        ("double below", both.clone(), 49.9.into(), false),
        ("double at the lower bound", both.clone(), 50.0.into(), true),
        ("double at the upper bound", both.clone(), 100.0.into(), true),
        ("double above", both.clone(), 100.1.into(), false),
        ("not a number", both.clone(), f64::NAN.into(), false),
        ("text", both, "75".into(), false),
        ("bool", number("n", None, Some(100)), true.into(), false),
        ("list", number("n", None, Some(100)), Attr::List, false),
        ("only a lower bound", number("n", Some(50), None), i64::MAX.into(), true),
        ("below the only bound", number("n", Some(50), None), 49.into(), false),
        ("only an upper bound", number("n", None, Some(100)), i64::MIN.into(), true),
        ("above the only bound", number("n", None, Some(100)), 101.into(), false),
    ];
    everywhere(table);
}

#[test]
fn boolean_attribute_has_its_value() {
    everywhere([
        ("true", boolean("n", true), true.into(), true),
        ("false", boolean("n", true), false.into(), false),
        ("false wanted", boolean("n", false), false.into(), true),
        ("text", boolean("n", true), "true".into(), false),
        ("no bool is not false", boolean("n", false), 0.into(), false),
    ]);
}

#[test]
fn string_attribute_is_among_its_values() {
    everywhere([
        ("the first", string("n", &["x", "y"]), "x".into(), true),
        ("the last", string("n", &["x", "y"]), "y".into(), true),
        ("none", string("n", &["x", "y"]), "z".into(), false),
        ("a part", string("n", &["x", "y"]), "xy".into(), false),
        ("literal", string("n", &["x.*"]), "xy".into(), false),
        ("empty among the values", string("n", &["x", ""]), "".into(), false),
        ("number", string("n", &["1"]), 1.into(), false),
        ("pattern", pattern("n", &["^/v[0-9]/", "z"]), "/v1/users".into(), true),
        ("pattern anywhere", pattern("n", &["^/v[0-9]/", "z"]), "azb".into(), true),
        ("escaped slashes", pattern("n", &["\\/health", "\\/metrics"]), "/metrics/x".into(), true),
        ("no pattern", pattern("n", &["^/v[0-9]/", "z"]), "/v/".into(), false),
        ("pattern and no text", pattern("n", &["1"]), 1.into(), false),
    ]);
    // What the Collector does with a pattern that fits the empty text.
    assert!(keeps(&pattern("n", &["^$"]), &[span(1).resource("n", "")]));
    assert!(!keeps(&pattern("n", &["^$"]), &[span(1).attribute("n", "")]));
}

/// Asks for the attribute `n` of a span, of a resource, of one span among several, and inverted.
fn everywhere<const N: usize>(table: [(&str, PolicyKind, Attr, bool); N]) {
    for (what, kind, value, expected) in table {
        let other = || span(9).attribute("other", value.clone()).resource("another", value.clone());
        let places = [
            ("span", vec![span(1).attribute("n", value.clone())]),
            ("resource", vec![span(1).resource("n", value.clone())]),
            ("last span", vec![other(), span(2), span(1).attribute("n", value.clone())]),
            ("last resource", vec![other(), span(2), span(1).resource("n", value.clone())]),
        ];
        for (place, spans) in places {
            assert_eq!(keeps(&kind, &spans), expected, "{what}, {place}");
            assert_eq!(keeps(&inverted(kind.clone()), &spans), !expected, "{what}, {place}, inverted");
        }
        assert!(!keeps(&kind, &[other()]), "{what}, missing");
        assert!(keeps(&inverted(kind.clone()), &[other()]), "{what}, missing, inverted");
    }
}

#[test]
fn of_a_key_that_comes_twice_the_first_one_counts() {
    let twice = span(1).attribute("n", "x").attribute("n", "y");
    assert!(keeps(&string("n", &["x"]), std::slice::from_ref(&twice)));
    assert!(!keeps(&string("n", &["y"]), &[twice]));
    let both = span(1).attribute("n", "x").resource("n", "y");
    assert!(keeps(&string("n", &["x"]), std::slice::from_ref(&both)), "a span and its resource are two");
    assert!(keeps(&string("n", &["y"]), &[both]));
}

#[test]
fn keys_of_all_lengths_are_told_apart() {
    for len in [1, 2, 62, 63, 64, 65, 200] {
        let (key, other) = ("k".repeat(len), "k".repeat(len + 1));
        assert!(keeps(&string(&key, &["x"]), &[span(1).attribute(&key, "x")]), "{len}");
        assert!(!keeps(&string(&key, &["x"]), &[span(1).attribute(&other, "x")]), "{len}");
    }
}

#[test]
fn more_questions_than_a_word_has_bits_are_kept_apart() {
    let kinds = (0..200).map(|n| string(&format!("key{}", n % 70), &[&format!("v{n}")]));
    let sampler = sampler(kinds);
    for n in [0, 63, 64, 127, 128, 199] {
        let verdict = decide(&sampler, &[span(1).attribute(&format!("key{}", n % 70), &*format!("v{n}"))]);
        assert_eq!(verdict.policy, Some(n));
    }
}

#[test]
fn status_code_is_that_of_any_span() {
    use StatusCode::{Error, Ok, Unset};
    let kind = |codes: &[StatusCode]| PolicyKind::StatusCode { status_codes: codes.to_vec() };
    let (unset, ok, error, odd) = (span(1), span(2).status(1), span(3).status(2), span(4).status(9));
    let table = [
        ("an error", kind(&[Error]), vec![unset.clone(), error.clone()], true),
        ("none", kind(&[Error]), vec![unset.clone(), ok.clone()], false),
        ("ok", kind(&[Ok]), vec![ok.clone(), error.clone()], true),
        ("unset", kind(&[Unset]), vec![error.clone(), unset], true),
        ("not unset", kind(&[Unset]), vec![error, ok.clone()], false),
        ("any of them", kind(&[Error, Ok]), vec![ok], true),
        ("a code that does not exist", kind(&[Error, Ok, Unset]), vec![odd], false),
    ];
    for (what, kind, spans, expected) in table {
        assert_eq!(keeps(&kind, &spans), expected, "{what}");
    }
}

#[test]
fn span_count_is_within_its_bounds() {
    let spans: Vec<TestSpan> = (1..=21).map(span).collect();
    let kept = |min_spans, max_spans| {
        let kind = PolicyKind::SpanCount { min_spans, max_spans };
        (1..=21).filter(|count| keeps(&kind, &spans[..*count])).collect::<Vec<_>>()
    };
    assert_eq!(kept(2, Some(20)), (2..=20).collect::<Vec<_>>());
    assert_eq!(kept(20, None), [20, 21]);
    assert_eq!(kept(0, Some(1)), [1]);
}

#[test]
fn trace_state_has_the_key_with_one_of_the_values() {
    let kind = |key: &str, values: &[&str]| PolicyKind::TraceState { key: key.to_owned(), values: strings(values) };
    let with = |text: &str| vec![span(1), span(2).trace_state(text), span(3).trace_state("other=x")];
    let table = [
        ("a value", kind("k", &["x", "y"]), with("k=y"), true),
        ("among others", kind("k", &["x", "y"]), with("a=b,k=x"), true),
        ("another value", kind("k", &["x", "y"]), with("k=z"), false),
        ("another key", kind("k", &["x", "y"]), with("kk=x"), false),
        ("no value", kind("k", &["x", "y"]), with("k="), false),
        ("not legal", kind("k", &["x"]), with("k=x,broken"), false),
        ("none", kind("k", &["x"]), vec![span(1)], false),
    ];
    for (what, kind, spans, expected) in table {
        assert_eq!(keeps(&kind, &spans), expected, "{what}");
    }
    let long = "v".repeat(254);
    assert!(keeps(&kind("k", &[&long]), &with(&format!("k={long}"))));
    assert!(!keeps(&kind("kk", &[&long]), &with(&format!("kk={long}"))), "no member is as long as that");
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn trace_flags_want_a_sampled_span() {
    let table = [(0, false), (1, true), (3, true), (2, false), (0x100, false), (0x301, true)];
    for (flags, expected) in table {
        assert_eq!(keeps(&PolicyKind::TraceFlags, &[span(1), span(2).flags(flags), span(3)]), expected, "{flags:#x}");
    }
}

#[test]
fn cross_cluster_wants_a_call_between_clusters() {
    let trace = TestTrace::new(ID, &[span(1).cluster("east"), span(2).cluster("west"), span(3).cluster("north")]);
    let call = |caller, callee| Links { crossings: vec![Edge { caller, callee }], ..Links::default() };
    let both_ways =
        Links { crossings: vec![Edge { caller: 0, callee: 1 }, Edge { caller: 1, callee: 2 }], ..call(0, 1) };
    let table = [
        ("no call", Links::default(), [&[][..], &[][..]], false),
        ("any call", call(0, 1), [&[], &[]], true),
        ("from a source", call(0, 1), [&["east", "south"], &[]], true),
        ("from another", call(0, 1), [&["west"], &[]], false),
        ("to a target", call(0, 1), [&[], &["west"]], true),
        ("to another", call(0, 1), [&[], &["east"]], false),
        ("from here to there", call(1, 2), [&["west"], &["north"]], true),
        ("both, but of two calls", both_ways, [&["east"], &["north"]], false),
        ("a span that is not there", call(0, 9), [&[], &[]], false),
    ];
    for (what, links, [sources, targets], expected) in table {
        let kind = PolicyKind::CrossCluster { source_clusters: strings(sources), target_clusters: strings(targets) };
        assert_eq!(sampler([kind]).decide(&trace.view(), &links, Tick::ZERO).keep, expected, "{what}");
    }
}

#[test]
fn a_crossing_counts_as_attributes_of_its_span() {
    let trace = TestTrace::new(ID, &[span(1), span(2).attribute("cross_cluster.target", "forged")]);
    let mut view = trace.view();
    let target = |value: &str| sampler([string("cross_cluster.target", &[value])]);
    assert!(!target("west").decide(&view, &Links::default(), Tick::ZERO).keep);
    assert!(target("forged").decide(&view, &Links::default(), Tick::ZERO).keep);
    view.spans[1].crossing = Some(Crossing { source: "east", target: "west" });
    assert!(target("west").decide(&view, &Links::default(), Tick::ZERO).keep);
    assert!(!target("forged").decide(&view, &Links::default(), Tick::ZERO).keep, "it stands in their place");
    let source = sampler([pattern("cross_cluster.source", &["^east"])]);
    assert!(source.decide(&view, &Links::default(), Tick::ZERO).keep);
}
