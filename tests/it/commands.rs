//! The command line as scripts see it: exit codes, what goes to which stream, and problems of a configuration with
//! their places.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use spanmesh::model::Tick;
use spanmesh::runtime::clock::Clock;

use crate::harness::node::spanmesh;

fn out(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = spanmesh().args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The files of `config/`.
fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    // A reference stands beside them.
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files
}

#[test]
fn every_shipped_configuration_is_valid_and_prints_as_one_that_prints_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.yaml");
    for file in shipped() {
        let file = file.to_str().unwrap();
        let (code, _, stderr) = out(&["validate", "--config", file]);
        assert_eq!(code, 0, "{stderr}");
        let (code, stdout, stderr) = out(&["validate", "--no-environment", "--deny-warnings", "-o", "json", file]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["valid"], true);

        let (code, printed, stderr) = out(&["print-config", file]);
        assert_eq!(code, 0, "{stderr}");
        std::fs::write(&copy, &printed).unwrap();
        let (code, again, stderr) = out(&["print-config", "--config", copy.to_str().unwrap()]);
        assert_eq!((code, again), (0, printed), "{stderr}");
    }
}

#[test]
fn exit_codes_tell_usage_from_configuration_from_failure() {
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["components"], 0),
        (&["validate", "--cluster", "x"], 0),
        // Nobody listens on port 1.
        (&["members", "--admin", "http://127.0.0.1:1"], 1),
        (&["ring", "--admin", "http://127.0.0.1:1"], 1),
        (&["trace", "4bf92f3577b34da6a3ce929d0e0e4736", "--admin", "http://127.0.0.1:1"], 1),
        (&[], 2),
        (&["dance"], 2),
        (&["run", "--no-such-flag"], 2),
        (&["run", "--config", "a.yaml", "--cluster", "x"], 2),
        (&["run", "--grace", "soon", "--cluster", "x"], 2),
        (&["ring", "owner", "not-a-trace-id"], 2),
        (&["trace", "not-a-trace-id"], 2),
        (&["trace"], 2),
        (&["members", "--admin", "no url"], 2),
        (&["test"], 2),
        (&["test", "/nowhere/at/all.yaml"], 78),
        (&["run"], 78),
        (&["validate"], 78),
        (&["run", "--config", "/nowhere/at/all.yaml"], 78),
        (&["run", "--cluster", "No Such Name!"], 78),
        (&["print-config", "yaml:receivers: ["], 78),
    ] {
        let (ended, stdout, stderr) = out(arguments);
        assert_eq!(ended, code, "{arguments:?}: {stdout}{stderr}");
        // Data goes to one stream, complaints to the other.
        assert_eq!((stdout.is_empty(), stderr.is_empty()), (code != 0, code == 0), "{arguments:?}: {stdout}{stderr}");
    }
}

/// The tests of sampling rules that come with the sources.
fn shipped_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tests/sampling.yaml")
}

#[test]
fn the_shipped_tests_of_sampling_rules_pass() {
    let file = shipped_tests();
    let (code, stdout, stderr) = out(&["test", file.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.ends_with("4 tests, 0 failed\n"), "{stdout}");
}

#[test]
fn a_rule_that_does_not_do_what_a_test_expects_is_a_failure_that_is_explained() {
    let file = shipped_tests();
    let directory = tempfile::tempdir().unwrap();
    let changed = directory.path().join("changed.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("threshold_ms: 2000", "threshold_ms: 2001");
    let text = text.replace("traces/", &format!("{}/traces/", file.parent().unwrap().display()));
    std::fs::write(&changed, text).unwrap();
    let changed = changed.to_str().unwrap();
    let (code, stdout, stderr) = out(&["test", changed]);
    assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
    for part in ["FAILED  exactly two seconds are slow", "expected: keep, by the policy slow", "got:      drop"] {
        assert!(stdout.contains(part), "{part} is not in\n{stdout}");
    }
    let (code, stdout, _) = out(&["test", "-o", "json", changed]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["failed"], &report["passed"]), (1, &1.into(), &false.into()));
}

#[test]
fn tests_of_sampling_rules_need_rules_and_say_where_a_mistake_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    let file = file.to_str().unwrap();
    std::fs::write(file, "tests: [{name: a, traces: b.json, expect: {verdict: keep}}]\n").unwrap();
    let (code, stdout, stderr) = out(&["test", file]);
    assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
    assert!(stderr.contains("does not say which rules") && stderr.contains(&format!("{file}:1:1")), "{stderr}");
    let minimal = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/minimal.yaml");
    let (code, stdout, _) = out(&["test", "-o", "json", file, "--config", minimal.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, report["problems"][0]["line"].as_u64()), (78, Some(1)), "{stdout}");
}

#[test]
fn a_port_that_is_taken_is_a_failure_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!(
        "yaml:{{receivers: {{otlp: {{protocols: {{http: {{endpoint: '{address}'}}}}}}}}, exporters: {{debug: }}, \
         service: {{pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
    );
    let (code, stdout, stderr) = out(&["run", "--config", &config]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains(&address.to_string()) && stderr.contains("another process has the port"), "{stderr}");
}

/// Lines of a bad configuration, and what must be said of which line and column.
const BAD: &str = "\
receivers:
  otlp:
    protocols:
      http: {endpoint: '127.0.0.1:0', max_request_body_sizes: 7}
      grpc: {endpoint: 12}
exporters:
  otlp_http:
    endpoint: http://backend:4318
    timeout: soon
    headers: {authorization: 'Bearer ${env:IT_NOT_SET}', x-key: '${env:IT_SECRET}'}
    retry_on_failure: {enabled: perhaps}
  debug:
  debug:
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp_htp]}
";

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_its_place_and_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    std::fs::write(&file, BAD).unwrap();
    let file = file.to_str().unwrap();
    for command in ["run", "validate", "print-config"] {
        let output = spanmesh().args([command, "--config", file]).env("IT_SECRET", "s3cr3t-value").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(78), &b""[..]), "{said}");
        for place in ["4:39", "5:24", "9:14", "10:30", "11:33", "13:3", "16:45"] {
            assert!(said.contains(&format!("{file}:{place}")), "{command}, {place}:\n{said}");
        }
        for text in ["max_request_body_size", "IT_NOT_SET", "did you mean `otlp_http`", "given twice"] {
            assert!(said.contains(text), "{command}, {text}:\n{said}");
        }
        assert!(!said.contains("s3cr3t"), "{said}");
    }
    let output = spanmesh().args(["validate", "-o", "json", file]).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &said["valid"]), (Some(78), &false.into()));
    assert!(said["problems"].as_array().unwrap().len() >= 7, "{said}");
}

#[test]
fn an_alias_bomb_is_refused_where_it_stands_and_soon() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", inner.trim_end_matches(", ")));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bomb.yaml");
    std::fs::write(&file, bomb).unwrap();
    let file = file.to_str().unwrap();
    let clock = Clock::start();
    let (code, _, stderr) = out(&["run", "--config", file]);
    assert_eq!(code, 78);
    assert!(stderr.contains(&format!("{file}:")) && stderr.contains("alias"), "{stderr}");
    assert!(clock.now() < Tick::ZERO + Duration::from_secs(10), "{:?}", clock.now());
}
