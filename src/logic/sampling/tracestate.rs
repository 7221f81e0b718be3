//! The W3C tracestate of a span, as far as sampling reads and writes it: `rv` and `th` in the member `ot`.
//!
//! The text comes from any application and its neighbours, and other vendors' members are not ours to touch. So it is
//! read strictly and written seldom: what breaks the grammar of W3C Trace Context or of the member `ot`, names `ot`, `rv`
//! or `th` twice, or is longer than [`MAX_BYTES`], says nothing about sampling and stays as it is, and so does a text
//! that the change would make too long. Guessing at half a text would be worse: a wrong threshold counts one span as a
//! thousand. A member is never pushed out to make room for ours: this node is not a party of the trace.
//!
//! `th` is the highest threshold of all stages that a span has passed. A later stage may raise it, never lower it: what
//! was rejected does not come back ("Downstream threshold" in "TraceState: Probability Sampling").
//!
//! The W3C random flag is not asked for. It says that the last 7 bytes of a trace id are random; the specification lets
//! samplers presume that of ids without it, and the Collector does so too.

use std::fmt::Write as _;

use smallvec::SmallVec;
use thiserror::Error;

use super::threshold::{Threshold, hex};
use crate::model::TraceId;

/// Longest text that is read or written: the Collector's limit. W3C asks for 512.
const MAX_BYTES: usize = 1024;
/// W3C's limits of members, and of the bytes of a key and of a value.
const MAX_MEMBERS: usize = 32;
const MAX_KEY: usize = 256;
const MAX_TENANT: usize = 241;
const MAX_SYSTEM: usize = 14;
const MAX_VALUE: usize = 256;

/// The text is not a legal tracestate, or longer than anybody has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a tracestate")]
pub struct Malformed;

/// A tracestate that was read.
#[derive(Clone, Debug, Default)]
pub struct TraceState<'a> {
    /// All but `ot`, in order.
    others: SmallVec<[&'a str; 4]>,
    /// The sub-keys of `ot`, each with its value, in order.
    ot: SmallVec<[&'a str; 4]>,
    randomness: Option<u64>,
    threshold: Option<Threshold>,
}

impl<'a> TraceState<'a> {
    pub fn parse(text: &'a str) -> Result<TraceState<'a>, Malformed> {
        if text.len() > MAX_BYTES {
            return Err(Malformed);
        }
        let mut state = TraceState::default();
        let (mut members, mut has_ot) = (0, false);
        for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            members += 1;
            let (key, value) = member.split_once('=').ok_or(Malformed)?;
            if members > MAX_MEMBERS || !is_key(key) || !is_value(value) {
                return Err(Malformed);
            }
            if key != "ot" {
                state.others.push(member);
            } else if std::mem::replace(&mut has_ot, true) {
                return Err(Malformed);
            } else {
                state.parse_ot(value)?;
            }
        }
        Ok(state)
    }

    fn parse_ot(&mut self, value: &'a str) -> Result<(), Malformed> {
        for item in value.split(';') {
            let (key, value) = item.split_once(':').ok_or(Malformed)?;
            let legal = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
            if !is_sub_key(key) || !value.bytes().all(legal) {
                return Err(Malformed);
            }
            let twice = match key {
                "rv" => self.randomness.replace(randomness_of(value).ok_or(Malformed)?).is_some(),
                "th" => self.threshold.replace(Threshold::parse(value).ok_or(Malformed)?).is_some(),
                _ => false,
            };
            if twice {
                return Err(Malformed);
            }
            self.ot.push(item);
        }
        Ok(())
    }

    /// The randomness that the trace's first span was given explicitly (`rv`); without it that of the trace id counts.
    pub fn randomness(&self) -> Option<u64> {
        self.randomness
    }

    /// The threshold of the stages before (`th`).
    pub fn threshold(&self) -> Option<Threshold> {
        self.threshold
    }

    /// The text with this threshold in place of whatever was there, and with this explicit randomness if there was
    /// none. `None`: that changes nothing, or would be too long.
    pub fn with(&self, threshold: Threshold, randomness: Option<u64>) -> Option<String> {
        let randomness = randomness.filter(|_| self.randomness.is_none());
        if self.threshold == Some(threshold) && randomness.is_none() {
            return None;
        }
        if self.ot.is_empty() && self.others.len() >= MAX_MEMBERS {
            return None;
        }
        // A member that was changed moves to the front (W3C Trace Context, "Mutating the tracestate Field").
        let mut text = String::from("ot=");
        let mut put = |item: std::fmt::Arguments<'_>| {
            if text.len() > 3 {
                text.push(';');
            }
            // Strings take everything.
            let _ = text.write_fmt(item);
        };
        for item in &self.ot {
            if item.starts_with("th:") {
                put(format_args!("th:{threshold}"));
            } else {
                put(format_args!("{item}"));
            }
        }
        if let Some(randomness) = randomness {
            put(format_args!("rv:{randomness:014x}"));
        }
        if self.threshold.is_none() {
            put(format_args!("th:{threshold}"));
        }
        if text.len() - 3 > MAX_VALUE {
            return None;
        }
        for other in &self.others {
            text.push(',');
            text.push_str(other);
        }
        (text.len() <= MAX_BYTES).then_some(text)
    }
}

/// The randomness that decides over a trace: explicit if any of its spans has it, else that of its id. Spans of one trace
/// should agree; where they do not, the smallest counts, in any order of the spans.
pub fn randomness<'a>(trace: &TraceId, trace_states: impl Iterator<Item = &'a str>) -> u64 {
    // Most spans have none, and most of what there is is not ours.
    let ours = trace_states.filter(|text| text.contains("rv:"));
    let explicit = ours.filter_map(|text| TraceState::parse(text).ok()?.randomness());
    explicit.min().unwrap_or_else(|| of_trace_id(trace))
}

/// The last 7 bytes of a trace id, which are random by W3C Trace Context level 2.
pub fn of_trace_id(trace: &TraceId) -> u64 {
    (u128::from_be_bytes(trace.0) & ((1 << 56) - 1)) as u64
}

/// The threshold of the stages that a span has passed, if it says so.
pub fn sampled_threshold(trace_state: &str) -> Option<Threshold> {
    TraceState::parse(trace_state).ok()?.threshold()
}

/// The tracestate with this threshold. `None`: it stays as it is, because the span has passed a stage that was just as
/// strict or stricter, or because it cannot be written.
pub fn with_threshold(trace_state: &str, threshold: Threshold) -> Option<String> {
    let state = TraceState::parse(trace_state).ok()?;
    if state.threshold.is_some_and(|stricter| stricter >= threshold) {
        return None;
    }
    state.with(threshold, None)
}

/// `rv` has all 14 digits.
fn randomness_of(text: &str) -> Option<u64> {
    if text.len() == 14 { hex(text) } else { None }
}

/// W3C's `simple-key` or `multi-tenant-key`.
fn is_key(key: &str) -> bool {
    let legal = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(&b));
    let begins = |text: &str| text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    match key.split_once('@') {
        None => key.len() <= MAX_KEY && begins(key) && legal(key),
        Some((tenant, system)) => {
            let digit = tenant.bytes().next().is_some_and(|b| b.is_ascii_digit());
            let fits = tenant.len() <= MAX_TENANT && system.len() <= MAX_SYSTEM;
            fits && (begins(tenant) || digit) && legal(tenant) && begins(system) && legal(system)
        }
    }
}

/// W3C's `value`: printable ASCII but for `,` and `=`, with no blank at its end.
fn is_value(value: &str) -> bool {
    let legal = |b: u8| (0x20..=0x7e).contains(&b) && b != b',' && b != b'=';
    (1..=MAX_VALUE).contains(&value.len()) && !value.ends_with(' ') && value.bytes().all(legal)
}

fn is_sub_key(key: &str) -> bool {
    key.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests;
