//! Duplicates out: exact for what is in custody, filters in time windows for what is settled.
//!
//! Senders repeat what they believe lost, and a mesh that gave way sends again what was on its way. A repeated span
//! has the trace id, span id, kind and end time of the first; all four, since Zipkin's two halves of a call share ids,
//! and a span that is sent unfinished and again at its end differs in its end. They are hashed to 128 bits with a key
//! that never leaves the node, so nobody can aim at the filters or choose two spans that meet in one key.
//!
//! A key is in *custody* from [`Dedup::admit`] to [`Dedup::settle`], in an exact set. Only a settled span goes on into
//! the filters: marking at arrival would turn a span that was let go, and is sent again, into its own duplicate, and
//! lose it. The filters' error is a wrong drop, see [`filter`] for its size.
//!
//! What a duplicate is worth: it is answered as done on the strength of the copy in custody. That copy is either
//! accepted, and then is exported or given up by a rule that has a name, the same for both copies; or it is refused
//! before it was accepted, and its own sender is told to send again. Whoever sent the duplicate is not told. So stages
//! behind this one should accept early: between `admit` and `accept` a sender that gave up waiting, repeated the span
//! and was answered for the repetition depends on the first try's receipt.
//!
//! Sixteen shards, by key: each batch is sorted by shard and each shard locked once, so threads seldom meet, a single
//! giant trace burdens all shards alike, and a filter is small enough that making or dropping one is no pause.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128_with_secret;

use self::windows::Windows;
use crate::config::settings::DedupSettings;
use crate::model::{Fate, SpanEntry, SpanId, Spans, Tick, TraceId, UnixNanos};

pub mod filter;
mod windows;

const SHARDS: usize = 16;
/// Keys that are looked up together; see [`filter::Filter::touch`].
const TOGETHER: usize = 32;
/// An empty custody set larger than this gives its memory back.
const KEEP_EMPTY: usize = 4096;

/// What makes two spans the same, as 128 bits of keyed hash over trace id, span id, kind and end time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpanKey(pub u128);

impl SpanKey {
    fn shard(self) -> usize {
        (self.0 >> 124) as usize
    }

    /// For the custody set: apart from the bits that choose the shard.
    fn hash(self) -> u64 {
        (self.0 >> 40) as u64
    }
}

/// The verdict on a batch's spans.
pub struct Admitted {
    /// Indexes into `Spans::spans` of true duplicates, ascending.
    pub duplicates: Vec<u32>,
    /// Keys of all others, in their order, now in custody: to be handed to [`Dedup::settle`] exactly once.
    pub keys: Vec<SpanKey>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct DedupStatus {
    pub duplicates: u64,
    pub admitted: u64,
    pub in_custody: u64,
    pub remembered: u64,
    pub filter_bytes: u64,
    /// Filled share of the newest filters' design load.
    pub load_ratio: f64,
    /// Estimated chance that a fresh span is taken for a duplicate, now.
    pub error_ratio: f64,
    /// How far back settled spans are remembered now, in seconds; below `wait_duration` under overload.
    pub window_seconds: f64,
}

/// One node's dedup; `&self` because all of ingest shares it (sharded inside by key, short locks).
pub struct Dedup {
    secret: [u8; 192],
    window: Duration,
    shards: [Mutex<Shard>; SHARDS],
}

struct Shard {
    custody: HashTable<SpanKey>,
    settled: Windows,
    admitted: u64,
    duplicates: u64,
}

impl Dedup {
    /// `seed` keys the hashes: never leaves the node.
    pub fn new(settings: &DedupSettings, seed: u64) -> Dedup {
        let mut secret = [0; 192];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut secret);
        let shard = |_| {
            let settled = Windows::new(settings.wait_duration, settings.max_memory_bytes / SHARDS);
            Mutex::new(Shard { custody: HashTable::new(), settled, admitted: 0, duplicates: 0 })
        };
        Dedup { secret, window: settings.wait_duration, shards: std::array::from_fn(shard) }
    }

    /// Tells duplicates from spans that are new, and takes the new ones into custody. Of equal spans in one batch the
    /// first is new.
    pub fn admit(&self, spans: &Spans, now: Tick) -> Admitted {
        self.admit_keys(spans.spans.iter().map(|span| self.key(span)).collect(), now)
    }

    /// [`Dedup::admit`] for spans whose keys are known; `duplicates` are indexes into `keys`.
    pub(crate) fn admit_keys(&self, mut keys: Vec<SpanKey>, now: Tick) -> Admitted {
        let mut duplicates = Vec::new();
        for_each_shard(&keys, |shard, indexes| lock(&self.shards[shard]).admit(&keys, indexes, now, &mut duplicates));
        if !duplicates.is_empty() {
            duplicates.sort_unstable();
            let mut rest = duplicates.iter().copied().peekable();
            let mut index = 0;
            keys.retain(|_| {
                let fresh = rest.next_if_eq(&index).is_none();
                index += 1;
                fresh
            });
        }
        Admitted { duplicates, keys }
    }

    /// Takes a span into custody that is known to be new to the filters. False: it is in custody already.
    pub(crate) fn take(&self, key: SpanKey) -> bool {
        let mut shard = lock(&self.shards[key.shard()]);
        let new = shard.take(key);
        shard.admitted += u64::from(new);
        shard.duplicates += u64::from(!new);
        new
    }

    /// Indexes of those that are in custody or settled, ascending. Takes none into custody.
    pub(crate) fn known(&self, keys: &[SpanKey], now: Tick) -> Vec<u32> {
        let mut known = Vec::new();
        for_each_shard(keys, |shard, indexes| lock(&self.shards[shard]).known(keys, indexes, now, &mut known));
        known.sort_unstable();
        known
    }

    /// How long settled spans are remembered at most.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// Custody of these ends: settled ones are remembered in the filters, others are free to come again.
    pub fn settle(&self, keys: &[SpanKey], fate: &Fate, now: Tick) {
        let settled = fate.is_settled();
        for_each_shard(keys, |shard, indexes| lock(&self.shards[shard]).settle(keys, indexes, settled, now));
    }

    pub fn status(&self, now: Tick) -> DedupStatus {
        let mut status = DedupStatus { window_seconds: f64::INFINITY, ..DedupStatus::default() };
        let (mut filled, mut room) = (0, 0);
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.settled.expire(now);
            status.duplicates += shard.duplicates;
            status.admitted += shard.admitted;
            status.in_custody += shard.custody.len() as u64;
            status.remembered += shard.settled.keys() as u64;
            status.filter_bytes += shard.settled.bytes() as u64;
            status.error_ratio += shard.settled.error_ratio() / SHARDS as f64;
            status.window_seconds = status.window_seconds.min(shard.settled.reach(now).as_secs_f64());
            let (keys, capacity) = shard.settled.load();
            filled += keys;
            room += capacity;
        }
        status.load_ratio = if room == 0 { 0.0 } else { filled as f64 / room as f64 };
        status
    }

    fn key(&self, span: &SpanEntry) -> SpanKey {
        self.key_of(&span.trace_id, span.span_id, span.kind, span.end)
    }

    /// The key of one span.
    pub(crate) fn key_of(&self, trace_id: &TraceId, span_id: SpanId, kind: u8, end: UnixNanos) -> SpanKey {
        let mut bytes = [0; 33];
        bytes[..16].copy_from_slice(&trace_id.0);
        bytes[16..24].copy_from_slice(&span_id.0);
        bytes[24..32].copy_from_slice(&end.0.to_le_bytes());
        bytes[32] = kind;
        SpanKey(xxh3_128_with_secret(&bytes, &self.secret))
    }
}

impl Shard {
    fn admit(&mut self, keys: &[SpanKey], indexes: &[u32], now: Tick, duplicates: &mut Vec<u32>) {
        self.settled.expire(now);
        let before = duplicates.len();
        for indexes in indexes.chunks(TOGETHER) {
            let mut group = [0; TOGETHER];
            for (slot, index) in group.iter_mut().zip(indexes) {
                *slot = keys[*index as usize].0;
            }
            let known = self.settled.contain(&group[..indexes.len()]);
            for (bit, index) in indexes.iter().enumerate() {
                if known >> bit & 1 == 1 || !self.take(keys[*index as usize]) {
                    duplicates.push(*index);
                }
            }
        }
        let found = (duplicates.len() - before) as u64;
        self.duplicates += found;
        self.admitted += indexes.len() as u64 - found;
    }

    fn known(&mut self, keys: &[SpanKey], indexes: &[u32], now: Tick, known: &mut Vec<u32>) {
        self.settled.expire(now);
        for indexes in indexes.chunks(TOGETHER) {
            let mut group = [0; TOGETHER];
            for (slot, index) in group.iter_mut().zip(indexes) {
                *slot = keys[*index as usize].0;
            }
            let settled = self.settled.contain(&group[..indexes.len()]);
            for (bit, index) in indexes.iter().enumerate() {
                let key = keys[*index as usize];
                if settled >> bit & 1 == 1 || self.custody.find(key.hash(), |other| *other == key).is_some() {
                    known.push(*index);
                }
            }
        }
    }

    /// Into custody; false if it is there already.
    fn take(&mut self, key: SpanKey) -> bool {
        use hashbrown::hash_table::Entry::{Occupied, Vacant};
        match self.custody.entry(key.hash(), |other| *other == key, |other| other.hash()) {
            Occupied(_) => false,
            Vacant(vacant) => {
                vacant.insert(key);
                true
            }
        }
    }

    fn settle(&mut self, keys: &[SpanKey], indexes: &[u32], settled: bool, now: Tick) {
        for indexes in indexes.chunks(TOGETHER) {
            let (mut group, mut len) = ([0; TOGETHER], 0);
            for index in indexes {
                let key = keys[*index as usize];
                if let Ok(held) = self.custody.find_entry(key.hash(), |other| *other == key) {
                    held.remove();
                    group[len] = key.0;
                    len += 1;
                }
            }
            if settled {
                self.settled.remember(&group[..len], now);
            }
        }
        if self.custody.is_empty() && self.custody.capacity() > KEEP_EMPTY {
            self.custody = HashTable::new();
        }
    }
}

/// Calls with each shard that has keys, and the indexes of those in their order.
fn for_each_shard(keys: &[SpanKey], mut call: impl FnMut(usize, &[u32])) {
    let mut ends = [0; SHARDS];
    for key in keys {
        ends[key.shard()] += 1;
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum - *end;
    }
    let mut order = vec![0; keys.len()];
    for (index, key) in keys.iter().enumerate() {
        let next = &mut ends[key.shard()];
        order[*next] = index as u32;
        *next += 1;
    }
    let mut begin = 0;
    for (shard, end) in ends.into_iter().enumerate() {
        if begin < end {
            call(shard, &order[begin..end]);
        }
        begin = end;
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
