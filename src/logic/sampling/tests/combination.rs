//! What becomes of several votes: the Collector's order of precedence, and policies within policies.

use super::*;
use crate::config::settings::CompositePart;
use crate::logic::testing::span;

/// Fits a span with `name = yes`, whose trace is then marked by it.
fn says(name: &str) -> PolicyKind {
    string(name, &["yes"])
}

fn trace(names: &[&str]) -> Vec<TestSpan> {
    names.iter().fold(vec![span(99)], |mut spans, name| {
        spans.push(span(spans.len() as u64).attribute(name, "yes"));
        spans
    })
}

#[test]
fn votes_are_weighed_in_the_collectors_order() {
    let everything =
        || sampler([says("sample"), drop_if([says("drop")]), inverted(says("no")), inverted(says("never"))]);
    let table: [(&[&str], _); 9] = [
        (&["sample"], kept_by("a")),
        (&["sample", "drop"], dropped_by("b")),
        (&["sample", "no"], dropped_by("c")),
        (&["sample", "no", "never"], dropped_by("c")),
        (&["drop", "no"], dropped_by("b")),
        (&["no"], dropped_by("c")),
        // Inverted yes twice, but two policies said no.
        (&[], dropped_by("nobody")),
        (&["never"], dropped_by("d")),
        (&["other", "sample"], kept_by("a")),
    ];
    for (names, expected) in table {
        assert_eq!(outcome(&everything(), &trace(names)), expected, "{names:?}");
    }
}

#[test]
fn an_inverted_yes_keeps_only_if_nobody_says_no() {
    let alone = sampler([inverted(says("no")), inverted(says("never"))]);
    assert_eq!(outcome(&alone, &trace(&[])), kept_by("a"));
    assert_eq!(outcome(&alone, &trace(&["never"])), dropped_by("b"));
    let beside_a_no = sampler([inverted(says("no")), errors()]);
    assert_eq!(outcome(&beside_a_no, &trace(&[])), dropped_by("nobody"));
    let beside_a_yes = sampler([inverted(says("no")), PolicyKind::AlwaysSample]);
    assert_eq!(outcome(&beside_a_yes, &trace(&[])), kept_by("b"), "a plain yes is the stronger one");
    let beside_a_drop = sampler([inverted(says("no")), drop_if([errors()])]);
    assert_eq!(outcome(&beside_a_drop, &trace(&[])), dropped_by("nobody"), "a drop that does not fit says no");
}

#[test]
fn the_verdict_bears_the_first_policy_that_gave_the_winning_vote() {
    let sampler = sampler([says("x"), says("y"), drop_if([says("d")]), drop_if([says("d"), says("x")])]);
    assert_eq!(outcome(&sampler, &trace(&["y"])), kept_by("b"));
    assert_eq!(outcome(&sampler, &trace(&["y", "x"])), kept_by("a"));
    assert_eq!(outcome(&sampler, &trace(&["d", "x"])), dropped_by("c"));
    assert_eq!(outcome(&sampler, &trace(&[])), dropped_by("nobody"));
}

#[test]
fn a_sampler_without_policies_keeps_nothing() {
    assert_eq!(outcome(&sampler([]), &trace(&["x"])), dropped_by("nobody"));
}

#[test]
fn the_first_match_is_the_last_one_asked() {
    let sampler = first_match([says("x"), PolicyKind::AlwaysSample, drop_if([says("d")]), says("y")]);
    assert_eq!(outcome(&sampler, &trace(&["y"])), kept_by("b"));
    assert_eq!(outcome(&sampler, &trace(&["x"])), kept_by("a"));
    assert_eq!(outcome(&sampler, &trace(&["x", "d"])), dropped_by("c"), "drop policies are asked before");
    let counts: Vec<_> = sampler.status().iter().map(|one| (one.sampled, one.not_sampled, one.dropped)).collect();
    assert_eq!(counts, [(1, 1, 0), (1, 0, 0), (0, 2, 1), (0, 0, 0)]);
}

#[test]
fn with_first_match_an_inverted_no_wins_only_from_in_front() {
    let behind = first_match([PolicyKind::AlwaysSample, inverted(says("no"))]);
    assert_eq!(outcome(&behind, &trace(&["no"])), kept_by("a"));
    let in_front = first_match([inverted(says("no")), PolicyKind::AlwaysSample]);
    assert_eq!(outcome(&in_front, &trace(&["no"])), dropped_by("a"));
    assert_eq!(outcome(&in_front, &trace(&[])), kept_by("b"), "an inverted yes is no match");
}

#[test]
fn and_wants_all_of_its_parts() {
    let kind = and([says("x"), says("y")]);
    assert!(keeps(&kind, &trace(&["x", "y"])));
    assert!(!keeps(&kind, &trace(&["x"])) && !keeps(&kind, &trace(&["y"])) && !keeps(&kind, &trace(&[])));
    // Inside, inverted votes are votes like others.
    let sampler = sampler([and([says("x"), inverted(says("no"))]), says("y")]);
    assert_eq!(outcome(&sampler, &trace(&["x"])), kept_by("a"));
    assert_eq!(outcome(&sampler, &trace(&["x", "no"])), dropped_by("nobody"));
    assert_eq!(outcome(&sampler, &trace(&["x", "no", "y"])), kept_by("b"), "the no was not an inverted one");
}

#[test]
fn not_turns_its_part() {
    let table = [
        (not(says("x")), false, true),
        (not(not(says("x"))), true, false),
        (not(inverted(says("x"))), true, false),
        (not(and([says("x"), says("y")])), true, true),
        (and([not(says("x")), not(says("y"))]), false, true),
    ];
    for (kind, with, without) in table {
        assert_eq!(keeps(&kind, &trace(&["x"])), with, "{kind:?}");
        assert_eq!(keeps(&kind, &trace(&[])), without, "{kind:?}");
    }
}

#[test]
fn drop_wants_all_of_its_parts_and_keeps_nothing() {
    let sampler = sampler([PolicyKind::AlwaysSample, drop_if([says("x"), not(errors())])]);
    assert_eq!(outcome(&sampler, &trace(&["x"])), dropped_by("b"));
    assert_eq!(outcome(&sampler, &trace(&["y"])), kept_by("a"));
    assert_eq!(outcome(&sampler, &[span(1).attribute("x", "yes").status(2)]), kept_by("a"));
    assert!(!keeps(&drop_if([says("x")]), &trace(&[])));
    // Inverted parts are parts like others.
    assert!(!keeps(&drop_if([inverted(says("x"))]), &trace(&[])));
}

#[test]
fn composite_takes_parts_of_all_kinds() {
    let part = |kind, spans_per_second| CompositePart { policy: policy("part", kind), spans_per_second };
    let kind = PolicyKind::Composite {
        max_total_spans_per_second: 1_000,
        parts: vec![part(and([says("x"), errors()]), 0), part(inverted(says("no")), 1_000)],
    };
    assert!(keeps(&kind, &trace(&["x"])), "an inverted yes is a yes");
    assert!(!keeps(&kind, &trace(&["no"])));
    let error = [span(1).status(2).attribute("x", "yes")];
    assert!(!keeps(&kind, &error), "the first part wants it and has no room; the second is not asked");
    assert!(keeps(&not(kind), &trace(&["no"])));
}

#[test]
fn counts_tell_who_was_asked_and_who_decided() {
    let sampler = sampler([says("x"), inverted(says("no")), drop_if([says("d")])]);
    for names in [&["x"][..], &["x", "d"], &["no"], &[]] {
        decide(&sampler, &trace(names));
    }
    let status = |name: &str, kind, counts: [u64; 5]| PolicyStatus {
        name: name.to_owned(),
        kind,
        sampled: counts[0],
        not_sampled: counts[1],
        dropped: counts[2],
        decided_traces: counts[3],
        decided_spans: counts[4],
    };
    let expected = [
        status("a", "string_attribute", [1, 2, 0, 1, 2]),
        status("b", "string_attribute", [2, 1, 0, 1, 2]),
        status("c", "drop", [0, 3, 1, 1, 3]),
    ];
    assert_eq!(sampler.status(), expected);
    assert_eq!((sampler.name(2), sampler.name(3)), ("c", ""));
}
