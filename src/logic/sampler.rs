//! `probabilistic_sampler`: keeps a share of the traces, span by span.
//!
//! No waiting and no memory: whether a span is kept follows from its trace id, its tracestate and one attribute, so it
//! gets the same answer on every node and in every batch, and so do all spans of a trace that were sampled alike before.
//!
//! The decisions are those of the Collector's processor of the same name, bit by bit, because that may stand in front,
//! behind or beside this one with the same settings: FNV-1a over seed and trace id cut to 14 bits (`hash_seed`), or the
//! 56 bits of [`threshold`](super::sampling::threshold) against a threshold that is multiplied with (`proportional`) or
//! raised to (`equalizing`) what the span says of the stages before. Its percentages are 32-bit floats, and so they are
//! here.
//!
//! Three things of that processor may surprise, and are kept on purpose:
//! - Every mode writes the threshold, and `hash_seed` its hash as explicit randomness too: later stages then decide
//!   in line with it.
//! - `hash_seed` takes a span that has either already as an error: its hash would contradict what is written there. With
//!   `fail_closed`, the default, such spans go. So two tiers cannot both hash.
//! - `sampling.priority` is the last word, errors included; what it keeps counts as kept for certain (`th:0`), unless a
//!   stage before was stricter.
//!
//! Different on purpose: a tracestate that names `ot`, `th` or `rv` twice is an error here (there the last one counts), and
//! a malformed one is passed on as it came (there what was understood of it).

use super::sampling::threshold::Threshold;
use super::sampling::tracestate::{TraceState, of_trace_id};
use crate::config::settings::{ProbabilisticSamplerSettings, SamplerMode};
use crate::model::TraceId;
use crate::wire::attributes::{Value, span_attributes, trace_state};

/// Bits of the hash that count in `hash_seed`.
const HASH_BITS: u32 = 14;
const BUCKETS: u32 = 1 << HASH_BITS;
const PRIORITY: &str = "sampling.priority";

/// The settings of one `probabilistic_sampler`, worked out.
#[derive(Clone, Debug)]
pub struct Sampler {
    mode: Mode,
    fail_closed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// A share of 0, or in `hash_seed` of less than one of 2^14.
    Never,
    Hash {
        seed: u32,
        threshold: Threshold,
    },
    Equalizing(Threshold),
    Proportional {
        ratio: f64,
        digits: u8,
    },
}

/// What is to become of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub keep: bool,
    /// In place of the tracestate of a span that is kept; `None`: it stays as it is.
    pub trace_state: Option<String>,
    /// What the span says of earlier sampling is malformed or cannot be true: `fail_closed` has decided, or
    /// `sampling.priority`.
    pub error: bool,
}

/// What a span says of its randomness and of the stages before.
struct Origin<'a> {
    /// `None`: nothing may be written there.
    state: Option<TraceState<'a>>,
    randomness: u64,
    /// To be written as explicit randomness.
    explicit: Option<u64>,
    /// The threshold of the stages before, if it can be true.
    earlier: Option<Threshold>,
    error: bool,
}

impl Sampler {
    pub fn new(settings: &ProbabilisticSamplerSettings) -> Sampler {
        let percent = settings.sampling_percentage as f32;
        let digits = settings.sampling_precision;
        let mode = match settings.mode {
            SamplerMode::HashSeed { seed } => hash_mode(seed, percent),
            SamplerMode::Equalizing => {
                Threshold::from_percentage(f64::from(percent), digits).map_or(Mode::Never, Mode::Equalizing)
            }
            SamplerMode::Proportional if percent > 0.0 => {
                let ratio = (f64::from(percent) / 100.0).clamp(Threshold::LEAST_PROBABILITY, 1.0);
                Mode::Proportional { ratio, digits }
            }
            SamplerMode::Proportional => Mode::Never,
        };
        Sampler { mode, fail_closed: settings.fail_closed }
    }

    /// Decides over an encoded span of this trace.
    pub fn decide(&self, trace: &TraceId, span: &[u8]) -> Decision {
        let origin = self.mode.origin(trace, trace_state(span));
        // `None` keeps nothing.
        let threshold = match priority(span) {
            Priority::Keep => Some(Threshold::ALWAYS),
            Priority::Drop => None,
            Priority::Defer if !origin.error => self.mode.threshold(origin.earlier),
            Priority::Defer if self.fail_closed => None,
            Priority::Defer => Some(Threshold::ALWAYS),
        };
        let Some(threshold) = threshold.filter(|threshold| threshold.keeps(origin.randomness)) else {
            return Decision { keep: false, trace_state: None, error: origin.error };
        };
        let written = origin.earlier.map_or(threshold, |earlier| earlier.max(threshold));
        let trace_state = origin.state.and_then(|state| state.with(written, origin.explicit));
        Decision { keep: true, trace_state, error: origin.error }
    }
}

impl Mode {
    fn origin<'a>(&self, trace: &TraceId, text: &'a str) -> Origin<'a> {
        let untouchable = Origin { state: None, randomness: 0, explicit: None, earlier: None, error: true };
        let Ok(state) = TraceState::parse(text) else { return untouchable };
        let (randomness, earlier) = (state.randomness(), state.threshold());
        match *self {
            Mode::Never => Origin { state: Some(state), earlier, error: false, ..untouchable },
            Mode::Hash { .. } if randomness.is_some() || earlier.is_some() => untouchable,
            Mode::Hash { seed, .. } => {
                let randomness = hashed(trace, seed);
                Origin { state: Some(state), randomness, explicit: Some(randomness), earlier: None, error: false }
            }
            Mode::Equalizing(_) | Mode::Proportional { .. } => {
                let randomness = randomness.unwrap_or_else(|| of_trace_id(trace));
                let possible = earlier.filter(|earlier| earlier.keeps(randomness));
                let error = possible != earlier;
                Origin { state: Some(state), randomness, explicit: None, earlier: possible, error }
            }
        }
    }

    fn threshold(&self, earlier: Option<Threshold>) -> Option<Threshold> {
        match *self {
            Mode::Never => None,
            Mode::Hash { threshold, .. } => Some(threshold),
            Mode::Equalizing(threshold) => Some(earlier.map_or(threshold, |earlier| earlier.max(threshold))),
            Mode::Proportional { ratio, digits } => {
                Threshold::from_probability(earlier.map_or(1.0, Threshold::probability) * ratio, digits)
            }
        }
    }
}

fn hash_mode(seed: u32, percent: f32) -> Mode {
    // In 32 bits and cut off: that is how it has always been done there, and one bucket more or less would show.
    let percent = if percent > 100.0 { 100.0 } else { percent };
    let kept = (percent * (BUCKETS as f32 / 100.0)) as u32;
    if kept == 0 {
        return Mode::Never;
    }
    let rejected = u64::from(BUCKETS.saturating_sub(kept));
    Mode::Hash { seed, threshold: Threshold(rejected << (56 - HASH_BITS)) }
}

/// The hash of a trace id as 56 bits of randomness: 14 bits that decide, turned round because it is the low hashes that
/// are kept; then the upper 14 bits of the hash, laid over themselves; then the 14 bits that decide, as they are.
fn hashed(trace: &TraceId, seed: u32) -> u64 {
    let hash = fnv1a(seed.to_le_bytes().into_iter().chain(trace.0));
    let bucket = u64::from(hash % BUCKETS);
    let upper = u64::from(hash >> (32 - HASH_BITS));
    let turned = u64::from(BUCKETS) - 1 - bucket;
    turned << 42 | (upper ^ upper << 10) << 14 | bucket
}

fn fnv1a(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What the attribute `sampling.priority` says (OpenTracing's convention): 0 is no, more is yes.
enum Priority {
    Keep,
    Drop,
    Defer,
}

/// Clients send it as whatever type they like.
fn priority(span: &[u8]) -> Priority {
    let value = match span_attributes(span).find(|(key, _)| *key == PRIORITY) {
        Some((_, Value::Int(value))) => value as f64,
        Some((_, Value::Double(value))) => value,
        Some((_, Value::Str(text))) => text.parse().unwrap_or(f64::NAN),
        Some((_, Value::Bool(_) | Value::Other)) | None => f64::NAN,
    };
    if value > 0.0 {
        Priority::Keep
    } else if value == 0.0 {
        Priority::Drop
    } else {
        Priority::Defer
    }
}

#[cfg(test)]
mod tests;
