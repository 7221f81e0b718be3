//! Resources and scopes, each kept once.
//!
//! The same few hundred bytes of a resource come with every batch of a service. They are interned by content, as long as a
//! span that is held stands under them. A batch asks once per scope: the content is hashed where it lies, and copied only
//! if it is new.

use std::sync::Arc;

use super::index::Index;
use super::keys::Keys;
use super::slab::Slab;
use crate::logic::trace::Header;
use crate::model::{ByteRange, Spans};

/// About what an entry needs besides the bytes that it was made from: cluster, service, counts of the `Arc`s.
const EXTRA: usize = 128;

pub(super) struct Interned {
    pub(super) header: Arc<Header>,
    /// Equal for equal resources.
    pub(super) resource: u64,
    hash: u64,
    references: u64,
    bytes: u64,
}

pub(super) struct Headers {
    entries: Slab<Interned>,
    index: Index,
    bytes: u64,
    joined: Vec<u8>,
}

impl Headers {
    pub(super) fn new() -> Headers {
        Headers { entries: Slab::new(), index: Index::new(), bytes: 0, joined: Vec::new() }
    }

    /// The number of a scope's header, now with one more reference, and the bytes it takes if it is new.
    pub(super) fn intern(&mut self, spans: &Spans, scope: u32, keys: &Keys) -> (u32, u64) {
        let above = &spans.scopes[scope as usize];
        let from = &spans.resources[above.resource as usize];
        let bytes = &*spans.bytes;
        let resource = [
            self.hash(&from.other_fields, bytes, keys),
            self.hash(&from.resource, bytes, keys),
            u64::from(from.resource.is_empty()),
        ];
        let resource = mixed(&resource, keys);
        let hash = mixed(&[resource, self.hash(&above.other_fields, bytes, keys)], keys);
        let same = |number: u32| {
            let known = self.entries.get(number).map(|entry| &*entry.header);
            known.is_some_and(|known| {
                known.resource.is_some() != from.resource.is_empty()
                    && equal(&from.other_fields, bytes, &known.resource_fields)
                    && equal(&from.resource, bytes, known.resource.as_deref().unwrap_or_default())
                    && equal(&above.other_fields, bytes, &known.scope_fields)
            })
        };
        if let Some(number) = self.index.find(hash, same) {
            self.hold(number, 1);
            return (number, 0);
        }
        let header = Header::of(spans, scope);
        let taken = header.resource_fields.len()
            + header.resource.as_ref().map_or(0, |resource| resource.len())
            + header.scope_fields.len()
            + header.cluster.len()
            + header.service.len()
            + size_of::<Header>()
            + EXTRA;
        let entry = Interned { header: Arc::new(header), resource, hash, references: 1, bytes: taken as u64 };
        let number = self.entries.insert(entry);
        self.index.insert(hash, number);
        self.bytes += taken as u64;
        (number, taken as u64)
    }

    /// Of the bytes at all ranges, one behind the other.
    fn hash(&mut self, ranges: &[ByteRange], bytes: &[u8], keys: &Keys) -> u64 {
        match ranges {
            [] => keys.bytes(&[]),
            [one] => keys.bytes(one.of(bytes)),
            many => {
                self.joined.clear();
                many.iter().for_each(|range| self.joined.extend_from_slice(range.of(bytes)));
                let hash = keys.bytes(&self.joined);
                self.joined = Vec::new();
                hash
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&Interned> {
        self.entries.get(number)
    }

    pub(super) fn hold(&mut self, number: u32, times: u64) {
        if let Some(entry) = self.entries.get_mut(number) {
            entry.references += times;
        }
    }

    pub(super) fn release(&mut self, number: u32, times: u64) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        entry.references = entry.references.saturating_sub(times);
        if entry.references == 0 {
            let hash = entry.hash;
            self.bytes -= entry.bytes;
            self.entries.remove(number);
            self.index.remove(hash, number);
        }
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.entries.bytes() + self.index.bytes()
    }
}

fn mixed(hashes: &[u64], keys: &Keys) -> u64 {
    let mut bytes = [0; 24];
    for (place, hash) in bytes.chunks_mut(8).zip(hashes) {
        place.copy_from_slice(&hash.to_le_bytes());
    }
    keys.bytes(&bytes[..8 * hashes.len().min(3)])
}

fn equal(ranges: &[ByteRange], bytes: &[u8], mut known: &[u8]) -> bool {
    for range in ranges {
        match known.strip_prefix(range.of(bytes)) {
            Some(rest) => known = rest,
            None => return false,
        }
    }
    known.is_empty()
}
