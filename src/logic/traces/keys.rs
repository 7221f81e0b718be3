//! The hashes of one shard, keyed so that nobody outside can choose ids that meet.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_secret;

use crate::model::{SpanId, TraceId, UnixNanos};

/// Sets these hashes apart from others that follow from the same seed.
const DOMAIN: u64 = 0x7472_6163_6573_0001;

pub(super) struct Keys {
    secret: [u8; 192],
}

impl Keys {
    pub(super) fn new(seed: u64) -> Keys {
        let mut secret = [0; 192];
        ChaCha8Rng::seed_from_u64(seed ^ DOMAIN).fill_bytes(&mut secret);
        Keys { secret }
    }

    pub(super) fn trace(&self, id: &TraceId) -> u64 {
        self.bytes(&id.0)
    }

    /// What tells spans of one trace apart: see [`crate::logic::dedup`].
    pub(super) fn span(&self, id: SpanId, kind: u8, end: UnixNanos) -> u64 {
        let mut bytes = [0; 17];
        bytes[..8].copy_from_slice(&id.0);
        bytes[8..16].copy_from_slice(&end.0.to_le_bytes());
        bytes[16] = kind;
        self.bytes(&bytes)
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> u64 {
        xxh3_64_with_secret(bytes, &self.secret)
    }
}
