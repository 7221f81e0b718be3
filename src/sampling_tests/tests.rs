use super::*;
use crate::config::rule_tests::{self, RulesFrom};
use crate::config::{HostFacts, Source};

const A: &str = "5b8efff798038103d269b633813fc60a";
const B: &str = "5b8efff798038103d269b633813fc60b";

/// One trace of a line: an error or not, in the cluster.
fn line(trace: &str, span: u8, parent: u8, status: u8, cluster: &str) -> String {
    format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k8s.cluster.name","value":{{"stringValue":"{cluster}"}}}}]}},"scopeSpans":[{{"spans":[{{"traceId":"{trace}","spanId":"00000000000000{span:02x}","parentSpanId":"00000000000000{parent:02x}","kind":2,"startTimeUnixNano":"1","endTimeUnixNano":"2","status":{{"code":{status}}}}}]}}]}}]}}"#
    )
}

fn parse(tests: &str) -> rule_tests::RuleTests {
    let rules = "processors:
  cross_cluster: {write_attributes: true}
  tail_sampling:
    policies:
      - {name: errors, type: status_code, status_code: {status_codes: [ERROR]}}
      - {name: to b, type: string_attribute, string_attribute: {key: cross_cluster.target, values: [b]}}
      - {name: once, type: rate_limiting, rate_limiting: {spans_per_second: 1}}
";
    let source = Source { name: "rules.yaml".into(), text: format!("{rules}tests:\n{tests}") };
    rule_tests::read(&source, &|_| None, &HostFacts::default()).unwrap()
}

fn ran(tests: &str, files: &[(&str, String)]) -> Result<Ran, Problems> {
    let file = parse(tests);
    let RulesFrom::Here(settings) = &file.rules else { panic!("{:?}", file.rules) };
    let read = |path: &str| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| text.clone().into_bytes()).ok_or_else(|| format!("cannot read {path}"))
    };
    run(&file, file.select(settings).unwrap(), &read)
}

fn complaints(tests: &str, files: &[(&str, String)]) -> String {
    ran(tests, files).unwrap_err().to_string()
}

#[test]
fn the_rules_are_asked_of_each_trace_and_held_against_what_is_expected() {
    let files = [("two.json", format!("{}\n{}\n", line(A, 1, 0, 2, "a"), line(B, 2, 9, 0, "a")))];
    let tests = format!(
        "  - name: as they are
    traces: two.json
    expect: {{verdict: keep, policy: once}}
    expect_by_trace: {{{A}: {{verdict: keep, policy: errors}}}}
  - name: not so
    traces: two.json
    expect: {{verdict: drop}}
"
    );
    let outcomes = ran(&tests, &files).unwrap().outcomes;
    assert!(outcomes[0].passed, "{outcomes:?}");
    assert!(!outcomes[1].passed);
    let trace = &outcomes[1].traces[0];
    assert_eq!((trace.trace_id.as_str(), trace.spans, trace.got.keep), (A, 1, true));
    assert_eq!(trace.got.policy.as_deref(), Some("errors"));
    let said = |name: &str| trace.policies.iter().find(|vote| vote.name == name).unwrap().said;
    assert_eq!((said("errors"), said("to b")), (Said::Sampled, Said::NotSampled));
}

#[test]
fn a_trace_that_several_files_share_is_one_and_its_calls_between_clusters_are_seen() {
    let files = [("a.json", line(A, 1, 0, 0, "a")), ("b.json", line(A, 2, 1, 0, "b"))];
    let tests = "  - name: both
    traces: [a.json, b.json]
    expect: {verdict: keep, policy: to b}
";
    let outcomes = ran(tests, &files).unwrap().outcomes;
    assert!(outcomes[0].passed, "{outcomes:?}");
    assert_eq!(outcomes[0].traces[0].spans, 2);
}

#[test]
fn no_test_spends_what_another_needs() {
    let files = [("a.json", line(A, 1, 0, 0, "a"))];
    let test = |name: &str| format!("  - {{name: {name}, traces: a.json, expect: {{verdict: keep, policy: once}}}}\n");
    let outcomes = ran(&(test("first") + &test("second")), &files).unwrap().outcomes;
    assert!(outcomes.iter().all(|outcome| outcome.passed), "{outcomes:?}");
}

#[test]
fn traces_that_no_node_would_take_are_told_with_their_place() {
    let test = |more: &str| format!("  - {{name: a, {more}, expect: {{verdict: keep}}}}\n");
    let files = [
        ("broken.json", "{\n  \"resourceSpans\": [1]\n}\n".to_owned()),
        ("lines.json", format!("{}\n{{]\n", line(A, 1, 0, 0, "a"))),
        ("empty.json", "{}".to_owned()),
        ("id.json", line("00", 1, 0, 0, "a")),
        ("large.json", " ".repeat(MAX_TRACE_BYTES + 1)),
        ("many.json", (0..=MAX_TRACES).map(|n| line(&format!("{:032x}", n + 1), 1, 0, 0, "a") + "\n").collect()),
    ];
    for (more, part) in [
        ("traces: nowhere.json", "cannot read nowhere.json"),
        ("traces: broken.json", "broken.json:2:21: no OTLP/JSON: a value of the wrong type"),
        ("traces: lines.json", "lines.json:2:2: no OTLP/JSON: not JSON"),
        ("traces: empty.json", "there is no span in it"),
        ("traces: id.json", "a node would not take 1 of the spans"),
        ("traces: large.json", "too many bytes of traces in one test"),
        ("traces: many.json", "1001 traces in one test; at most 1000"),
        ("otlp: {resourceSpans: [1]}", "no OTLP: a value of the wrong type"),
    ] {
        let shown = complaints(&test(more), &files);
        assert!(shown.contains(part) && shown.contains("rules.yaml:9:"), "{part} is not in\n{shown}");
    }
}

#[test]
fn what_the_reader_passes_over_is_told() {
    let files = [("a.json", line(A, 1, 0, 0, "a").replace("endTimeUnixNano", "end_time_unix_nano"))];
    let warnings =
        ran("  - {name: a, traces: a.json, expect: {verdict: keep}}\n", &files).unwrap().warnings.to_string();
    assert!(warnings.contains("snake_case") && warnings.contains("rules.yaml:9:23"), "{warnings}");
}

#[test]
fn an_expectation_too_many_and_one_too_few_are_mistakes_in_the_file() {
    let files = [("a.json", line(A, 1, 0, 0, "a"))];
    let tests = format!("  - {{name: a, traces: a.json, expect_by_trace: {{{B}: {{verdict: keep}}}}}}\n");
    let shown = complaints(&tests, &files);
    assert!(shown.contains("this trace is not among those of the test"), "{shown}");
    assert!(shown.contains(&format!("nothing is expected of trace {A}")), "{shown}");
}

fn failed() -> Vec<(String, Vec<Outcome>)> {
    let vote = |name: &str, said| Vote { name: name.into(), kind: "latency", said };
    let trace = TraceOutcome {
        trace_id: A.into(),
        spans: 2,
        passed: false,
        expected: Wanted { keep: true, policy: Some(Some("slow".into())) },
        got: Got { keep: false, policy: None },
        policies: vec![vote("slow", Said::NotSampled), vote("fast\u{1b}", Said::NotAsked)],
    };
    let passed = Outcome { name: "fine".into(), line: 3, column: 5, passed: true, traces: Vec::new() };
    let outcome = Outcome { name: "slow".into(), line: 7, column: 5, passed: false, traces: vec![trace] };
    vec![("rules.yaml".to_owned(), vec![passed, outcome])]
}

#[test]
fn a_failure_shows_what_was_expected_what_came_and_who_said_what() {
    let expected = format!(
        "rules.yaml
  ok      fine
  FAILED  slow
          at rules.yaml:7:5
          trace {A}, 2 spans
            expected: keep, by the policy slow
            got:      drop, by no policy
              slow   latency  not sampled
              fast   latency  not asked

2 tests, 1 failed
"
    );
    assert_eq!(text(&failed()), expected);
}

#[test]
fn programs_get_the_same_in_a_stable_form() {
    let expected = serde_json::json!({
        "schema": 1, "passed": false, "tests": 2, "failed": 1,
        "files": [{"file": "rules.yaml", "tests": [
            {"name": "fine", "line": 3, "column": 5, "passed": true, "traces": []},
            {"name": "slow", "line": 7, "column": 5, "passed": false, "traces": [{
                "trace_id": A, "spans": 2, "passed": false,
                "expected": {"verdict": "keep", "policy": "slow"},
                "got": {"verdict": "drop", "policy": null},
                "policies": [
                    {"name": "slow", "type": "latency", "said": "not_sampled"},
                    {"name": "fast\u{1b}", "type": "latency", "said": "not_asked"},
                ],
            }]},
        ]}],
    });
    assert_eq!(json(&failed()), expected);
}
