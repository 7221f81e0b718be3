//! What loads, and what it means.

use super::super::settings::{ExporterSettings, ProcessorSettings, ReceiverSettings};
use super::*;

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
