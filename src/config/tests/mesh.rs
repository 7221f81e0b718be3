//! The mesh connector, and the wiring around it.

use super::super::settings::{Advertise, MeshSecurity, Seed};
use super::*;

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
