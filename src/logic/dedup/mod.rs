//! Duplicates out: exact for what is in custody, filters in time windows for what is settled.
use crate::config::settings::DedupSettings;
use crate::model::{Fate, Spans, Tick};
use serde::Serialize;

/// What makes two spans the same, as 128 bits of keyed hash over trace id, span id, kind and end time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpanKey(pub u128);

/// The verdict on a batch's spans.
pub struct Admitted {
    /// Indexes into `Spans::spans` of true duplicates, ascending.
    pub duplicates: Vec<u32>,
    /// Keys of all others, now in custody: to be handed to [`Dedup::settle`] exactly once.
    pub keys: Vec<SpanKey>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct DedupStatus {
    pub duplicates: u64,
    pub admitted: u64,
    pub in_custody: u64,
    pub remembered: u64,
    pub filter_bytes: u64,
    /// Filled share of the newest filter's design load.
    pub load_ratio: f64,
    /// Estimated chance that a fresh span is taken for a duplicate, now.
    pub error_ratio: f64,
    /// How far back settled spans are remembered now, in seconds; below `wait_duration` under overload.
    pub window_seconds: f64,
}

/// One node's dedup; `&self` because all of ingest shares it (sharded inside by trace id, short locks).
pub struct Dedup {}

impl Dedup {
    /// `seed` keys the hashes: never leaves the node.
    pub fn new(_settings: &DedupSettings, _seed: u64) -> Dedup {
        todo!()
    }
    pub fn admit(&self, _spans: &Spans, _now: Tick) -> Admitted {
        todo!()
    }
    /// Custody of these ends: settled ones are remembered in the filters, others are free to come again.
    pub fn settle(&self, _keys: &[SpanKey], _fate: &Fate, _now: Tick) {
        todo!()
    }
    pub fn status(&self, _now: Tick) -> DedupStatus {
        todo!()
    }
}
