//! The settings of each policy that asks one thing of a trace, with the Collector's names and meanings.

use std::time::Duration;

use super::Check;
use super::fields::{Choice, Fields, join};
use super::policies::{Left, MOST_PATTERNS};
use crate::config::pattern;
use crate::config::problem::Problem;
use crate::config::scalar::Typed;
use crate::config::schema::traces::{
    BOOLEAN_ATTRIBUTE, BYTES_LIMITING, CROSS_CLUSTER_POLICY, LATENCY, NUMERIC_ATTRIBUTE, PROBABILISTIC, RATE_LIMITING,
    SPAN_COUNT, STATUS_CODE, STRING_ATTRIBUTE, TRACE_STATE,
};
use crate::config::settings::{PolicyKind, StatusCode};

/// More than any node sees in a second.
pub(super) const MOST_RATE: u64 = 1_000_000_000_000;
/// Three years and more; far above any trace.
const LONGEST_MS: u64 = 100_000_000_000;
/// The Collector's, which also takes it for 0.
const CACHED_VALUES: u64 = 128;

const CODES: Choice<StatusCode> = Choice {
    values: &[("ERROR", StatusCode::Error), ("OK", StatusCode::Ok), ("UNSET", StatusCode::Unset)],
    not_yet: &[],
};

pub(super) fn latency(check: &mut Check<'_>, policy: &Fields<'_>) -> Option<PolicyKind> {
    let block = policy.map(check, "latency", &LATENCY);
    let lower = milliseconds(check, &block, "threshold_ms");
    let upper = milliseconds(check, &block, "upper_threshold_ms").filter(|upper| *upper != 0);
    if block.get("threshold_ms").is_none() && block.get("upper_threshold_ms").is_none() {
        block.missing(check, "threshold_ms", "milliseconds, like `threshold_ms: 500`");
        return None;
    }
    let lower = lower.unwrap_or(0);
    if let Some(upper) = upper.filter(|upper| *upper <= lower) {
        let allowed = format!("0 (no upper bound), or above threshold_ms, {lower}");
        block.wrong(
            check,
            "upper_threshold_ms",
            format!("no trace takes over {lower} ms and up to {upper} ms"),
            &allowed,
        );
    }
    let threshold = Duration::from_millis(lower);
    Some(PolicyKind::Latency { threshold, upper_threshold: upper.map(Duration::from_millis) })
}

fn milliseconds(check: &mut Check<'_>, block: &Fields<'_>, key: &'static str) -> Option<u64> {
    block.count_given(check, key, (0, LONGEST_MS))
}

pub(super) fn numeric_attribute(check: &mut Check<'_>, policy: &Fields<'_>) -> Option<PolicyKind> {
    let block = policy.map(check, "numeric_attribute", &NUMERIC_ATTRIBUTE);
    let key = key(check, &block, "the name of an attribute, like http.response.status_code");
    let mut bound = |name| {
        let value = block.integer(check, name)?;
        if value == 0 {
            let message = format!("`{name}: 0` counts as not given, as in the Collector");
            check.say(Problem::note(block.place(name), &join(&block.path_of(name)), message));
        }
        (value != 0).then_some(value)
    };
    let (min_value, max_value) = (bound("min_value"), bound("max_value"));
    let invert_match = block.flag(check, "invert_match", false);
    match (min_value, max_value) {
        (None, None) => {
            // A bound that is no number was reported.
            let usable = |name| block.typed(name).is_none_or(|typed| matches!(typed, Some(Typed::Int(_))));
            if usable("min_value") && usable("max_value") {
                block.missing(check, "min_value", "give `min_value`, `max_value` or both; 0 counts as not given");
            }
            return None;
        }
        (Some(min), Some(max)) if min > max => {
            block.wrong(check, "max_value", "smaller than `min_value`", &format!("at least {min}"));
        }
        _ => {}
    }
    Some(PolicyKind::NumericAttribute { key, min_value, max_value, invert_match })
}

pub(super) fn probabilistic(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "probabilistic", &PROBABILISTIC);
    PolicyKind::Probabilistic {
        sampling_percentage: block.percentage(check, "sampling_percentage"),
        hash_salt: block.text_or(check, "hash_salt", ""),
    }
}

pub(super) fn status_code(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "status_code", &STATUS_CODE);
    if block.is_empty_list("status_codes") {
        block.missing(check, "status_codes", "one or more of ERROR, OK and UNSET");
    }
    PolicyKind::StatusCode { status_codes: block.choices(check, "status_codes", &CODES) }
}

pub(super) fn string_attribute(check: &mut Check<'_>, policy: &Fields<'_>, left: &mut Left) -> PolicyKind {
    let block = policy.map(check, "string_attribute", &STRING_ATTRIBUTE);
    let key = key(check, &block, "the name of an attribute, like http.route");
    let enabled_regex_matching = block.flag(check, "enabled_regex_matching", false);
    if block.is_empty_list("values") {
        block.missing(check, "values", "one or more values, or regular expressions");
    }
    let mut values = Vec::new();
    for (path, item, text) in block.scalars(check, "values", "a string") {
        if enabled_regex_matching {
            let wrong = if left.pattern() {
                pattern::compile(&text).err()
            } else {
                Some(format!("more than {MOST_PATTERNS} of them in one tail_sampling"))
            };
            if let Some(wrong) = wrong {
                let message = format!("no regular expression: {wrong}");
                let problem = Problem::error(item.at, &join(&path), message).value(item.shown());
                check.say(problem.help("the syntax is RE2's; in YAML, single quotes leave backslashes alone"));
            }
        }
        values.push(text);
    }
    let cache_max_size = if enabled_regex_matching {
        match block.count(check, "cache_max_size", CACHED_VALUES, (0, 65_536)) {
            0 => CACHED_VALUES,
            size => size,
        }
    } else {
        block.count_given(check, "cache_max_size", (0, 65_536));
        block.no_effect(check, "cache_max_size", "it is for regular expressions, and these values are compared");
        0
    };
    PolicyKind::StringAttribute {
        key,
        values,
        enabled_regex_matching,
        cache_max_size: usize::try_from(cache_max_size).unwrap_or(usize::MAX),
        invert_match: block.flag(check, "invert_match", false),
    }
}

pub(super) fn boolean_attribute(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "boolean_attribute", &BOOLEAN_ATTRIBUTE);
    PolicyKind::BooleanAttribute {
        key: key(check, &block, "the name of an attribute"),
        value: block.flag(check, "value", false),
        invert_match: block.flag(check, "invert_match", false),
    }
}

pub(super) fn trace_state(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "trace_state", &TRACE_STATE);
    PolicyKind::TraceState {
        key: key(check, &block, "the key of an entry of the tracestate"),
        values: block.some_texts(check, "values", "a value"),
    }
}

pub(super) fn rate_limiting(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "rate_limiting", &RATE_LIMITING);
    if block.get("spans_per_second").is_none() {
        block.missing(check, "spans_per_second", "the spans a second that it keeps at most");
    }
    let spans_per_second = block.count_given(check, "spans_per_second", (1, MOST_RATE)).unwrap_or(1);
    let burst = block.count_given(check, "burst_capacity", (0, MOST_RATE)).filter(|burst| *burst != 0);
    PolicyKind::RateLimiting {
        spans_per_second,
        burst_capacity: burst_or_twice(check, &block, burst, spans_per_second),
    }
}

pub(super) fn bytes_limiting(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "bytes_limiting", &BYTES_LIMITING);
    if block.get("bytes_per_second").is_none() {
        block.missing(check, "bytes_per_second", "the bytes a second that it keeps at most, like 1MiB");
    }
    let bytes_per_second = block.size_given(check, "bytes_per_second", (1, MOST_RATE)).unwrap_or(1);
    let burst = block.size_given(check, "burst_capacity", (0, MOST_RATE)).filter(|burst| *burst != 0);
    PolicyKind::BytesLimiting {
        bytes_per_second,
        burst_capacity: burst_or_twice(check, &block, burst, bytes_per_second),
    }
}

/// Twice the rate if it is not given; a trace above it never passes.
fn burst_or_twice(check: &mut Check<'_>, block: &Fields<'_>, burst: Option<u64>, rate: u64) -> u64 {
    burst.unwrap_or_else(|| {
        let twice = rate.saturating_mul(2);
        if block.get("burst_capacity").is_none() {
            block.default(check, "burst_capacity", twice.min(MOST_RATE).to_string());
        }
        twice.min(MOST_RATE)
    })
}

pub(super) fn span_count(check: &mut Check<'_>, policy: &Fields<'_>) -> Option<PolicyKind> {
    let block = policy.map(check, "span_count", &SPAN_COUNT);
    const MOST: u64 = i32::MAX.unsigned_abs() as u64;
    let least = block.count_given(check, "min_spans", (0, MOST));
    let most = block.count_given(check, "max_spans", (0, MOST)).filter(|most| *most != 0);
    if block.get("min_spans").is_none() && block.get("max_spans").is_none() {
        block.missing(check, "min_spans", "give `min_spans`, `max_spans` or both");
        return None;
    }
    let least = least.unwrap_or(0);
    if most.is_some_and(|most| most < least) {
        let allowed = format!("0 (no upper bound), or at least min_spans, {least}");
        block.wrong(check, "max_spans", "smaller than `min_spans`", &allowed);
    }
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Some(PolicyKind::SpanCount { min_spans: count(least), max_spans: most.map(count) })
}

pub(super) fn cross_cluster(check: &mut Check<'_>, policy: &Fields<'_>) -> PolicyKind {
    let block = policy.map(check, "cross_cluster", &CROSS_CLUSTER_POLICY);
    let mut clusters = |key| block.texts(check, key, "the name of a cluster");
    PolicyKind::CrossCluster {
        source_clusters: clusters("source_clusters"),
        target_clusters: clusters("target_clusters"),
    }
}

fn key(check: &mut Check<'_>, block: &Fields<'_>, what: &str) -> String {
    let key = block.text(check, "key").unwrap_or_default();
    if key.is_empty() {
        block.missing(check, "key", what);
    }
    key
}
