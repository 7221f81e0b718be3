//! What is said about a configuration that is wrong, and what is never said.

use super::*;

#[test]
fn every_problem_is_reported_at_once_with_its_line_and_column() {
    let text = "\
receivers:
  otlp:
    protocols:
      grpc:
        endpont: 0.0.0.0:4317
      http:
        endpoint: nowhere
  zipkin:
processors:
  batch:
    timeout: 5
    send_batch_size: many
  k8sattributes:
    passthrough: true
exporters:
  otlp_htpp:
    endpoint: http://x
  debug:
    verbosity: loud
connectors:
  mesh:
    seeds: [dns+mesh.test]
service:
  pipelines:
    traces:
      receivers: [otlp]
      processors: [batch, span_dedup]
      exporters: [debugg]
    metrics:
      receivers: [otlp]
      exporters: [debug]
";
    assert_eq!(
        said(text),
        [
            "5:9 unknown key `endpont`",
            "7:19 wrong value for `endpoint`",
            "8:3 the receiver `zipkin` is not supported yet",
            "11:14 wrong value for `timeout`",
            "12:22 `send_batch_size` is a number",
            "13:3 the processor `k8sattributes` is not supported yet",
            "16:3 there is no exporter `otlp_htpp`",
            "18:3 the exporter `debug` is defined and not used",
            "19:16 wrong value for `verbosity`",
            "21:3 `cluster` is required",
            "21:3 the connector `mesh` is defined and not used",
            "22:13 this is no seed",
            "27:27 no processor `span_dedup` is defined",
            "28:19 no exporter or connector `debugg` is defined",
            "29:5 a pipeline of metrics: spanmesh carries traces only",
        ]
    );
    let report = load_text(text).unwrap_err();
    let shown = report.to_string();
    for part in [
        "--> 0.yaml:5:9",
        "5 |         endpont: 0.0.0.0:4317\n  |         ^^^^^^^\n",
        "did you mean `endpoint`?",
        "did you mean `otlp_http`?",
        "did you mean `debug`?",
        "= value: `5`",
        "with its unit, like 200ms",
        "values from the Downward API",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
    let json = report.to_json();
    assert_eq!(json[0]["file"], "0.yaml");
    assert_eq!((&json[0]["line"], &json[0]["column"]), (&5.into(), &9.into()));
    assert_eq!(json[0]["did_you_mean"], "endpoint");
    assert_eq!(json[0]["path"], "receivers.otlp.protocols.grpc");
}

#[test]
fn text_that_is_no_yaml_or_too_much_of_it_is_refused_where_it_goes_wrong() {
    let deep = format!("a: {}1{}", "[".repeat(100), "]".repeat(100));
    let wide = format!("a: [{}]", "1,".repeat(30_000));
    let aliases = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                   d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n\
                   f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    for (text, at, part) in [
        ("a: [1\nb: 2\n", "2:", "not valid YAML"),
        ("a: \"open\n", "", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "2:1", "a second YAML document"),
        ("a: &x [*x]\n", "1:8", "an alias inside of what it stands for"),
        ("a: *nothing\n", "1:4", "not valid YAML"),
        ("? [1, 2]\n: x\n", "1:3", "a key must be a scalar"),
        (&deep, "1:", "nested too deeply"),
        (&wide, "1:", "grows too large"),
        (aliases, "", "grows too large"),
        (&"x".repeat(MAX_SOURCE_BYTES + 1), "1:1", "too large"),
    ] {
        let said = said(text);
        let first = said.first().cloned().unwrap_or_default();
        assert!(first.starts_with(at) && first.contains(part), "{at} {part}: {first}");
    }
}

#[test]
fn a_key_given_twice_is_reported_at_its_second_place_with_the_first() {
    let text = "receivers:\n  otlp: {protocols: {grpc: }}\n  otlp: {protocols: {http: }}\n";
    let problems = load_text(text).unwrap_err();
    let twice = problems.iter().find(|p| p.message.contains("given twice")).unwrap();
    assert_eq!((twice.place.unwrap().line, twice.place.unwrap().column), (3, 3));
    assert_eq!(twice.related.as_ref().unwrap().0.line, 2);
}

#[test]
fn tags_beyond_the_core_schema_are_refused() {
    assert!(said("a: !custom 1\n").join("\n").contains("the tag `!custom` is not supported"));
    assert!(said("a: !!binary aGk=\n").join("\n").contains("2002:binary` is not supported"));
    let text = format!("{MESH}  telemetry: {{logs: {{level: !!str info}}}}\n");
    assert!(said(&text).is_empty(), "{:?}", said(&text));
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = "\
receivers: {otlp: {protocols: {grpc: }}}
exporters:
  otlp_http/a:
    endpoint: http://backend
    headers: {authorization: \"Bearer hunter2\", bad header: hunter2}
    timeuot: 1s
  otlp_http/b: {endpoint: 'http://me:hunter2@backend', headers: {x-key: [hunter2]}, tiemout: 5s}
  otlp_http/c:
    endpoint: http://backend
    headers:
      authorization: >-
        hunter2
        hunter2
      authorization: hunter2
    headers: [hunter2]
service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp_http/a, otlp_http/b]}}}
";
    let problems = load_text(text).unwrap_err();
    let (shown, json) = (problems.to_string(), problems.to_json().to_string());
    assert!(problems.count(Severity::Error) >= 6, "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        !json.contains("hunter2") && !format!("{:?}", load_text(text).map(|l| l.settings).ok()).contains("hunter2")
    );
    assert!(shown.contains("[redacted]"));

    // A file that is no YAML: its secrets are not known, so no values are shown.
    for broken in
        ["headers:\n  x-key: \"hunter2\n", "headers: {x-key: hunter2\nb: c\n", "a: b: hunter2\n", "- hunter2\nx: y\n"]
    {
        let shown = load_text(broken).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn no_text_makes_the_loader_panic_or_run_for_long() {
    // Every prefix, and every text with one byte changed, of a file with most of the language in it.
    let text = include_str!("../builtin.yaml");
    for end in (0..text.len()).filter(|n| text.is_char_boundary(*n)) {
        let _ = load_text(&text[..end]).map_err(|p| p.to_string().len());
    }
    for (index, byte) in
        (0..text.len()).step_by(3).zip([b'{', b'[', b'&', b'*', b'"', b':', b'-', b'$', b'!', b'\t'].iter().cycle())
    {
        let mut bytes = text.as_bytes().to_vec();
        bytes[index] = *byte;
        let _ = load_text(&String::from_utf8_lossy(&bytes)).map_err(|p| p.to_string().len());
    }
}

#[test]
fn values_out_of_range_are_refused_with_what_is_allowed() {
    for (text, part) in [
        ("processors: {batch: {timeout: 2m}}", "from 0s to 1m"),
        ("processors: {batch: {send_batch_size: 100, send_batch_max_size: 50}}", "smaller than `send_batch_size`"),
        ("processors: {batch: {send_batch_size: '100'}}", "without quotes"),
        ("processors: {batch: {metadata_keys: [a]}}", "`metadata_keys` is not supported yet"),
        ("processors: {span_dedup: {max_memory: 1.5GiB}}", "a size like 64MiB"),
        ("processors: {memory_limiter: {check_interval: 1s}}", "give `limit_mib` or `limit_percentage`"),
        ("processors: {memory_limiter: {limit_mib: 10, spike_limit_mib: 10}}", "smaller than the limit"),
        ("processors: {memory_limiter: {limit_percentage: 101}}", "from 1 to 100"),
        ("processors: {resource: {}}", "`attributes` is required"),
        (
            "processors: {resource: {attributes: [{key: a, action: hash, value: 1}]}}",
            "`action: hash` is not supported yet",
        ),
        ("processors: {resource: {attributes: [{key: a, action: insert}]}}", "give `value` or `from_attribute`"),
        ("processors:\n  resource:\n    attributes: [{key: a, action: insert, value: ]}\n", "not valid YAML"),
        (
            "processors:\n  resource:\n    attributes:\n    - key: a\n      action: insert\n      value: ${X:-}\n",
            "the value is empty",
        ),
        ("processors: {resource: {attributes: [{key: a, action: delete, value: 1}]}}", "takes no value"),
        ("processors: {resource: {attributes: [{key: a, action: insert, value: [1]}]}}", "lists and maps"),
        ("exporters: {otlp: {}}", "`endpoint` is required"),
        ("exporters: {otlp: {endpoint: tempo}}", "no address of a gRPC server"),
        ("exporters: {otlp: {endpoint: 'https://a:1', tls: {insecure: true}}}", "without TLS"),
        ("exporters: {otlp: {endpoint: 'a:1', compression: snappy}}", "`compression: snappy` is not supported yet"),
        (
            "exporters: {otlp: {endpoint: 'a:1', sending_queue: {enabled: true}}}",
            "`sending_queue` is not supported yet",
        ),
        ("exporters: {otlp: {endpoint: 'a:1', sending_queue: {queue_size: 5}}}", "`queue_size` is not supported yet"),
        ("exporters: {otlp: {endpoint: 'a:1', headers: {content-type: x}}}", "set by the exporter itself"),
        ("exporters: {otlp: {endpoint: 'a:1', tls: {cert_file: x}}}", "`key_file` is required"),
        ("exporters: {otlp: {endpoint: 'a:1', retry_on_failure: {max_elapsed_time: 1s}}}", "ends before the first"),
        ("exporters: {otlp: {endpoint: 'a:1', retry_on_failure: {multiplier: 0.5}}}", "from 1 to 100"),
        ("exporters: {otlphttp: {endpoint: 'a:1'}}", "no URL to post to"),
        ("exporters: {otlphttp: {endpoint: 'http://a', encoding: xml}}", "proto, json"),
        ("exporters: {file: {}}", "`path` is required"),
        ("exporters: {file: {path: x, format: proto}}", "`format: proto` is not supported yet"),
        ("exporters: {file: {path: x, rotation: {}}}", "logrotate"),
        ("exporters: {'9x': {}}", "cannot be the id of a component"),
        ("exporters: [debug]", "is a map of components"),
        ("receivers: {otlp: {protocols: }}", "name at least one protocol"),
        ("receivers: {otlp: {protocols: {grpc: {keepalive: {}}}}}", "`keepalive` is not supported yet"),
        ("receivers: {otlp: {protocols: {grpc: {tls: {cert_file: x}}}}}", "`key_file` is required"),
        ("receivers: {otlp: {protocols: {http: {max_request_body_size: 0}}}}", "from 1 to 1GiB"),
        ("service: {telemetry: {metrics: {readers: [{periodic: {}}]}}}", "metrics are not pushed"),
        ("service: {telemetry: {logs: {level: loud}}}", "info, debug, warn, error, trace"),
        ("service: {pipelines: {trace: {}}}", "did you mean `traces`"),
        ("service: {extensions: [health_check]}", "no extension `health_check` is defined"),
    ] {
        let shown = said_over_mesh(text);
        assert!(shown.contains(part), "{text}: {part:?} is missing in\n{shown}");
    }
    let unknown = HostFacts::default();
    let text = MESH.replace("span_dedup: }", "span_dedup: , memory_limiter: {limit_percentage: 50}}");
    let shown = load(&sources(&[&text]), &no_env, &unknown).unwrap_err().to_string();
    assert!(shown.contains("memory of this machine is not known") && shown.contains("name of this machine"), "{shown}");
}
