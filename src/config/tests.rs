//! Whole configurations: what loads, and what is said about what does not.

use super::settings::{Advertise, ExporterSettings, MeshSecurity, ProcessorSettings, ReceiverSettings, Seed};
use super::*;

fn host() -> HostFacts {
    HostFacts { hostname: "node-7".to_owned(), memory_bytes: 1 << 30 }
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn sources(texts: &[&str]) -> Vec<Source> {
    let source = |(n, text): (usize, &&str)| Source { name: format!("{n}.yaml"), text: (*text).to_owned() };
    texts.iter().enumerate().map(source).collect()
}

fn load_text(text: &str) -> Result<Loaded, Problems> {
    load(&sources(&[text]), &no_env, &host())
}

fn loaded(text: &str) -> Loaded {
    load_text(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// `line:column message` of every problem that is no note.
fn said(text: &str) -> Vec<String> {
    let problems = match load_text(text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let line = |p: &Problem| {
        let at = p.place.map(|at| format!("{}:{}", at.line, at.column)).unwrap_or_default();
        format!("{at} {}", p.message)
    };
    problems.iter().filter(|p| p.severity != Severity::Note).map(line).collect()
}

const MESH: &str = "\
receivers: {otlp: {protocols: {grpc: , http: }}}
processors: {span_dedup: }
exporters: {debug: }
connectors: {mesh: {cluster: us-east-1}}
service:
  pipelines:
    traces/local: {receivers: [otlp], exporters: [mesh]}
    traces/owned: {receivers: [mesh], processors: [span_dedup], exporters: [debug]}
";

/// The mesh configuration with some text laid over it.
fn over_mesh(text: &str) -> Result<Loaded, Problems> {
    load(&sources(&[MESH, text]), &no_env, &host())
}

fn said_over_mesh(text: &str) -> String {
    match over_mesh(text) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn a_configuration_as_collectors_have_it_loads() {
    let settings = loaded(
        "
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 0.0.0.0:4317
        max_recv_msg_size_mib: 16
        tls: {cert_file: /tls/tls.crt, key_file: /tls/tls.key, client_ca_file: /tls/ca.crt}
      http:
        endpoint: localhost:4318
        max_request_body_size: 20971520
processors:
  memory_limiter:
    check_interval: 1s
    limit_percentage: 80
    spike_limit_percentage: 25
  batch: {}
  resource:
    attributes:
      - {key: deployment.environment, value: prod, action: upsert}
      - key: replicas
        value: 3
        action: insert
      - {key: host.name, from_attribute: k8s.node.name, action: update}
      - {key: secretish, action: delete}
exporters:
  otlp/tempo:
    endpoint: tempo:4317
    tls: {insecure: true}
    headers: {X-Scope-OrgID: team-a}
    retry_on_failure: {enabled: true, initial_interval: 1s, max_elapsed_time: 0}
    sending_queue: {enabled: false}
  otlphttp: {endpoint: 'https://otlp.example.com/base/'}
  debug: {verbosity: detailed}
extensions: {health_check: {endpoint: '0.0.0.0:13133'}}
service:
  extensions: [health_check]
  telemetry:
    logs: {level: DEBUG, encoding: json}
    metrics:
      level: detailed
      readers: [{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}}]
  pipelines:
    traces:
      receivers: [otlp]
      processors: [memory_limiter, resource, batch]
      exporters: [otlp/tempo, otlphttp, debug]
",
    )
    .settings;
    let Some(ReceiverSettings::Otlp(otlp)) = settings.receivers.get("otlp") else { panic!() };
    assert_eq!(otlp.grpc.as_ref().unwrap().max_request_bytes, 16 << 20);
    assert_eq!(otlp.http.as_ref().unwrap().endpoint.to_string(), "127.0.0.1:4318");
    let Some(ProcessorSettings::MemoryLimiter(limits)) = settings.processors.get("memory_limiter") else { panic!() };
    let percent = |n: u64| (1u64 << 30) * n / 100;
    assert_eq!((limits.limit_bytes, limits.soft_limit_bytes), (percent(80), percent(80) - percent(25)));
    let Some(ExporterSettings::OtlpGrpc(tempo)) = settings.exporters.get("otlp/tempo") else { panic!() };
    assert_eq!(tempo.url, "http://tempo:4317");
    assert_eq!(tempo.headers[0].0, "x-scope-orgid");
    assert!(tempo.retry.max_elapsed_time.is_zero());
    let Some(ExporterSettings::OtlpHttp(http)) = settings.exporters.get("otlphttp") else { panic!() };
    assert_eq!(http.url, "https://otlp.example.com/base/v1/traces");
    assert_eq!(settings.telemetry.metrics.unwrap().to_string(), "0.0.0.0:8888");
    assert_eq!(settings.telemetry.log_level, "debug");
}

#[test]
fn defaults_bind_to_loopback() {
    let settings = loaded(MESH).settings;
    let Some(ReceiverSettings::Otlp(otlp)) = settings.receivers.get("otlp") else { panic!() };
    for address in [
        otlp.grpc.as_ref().unwrap().endpoint,
        otlp.http.as_ref().unwrap().endpoint,
        settings.telemetry.metrics.unwrap(),
        settings.admin.endpoint.unwrap(),
    ] {
        assert!(address.ip().is_loopback(), "{address}");
    }
    let (_, mesh) = settings.mesh.unwrap();
    assert!(mesh.security.is_none());
    assert_eq!(mesh.node.as_str(), "node-7");
}

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
  tail_sampling:
    decision_wait: 10s
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
            "13:3 the processor `tail_sampling` is not supported yet",
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
        "it gets whole traces from their owner",
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
fn anchors_aliases_and_merge_keys_are_understood() {
    let settings = loaded(
        "
receivers: {otlp: {protocols: {grpc: }}}
exporters:
  otlp_http/a: &backend {endpoint: 'http://a', timeout: 7s, compression: zstd}
  otlp_http/b:
    <<: *backend
    endpoint: http://b
service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp_http/a, otlp_http/b]}}}
",
    )
    .settings;
    let Some(ExporterSettings::OtlpHttp(b)) = settings.exporters.get("otlp_http/b") else { panic!() };
    assert_eq!((b.url.as_str(), b.timeout.as_secs()), ("http://b/v1/traces", 7));
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
fn what_the_environment_holds_is_used_and_not_shown() {
    let env = |name: &str| match name {
        "PORT" => Some("hunter2".to_owned()),
        "CLUSTER" => Some("007".to_owned()),
        "MIB" => Some("128".to_owned()),
        "TOKEN" => Some("hunter2".to_owned()),
        _ => None,
    };
    let text = |endpoint: &str| {
        format!(
            "
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{endpoint}'}}}}}}}}
processors: {{memory_limiter: {{limit_mib: '${{MIB}}'}}}}
connectors: {{mesh: {{cluster: '${{CLUSTER}}', seeds: '${{env:SEEDS:-}}'}}}}
exporters: {{otlp_http: {{endpoint: 'http://x', headers: {{a: '${{TOKEN}}'}}}}}}
service:
  pipelines:
    traces/local: {{receivers: [otlp], processors: [memory_limiter], exporters: [mesh]}}
    traces/owned: {{receivers: [mesh], exporters: [otlp_http]}}
"
        )
    };
    let shown = load(&sources(&[&text("127.0.0.1:${PORT}")]), &env, &host()).unwrap_err().to_string();
    assert!(shown.contains("${PORT}") && !shown.contains("hunter2"), "{shown}");
    let loaded = load(&sources(&[&text("127.0.0.1:0")]), &env, &host()).unwrap();
    assert_eq!(loaded.settings.mesh.as_ref().unwrap().1.cluster.as_str(), "007");
    let Some(ProcessorSettings::MemoryLimiter(limits)) = loaded.settings.processors.get("memory_limiter") else {
        panic!()
    };
    assert_eq!(limits.limit_bytes, 128 << 20);
    assert!(!loaded.expanded.to_yaml(true).contains("hunter2"));
    assert!(!format!("{:?}", loaded.settings).contains("hunter2"));
}

#[test]
fn later_sources_stand_over_earlier_ones_and_problems_name_the_right_file() {
    let loaded = load(
        &sources(&[MESH, "connectors: {mesh: {region: eu}}\n", "connectors::mesh::weight: 7\n"]),
        &no_env,
        &host(),
    );
    let loaded = loaded.unwrap();
    let (_, mesh) = loaded.settings.mesh.unwrap();
    assert_eq!((mesh.region.as_str(), mesh.weight, mesh.cluster.as_str()), ("eu", 7, "us-east-1"));
    let lists = over_mesh("service: {pipelines: {traces/owned: {processors: []}}}\n").unwrap();
    assert!(lists.settings.pipelines["traces/owned"].processors.is_empty());
    let problems = over_mesh("\nconnectors: {mesh: {weight: lots}}\n").unwrap_err().to_string();
    assert!(problems.contains("--> 1.yaml:2:29"), "{problems}");
}

#[test]
fn the_mesh_connector_reads_every_key() {
    let loaded = over_mesh(
        "connectors: {mesh: {node: n1, region: r, zone: z, environment: e, name: m, listen: '127.0.0.1:0',
           advertise: 'node.example.com:4319', seeds: ['dns+mesh.test:4319', 'dnssrv+_mesh._udp.mesh.test', '10.0.0.1:1'],
           dns_server: '127.0.0.1:53', refresh_interval: 5s, weight: 10, compression: lz4, durability: memory,
           failover_after: 3s, tls: {ca_file: ca, cert_file: c, key_file: k, reload_interval: 1m}}}\n",
    )
    .unwrap_or_else(|p| panic!("{p}"));
    let (_, mesh) = loaded.settings.mesh.unwrap();
    assert_eq!(mesh.advertise, Advertise::Address("node.example.com:4319".to_owned()));
    assert_eq!(mesh.seeds[1], Seed::Srv { name: "_mesh._udp.mesh.test".to_owned() });
    assert!(matches!(mesh.security, Some(MeshSecurity::Mtls { .. })));
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn what_a_mesh_cannot_be_is_said() {
    for (text, part) in [
        ("connectors: {mesh: {seeds: ['a:1']}}", "seeds without certificates"),
        ("connectors: {mesh: {tls: {ca_file: x}}}", "`cert_file` is required"),
        ("connectors: {mesh: {tls: {ca_file: x, insecure_dev: true}}}", "must be clear whether peers prove"),
        ("connectors: {mesh: {tls: {insecure_dev: true}, listen: '0.0.0.0:4319'}}", "anybody who reaches"),
        ("connectors: {mesh: {durability: disk}}", "`durability: disk` is not supported yet"),
        ("connectors: {mesh: {storage: {directory: /x}}}", "`storage` is not supported yet"),
        ("connectors: {mesh: {weight: 0}}", "must own its traces"),
        ("connectors: {mesh: {advertise: '0.0.0.0:4319'}}", "wrong value for `advertise`"),
        ("connectors: {mesh: {cluster: 'a b'}}", "cannot be the name of a cluster"),
        ("connectors: {mesh/b: {cluster: b}}", "a second one"),
        ("connectors: {mesh: {decision_wait: 1s}}", "unknown key"),
        ("connectors: {mesh: {wait_duration: 1s}}", "belongs under processors.span_dedup"),
        ("connectors: {failover: {}}", "not supported yet"),
        ("exporters: {span_dedup: {}}", "belongs under processors"),
        ("exporters: {file_storage: {}}", "as one of the extensions"),
        ("exporters: {debug: {verbosity: detialed}}", "did you mean `detailed`"),
    ] {
        let shown = said_over_mesh(text);
        assert!(shown.contains(part), "{text}: {part:?} is missing in\n{shown}");
    }
}

#[test]
fn wiring_that_splits_traces_or_loses_spans_is_refused() {
    let local = |rest: &str| format!("service: {{pipelines: {{traces/local: {{{rest}}}}}}}");
    let owned = |rest: &str| format!("service: {{pipelines: {{traces/owned: {{{rest}}}}}}}");
    let rename = "processors: {resource: {attributes: [{key: k8s.cluster.name, value: x, action: upsert}]}}\n";
    for (text, part) in [
        (local("processors: [span_dedup]"), "duplicates meet only at the owner"),
        (owned("receivers: [mesh, otlp]"), "local spans would skip their owner"),
        (owned("exporters: [mesh]"), "spans would go round"),
        (owned("receivers: [otlp]"), "traces this node owns go nowhere"),
        (local("exporters: [mesh, debug]"), "would get every span twice"),
        (local("receivers: [nope]"), "no receiver or connector `nope` is defined"),
        (local("exporters: []"), "`exporters` is required"),
        (local("receivers: [otlp, otlp]"), "listed twice"),
        (format!("{rename}{}", owned("processors: [resource]")), "came from other clusters"),
        ("service: {pipelines: {traces/local: }}".to_owned(), "nothing can come out of it"),
        ("service: {admin: {endpoint: 'localhost:4317'}}".to_owned(), "is used twice"),
        ("service: {telemetry: {metrics: {address: ':4318'}}}".to_owned(), "is used twice"),
        (
            "exporters: {otlp: {endpoint: 'localhost:4317'}}\nservice: {pipelines: {traces/owned: {exporters: [otlp]}}}"
                .to_owned(),
            "this node's own otlp",
        ),
        (
            "exporters: {file/a: {path: x}, file/b: {path: x}}\nservice: {pipelines: {traces/owned: {exporters: [file/a, file/b]}}}"
                .to_owned(),
            "write to the same file",
        ),
    ] {
        match over_mesh(&text) {
            Ok(loaded) => panic!("{text} loads: {}", loaded.warnings),
            Err(problems) => assert!(problems.to_string().contains(part), "{part:?} is missing in\n{problems}"),
        }
    }
}

#[test]
fn a_spoke_that_owns_nothing_needs_no_owned_pipeline_and_a_hub_no_local_one() {
    let tls = "connectors: {mesh: {weight: 0, seeds: ['hub:4319'], tls: {ca_file: a, cert_file: b, key_file: c}}}";
    let mut text =
        MESH.replace("    traces/owned: {receivers: [mesh], processors: [span_dedup], exporters: [debug]}\n", "");
    let spoke = load(&sources(&[&text, tls]), &no_env, &host());
    assert!(spoke.is_ok(), "{}", spoke.unwrap_err());
    text = MESH.replace("    traces/local: {receivers: [otlp], exporters: [mesh]}\n", "");
    let hub = load(&sources(&[&text, &tls.replace("weight: 0", "weight: 100")]), &no_env, &host());
    assert!(hub.is_ok(), "{}", hub.unwrap_err());
    // What no pipeline names is not started.
    assert!(hub.unwrap().settings.receivers.is_empty());
}

#[test]
fn what_is_printed_loads_again_and_prints_the_same() {
    let text = format!(
        "{MESH}  telemetry: {{logs: {{level: warn}}}}
"
    );
    let odd = "processors: {resource: {attributes: [{key: a, value: 'x: $$y \"z\"', action: insert}, {key: b, value: '5', action: insert}]}}
exporters: {otlp_http: {endpoint: 'http://x', headers: {a: hunter2}}}
service: {pipelines: {traces/local: {processors: [resource]}, traces/owned: {exporters: [otlp_http]}}}";
    let first = load(&sources(&[&text, odd]), &no_env, &host()).unwrap_or_else(|p| panic!("{p}"));
    for defaults in [false, true] {
        let printed = first.expanded.to_yaml(defaults);
        assert!(!printed.contains("hunter2"));
        let again = load_text(&printed).unwrap_or_else(|p| panic!("{p}\n{printed}"));
        assert_eq!(again.expanded.to_yaml(defaults), printed);
        let shown = |settings: &Settings| format!("{settings:?}");
        assert_eq!(shown(&again.settings), shown(&first.settings), "{printed}");
    }
    assert!(first.expanded.to_yaml(true).contains("failover_after: 10s"));
}

#[test]
fn the_built_in_configuration_runs_with_a_cluster_alone_and_with_everything() {
    let run = |flags: &[(&'static str, &str)]| {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let builtin = builtin::builtin(&flags, &no_env, true);
        load(&builtin.sources, &|name| builtin.variables.get(name).cloned(), &host())
    };
    let alone = run(&[("SPANMESH_CLUSTER", "us-east-1")]).unwrap_or_else(|p| panic!("{p}"));
    assert!(alone.warnings.is_empty(), "{}", alone.warnings);
    assert!(alone.settings.mesh.as_ref().unwrap().1.security.is_none());
    assert!(alone.settings.exporters.contains_key("debug"));
    let full = run(&[
        ("SPANMESH_CLUSTER", "eu"),
        ("SPANMESH_NODE", "n"),
        ("SPANMESH_SEEDS", "dns+mesh.test:4319,other:4319"),
        ("SPANMESH_BIND", "::"),
        ("SPANMESH_LISTEN", "127.0.0.1:0"),
        ("SPANMESH_TLS_CA", "ca"),
        ("SPANMESH_TLS_CERT", "c"),
        ("SPANMESH_TLS_KEY", "k"),
        ("SPANMESH_EXPORT", "https://backend/v1/traces"),
    ])
    .unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(full.settings.mesh.as_ref().unwrap().1.seeds.len(), 2);
    assert!(load_text(&full.expanded.to_yaml(false)).is_ok());
    for (url, exporter) in [
        ("http://localhost:4317", "otlp_grpc"),
        ("grpc://tempo:1234", "otlp_grpc"),
        ("http://localhost:5318", "otlp_http"),
        ("https://otlp.example.com/base", "otlp_http"),
    ] {
        // The node's own ports are not in the way of a backend elsewhere.
        let loaded = run(&[("SPANMESH_CLUSTER", "a"), ("SPANMESH_EXPORT", url), ("SPANMESH_BIND", "127.0.0.2")]);
        let loaded = loaded.map(|l| l.settings.exporters.keys().cloned().collect::<Vec<_>>());
        assert_eq!(loaded.unwrap_or_else(|problems| panic!("{problems}")), [exporter], "{url}");
    }
    assert!(run(&[]).unwrap_err().to_string().contains("SPANMESH_CLUSTER is not set"));
}

#[test]
fn no_text_makes_the_loader_panic_or_run_for_long() {
    // Every prefix, and every text with one byte changed, of a file with most of the language in it.
    let text = include_str!("builtin.yaml");
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
