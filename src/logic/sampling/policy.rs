//! Policies, compiled: each of them votes on a trace.
//!
//! A closed tree, since the Collector's set of policies is closed and each of them is a line or two. What needs a span's
//! body asks through [`Questions`]; the rest is in the outline of the trace.
//!
//! # What each policy wants kept
//!
//! The Collector's meaning as of contrib v0.156 (`processor/tailsamplingprocessor`), read in its documentation and its
//! code; deviations are marked.
//!
//! | Policy | keeps |
//! |---|---|
//! | `always_sample` | everything |
//! | `latency` | a trace that took, in whole milliseconds, at least `threshold_ms`; with `upper_threshold_ms` *more* than `threshold_ms` and at most the upper one, so that ranges which touch do not overlap. Theirs compares after each span and can keep what the whole trace would not; ours looks at the whole. Theirs takes a start of 0 for the earliest; ours as unknown |
//! | `numeric_attribute` | a span or resource with a number from `min_value` to `max_value`, both included. Theirs takes every other type as 0, doubles too; ours compares doubles and passes over what is no number |
//! | `boolean_attribute` | a span or resource with this value. Theirs takes every other type as false; ours passes over it |
//! | `string_attribute` | a span or resource with one of these values, or one in which a pattern is found; an empty value of a span never counts, nor an empty one among the literal values. Theirs takes every other type as empty text; ours passes over it |
//! | `trace_state` | a span whose tracestate is legal and has this key with one of these values |
//! | `trace_flags` | a span with the sampled flag |
//! | `status_code` | a span with one of these codes |
//! | `span_count` | a trace of `min_spans` to `max_spans` spans, both included |
//! | `probabilistic` | see below |
//! | `rate_limiting`, `bytes_limiting` | what the token bucket has room for; a trace larger than `burst_capacity` never passes. Every trace is asked, so one that another policy keeps takes tokens as well. Bytes are those of the encoded spans, and of each resource and scope once |
//! | `and` | what all parts keep; the first that does not ends the asking |
//! | `not` | what its part does not keep. Theirs leaves an inverted vote as it is; ours turns it |
//! | `drop` | nothing: what all its parts keep it drops, for the rest it votes no |
//! | `composite` | what the first part that wants it has room for in this second, and the total too: if it has not, no further part is asked. Theirs compares each part with the total, not their sum; ours the sum, as its name says |
//! | `cross_cluster` | ours: a trace with a call between clusters, from one of `source_clusters` to one of `target_clusters` where these are given |
//!
//! `invert_match` turns the answer for the whole trace: no span and no resource fits.
//!
//! # Chance
//!
//! `probabilistic` without a salt follows OpenTelemetry's consistent probability sampling: the trace's 56 random bits
//! against a threshold, rounded to four digits like that of `probabilistic_sampler`, so that both with one percentage
//! keep the same traces on every node. With a salt it asks for randomness that is independent of all others, and gets the
//! Collector's: FNV-1a of salt and trace id. Then nothing is written to tracestate, since there is no threshold on the
//! trace's own bits that would describe it. The same holds where chance is mixed with a rate, or turned by `not`.
//!
//! # Order within `and` and `drop`
//!
//! Parts that need no span's body are asked first, which changes nothing but the cost: between two parts that use up a
//! rate, and so must be asked when their turn comes, all others are pure.

use super::case::Case;
use super::questions::{QuestionId, Questions, Test};
use super::rates::{Bucket, Seconds};
use super::text::Texts;
use super::threshold::Threshold;
use crate::config::settings::{PolicyKind, PolicySettings, StatusCode};

/// Significant hex digits of a threshold: the default of `probabilistic_sampler`.
const DIGITS: u8 = 4;
/// Longest key and value of a tracestate's member together, with the sign between them (as the Collector has it).
const MAX_STATE_MEMBER: usize = 256;

/// What a policy says of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    Sampled {
        /// Set if it was by chance, and the chance can be told.
        by_chance: Option<Threshold>,
    },
    NotSampled,
    /// Said with `invert_match`: weaker than [`Vote::Sampled`].
    InvertSampled,
    /// Said with `invert_match`: stronger than [`Vote::Sampled`].
    InvertNotSampled,
    Dropped,
}

impl Vote {
    const SAMPLED: Vote = Vote::Sampled { by_chance: None };

    fn of(sampled: bool) -> Vote {
        if sampled { Vote::SAMPLED } else { Vote::NotSampled }
    }

    /// Within another policy inverted votes are votes like others.
    fn is_sampled(self) -> bool {
        matches!(self, Vote::Sampled { .. } | Vote::InvertSampled)
    }

    fn chance(self) -> Option<Threshold> {
        match self {
            Vote::Sampled { by_chance } => by_chance,
            _ => None,
        }
    }
}

/// A compiled policy.
pub(super) enum Policy {
    AlwaysSample,
    /// In milliseconds.
    Latency {
        threshold: u128,
        upper: Option<u128>,
    },
    Question {
        id: QuestionId,
        inverted: bool,
    },
    /// A bit for each code.
    StatusCode(u8),
    SpanCount {
        min: u64,
        max: Option<u64>,
    },
    /// `None`: keeps nothing.
    Chance(Option<Threshold>),
    SaltedChance(Salted),
    SpanRate(Bucket),
    ByteRate(Bucket),
    And {
        parts: Vec<Policy>,
        /// Chance among the parts can be told.
        told: bool,
    },
    Not(Box<Policy>),
    Drop(Vec<Policy>),
    Composite {
        parts: Vec<(Policy, u64)>,
        seconds: Seconds,
    },
    CrossCluster {
        sources: Vec<String>,
        targets: Vec<String>,
    },
}

impl Policy {
    /// Compiles a policy and notes its questions.
    pub(super) fn new(kind: &PolicyKind, questions: &mut Questions) -> Policy {
        match kind {
            PolicyKind::AlwaysSample => Policy::AlwaysSample,
            PolicyKind::Latency { threshold, upper_threshold } => Policy::Latency {
                threshold: threshold.as_millis(),
                upper: upper_threshold.map(|upper| upper.as_millis()),
            },
            PolicyKind::NumericAttribute { key, min_value, max_value, invert_match } => {
                let test = Test::Number { min: *min_value, max: *max_value };
                Policy::Question { id: questions.attribute(key, test), inverted: *invert_match }
            }
            PolicyKind::BooleanAttribute { key, value, invert_match } => {
                Policy::Question { id: questions.attribute(key, Test::Bool(*value)), inverted: *invert_match }
            }
            PolicyKind::StringAttribute { key, values, enabled_regex_matching, cache_max_size, invert_match } => {
                let texts = if *enabled_regex_matching {
                    Texts::patterns(values, *cache_max_size)
                } else {
                    Texts::literal(values.iter().map(String::as_str))
                };
                Policy::Question { id: questions.attribute(key, Test::Text(texts)), inverted: *invert_match }
            }
            PolicyKind::TraceState { key, values } => {
                let fits = |value: &&str| key.len() + value.len() < MAX_STATE_MEMBER;
                let values = Texts::literal(values.iter().map(String::as_str).filter(fits));
                Policy::Question { id: questions.trace_state(key, values), inverted: false }
            }
            PolicyKind::TraceFlags => Policy::Question { id: questions.sampled_flag(), inverted: false },
            PolicyKind::StatusCode { status_codes } => {
                Policy::StatusCode(status_codes.iter().fold(0, |bits, code| bits | 1 << otlp(*code)))
            }
            PolicyKind::SpanCount { min_spans, max_spans } => {
                Policy::SpanCount { min: u64::from(*min_spans), max: max_spans.map(u64::from) }
            }
            PolicyKind::Probabilistic { sampling_percentage, hash_salt } if hash_salt.is_empty() => {
                questions.randomness();
                // `probabilistic_sampler` knows 32-bit floats only.
                Policy::Chance(Threshold::from_percentage(f64::from(*sampling_percentage as f32), DIGITS))
            }
            PolicyKind::Probabilistic { sampling_percentage, hash_salt } => {
                Policy::SaltedChance(Salted::new(hash_salt, *sampling_percentage))
            }
            PolicyKind::RateLimiting { spans_per_second, burst_capacity } => {
                Policy::SpanRate(Bucket::new(*spans_per_second, *burst_capacity))
            }
            PolicyKind::BytesLimiting { bytes_per_second, burst_capacity } => {
                Policy::ByteRate(Bucket::new(*bytes_per_second, *burst_capacity))
            }
            PolicyKind::And(parts) => {
                let parts = all_of(parts, questions);
                let told = parts.iter().all(Policy::tells_chance);
                Policy::And { parts, told }
            }
            PolicyKind::Not(part) => Policy::Not(Box::new(Policy::new(&part.kind, questions))),
            PolicyKind::Drop(parts) => Policy::Drop(all_of(parts, questions)),
            PolicyKind::Composite { max_total_spans_per_second, parts } => Policy::Composite {
                parts: parts
                    .iter()
                    .map(|part| (Policy::new(&part.policy.kind, questions), part.spans_per_second))
                    .collect(),
                seconds: Seconds::new(*max_total_spans_per_second, parts.len()),
            },
            PolicyKind::CrossCluster { source_clusters, target_clusters } => {
                Policy::CrossCluster { sources: source_clusters.clone(), targets: target_clusters.clone() }
            }
        }
    }

    /// Asks it.
    pub(super) fn vote(&self, case: &Case<'_>) -> Vote {
        match self {
            Policy::AlwaysSample => Vote::SAMPLED,
            Policy::Latency { threshold, upper } => {
                let took = u128::from(case.millis());
                Vote::of(match upper {
                    None => *threshold <= took,
                    Some(upper) => *threshold < took && took <= *upper,
                })
            }
            Policy::Question { id, inverted } => match (case.answer(*id), inverted) {
                (fits, false) => Vote::of(fits),
                (true, true) => Vote::InvertNotSampled,
                (false, true) => Vote::InvertSampled,
            },
            Policy::StatusCode(codes) => Vote::of(case.statuses() & codes != 0),
            Policy::SpanCount { min, max } => {
                Vote::of(*min <= case.spans() && max.is_none_or(|max| case.spans() <= max))
            }
            Policy::Chance(threshold) => match *threshold {
                Some(threshold) if case.randomness() >= threshold.0 => Vote::Sampled { by_chance: Some(threshold) },
                _ => Vote::NotSampled,
            },
            Policy::SaltedChance(salted) => Vote::of(salted.keeps(&case.id().0)),
            Policy::SpanRate(bucket) => Vote::of(bucket.take(case.spans(), case.now)),
            Policy::ByteRate(bucket) => Vote::of(bucket.take(case.bytes(), case.now)),
            Policy::And { parts, told } => {
                let mut chance = None;
                for part in parts {
                    let vote = part.vote(case);
                    if !vote.is_sampled() {
                        return Vote::NotSampled;
                    }
                    chance = chance.max(vote.chance());
                }
                Vote::Sampled { by_chance: chance.filter(|_| *told) }
            }
            Policy::Not(part) => Vote::of(!part.vote(case).is_sampled()),
            Policy::Drop(parts) => {
                let all = parts.iter().all(|part| part.vote(case).is_sampled());
                if all { Vote::Dropped } else { Vote::NotSampled }
            }
            Policy::Composite { parts, seconds } => {
                let wanted = parts.iter().position(|(part, _)| part.vote(case).is_sampled());
                Vote::of(wanted.is_some_and(|part| seconds.pass(part, parts[part].1, case.spans(), case.now)))
            }
            Policy::CrossCluster { sources, targets } => {
                let among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
                Vote::of(case.crosses(|source| among(sources, source), |target| among(targets, target)))
            }
        }
    }

    /// The threshold of what it keeps by chance, whatever the trace.
    pub(super) fn threshold(&self) -> Option<Threshold> {
        match self {
            Policy::Chance(threshold) => *threshold,
            Policy::And { parts, told: true } => parts.iter().filter_map(Policy::threshold).max(),
            _ => None,
        }
    }

    /// Keeps by chance, whatever is in the trace.
    pub(super) fn is_chance(&self) -> bool {
        matches!(self, Policy::Chance(_))
    }

    pub(super) fn is_drop(&self) -> bool {
        matches!(self, Policy::Drop(_))
    }

    /// What it keeps is either a matter of the trace alone, or of chance that a threshold describes.
    fn tells_chance(&self) -> bool {
        match self {
            Policy::Chance(_) => true,
            Policy::And { told, .. } => *told,
            _ => !self.uses_rate() && !self.uses_chance(),
        }
    }

    /// Asking it changes something.
    fn uses_rate(&self) -> bool {
        self.any(&|policy| matches!(policy, Policy::SpanRate(_) | Policy::ByteRate(_) | Policy::Composite { .. }))
    }

    fn uses_chance(&self) -> bool {
        self.any(&|policy| matches!(policy, Policy::Chance(_) | Policy::SaltedChance(_)))
    }

    /// It needs what is in spans' bodies or resources.
    fn reads(&self) -> bool {
        self.any(&|policy| matches!(policy, Policy::Question { .. } | Policy::Chance(_)))
    }

    fn any(&self, found: &impl Fn(&Policy) -> bool) -> bool {
        found(self)
            || match self {
                Policy::And { parts, .. } | Policy::Drop(parts) => parts.iter().any(|part| part.any(found)),
                Policy::Not(part) => part.any(found),
                Policy::Composite { parts, .. } => parts.iter().any(|(part, _)| part.any(found)),
                _ => false,
            }
    }
}

/// The parts of a policy that must all agree, cheap ones first where the order does not matter.
fn all_of(parts: &[PolicySettings], questions: &mut Questions) -> Vec<Policy> {
    let mut parts: Vec<Policy> = parts.iter().map(|part| Policy::new(&part.kind, questions)).collect();
    for pure in parts.split_mut(Policy::uses_rate) {
        pure.sort_by_key(Policy::reads);
    }
    parts
}

/// OTLP's number of a status code.
fn otlp(code: StatusCode) -> u8 {
    match code {
        StatusCode::Unset => 0,
        StatusCode::Ok => 1,
        StatusCode::Error => 2,
    }
}

/// Chance by a hash of salt and trace id, as the Collector's `probabilistic` policy has it.
pub(super) struct Salted {
    /// The hash's state behind the salt.
    salt: u64,
    /// The greatest hash that is kept. 0 stands for 0 % as well: one trace of 2^64.
    greatest: u64,
}

impl Salted {
    fn new(salt: &str, percent: f64) -> Salted {
        // To 53 bits, and exact at both ends.
        let share = (percent / 100.0).clamp(0.0, 1.0);
        let scaled = (u128::from(u64::MAX) * (share * (1_u64 << 53) as f64) as u128) >> 53;
        Salted { salt: fnv1a(0xcbf2_9ce4_8422_2325, salt.as_bytes()), greatest: scaled as u64 }
    }

    fn keeps(&self, id: &[u8; 16]) -> bool {
        fnv1a(self.salt, id) <= self.greatest
    }
}

/// FNV-1a of 64 bits, continued.
fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A policy's type as the configuration names it.
pub(super) fn type_name(kind: &PolicyKind) -> &'static str {
    match kind {
        PolicyKind::AlwaysSample => "always_sample",
        PolicyKind::Latency { .. } => "latency",
        PolicyKind::NumericAttribute { .. } => "numeric_attribute",
        PolicyKind::Probabilistic { .. } => "probabilistic",
        PolicyKind::StatusCode { .. } => "status_code",
        PolicyKind::StringAttribute { .. } => "string_attribute",
        PolicyKind::BooleanAttribute { .. } => "boolean_attribute",
        PolicyKind::TraceState { .. } => "trace_state",
        PolicyKind::TraceFlags => "trace_flags",
        PolicyKind::RateLimiting { .. } => "rate_limiting",
        PolicyKind::BytesLimiting { .. } => "bytes_limiting",
        PolicyKind::SpanCount { .. } => "span_count",
        PolicyKind::And(_) => "and",
        PolicyKind::Not(_) => "not",
        PolicyKind::Drop(_) => "drop",
        PolicyKind::Composite { .. } => "composite",
        PolicyKind::CrossCluster { .. } => "cross_cluster",
    }
}
