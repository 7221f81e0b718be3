//! Processors that wait for whole traces: their settings, their memory, and where they may stand.

use std::time::Duration;

use super::super::settings::{ProcessorSettings, SamplerMode, SamplingMarks};
use super::*;

const KEEP: &str = "policies: [{name: all, type: always_sample}]";

/// The processors of the owned pipeline of the mesh.
fn owned(definitions: &str, order: &str) -> String {
    format!("processors: {{{definitions}}}\nservice: {{pipelines: {{traces/owned: {{processors: [{order}]}}}}}}")
}

fn processor<'l>(loaded: &'l Loaded, id: &str) -> &'l ProcessorSettings {
    loaded.settings.processors.get(id).unwrap_or_else(|| panic!("no {id}"))
}

fn memory(loaded: &Loaded, id: &str) -> u64 {
    match processor(loaded, id) {
        ProcessorSettings::GroupByTrace(settings) => settings.max_memory_bytes,
        ProcessorSettings::CrossCluster(settings) => settings.max_memory_bytes,
        ProcessorSettings::TailSampling(settings) => settings.max_memory_bytes,
        other => panic!("{other:?}"),
    }
}

fn must(text: &str) -> Loaded {
    over_mesh(text).unwrap_or_else(|p| panic!("{p}"))
}

#[test]
fn tail_sampling_has_the_collectors_names_and_the_documented_defaults() {
    let loaded = must(&owned(&format!("tail_sampling: {{{KEEP}}}"), "span_dedup, tail_sampling"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let ProcessorSettings::TailSampling(settings) = processor(&loaded, "tail_sampling") else { panic!() };
    assert_eq!(settings.decision_wait, Duration::from_secs(30));
    assert!(settings.decision_wait_after_root_received.is_zero());
    assert_eq!((settings.num_traces, settings.sampled_cache_size, settings.non_sampled_cache_size), (0, 0, 0));
    assert_eq!((settings.maximum_trace_size_bytes, settings.maximum_trace_spans), (0, 32_000));
    assert!(!settings.sample_on_first_match && !settings.drop_pending_traces_on_shutdown && !settings.dry_run);
    assert_eq!(settings.marks, SamplingMarks::default());

    let loaded = must(&owned(
        &format!(
            "tail_sampling: {{decision_wait: 10s, decision_wait_after_root_received: 2s, num_traces: 5000, \
             decision_cache: {{sampled_cache_size: 100000, non_sampled_cache_size: 200000}}, \
             sample_on_first_match: true, maximum_trace_size_bytes: 1MiB, maximum_trace_spans: 100, \
             drop_pending_traces_on_shutdown: true, max_memory: 64MiB, dry_run: true, marks: [policy, reason], {KEEP}}}"
        ),
        "span_dedup, tail_sampling",
    ));
    let ProcessorSettings::TailSampling(settings) = processor(&loaded, "tail_sampling") else { panic!() };
    assert_eq!((settings.decision_wait.as_secs(), settings.decision_wait_after_root_received.as_secs()), (10, 2));
    assert_eq!(
        (settings.num_traces, settings.sampled_cache_size, settings.non_sampled_cache_size),
        (5_000, 100_000, 200_000)
    );
    assert_eq!((settings.maximum_trace_size_bytes, settings.maximum_trace_spans), (1 << 20, 100));
    assert!(settings.sample_on_first_match && settings.drop_pending_traces_on_shutdown && settings.dry_run);
    assert_eq!(settings.marks, SamplingMarks { policy: true, owner: false, reason: true });
    assert_eq!(settings.max_memory_bytes, 64 << 20);
}

#[test]
fn groupbytrace_and_cross_cluster_read_every_key() {
    let loaded = must(&owned(
        "groupbytrace: {wait_duration: 5s, num_traces: 10, num_workers: 2, discard_orphans: false}, \
         cross_cluster: {wait_duration: 7s, write_attributes: true, buckets: [2ms, 1s, 1m], entry_services: [gw], max_series: 9}",
        "span_dedup, cross_cluster, groupbytrace",
    ));
    let ProcessorSettings::GroupByTrace(settings) = processor(&loaded, "groupbytrace") else { panic!() };
    assert_eq!((settings.wait_duration.as_secs(), settings.num_traces), (5, 10));
    let ProcessorSettings::CrossCluster(settings) = processor(&loaded, "cross_cluster") else { panic!() };
    assert_eq!((settings.wait_duration.as_secs(), settings.max_series), (7, 9));
    assert_eq!(settings.buckets, [0.002, 1.0, 60.0]);
    assert_eq!(settings.entry_services, ["gw"]);
    assert!(settings.write_attributes);

    let loaded = must(&owned("groupbytrace: , cross_cluster: ", "span_dedup, cross_cluster, groupbytrace"));
    let ProcessorSettings::GroupByTrace(settings) = processor(&loaded, "groupbytrace") else { panic!() };
    assert_eq!((settings.wait_duration.as_secs(), settings.num_traces), (1, 1_000_000));
    let ProcessorSettings::CrossCluster(settings) = processor(&loaded, "cross_cluster") else { panic!() };
    assert_eq!((settings.wait_duration.as_secs(), settings.max_series), (30, 2_000));
    assert!(settings.buckets.contains(&1.0) && settings.buckets.is_sorted() && !settings.write_attributes);
    // Written out, the defaults say the same.
    let again = load_text(&loaded.expanded.to_yaml(true)).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(format!("{:?}", again.settings), format!("{:?}", loaded.settings));
}

#[test]
fn probabilistic_sampler_takes_its_mode_from_the_seed_unless_it_is_named() {
    let mode = |text: &str| {
        let loaded = must(&owned(
            &format!("probabilistic_sampler: {{sampling_percentage: 15.3{text}}}"),
            "span_dedup, probabilistic_sampler",
        ));
        let ProcessorSettings::ProbabilisticSampler(settings) = processor(&loaded, "probabilistic_sampler") else {
            panic!()
        };
        assert_eq!((settings.sampling_percentage, settings.fail_closed), (15.3, true));
        let again = load_text(&loaded.expanded.to_yaml(true)).unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(format!("{:?}", again.settings), format!("{:?}", loaded.settings));
        (settings.mode, settings.sampling_precision)
    };
    assert_eq!(mode(""), (SamplerMode::Proportional, 4));
    assert_eq!(mode(", hash_seed: 22"), (SamplerMode::HashSeed { seed: 22 }, 4));
    assert_eq!(mode(", hash_seed: 22, mode: equalizing, sampling_precision: 14"), (SamplerMode::Equalizing, 14));
    assert_eq!(mode(", mode: hash_seed"), (SamplerMode::HashSeed { seed: 0 }, 4));
}

#[test]
fn a_trace_buffer_takes_a_quarter_of_what_the_node_may_use() {
    let text =
        owned(&format!("tail_sampling: {{{KEEP}}}, cross_cluster: "), "span_dedup, cross_cluster, tail_sampling");
    assert_eq!(memory(&must(&text), "tail_sampling"), (1 << 30) / 4);
    // The strictest limiter in use says it.
    let limited = format!(
        "{text}\nprocessors: {{memory_limiter/a: {{limit_mib: 400}}, memory_limiter/b: {{limit_mib: 200}}, \
         memory_limiter/unused: {{limit_mib: 50}}}}\n"
    );
    let limited = limited.replacen(&text, "", 1);
    let wired = "service: {pipelines: {traces/local: {processors: [memory_limiter/a]}}}";
    let both = "service: {pipelines: {traces/local: {processors: [memory_limiter/a, memory_limiter/b]}}}";
    let with = |more: &str| {
        let loaded = load(&sources(&[MESH, &text, &limited, more]), &no_env, &host());
        memory(&loaded.unwrap_or_else(|p| panic!("{p}")), "cross_cluster")
    };
    assert_eq!(with(wired), 100 << 20);
    assert_eq!(with(both), 50 << 20);
    // Neither is known.
    let nothing = HostFacts { hostname: "n".to_owned(), memory_bytes: 0 };
    let loaded = load(&sources(&[MESH, &text]), &no_env, &nothing).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(memory(&loaded, "tail_sampling"), 256 << 20);
    // What one of them says holds for the buffer that they share.
    let given = owned(
        &format!("tail_sampling: {{max_memory: 10MiB, {KEEP}}}, cross_cluster: "),
        "span_dedup, cross_cluster, tail_sampling",
    );
    assert_eq!(memory(&must(&given), "cross_cluster"), 10 << 20);
    let differ = given.replace("cross_cluster: }", "cross_cluster: {max_memory: 20MiB}}");
    assert!(said_over_mesh(&differ).contains("share a buffer, and differ in `max_memory`"));
    assert!(said_over_mesh(&given.replace("10MiB", "2GiB")).contains("may hold 2GiB, and the node 1GiB"));
}

#[test]
fn values_that_make_no_sense_are_refused_with_what_would() {
    let tail = |rest: &str| format!("tail_sampling: {{{rest}, {KEEP}}}");
    for (definition, part) in [
        (tail("decision_wait: 30"), "a duration with its unit"),
        (tail("decision_wait: 0s"), "from 1ms to 1h"),
        (tail("decision_wait: 1s, decision_wait_after_root_received: 5s"), "the root changes nothing"),
        (tail("num_traces: -1"), "`num_traces` is out of range"),
        (tail("max_memory: 5"), "from 1MiB to 1TiB"),
        (tail("maximum_trace_spans: 0"), "from 1 to 10000000"),
        (tail("maximum_trace_size_bytes: big"), "a size like 64MiB"),
        (tail("marks: [polcy]"), "did you mean `policy`"),
        (tail("marks: everything"), "policy, owner, reason"),
        (tail("dry_run: maybe"), "`dry_run` is true or false"),
        (tail("sampling_strategy: span-ingest"), "cannot see the errors that come with the last ones"),
        (tail("sampling_strategy: trace-compleet"), "did you mean `trace-complete`"),
        (tail("expected_new_traces_per_sec: 10"), "`expected_new_traces_per_sec` has no effect"),
        (tail("block_on_overflow: true"), "`block_on_overflow` has no effect"),
        (tail("block_on_overflow: 5"), "`block_on_overflow` is true or false"),
        (tail("num_workers: 4"), "`num_workers` has no effect"),
        (tail("num_shards: 4"), "`num_shards` has no effect"),
        (tail("tail_storage: x"), "`tail_storage` is not supported yet"),
        (tail("decision_cache: {sampled_cache_size: -1}"), "`sampled_cache_size` is out of range"),
        (tail("decision_cache: {sampled: 5}"), "unknown key `sampled`"),
        (tail("wait_duration: 5s"), "did you mean `decision_wait`"),
        ("tail_sampling: ".to_owned(), "`policies` is required"),
        ("groupbytrace: {discard_orphans: true}".to_owned(), "`discard_orphans: true` is not supported yet"),
        ("groupbytrace: {store_on_disk: true}".to_owned(), "traces wait in memory"),
        ("groupbytrace: {num_workers: 4}".to_owned(), "`num_workers` has no effect"),
        ("groupbytrace: {num_traces: 0}".to_owned(), "from 1 to"),
        ("groupbytrace: {decision_wait: 1s}".to_owned(), "did you mean `wait_duration`"),
        ("cross_cluster: {decision_wait: 1s}".to_owned(), "did you mean `wait_duration`"),
        ("cross_cluster: {marks: [policy]}".to_owned(), "`marks` belongs under processors.tail_sampling"),
        ("cross_cluster: {buckets: []}".to_owned(), "1 to 64 durations"),
        ("cross_cluster: {buckets: [0.5]}".to_owned(), "durations with their unit"),
        ("cross_cluster: {buckets: [1s, 5ms]}".to_owned(), "not above the bound before it"),
        ("cross_cluster: {buckets: [0s]}".to_owned(), "not above the bound before it"),
        ("cross_cluster: {entry_services: [[a]]}".to_owned(), "the name of a service is wanted here"),
        ("cross_cluster: {max_series: 0}".to_owned(), "from 1 to 100000"),
        ("probabilistic_sampler: ".to_owned(), "`sampling_percentage` is required"),
        ("probabilistic_sampler: {sampling_percentage: 150}".to_owned(), "from 0 to 100"),
        ("probabilistic_sampler: {sampling_percentage: 0}".to_owned(), "every span is dropped here"),
        ("probabilistic_sampler: {sampling_percentage: 1e-20}".to_owned(), "too small a share"),
        ("probabilistic_sampler: {sampling_percentage: 5, sampling_precision: 15}".to_owned(), "from 1 to 14"),
        (
            "probabilistic_sampler: {sampling_percentage: 5, mode: equal}".to_owned(),
            "proportional, equalizing, hash_seed",
        ),
        (
            "probabilistic_sampler: {sampling_percentage: 5, mode: proportional, hash_seed: 1}".to_owned(),
            "`hash_seed` has no effect",
        ),
        (
            "probabilistic_sampler: {sampling_percentage: 5, attribute_source: record}".to_owned(),
            "only traces are carried",
        ),
    ] {
        let id = definition.split(':').next().unwrap();
        let shown = said_over_mesh(&owned(&definition, &format!("span_dedup, {id}")));
        assert!(shown.contains(part), "{definition}: {part:?} is missing in\n{shown}");
    }
    assert!(said_over_mesh("connectors: {cross_cluster: {}}").contains("belongs under processors"));
}

#[test]
fn whole_traces_are_waited_for_behind_the_mesh_side_by_side_and_once() {
    let all = format!(
        "tail_sampling: {{{KEEP}}}, tail_sampling/2: {{{KEEP}}}, cross_cluster: , groupbytrace: {{wait_duration: 30s}}, \
         batch: , resource: {{attributes: [{{key: a, value: b, action: insert}}]}}"
    );
    for order in [
        "span_dedup, cross_cluster, tail_sampling",
        "span_dedup, resource, groupbytrace, cross_cluster, tail_sampling, batch",
        "span_dedup, batch, tail_sampling, cross_cluster",
    ] {
        must(&owned(&all, order));
    }
    for (order, part) in [
        ("tail_sampling, span_dedup", "`span_dedup` behind `tail_sampling`"),
        ("cross_cluster, span_dedup, tail_sampling", "`span_dedup` behind `cross_cluster`"),
        ("span_dedup, cross_cluster, batch, tail_sampling", "`batch` between `cross_cluster` and `tail_sampling`"),
        ("span_dedup, tail_sampling, tail_sampling/2", "a second `tail_sampling` in one pipeline"),
        ("tail_sampling", "what is sent again counts as further spans"),
    ] {
        let shown = said_over_mesh(&owned(&all, order));
        assert!(shown.contains(part), "{order}: {part:?} is missing in\n{shown}");
    }
    for id in ["tail_sampling", "cross_cluster", "groupbytrace"] {
        let text = format!("processors: {{{all}}}\nservice: {{pipelines: {{traces/local: {{processors: [{id}]}}}}}}");
        let problems = over_mesh(&text).unwrap_err().to_string();
        assert!(problems.contains("policies must run where the whole trace is"), "{problems}");
    }
}

#[test]
fn one_buffer_waits_as_long_as_the_longest_says_and_a_second_pipeline_has_its_own() {
    let text = owned(
        &format!("groupbytrace: {{wait_duration: 5s}}, tail_sampling: {{{KEEP}}}"),
        "span_dedup, groupbytrace, tail_sampling",
    );
    assert!(must(&text).warnings.to_string().contains("as long as `tail_sampling` says"));
    let two = format!(
        "receivers: {{otlp/2: {{protocols: {{grpc: {{endpoint: ':0'}}}}}}}}
processors: {{tail_sampling: {{{KEEP}}}}}
service:
  pipelines:
    traces/owned: {{processors: [span_dedup, tail_sampling]}}
    traces/two: {{receivers: [otlp/2], processors: [tail_sampling], exporters: [debug]}}
"
    );
    assert!(must(&two).warnings.to_string().contains("it has a buffer in each"));
}

#[test]
fn chance_ahead_of_policies_is_warned_of() {
    let head = format!("tail_sampling: {{{KEEP}}}, probabilistic_sampler: {{sampling_percentage: 50}}");
    let warned = "drops errors and slow traces by chance";
    let here = owned(&head, "span_dedup, probabilistic_sampler, tail_sampling");
    let there = format!(
        "processors: {{{head}}}\nservice: {{pipelines: {{traces/local: {{processors: [probabilistic_sampler]}}, \
         traces/owned: {{processors: [span_dedup, tail_sampling]}}}}}}"
    );
    let behind = owned(&head, "span_dedup, tail_sampling, probabilistic_sampler");
    let alone = format!(
        "processors: {{{head}}}\nservice: {{pipelines: {{traces/local: {{processors: [probabilistic_sampler]}}}}}}"
    );
    for (text, want) in [(here, true), (there, true), (behind, false), (alone, false)] {
        let loaded = must(&text);
        let found = loaded.warnings.iter().any(|p| p.severity == Severity::Warning && p.message.contains(warned));
        assert_eq!(found, want, "{text}\n{}", loaded.warnings);
    }
}

#[test]
fn hashing_behind_what_writes_thresholds_is_warned_of() {
    let chance = |id: &str, more: &str| format!("probabilistic_sampler/{id}: {{sampling_percentage: 50{more}}}");
    let (hash, first) = (chance("hash", ", hash_seed: 22"), chance("first", ""));
    let head = format!("{hash}, {first}, {}", chance("lenient", ", hash_seed: 22, fail_closed: false"));
    let policy = "policies: [{name: some, type: probabilistic, probabilistic: {sampling_percentage: 5";
    let tail = format!("{head}, tail_sampling: {{{policy}}}}}]}}");
    let salted = format!("{head}, tail_sampling: {{{policy}, hash_salt: x}}}}]}}");
    let both = |here: &str, there: &str| {
        format!(
            "processors: {{{head}}}\nservice: {{pipelines: {{traces/local: {{processors: [{here}]}}, \
             traces/owned: {{processors: [span_dedup, {there}]}}}}}}"
        )
    };
    let (s, lossy, lenient) =
        ("probabilistic_sampler", "all those are dropped, since `fail_closed` is on", "all those are kept");
    for (text, want) in [
        (owned(&head, &format!("span_dedup, {s}/first, {s}/hash")), Some(lossy)),
        (owned(&head, &format!("span_dedup, {s}/first, {s}/lenient")), Some(lenient)),
        (owned(&head, &format!("span_dedup, {s}/hash, {s}/first")), None),
        (both(&format!("{s}/hash"), &format!("{s}/hash")), Some(lossy)),
        (both(&format!("{s}/first"), &format!("{s}/hash")), Some(lossy)),
        (both(&format!("{s}/hash"), &format!("{s}/first")), None),
        (owned(&tail, &format!("span_dedup, tail_sampling, {s}/hash")), Some(lossy)),
        (owned(&tail, &format!("span_dedup, {s}/hash, tail_sampling")), None),
        (owned(&salted, &format!("span_dedup, tail_sampling, {s}/hash")), None),
    ] {
        let loaded = must(&text);
        let mut found = loaded.warnings.iter().filter(|p| p.message.contains("which writes its threshold to spans"));
        let first = found.next().map(|p| p.message.clone()).unwrap_or_default();
        assert_eq!(!first.is_empty(), want.is_some(), "{text}\n{}", loaded.warnings);
        assert!(first.contains(want.unwrap_or_default()), "{first}");
    }
}

#[test]
fn a_trace_that_may_fill_the_buffer_is_warned_of() {
    let with = |bytes: &str| {
        owned(
            &format!("tail_sampling: {{max_memory: 64MiB, maximum_trace_size_bytes: {bytes}, {KEEP}}}"),
            "span_dedup, tail_sampling",
        )
    };
    for (bytes, warned) in [("0", false), ("32MiB", false), ("33MiB", true), ("65MiB", true)] {
        let shown = must(&with(bytes)).warnings.to_string();
        assert_eq!(shown.contains("one such trace has all others decided early"), warned, "{bytes}: {shown}");
    }
}

#[test]
fn a_node_without_a_mesh_samples_as_a_collector_does() {
    let text = "
receivers: {otlp: {protocols: {grpc: , http: }}}
processors:
  memory_limiter: {check_interval: 1s, limit_percentage: 75, spike_limit_percentage: 25}
  groupbytrace: {wait_duration: 30s, num_traces: 10000}
  tail_sampling:
    decision_wait: 30s
    num_traces: 50000
    expected_new_traces_per_sec: 1000
    policies:
      - name: errors
        type: status_code
        status_code: {status_codes: [ERROR]}
      - name: slow
        type: latency
        latency: {threshold_ms: 1000}
      - name: cross-cluster
        type: string_attribute
        string_attribute: {key: k8s.cluster.name, values: ['us-.*', 'eu-.*'], enabled_regex_matching: true}
      - name: rest
        type: probabilistic
        probabilistic: {sampling_percentage: 10}
  batch: {timeout: 10s, send_batch_size: 1024}
exporters: {debug: }
service:
  pipelines:
    traces: {receivers: [otlp], processors: [memory_limiter, groupbytrace, tail_sampling, batch], exporters: [debug]}
";
    let loaded = loaded(text);
    assert_eq!(loaded.warnings.count(Severity::Warning), 0, "{}", loaded.warnings);
    let ProcessorSettings::TailSampling(settings) = processor(&loaded, "tail_sampling") else { panic!() };
    assert_eq!(
        settings.policies.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["errors", "slow", "cross-cluster", "rest"]
    );
    assert_eq!(settings.num_traces, 50_000);
}

#[test]
fn a_memory_limiter_behind_a_buffer_is_said_to_be_left_out() {
    let of = |order: &str| {
        let definitions = format!("memory_limiter: {{limit_mib: 100}}, batch: {{}}, tail_sampling: {{{KEEP}}}");
        must(&owned(&definitions, order)).warnings.to_string()
    };
    for order in ["span_dedup, tail_sampling, memory_limiter", "span_dedup, tail_sampling, batch, memory_limiter"] {
        let said = of(order);
        assert!(said.contains("`memory_limiter` behind `tail_sampling` limits nothing: it is left out"), "{said}");
    }
    let said = of("span_dedup, memory_limiter, tail_sampling");
    assert!(said.contains("refuses what already took") && !said.contains("left out"), "{said}");
    let said = of("memory_limiter, span_dedup, tail_sampling, batch");
    assert!(!said.contains("memory_limiter"), "{said}");
}
