//! The keys of the processors that see whole traces, of their policies, and of `probabilistic_sampler`.
//!
//! Names and meanings are those of opentelemetry-collector-contrib (`processor/tailsamplingprocessor`,
//! `groupbytraceprocessor`, `probabilisticsamplerprocessor`); what is ours stands in `config::settings`.

use super::Scope;

const LOGS_ONLY: &str = "remove it: it is about logs, and only traces are carried";

/// What `ottl_condition` is used for, and the policy that does the same.
pub const NO_OTTL: &str = "use the policy that asks the same: for attributes `string_attribute`, `numeric_attribute` or \
    `boolean_attribute`, for `status.code` `status_code`, for durations `latency`, for the number of spans \
    `span_count`, for `trace_state` and `flags` the policies of these names; join them with `and` and `not`";

/// The types of policies of this build.
pub const POLICIES: &[(&str, &str)] = &[
    ("always_sample", "keeps every trace"),
    ("latency", "how long it took, from the earliest start to the latest end"),
    ("numeric_attribute", "an attribute within bounds"),
    ("probabilistic", "a share of the traces, the same ones on every node"),
    ("status_code", "a span with one of these status codes"),
    ("string_attribute", "an attribute with one of these values, or one that matches"),
    ("boolean_attribute", "an attribute that is true or false"),
    ("trace_state", "an entry of the tracestate"),
    ("trace_flags", "a span with the sampled flag"),
    ("rate_limiting", "so many spans a second"),
    ("bytes_limiting", "so many bytes a second"),
    ("span_count", "the number of spans"),
    ("and", "all of several policies"),
    ("not", "the opposite of a policy"),
    ("drop", "drops what all of several policies match, whatever others say"),
    ("composite", "several policies that share a rate"),
    ("cross_cluster", "a call from one cluster to another"),
];

pub static GROUP_BY_TRACE: Scope = Scope {
    path: "processors.groupbytrace",
    keys: &["wait_duration", "num_traces", "max_memory", "num_workers", "discard_orphans", "store_on_disk"],
    not_yet: &[],
};
pub static CROSS_CLUSTER: Scope = Scope {
    path: "processors.cross_cluster",
    keys: &["wait_duration", "max_memory", "write_attributes", "buckets", "entry_services", "max_series"],
    not_yet: &[],
};
pub static TAIL_SAMPLING: Scope = Scope {
    path: "processors.tail_sampling",
    keys: &[
        "decision_wait",
        "decision_wait_after_root_received",
        "num_traces",
        "max_memory",
        "maximum_trace_size_bytes",
        "maximum_trace_spans",
        "decision_cache",
        "sample_on_first_match",
        "drop_pending_traces_on_shutdown",
        "dry_run",
        "marks",
        "policies",
        "sampling_strategy",
        "expected_new_traces_per_sec",
        "block_on_overflow",
        "num_workers",
        "num_shards",
    ],
    not_yet: &[("tail_storage", "remove it: traces wait in memory, within `max_memory`")],
};
pub static DECISION_CACHE: Scope = Scope {
    path: "processors.tail_sampling.decision_cache",
    keys: &["sampled_cache_size", "non_sampled_cache_size"],
    not_yet: &[],
};
/// A policy, at any depth.
pub static POLICY: Scope = Scope {
    path: "processors.tail_sampling.policies[]",
    keys: &[
        "name",
        "type",
        "latency",
        "numeric_attribute",
        "probabilistic",
        "status_code",
        "string_attribute",
        "boolean_attribute",
        "trace_state",
        "rate_limiting",
        "bytes_limiting",
        "span_count",
        "and",
        "not",
        "drop",
        "composite",
        "cross_cluster",
    ],
    not_yet: &[("ottl_condition", NO_OTTL)],
};
pub static LATENCY: Scope = Scope {
    path: "processors.tail_sampling.policies[].latency",
    keys: &["threshold_ms", "upper_threshold_ms"],
    not_yet: &[],
};
pub static NUMERIC_ATTRIBUTE: Scope = Scope {
    path: "processors.tail_sampling.policies[].numeric_attribute",
    keys: &["key", "min_value", "max_value", "invert_match"],
    not_yet: &[],
};
pub static PROBABILISTIC: Scope = Scope {
    path: "processors.tail_sampling.policies[].probabilistic",
    keys: &["sampling_percentage", "hash_salt"],
    not_yet: &[],
};
pub static STATUS_CODE: Scope =
    Scope { path: "processors.tail_sampling.policies[].status_code", keys: &["status_codes"], not_yet: &[] };
pub static STRING_ATTRIBUTE: Scope = Scope {
    path: "processors.tail_sampling.policies[].string_attribute",
    keys: &["key", "values", "enabled_regex_matching", "cache_max_size", "invert_match"],
    not_yet: &[],
};
pub static BOOLEAN_ATTRIBUTE: Scope = Scope {
    path: "processors.tail_sampling.policies[].boolean_attribute",
    keys: &["key", "value", "invert_match"],
    not_yet: &[],
};
pub static TRACE_STATE: Scope =
    Scope { path: "processors.tail_sampling.policies[].trace_state", keys: &["key", "values"], not_yet: &[] };
pub static RATE_LIMITING: Scope = Scope {
    path: "processors.tail_sampling.policies[].rate_limiting",
    keys: &["spans_per_second", "burst_capacity"],
    not_yet: &[],
};
pub static BYTES_LIMITING: Scope = Scope {
    path: "processors.tail_sampling.policies[].bytes_limiting",
    keys: &["bytes_per_second", "burst_capacity"],
    not_yet: &[],
};
pub static SPAN_COUNT: Scope =
    Scope { path: "processors.tail_sampling.policies[].span_count", keys: &["min_spans", "max_spans"], not_yet: &[] };
pub static AND: Scope =
    Scope { path: "processors.tail_sampling.policies[].and", keys: &["and_sub_policy"], not_yet: &[] };
pub static NOT: Scope =
    Scope { path: "processors.tail_sampling.policies[].not", keys: &["not_sub_policy"], not_yet: &[] };
pub static DROP: Scope =
    Scope { path: "processors.tail_sampling.policies[].drop", keys: &["drop_sub_policy"], not_yet: &[] };
pub static COMPOSITE: Scope = Scope {
    path: "processors.tail_sampling.policies[].composite",
    keys: &["max_total_spans_per_second", "policy_order", "composite_sub_policy", "rate_allocation"],
    not_yet: &[],
};
pub static RATE_ALLOCATION: Scope = Scope {
    path: "processors.tail_sampling.policies[].composite.rate_allocation[]",
    keys: &["policy", "percent"],
    not_yet: &[],
};
pub static CROSS_CLUSTER_POLICY: Scope = Scope {
    path: "processors.tail_sampling.policies[].cross_cluster",
    keys: &["source_clusters", "target_clusters"],
    not_yet: &[],
};
pub static PROBABILISTIC_SAMPLER: Scope = Scope {
    path: "processors.probabilistic_sampler",
    keys: &["sampling_percentage", "hash_seed", "mode", "sampling_precision", "fail_closed"],
    not_yet: &[("attribute_source", LOGS_ONLY), ("from_attribute", LOGS_ONLY), ("sampling_priority", LOGS_ONLY)],
};
