//! The policies of `tail_sampling`: what each is read as, and what is said of one that makes no sense.

use std::time::Duration;

use super::super::settings::{PolicyKind, PolicySettings, ProcessorSettings, StatusCode, TailSamplingSettings};
use super::*;

/// A node that runs alone, with these policies.
fn node(policies: &str) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{grpc: }}}}}}
exporters: {{debug: }}
processors:
  tail_sampling:
    policies: {policies}
service: {{pipelines: {{traces: {{receivers: [otlp], processors: [tail_sampling], exporters: [debug]}}}}}}
"
    )
}

fn sampling(loaded: &Loaded) -> &TailSamplingSettings {
    let Some(ProcessorSettings::TailSampling(settings)) = loaded.settings.processors.get("tail_sampling") else {
        panic!()
    };
    settings
}

fn policies(text: &str) -> Vec<PolicySettings> {
    sampling(&loaded(&node(text))).policies.clone()
}

/// What one policy is read as.
fn kind(policy: &str) -> PolicyKind {
    policies(&format!("[{{name: p, {policy}}}]")).remove(0).kind
}

fn shown(text: &str) -> String {
    match load_text(text) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn every_type_of_policy_is_read_with_the_collectors_names() {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    for (text, want) in [
        ("type: always_sample", PolicyKind::AlwaysSample),
        ("type: trace_flags", PolicyKind::TraceFlags),
        (
            "type: latency, latency: {threshold_ms: 500}",
            PolicyKind::Latency { threshold: Duration::from_millis(500), upper_threshold: None },
        ),
        (
            "type: latency, latency: {threshold_ms: 500, upper_threshold_ms: 10000}",
            PolicyKind::Latency {
                threshold: Duration::from_millis(500),
                upper_threshold: Some(Duration::from_secs(10)),
            },
        ),
        (
            "type: latency, latency: {upper_threshold_ms: 20}",
            PolicyKind::Latency { threshold: Duration::ZERO, upper_threshold: Some(Duration::from_millis(20)) },
        ),
        (
            "type: numeric_attribute, numeric_attribute: {key: k, min_value: 400, max_value: 599}",
            PolicyKind::NumericAttribute {
                key: "k".into(),
                min_value: Some(400),
                max_value: Some(599),
                invert_match: false,
            },
        ),
        (
            "type: numeric_attribute, numeric_attribute: {key: k, min_value: 0, max_value: -5, invert_match: true}",
            PolicyKind::NumericAttribute { key: "k".into(), min_value: None, max_value: Some(-5), invert_match: true },
        ),
        (
            "type: probabilistic, probabilistic: {sampling_percentage: 12.5, hash_salt: s}",
            PolicyKind::Probabilistic { sampling_percentage: 12.5, hash_salt: "s".into() },
        ),
        (
            "type: status_code, status_code: {status_codes: [ERROR, UNSET, ok]}",
            PolicyKind::StatusCode { status_codes: vec![StatusCode::Error, StatusCode::Unset, StatusCode::Ok] },
        ),
        (
            "type: string_attribute, string_attribute: {key: k, values: [a, '1'], invert_match: true}",
            PolicyKind::StringAttribute {
                key: "k".into(),
                values: list(&["a", "1"]),
                enabled_regex_matching: false,
                cache_max_size: 0,
                invert_match: true,
            },
        ),
        (
            "type: string_attribute, string_attribute: {key: k, values: '^/health', enabled_regex_matching: true}",
            PolicyKind::StringAttribute {
                key: "k".into(),
                values: list(&["^/health"]),
                enabled_regex_matching: true,
                cache_max_size: 128,
                invert_match: false,
            },
        ),
        (
            "type: boolean_attribute, boolean_attribute: {key: k, value: true}",
            PolicyKind::BooleanAttribute { key: "k".into(), value: true, invert_match: false },
        ),
        (
            "type: trace_state, trace_state: {key: k, values: [v]}",
            PolicyKind::TraceState { key: "k".into(), values: list(&["v"]) },
        ),
        (
            "type: rate_limiting, rate_limiting: {spans_per_second: 35}",
            PolicyKind::RateLimiting { spans_per_second: 35, burst_capacity: 70 },
        ),
        (
            "type: bytes_limiting, bytes_limiting: {bytes_per_second: 1MiB, burst_capacity: 1500000}",
            PolicyKind::BytesLimiting { bytes_per_second: 1 << 20, burst_capacity: 1_500_000 },
        ),
        (
            "type: span_count, span_count: {min_spans: 2, max_spans: 0}",
            PolicyKind::SpanCount { min_spans: 2, max_spans: None },
        ),
        ("type: cross_cluster", PolicyKind::CrossCluster { source_clusters: Vec::new(), target_clusters: Vec::new() }),
        (
            "type: cross_cluster, cross_cluster: {source_clusters: [a, b], target_clusters: c}",
            PolicyKind::CrossCluster { source_clusters: list(&["a", "b"]), target_clusters: list(&["c"]) },
        ),
    ] {
        assert_eq!(kind(text), want, "{text}");
    }
}

#[test]
fn policies_of_policies_are_read_and_inner_names_may_be_left_out() {
    let leaf = |name: &str| PolicySettings { name: name.to_owned(), kind: PolicyKind::AlwaysSample };
    assert_eq!(
        kind("type: and, and: {and_sub_policy: [{name: a, type: always_sample}, {type: always_sample}]}"),
        PolicyKind::And(vec![leaf("a"), leaf("always_sample-2")])
    );
    assert_eq!(
        kind("type: not, not: {not_sub_policy: {type: always_sample}}"),
        PolicyKind::Not(Box::new(leaf("always_sample-1")))
    );
    assert_eq!(
        kind(
            "type: drop, drop: {drop_sub_policy: [{name: n, type: not, not: {not_sub_policy: {type: always_sample}}}]}"
        ),
        PolicyKind::Drop(vec![PolicySettings {
            name: "n".to_owned(),
            kind: PolicyKind::Not(Box::new(leaf("always_sample-1")))
        }])
    );
}

/// The parts of a composite of `a`, `b` and `c`: names and rates of 1,000 spans a second.
fn parts(rest: &str) -> Vec<(String, u64)> {
    let subs = "[{name: a, type: always_sample}, {name: b, type: trace_flags}, {name: c, type: always_sample}]";
    let text = format!(
        "type: composite, composite: {{max_total_spans_per_second: 1000, composite_sub_policy: {subs}, {rest}}}"
    );
    let PolicyKind::Composite { max_total_spans_per_second: 1000, parts } = kind(&text) else { panic!() };
    parts.into_iter().map(|part| (part.policy.name, part.spans_per_second)).collect()
}

#[test]
fn a_composite_shares_its_rate_in_the_order_given() {
    let rates = |want: &[(&str, u64)]| want.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect::<Vec<_>>();
    assert_eq!(parts(""), rates(&[("a", 333), ("b", 333), ("c", 333)]));
    assert_eq!(
        parts("policy_order: [c, a, b], rate_allocation: [{policy: a, percent: 50}, {policy: b, percent: 25}]"),
        rates(&[("c", 250), ("a", 500), ("b", 25 * 10)])
    );
    assert_eq!(
        parts("rate_allocation: [{policy: a, percent: 10}, {policy: b, percent: 0}, {policy: c}]"),
        rates(&[("a", 100), ("b", 333), ("c", 333)])
    );
    assert_eq!(parts("rate_allocation: [{policy: a, percent: 100}]"), rates(&[("a", 1000), ("b", 0), ("c", 0)]));
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_what_would() {
    let composite = |rest: &str| {
        let subs = "composite_sub_policy: [{name: alpha, type: always_sample}, {name: beta, type: always_sample}]";
        format!("name: p, type: composite, composite: {{max_total_spans_per_second: 10, {subs}, {rest}}}")
    };
    let string = |rest: &str| format!("name: p, type: string_attribute, string_attribute: {{key: k, {rest}}}");
    for (policy, part) in [
        ("type: always_sample".to_owned(), "`name` is required"),
        ("name: '', type: always_sample".to_owned(), "`name` is required"),
        ("name: \"a\\tb\", type: always_sample".to_owned(), "cannot be the name of a policy"),
        ("name: p".to_owned(), "one of always_sample, latency, numeric_attribute"),
        ("name: p, type: latancy".to_owned(), "did you mean `latency`"),
        ("name: p, type: ottl_condition".to_owned(), "for `status.code` `status_code`, for durations `latency`"),
        (
            "name: p, type: ottl_condition, ottl_condition: {span: ['status.code == 2']}".to_owned(),
            "`ottl_condition` is not supported yet",
        ),
        ("name: p, type: always_sample, lateny: {}".to_owned(), "did you mean `latency`"),
        ("name: p, type: latency".to_owned(), "`latency` is required"),
        ("name: p, type: latency, latency: {}".to_owned(), "`threshold_ms` is required"),
        ("name: p, type: latency, latency: {threshold_ms: 5s}".to_owned(), "`threshold_ms` is a number"),
        (
            "name: p, type: latency, latency: {threshold_ms: 9, upper_threshold_ms: 9}".to_owned(),
            "no trace takes over 9 ms and up to 9 ms",
        ),
        (
            "name: p, type: status_code, latency: {threshold_ms: 5}, status_code: {status_codes: [OK]}".to_owned(),
            "`latency` in a policy of `type: status_code`",
        ),
        ("name: p, type: status_code, status_code: {}".to_owned(), "`status_codes` is required"),
        ("name: p, type: status_code, status_code: {status_codes: [EROR]}".to_owned(), "did you mean `ERROR`"),
        ("name: p, type: probabilistic, probabilistic: {}".to_owned(), "`sampling_percentage` is required"),
        (
            "name: p, type: probabilistic, probabilistic: {sampling_percentage: 101}".to_owned(),
            "`sampling_percentage` is out of range",
        ),
        ("name: p, type: numeric_attribute, numeric_attribute: {min_value: 1}".to_owned(), "`key` is required"),
        (
            "name: p, type: numeric_attribute, numeric_attribute: {key: k, min_value: 0}".to_owned(),
            "0 counts as not given",
        ),
        (
            "name: p, type: numeric_attribute, numeric_attribute: {key: k, min_value: 1.5}".to_owned(),
            "`min_value` is a number",
        ),
        (
            "name: p, type: numeric_attribute, numeric_attribute: {key: k, min_value: 9, max_value: 8}".to_owned(),
            "smaller than `min_value`",
        ),
        (string(""), "`values` is required"),
        (string("values: []"), "`values` is required"),
        (string("values: [[a]]"), "a string is wanted here"),
        (string("values: ['(a'], enabled_regex_matching: true"), "no regular expression: unclosed group"),
        (string("values: ['a{999}{999}'], enabled_regex_matching: true"), "it grows too large"),
        (string("values: [a], enabled_regex_matching: yes"), "is true or false"),
        (string("values: [a], cache_max_size: 5"), "`cache_max_size` has no effect"),
        ("name: p, type: boolean_attribute, boolean_attribute: {value: true}".to_owned(), "`key` is required"),
        ("name: p, type: trace_state, trace_state: {key: k}".to_owned(), "`values` is required"),
        ("name: p, type: rate_limiting, rate_limiting: {}".to_owned(), "`spans_per_second` is required"),
        (
            "name: p, type: rate_limiting, rate_limiting: {spans_per_second: 0}".to_owned(),
            "`spans_per_second` is out of range",
        ),
        ("name: p, type: bytes_limiting, bytes_limiting: {}".to_owned(), "`bytes_per_second` is required"),
        ("name: p, type: bytes_limiting, bytes_limiting: {bytes_per_second: fast}".to_owned(), "a size like 64MiB"),
        ("name: p, type: span_count, span_count: {}".to_owned(), "`min_spans` is required"),
        ("name: p, type: span_count, span_count: {min_spans: 3, max_spans: 2}".to_owned(), "smaller than `min_spans`"),
        ("name: p, type: cross_cluster, cross_cluster: {sources: [a]}".to_owned(), "unknown key `sources`"),
        ("name: p, type: and, and: {}".to_owned(), "`and_sub_policy` is required"),
        (
            "name: p, type: and, and: {and_sub_policy: [{type: latency, latency: {threshold_ms: -1}}]}".to_owned(),
            "policies[0].and.and_sub_policy[0].latency.threshold_ms",
        ),
        (
            "name: p, type: and, and: {and_sub_policy: [{name: a, type: always_sample}, {name: a, type: trace_flags}]}"
                .to_owned(),
            "two policies of one name, `a`",
        ),
        (
            "name: p, type: and, and: {and_sub_policy: [{type: drop, drop: {drop_sub_policy: [{type: trace_flags}]}}]}"
                .to_owned(),
            "`drop` inside of `and`",
        ),
        ("name: p, type: not, not: {}".to_owned(), "`not_sub_policy` is required"),
        (
            "name: p, type: not, not: {not_sub_policy: {type: composite, composite: {}}}".to_owned(),
            "`composite` inside of `not`",
        ),
        ("name: p, type: drop, drop: {drop_sub_policy: []}".to_owned(), "`drop_sub_policy` is required"),
        ("name: p, type: composite, composite: {}".to_owned(), "`max_total_spans_per_second` is required"),
        (
            "name: p, type: composite, composite: {max_total_spans_per_second: 5, \
             composite_sub_policy: [{type: always_sample}]}"
                .to_owned(),
            "`name` is required",
        ),
        (composite("policy_order: [alpha, bet]"), "did you mean `beta`"),
        (composite("policy_order: [alpha]"), "`beta` is missing in `policy_order`"),
        (composite("policy_order: [alpha, alpha, beta]"), "`alpha` is listed twice"),
        (composite("rate_allocation: [{percent: 5}]"), "`policy` is required"),
        (composite("rate_allocation: [{policy: gamma, percent: 5}]"), "no policy `gamma` is among"),
        (composite("rate_allocation: [{policy: alpha, percent: 101}]"), "from 0 to 100"),
        (composite("rate_allocation: [{policy: alpha, percent: 5}, {policy: alpha}]"), "a second share for `alpha`"),
        (
            composite("rate_allocation: [{policy: alpha, percent: 60}, {policy: beta, percent: 50}]"),
            "the shares add up to 110 percent",
        ),
        (composite("rate_allocation: [{policy: alpha, percent: 100}]"), "nothing of the rate is left for `beta`"),
        (composite("rate_allocation: [{policy: alpha, percent: 60}]"), "it may use what is left, 4 spans/s"),
    ] {
        let shown = shown(&node(&format!("[{{{policy}}}]")));
        assert!(shown.contains(part), "{policy}: {part:?} is missing in\n{shown}");
    }
    for (list, part) in [
        ("[]", "`policies` is required"),
        ("", "`policies` is required"),
        ("{a: b}", "`policies` is a list"),
        ("[always_sample]", "a map is wanted here"),
        ("[{name: a, type: always_sample}, {name: a, type: trace_flags}]", "two policies of one name, `a`"),
    ] {
        let shown = shown(&node(list));
        assert!(shown.contains(part), "{list}: {part:?} is missing in\n{shown}");
    }
}

#[test]
fn a_zero_that_counts_as_not_given_is_noted() {
    let text = node("[{name: p, type: numeric_attribute, numeric_attribute: {key: k, min_value: 0, max_value: 5}}]");
    let loaded = loaded(&text);
    let note = loaded.warnings.iter().find(|p| p.message.contains("`min_value: 0`")).unwrap();
    assert_eq!(note.severity, Severity::Note);
}

#[test]
fn what_is_wrong_with_several_policies_is_said_of_each_at_its_place() {
    let text = node(
        "
      - name: errors
        type: status_codes
        status_code: {status_codes: [FATAL]}
      - name: errors
        type: latency
        latency: {threshold: 5}
      - type: always_sample
",
    );
    assert_eq!(
        said(&text),
        [
            "7:15 wrong value for `type`",
            "8:38 wrong value for `status_codes`",
            "9:15 two policies of one name, `errors`",
            "11:9 `threshold_ms` is required",
            "11:19 unknown key `threshold`",
            "12:9 `name` is required",
        ]
    );
}

#[test]
fn policies_are_bounded_in_depth_and_number() {
    let nested = |depth: usize| {
        let mut text = "{name: leaf, type: always_sample}".to_owned();
        for _ in 1..depth {
            text = format!("{{name: n, type: and, and: {{and_sub_policy: [{text}]}}}}");
        }
        node(&format!("[{text}]"))
    };
    assert!(load_text(&nested(8)).is_ok());
    assert!(shown(&nested(9)).contains("at most 8 levels"));
    for depth in [20, 60, 500] {
        assert!(load_text(&nested(depth)).is_err());
    }

    let list = |count: usize, rest: &str| {
        let policies: String = (0..count).map(|n| format!("{{name: p{n}, {rest}}},")).collect();
        node(&format!("[{policies}]"))
    };
    assert!(load_text(&list(1_000, "type: always_sample")).is_ok());
    let told = said(&list(1_100, "type: always_sample"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("too many policies"));
    // A list within a list draws from the same number.
    let shown = shown(&list(600, "type: and, and: {and_sub_policy: [{type: trace_flags}]}"));
    assert_eq!(shown.matches("too many policies").count(), 1, "{shown}");
    let negated = list(501, "type: not, not: {not_sub_policy: {type: trace_flags}}");
    assert_eq!(said(&negated).len(), 1);
    let last = format!("[{} {{name: n, type: not, not: {{not_sub_policy: {{type: trace_flags}}}}}}]", {
        (0..999).map(|n| format!("{{name: p{n}, type: trace_flags}},")).collect::<String>()
    });
    assert!(said(&node(&last))[0].contains("too many policies"));
    // As do regular expressions.
    let many = (0..257).map(|n| format!("'x{n}',")).collect::<String>();
    let text = format!(
        "[{{name: p, type: string_attribute, string_attribute: {{key: k, enabled_regex_matching: true, values: [{many}]}}}}]"
    );
    let told = said(&node(&text));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("more than 256 of them"));
}

#[test]
fn no_change_of_a_policy_makes_the_loader_panic() {
    let text = include_str!("../../../config/example.yaml");
    let from = text.find("  tail_sampling:").unwrap();
    let until = text.find("exporters:").unwrap();
    let marks = [b'{', b'[', b'&', b'*', b'"', b':', b'-', b'$', b'0', b'\t'];
    for (index, byte) in (from..until).step_by(37).zip(marks.iter().cycle()) {
        let mut bytes = text.as_bytes().to_vec();
        bytes[index] = *byte;
        let _ = load_text(&String::from_utf8_lossy(&bytes)).map_err(|p| p.to_string().len());
        let _ = load_text(&String::from_utf8_lossy(&text.as_bytes()[..index])).map_err(|p| p.to_string().len());
    }
}

#[test]
fn an_inverted_policy_beside_others_is_warned_of_and_not_inside_of_another() {
    let inverted = "type: string_attribute, string_attribute: {key: k, values: [v], invert_match: true}";
    let errors = "{name: errors, type: status_code, status_code: {status_codes: [ERROR]}}";
    let beside = shown(&node(&format!("[{{name: no-v, {inverted}}}, {errors}]")));
    assert!(beside.contains("`no-v` has `invert_match`") && beside.contains("put the policy into `and`"), "{beside}");
    let alone = shown(&node(&format!("[{{name: no-v, {inverted}}}]")));
    let inside = format!("[{{name: a, type: and, and: {{and_sub_policy: [{{name: no-v, {inverted}}}]}}}}, {errors}]");
    assert_eq!((alone.as_str(), shown(&node(&inside)).as_str()), ("", ""));
}
