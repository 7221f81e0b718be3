use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::admin::example::{self, MARKUP};
use crate::model::DropReason;

fn page() -> String {
    render(example::status()).unwrap()
}

#[test]
fn the_collectors_names_are_kept_where_the_meaning_is_the_same() {
    let page = page();
    for line in [
        r#"otelcol_receiver_accepted_spans_total{receiver="otlp",transport="grpc"} 41"#,
        r#"otelcol_receiver_refused_spans_total{receiver="otlp",transport="grpc"} 5"#,
        r#"otelcol_exporter_sent_spans_total{exporter="otlp_http/backend"} 30"#,
        r#"otelcol_exporter_send_failed_spans_total{exporter="otlp_http/backend"} 1"#,
        r#"otelcol_exporter_enqueue_failed_spans_total{exporter="otlp_http/backend"} 0"#,
        r#"otelcol_exporter_queue_size{exporter="otlp_http/backend"} 100"#,
        r#"otelcol_exporter_queue_capacity{exporter="otlp_http/backend"} 1000"#,
        r#"spanmesh_receiver_failed_requests_total{receiver="otlp",transport="grpc",reason="malformed"} 4"#,
        r#"spanmesh_ledger_settled_spans_total{fate="backend_refused"} 1"#,
        r#"spanmesh_sampler_dropped_spans_total{pipeline="traces/owned"} 3"#,
        r#"spanmesh_sampler_error_spans_total{pipeline="traces/owned"} 1"#,
        "spanmesh_ledger_balanced 1",
        "spanmesh_held_bytes 500",
        r#"spanmesh_members{state="active"} 1"#,
        r#"spanmesh_ring_share_ratio{node="us-east-1/node-1"} 1.0"#,
        "spanmesh_hop_limit_spans_total 3",
        "spanmesh_certificate_expiry_timestamp_seconds 1900000000",
        "process_cpu_seconds_total 1.25",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn every_family_is_described_once_and_every_sample_belongs_to_the_family_above_it() {
    let page = page();
    let mut kinds = BTreeMap::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} is described twice");
            family = name;
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let expected = if kinds[family] == "counter" { format!("{family}_total") } else { family.to_owned() };
            assert_eq!(name, expected, "{line}");
        }
    }
    assert_eq!(kinds.len(), METRICS.len());
    assert!(kinds.keys().all(|name| ["otelcol_", "spanmesh_", "process_"].iter().any(|p| name.starts_with(p))));
}

#[test]
fn a_label_cannot_end_its_line_or_its_quotes() {
    let mut status = example::status();
    status.node.node = MARKUP.to_owned();
    let page = render(status).unwrap();
    assert!(page.contains(r#"node="<script>alert(\"1\\\n2\")</script>"} 1"#), "{page}");
}

#[test]
fn a_node_alone_has_a_page_too() {
    let mut status = example::status();
    status.mesh = None;
    let page = render(status).unwrap();
    assert!(!page.contains("spanmesh_members{") && page.contains("spanmesh_node_state{state=\"ready\"} 1"));
}

/// The alerting rules that come with the sources.
const RULES: &str = include_str!("../../../deploy/prometheus/spanmesh.rules.yaml");

/// Every name that a query can use for a family.
fn queried(metric: &Metric) -> Vec<String> {
    let unit = metric.unit.as_ref().map_or_else(String::new, |unit| format!("_{}", unit.as_str()));
    let suffixes: &[&str] = match metric.kind {
        MetricType::Counter => &["_total"],
        // Descriptions speak of the family as a whole.
        MetricType::Histogram => &["", "_bucket", "_count", "_sum"],
        _ => &[""],
    };
    suffixes.iter().map(|suffix| format!("{}{unit}{suffix}", metric.name)).collect()
}

#[test]
fn the_alerting_rules_speak_only_of_metrics_that_exist() {
    let known: BTreeSet<String> = METRICS.iter().flat_map(queried).collect();
    let words = RULES.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = ["spanmesh_", "otelcol_", "process_", "cross_cluster_", "spans_"];
    let named: BTreeSet<&str> =
        words.filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)) && !word.contains(':')).collect();
    assert!(named.len() > 10, "{named:?}");
    let unknown: Vec<&&str> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "no metric has the name {unknown:?}");
}

#[test]
fn every_way_to_lose_spans_is_alerted() {
    let line = RULES.lines().find(|line| line.contains("spanmesh_ledger_settled_spans_total{fate=~")).unwrap();
    let fates: BTreeSet<&str> = line.split('"').nth(1).unwrap().split('|').collect();
    let lost: BTreeSet<&str> = DropReason::ALL.map(DropReason::label).into_iter().chain(["released"]).collect();
    assert_eq!(fates, lost);
}
