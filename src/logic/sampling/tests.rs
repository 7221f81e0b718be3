//! Verdicts, held against what the Collector documents of its policies.

mod chance;
mod combination;
mod measure;
mod policies;
mod rates;
mod whole;

use std::time::Duration;

use super::*;
use crate::config::settings::{PolicyKind, PolicySettings, SamplingMarks, StatusCode};
use crate::logic::testing::{TestSpan, TestTrace};
use crate::model::TraceId;

const ID: TraceId = TraceId([7; 16]);

fn policy(name: &str, kind: PolicyKind) -> PolicySettings {
    PolicySettings { name: name.to_owned(), kind }
}

/// `a`, `b`, `c`, and from `a` again.
fn named(kinds: impl IntoIterator<Item = PolicyKind>) -> Vec<PolicySettings> {
    kinds
        .into_iter()
        .zip((b'a'..=b'z').cycle())
        .map(|(kind, name)| policy(&char::from(name).to_string(), kind))
        .collect()
}

fn settings(kinds: impl IntoIterator<Item = PolicyKind>) -> TailSamplingSettings {
    TailSamplingSettings {
        decision_wait: Duration::from_secs(30),
        decision_wait_after_root_received: Duration::ZERO,
        num_traces: 0,
        sampled_cache_size: 0,
        non_sampled_cache_size: 0,
        sample_on_first_match: false,
        maximum_trace_size_bytes: 0,
        maximum_trace_spans: 32_000,
        drop_pending_traces_on_shutdown: false,
        max_memory_bytes: 0,
        dry_run: false,
        marks: SamplingMarks::default(),
        policies: named(kinds),
    }
}

fn sampler(kinds: impl IntoIterator<Item = PolicyKind>) -> Sampler {
    Sampler::new(&settings(kinds))
}

fn first_match(kinds: impl IntoIterator<Item = PolicyKind>) -> Sampler {
    Sampler::new(&TailSamplingSettings { sample_on_first_match: true, ..settings(kinds) })
}

fn decide(sampler: &Sampler, spans: &[TestSpan]) -> Verdict {
    sampler.decide(&TestTrace::new(ID, spans).view(), &Links::default(), Tick::ZERO)
}

/// Whether a trace is kept by this policy alone.
fn keeps(kind: &PolicyKind, spans: &[TestSpan]) -> bool {
    decide(&sampler([kind.clone()]), spans).keep
}

/// What becomes of a trace, and by which policy.
fn outcome(sampler: &Sampler, spans: &[TestSpan]) -> (bool, String) {
    let verdict = decide(sampler, spans);
    (verdict.keep, verdict.policy.map_or("nobody", |policy| sampler.name(policy)).to_owned())
}

fn kept_by(name: &str) -> (bool, String) {
    (true, name.to_owned())
}

fn dropped_by(name: &str) -> (bool, String) {
    (false, name.to_owned())
}

fn string(key: &str, values: &[&str]) -> PolicyKind {
    PolicyKind::StringAttribute {
        key: key.to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        enabled_regex_matching: false,
        cache_max_size: 0,
        invert_match: false,
    }
}

fn pattern(key: &str, values: &[&str]) -> PolicyKind {
    let PolicyKind::StringAttribute { key, values, invert_match, .. } = string(key, values) else { unreachable!() };
    PolicyKind::StringAttribute { key, values, enabled_regex_matching: true, cache_max_size: 16, invert_match }
}

fn number(key: &str, min_value: Option<i64>, max_value: Option<i64>) -> PolicyKind {
    PolicyKind::NumericAttribute { key: key.to_owned(), min_value, max_value, invert_match: false }
}

fn boolean(key: &str, value: bool) -> PolicyKind {
    PolicyKind::BooleanAttribute { key: key.to_owned(), value, invert_match: false }
}

/// The same with `invert_match`.
fn inverted(mut kind: PolicyKind) -> PolicyKind {
    match &mut kind {
        PolicyKind::StringAttribute { invert_match, .. }
        | PolicyKind::NumericAttribute { invert_match, .. }
        | PolicyKind::BooleanAttribute { invert_match, .. } => *invert_match = true,
        _ => unreachable!(),
    }
    kind
}

fn errors() -> PolicyKind {
    PolicyKind::StatusCode { status_codes: vec![StatusCode::Error] }
}

fn latency(threshold_ms: u64, upper_threshold_ms: Option<u64>) -> PolicyKind {
    PolicyKind::Latency {
        threshold: Duration::from_millis(threshold_ms),
        upper_threshold: upper_threshold_ms.map(Duration::from_millis),
    }
}

fn probabilistic(sampling_percentage: f64) -> PolicyKind {
    PolicyKind::Probabilistic { sampling_percentage, hash_salt: String::new() }
}

fn salted(sampling_percentage: f64, salt: &str) -> PolicyKind {
    PolicyKind::Probabilistic { sampling_percentage, hash_salt: salt.to_owned() }
}

fn and(kinds: impl IntoIterator<Item = PolicyKind>) -> PolicyKind {
    PolicyKind::And(named(kinds))
}

fn not(kind: PolicyKind) -> PolicyKind {
    PolicyKind::Not(Box::new(policy("part", kind)))
}

fn drop_if(kinds: impl IntoIterator<Item = PolicyKind>) -> PolicyKind {
    PolicyKind::Drop(named(kinds))
}
