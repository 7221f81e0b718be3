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
        r#"spanmesh_ledger_settled_spans_total{fate="sampled_out"} 6"#,
        r#"otelcol_processor_tail_sampling_sampling_traces_on_memory{pipeline="traces/owned"} 7"#,
        r#"otelcol_processor_tail_sampling_new_trace_id_received_total{pipeline="traces/owned"} 17"#,
        r#"otelcol_processor_tail_sampling_global_count_traces_sampled_total{pipeline="traces/owned",sampled="false"} 4"#,
        r#"spanmesh_traces_decided_total{pipeline="traces/owned",cause="memory"} 3"#,
        r#"spanmesh_traces_late_spans_total{pipeline="traces/owned",verdict="dropped"} 6"#,
        r#"spanmesh_traces_held_limit_bytes{pipeline="traces/owned"} 1048576"#,
        r#"spanmesh_traces_oldest_seconds{pipeline="traces/owned"} 29.5"#,
        r#"spanmesh_traces_waiting_bytes{pipeline="traces/owned"} 512"#,
        r#"spanmesh_policy_decided_traces_total{pipeline="traces/owned",policy="errors"} 2"#,
        "spanmesh_ledger_balanced 1",
        "spanmesh_held_bytes 500",
        r#"spanmesh_members{state="active"} 1"#,
        r#"spanmesh_ring_share_ratio{node="us-east-1/node-1"} 1.0"#,
        r#"spanmesh_link_clock_offset_seconds{peer="eu-west-1/node-1"} -0.75"#,
        r#"spanmesh_link_clock_error_seconds{peer="eu-west-1/node-1"} 0.05"#,
        "spanmesh_hop_limit_spans_total 3",
        "spanmesh_certificate_expiry_timestamp_seconds 1900000000",
        "process_cpu_seconds_total 1.25",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn a_policys_answers_have_the_collectors_labels() {
    let name = "otelcol_processor_tail_sampling_count_traces_sampled_total";
    let page = page();
    for (sampled, decision, count) in [("true", "sampled", 3), ("false", "not_sampled", 4), ("false", "dropped", 1)] {
        let labels = format!(r#"policy="errors",sampled="{sampled}",decision="{decision}""#);
        let line = format!(r#"{name}{{pipeline="traces/owned",{labels}}} {count}"#);
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[test]
fn the_collectors_names_of_sampling_are_left_to_pipelines_that_sample() {
    let mut status = example::status();
    status.traces[0].policies.clear();
    let page = render(status).unwrap();
    assert!(!page.lines().any(|line| line.starts_with("otelcol_processor_tail_sampling")));
    assert!(page.contains(r#"spanmesh_traces_open{pipeline="traces/owned"} 7"#));
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
            let suffixes: &[&str] = match kinds[family] {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line}");
        }
    }
    assert_eq!(kinds.len(), metrics().count() + cross_cluster::HISTOGRAMS.len());
    let prefixes = ["otelcol_", "spanmesh_", "process_", "cross_cluster_"];
    let known = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let others: Vec<&str> = kinds.into_keys().filter(|name| !known(name)).collect();
    assert_eq!(others, ["spans", "spans_without_parent_context"]);
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

/// The name that a query uses for a family.
fn queried(metric: &Metric) -> String {
    let unit = metric.unit.as_ref().map_or_else(String::new, |unit| format!("_{}", unit.as_str()));
    let suffix = if matches!(metric.kind, MetricType::Counter) { "_total" } else { "" };
    format!("{}{unit}{suffix}", metric.name)
}

#[test]
fn the_alerting_rules_speak_only_of_metrics_that_exist() {
    let histograms = cross_cluster::HISTOGRAMS.iter().flat_map(|histogram| {
        // Descriptions speak of the family as a whole.
        ["", "_bucket", "_count", "_sum"].map(|suffix| format!("{}{suffix}", histogram.name))
    });
    let known: BTreeSet<String> = metrics().map(queried).chain(histograms).collect();
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

#[test]
fn calls_between_clusters_are_histograms_with_the_latest_trace_of_each_bucket() {
    let page = page();
    let trace = "ab".repeat(16);
    let labels = r#"source_cluster="us-east-1",target_cluster="eu-west-1""#;
    for line in [
        "# TYPE cross_cluster_request_duration_seconds histogram".to_owned(),
        "# UNIT cross_cluster_network_seconds seconds".to_owned(),
        format!(
            r#"cross_cluster_request_duration_seconds_bucket{{{labels},le="0.1"}} 3 # {{trace_id="{trace}"}} 0.04"#
        ),
        format!(r#"cross_cluster_request_duration_seconds_bucket{{{labels},le="1.0"}} 3"#),
        format!("cross_cluster_request_duration_seconds_sum{{{labels}}} 2.75"),
        format!("cross_cluster_request_duration_seconds_count{{{labels}}} 4"),
        format!("cross_cluster_network_seconds_count{{{labels}}} 3"),
        format!("spanmesh_cross_cluster_failed_requests_total{{{labels}}} 3"),
        format!("spanmesh_cross_cluster_clamped_observations_total{{{labels}}} 1"),
        format!("spanmesh_cross_cluster_callee_timed_observations_total{{{labels}}} 2"),
        "spanmesh_cross_cluster_overflowed_observations_total 7".to_owned(),
        r#"spans_total{cluster="eu-west-1"} 20"#.to_owned(),
        r#"spans_without_parent_context_total{cluster="us-east-1",reason="unexpected_root"} 1"#.to_owned(),
        "spanmesh_cluster_name_conflicts_total 0".to_owned(),
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.contains(r#"source_cluster="<script>alert(\"1\\\n2\")</script>",target"#), "{page}");
}

#[test]
fn several_pipelines_are_one_series_and_a_node_that_does_not_count_has_none() {
    let mut status = example::status();
    status.traces.push(status.traces[0].clone());
    let twice = render(status.clone()).unwrap();
    assert!(twice.lines().any(|line| line == r#"spans_total{cluster="eu-west-1"} 40"#), "{twice}");
    status.traces.clear();
    let none = render(status).unwrap();
    assert!(!none.contains("\nspans_total{") && !none.contains("_bucket{"), "{none}");
}
