use std::collections::BTreeMap;

use super::*;
use crate::config::settings::{CrossClusterSettings, PipelineSettings, PolicyKind, PolicySettings};
use crate::config::settings::{ProcessorSettings, SamplingMarks, TailSamplingSettings};

const TRACE: &str = "5b8efff798038103d269b633813fc60c";

fn read_text(text: &str) -> Result<RuleTests, Problems> {
    let source = Source { name: "rules.yaml".into(), text: text.to_owned() };
    read(&source, &|_| None, &HostFacts::default())
}

fn complaints(text: &str) -> String {
    read_text(text).unwrap_err().to_string()
}

#[test]
fn a_file_says_where_its_rules_and_traces_are_and_what_is_expected() {
    let text = format!(
        "config: [base.yaml, more.yaml]
processor: tail_sampling/strict
tests:
  - name: first
    traces: a.json
    expect: {{verdict: keep}}
  - name: second
    traces: [b.json, c.json]
    expect: {{verdict: DROP, policy: null}}
    expect_by_trace:
      {TRACE}: {{verdict: keep, policy: errors}}
"
    );
    let read = read_text(&text).unwrap();
    let RulesFrom::Files(files) = &read.rules else { panic!("{:?}", read.rules) };
    let names: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
    assert_eq!(
        (names, read.processor.unwrap().text.as_str()),
        (vec!["base.yaml", "more.yaml"], "tail_sampling/strict")
    );
    let [first, second] = read.tests.as_slice() else { panic!("{:?}", read.tests) };
    assert_eq!((first.name.as_str(), first.place.line, first.place.column), ("first", 4, 11));
    let expected = first.expect.as_ref().unwrap();
    assert_eq!((expected.keep, &expected.policy), (true, &ExpectedPolicy::Any));
    let expected = second.expect.as_ref().unwrap();
    assert_eq!((expected.keep, &expected.policy), (false, &ExpectedPolicy::Nobody));
    let expected = &second.by_trace[&TRACE.parse().unwrap()];
    assert!(matches!(&expected.policy, ExpectedPolicy::Named(name) if name.text == "errors" && name.place.line == 11));
    let TracesFrom::Files(files) = &second.traces else { panic!("{:?}", second.traces) };
    assert_eq!(files.len(), 2);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let shown = complaints(
        "config: a.yaml
processors: {}
test: []
tests:
  - name: first
    traces: a.json
    expect: {verdict: maybe}
  - traces: b.json
    otlp: {}
    expect: {policy: errors}
  - name: first
    expect_by_trace: {12: {verdict: keep}}
",
    );
    for part in [
        "rules.yaml:2:1",
        "`config` and `processors` cannot both be given",
        "unknown key `test`",
        "did you mean `tests`?",
        "rules.yaml:7:23",
        "wrong value for `verdict`",
        "`name` is required",
        "`traces` and `otlp` cannot both be given",
        "`verdict` is required",
        "rules.yaml:12:23",
        "this is no trace id",
        "`traces` is required",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    for (text, part) in [
        ("tests: []\n", "`tests` is required"),
        ("tests: [{name: a, traces: b}]\n", "`expect` is required"),
        ("[]\n", "a map is wanted here"),
        ("tests: [\n", "not valid YAML"),
        ("tests: [{name: a, traces: [{}], expect: {verdict: keep}}]\n", "the path of a file is wanted here"),
        ("tests: [{name: a, traces: b, expect_by_trace: [c]}]\n", "a map is wanted here"),
    ] {
        let shown = complaints(text);
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let twice = "tests:\n  - &a {name: a, traces: b, expect: {verdict: keep}}\n  - *a\n";
    assert!(complaints(twice).contains("two tests of the same name"));
}

#[test]
fn spans_written_as_yaml_become_the_json_that_senders_write() {
    let text = "tests:
  - name: first
    otlp:
      resourceSpans:
        - traceId: 12345678901234567890123456789012
          stringValue: 1e5
          name: ~
          startTimeUnixNano: 18446744073709551615
          intValue: 0x10
          doubleValue: .inf
          boolValue: true
          key: \"a\\\"b\\n\"
          nothing:
    expect: {verdict: keep}
";
    let read = read_text(text).unwrap();
    let TracesFrom::Here(inline) = &read.tests[0].traces else { panic!() };
    let json: serde_json::Value = serde_json::from_str(&inline.json).unwrap();
    let expected = serde_json::json!({"resourceSpans": [{
        "traceId": "12345678901234567890123456789012",
        "stringValue": "1e5",
        "name": null,
        "startTimeUnixNano": "18446744073709551615",
        "intValue": 16,
        "doubleValue": "Infinity",
        "boolValue": true,
        "key": "a\"b\n",
        "nothing": null,
    }]});
    assert_eq!(json, expected);
    let place = inline.place(inline.json.find("\"Infinity\"").unwrap() + 3);
    assert_eq!((place.line, place.column), (10, 24));
    assert_eq!(inline.place(0).line, 4);
}

fn sampling(names: &[&str]) -> ProcessorSettings {
    let policy = |name: &&str| PolicySettings { name: (*name).to_owned(), kind: PolicyKind::AlwaysSample };
    ProcessorSettings::TailSampling(TailSamplingSettings {
        decision_wait: std::time::Duration::from_secs(30),
        decision_wait_after_root_received: std::time::Duration::ZERO,
        num_traces: 0,
        sampled_cache_size: 0,
        non_sampled_cache_size: 0,
        sample_on_first_match: false,
        maximum_trace_size_bytes: 0,
        maximum_trace_spans: 32_000,
        drop_pending_traces_on_shutdown: false,
        max_memory_bytes: 1 << 20,
        dry_run: false,
        marks: SamplingMarks::default(),
        policies: names.iter().map(policy).collect(),
    })
}

fn settings(processors: &[(&str, ProcessorSettings)]) -> Settings {
    let text = "receivers: {otlp: {protocols: {grpc: }}}\nexporters: {debug: }\n\
                service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}\n";
    let source = Source { name: "a.yaml".into(), text: text.into() };
    let mut settings = super::super::load(&[source], &|_| None, &HostFacts::default()).unwrap().settings;
    settings.processors = processors.iter().map(|(id, settings)| ((*id).to_owned(), settings.clone())).collect();
    let processors = settings.processors.keys().cloned().collect();
    settings.pipelines =
        BTreeMap::from([("traces".to_owned(), PipelineSettings { processors, ..PipelineSettings::default() })]);
    settings
}

#[test]
fn the_rules_meant_are_found_or_it_is_said_why_not() {
    let file = |more: &str| {
        read_text(&format!("{more}tests: [{{name: a, traces: b, expect: {{verdict: keep, policy: slow}}}}]\n")).unwrap()
    };
    let refused = |more: &str, settings: &Settings| file(more).select(settings).unwrap_err().to_string();
    let one = settings(&[("tail_sampling/a", sampling(&["slow"]))]);
    assert!(!file("").select(&one).unwrap().write_crossings);
    let two = settings(&[("tail_sampling/a", sampling(&[])), ("tail_sampling/b", sampling(&["slow"]))]);
    assert_eq!(file("processor: tail_sampling/b\n").select(&two).unwrap().sampling.policies.len(), 1);
    assert!(refused("", &two).contains("has several `tail_sampling`"));
    assert!(refused("", &settings(&[])).contains("has no `tail_sampling`"));
    let shown = refused("processor: tail_sampling/c\n", &one);
    assert!(shown.contains("rules.yaml:1:12") && shown.contains("with the id `tail_sampling/c`"), "{shown}");
    let shown = refused("", &settings(&[("tail_sampling", sampling(&["show"]))]));
    assert!(shown.contains("there is no policy `slow`") && shown.contains("did you mean `show`?"), "{shown}");
}

#[test]
fn attributes_of_calls_between_clusters_are_written_if_the_pipeline_writes_them() {
    let cross = |write_attributes: bool| {
        ProcessorSettings::CrossCluster(CrossClusterSettings {
            wait_duration: std::time::Duration::from_secs(30),
            max_memory_bytes: 1 << 20,
            write_attributes,
            buckets: vec![1.0],
            entry_services: Vec::new(),
            max_series: 10,
        })
    };
    let file = read_text("tests: [{name: a, traces: b, expect: {verdict: keep}}]\n").unwrap();
    for writes in [true, false] {
        let settings = settings(&[("cross_cluster", cross(writes)), ("tail_sampling", sampling(&[]))]);
        assert_eq!(file.select(&settings).unwrap().write_crossings, writes);
    }
}

#[test]
fn the_processors_of_a_file_are_checked_like_those_of_a_node() {
    let tests = "tests: [{name: a, traces: b, expect: {verdict: keep}}]\n";
    let shown = complaints(&format!("processors:\n  tail_sampling:\n    polices: []\n{tests}"));
    assert!(shown.contains("rules.yaml:3:5") && shown.contains("did you mean `policies`?"), "{shown}");
    let shown = complaints(&format!("processors:\n  tail_sampling: {{decision_wait: \"${{env:NOT_SET}}\"}}\n{tests}"));
    assert!(shown.contains("rules.yaml:2:34") && shown.contains("NOT_SET is not set"), "{shown}");
    let file = format!(
        "processors:\n  tail_sampling: {{policies: [{{name: slow, type: latency, latency: {{threshold_ms: 5}}}}]}}\n{tests}"
    );
    let read = read_text(&file).unwrap();
    let RulesFrom::Here(settings) = &read.rules else { panic!("{:?}", read.rules) };
    assert_eq!(read.select(settings).unwrap().sampling.policies[0].name, "slow");
}
