//! `groupbytrace`, `cross_cluster`, `tail_sampling`: processors that wait for whole traces. Policies have their own file.
//!
//! `max_memory` is 0 here where it is not given: what it then is depends on the memory limiters in use, which only
//! the wiring knows.

use std::time::Duration;

use super::Check;
use super::fields::{Choice, Fields, join};
use super::policies;
use crate::config::problem::Problem;
use crate::config::schema::traces::{CROSS_CLUSTER, DECISION_CACHE, GROUP_BY_TRACE, TAIL_SAMPLING};
use crate::config::settings::{CrossClusterSettings, GroupByTraceSettings, SamplingMarks, TailSamplingSettings};
use crate::config::tree::{Node, Place};
use crate::config::units;

/// A trace that is waited for longer is none.
const WAITS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));
const MOST_TRACES: u64 = 1_000_000_000;
/// Of a trace buffer; below that it holds no trace worth the name.
pub(super) const MEMORY: (u64, u64) = (1 << 20, 1 << 40);

/// Upper bounds in seconds. A second is among them, as alerts on slow calls ask for it.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const MOST_BUCKETS: usize = 64;
const MOST_SERVICES: usize = 1_000;

pub(super) fn group_by_trace(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> GroupByTraceSettings {
    let fields = Fields::open(check, node, at, path, &GROUP_BY_TRACE);
    let wait_duration = fields.duration(check, "wait_duration", Duration::from_secs(1), WAITS);
    let num_traces = fields.count(check, "num_traces", 1_000_000, (1, MOST_TRACES));
    number_without_effect(check, &fields, "num_workers", "the node uses every core it has");
    // The Collector knows these two and refuses them as well.
    refuse_if_set(check, &fields, "discard_orphans", "a trace without its root is passed on like any other");
    refuse_if_set(check, &fields, "store_on_disk", "traces wait in memory, within `max_memory`");
    GroupByTraceSettings {
        wait_duration,
        num_traces: to_usize(num_traces),
        max_memory_bytes: fields.size_given(check, "max_memory", MEMORY).unwrap_or(0),
    }
}

pub(super) fn cross_cluster(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> CrossClusterSettings {
    let fields = Fields::open(check, node, at, path, &CROSS_CLUSTER);
    if fields.get("entry_services").is_none() {
        fields.default(check, "entry_services", "[]");
    }
    let entry_services = fields.texts(check, "entry_services", "the name of a service");
    if entry_services.len() > MOST_SERVICES {
        fields.wrong(check, "entry_services", "too many services", &format!("at most {MOST_SERVICES}"));
    }
    CrossClusterSettings {
        wait_duration: fields.duration(check, "wait_duration", Duration::from_secs(30), WAITS),
        max_memory_bytes: fields.size_given(check, "max_memory", MEMORY).unwrap_or(0),
        write_attributes: fields.flag(check, "write_attributes", false),
        buckets: buckets(check, &fields),
        entry_services,
        max_series: to_usize(fields.count(check, "max_series", 2_000, (1, 100_000))),
    }
}

fn buckets(check: &mut Check<'_>, fields: &Fields<'_>) -> Vec<f64> {
    const KEY: &str = "buckets";
    if fields.get(KEY).is_none() {
        let shown: Vec<String> =
            BUCKETS.iter().map(|seconds| units::show_duration(Duration::from_secs_f64(*seconds))).collect();
        fields.default(check, KEY, format!("[{}]", shown.join(", ")));
        return BUCKETS.to_vec();
    }
    let (mut bounds, mut last) = (Vec::new(), Duration::ZERO);
    for (path, item, text) in fields.scalars(check, KEY, "a duration") {
        let wrong = |message: &str| Problem::error(item.at, &join(&path), message).value(item.shown());
        match units::duration(&text) {
            None => check.say(wrong("wrong value for `buckets`").allowed("durations with their unit, like 5ms, 1s")),
            Some(bound) if bound <= last => {
                check.say(wrong("not above the bound before it").allowed("durations above 0 that ascend"));
            }
            Some(bound) => {
                bounds.push(bound.as_secs_f64());
                last = bound;
            }
        }
    }
    if fields.is_empty_list(KEY) || bounds.len() > MOST_BUCKETS {
        fields.wrong(check, KEY, "no list of bounds", &format!("1 to {MOST_BUCKETS} durations; infinity is added"));
    }
    bounds
}

#[derive(Clone, Copy)]
enum Mark {
    Policy,
    Owner,
    Reason,
}

const MARKS: Choice<Mark> =
    Choice { values: &[("policy", Mark::Policy), ("owner", Mark::Owner), ("reason", Mark::Reason)], not_yet: &[] };

const STRATEGIES: Choice<()> = Choice {
    values: &[("trace-complete", ())],
    not_yet: &[(
        "span-ingest",
        "use `trace-complete`: a verdict on the first spans cannot see the errors that come with the last ones",
    )],
};

pub(super) fn tail_sampling(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> TailSamplingSettings {
    let fields = Fields::open(check, node, at, path, &TAIL_SAMPLING);
    let decision_wait = fields.duration(check, "decision_wait", Duration::from_secs(30), WAITS);
    let after_root =
        fields.duration(check, "decision_wait_after_root_received", Duration::ZERO, (Duration::ZERO, WAITS.1));
    if after_root > decision_wait {
        let path = join(&fields.path_of("decision_wait_after_root_received"));
        let message = "longer than `decision_wait`, which is over first: the root changes nothing";
        check.say(Problem::warning(fields.place("decision_wait_after_root_received"), &path, message));
    }
    fields.choice(check, "sampling_strategy", "trace-complete", &STRATEGIES);
    number_without_effect(check, &fields, "expected_new_traces_per_sec", "memory is taken as traces come");
    number_without_effect(check, &fields, "num_workers", "the node uses every core it has");
    number_without_effect(check, &fields, "num_shards", "the node uses every core it has");
    fields.typed("block_on_overflow").map(|_| fields.flag(check, "block_on_overflow", false));
    fields.no_effect(check, "block_on_overflow", "a full buffer decides its heaviest and oldest traces early");
    let cache = fields.map(check, "decision_cache", &DECISION_CACHE);
    TailSamplingSettings {
        decision_wait,
        decision_wait_after_root_received: after_root,
        num_traces: to_usize(fields.count(check, "num_traces", 0, (0, MOST_TRACES))),
        sampled_cache_size: cache_size(check, &cache, "sampled_cache_size"),
        non_sampled_cache_size: cache_size(check, &cache, "non_sampled_cache_size"),
        sample_on_first_match: fields.flag(check, "sample_on_first_match", false),
        maximum_trace_size_bytes: fields.size(check, "maximum_trace_size_bytes", 0, (0, MEMORY.1)),
        maximum_trace_spans: u32::try_from(fields.count(check, "maximum_trace_spans", 32_000, (1, 10_000_000)))
            .unwrap_or(u32::MAX),
        drop_pending_traces_on_shutdown: fields.flag(check, "drop_pending_traces_on_shutdown", false),
        max_memory_bytes: fields.size_given(check, "max_memory", MEMORY).unwrap_or(0),
        dry_run: fields.flag(check, "dry_run", false),
        marks: marks(check, &fields),
        policies: policies::read(check, &fields),
    }
}

/// 0 turns a cache of the Collector's off. Here verdicts are always remembered, and 0 leaves it to the buffer how many.
fn cache_size(check: &mut Check<'_>, cache: &Fields<'_>, key: &'static str) -> usize {
    to_usize(cache.count(check, key, 0, (0, MOST_TRACES)))
}

fn marks(check: &mut Check<'_>, fields: &Fields<'_>) -> SamplingMarks {
    if fields.get("marks").is_none() {
        fields.default(check, "marks", "[]");
    }
    let mut marks = SamplingMarks::default();
    for mark in fields.choices(check, "marks", &MARKS) {
        match mark {
            Mark::Policy => marks.policy = true,
            Mark::Owner => marks.owner = true,
            Mark::Reason => marks.reason = true,
        }
    }
    marks
}

fn number_without_effect(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str, why: &str) {
    fields.count_given(check, key, (0, i64::MAX.unsigned_abs()));
    fields.no_effect(check, key, why);
}

/// `false` says what is done anyway.
fn refuse_if_set(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str, why: &str) {
    if fields.get(key).is_some() && fields.flag(check, key, false) {
        let message = format!("`{key}: true` is not supported yet");
        check.say(Problem::error(fields.place(key), &join(&fields.path_of(key)), message).help(why));
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
