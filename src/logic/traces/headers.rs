//! Resources and scopes, each kept once.
//!
//! The same few hundred bytes of a resource come with every batch of a service. They are interned by content, as long as a
//! span that is held stands under them. A batch asks once per scope: the content is hashed where it lies, and copied only
//! if it is new.

use std::sync::Arc;

use super::index::Index;
use super::keys::Keys;
use super::slab::{NONE, Slab};
use crate::logic::trace::{Header, Resource};
use crate::model::{ByteRange, ResourceEntry, Spans};

/// About what an entry needs besides what it points to: counts of the `Arc`s, and what the allocator adds.
const EXTRA: usize = 64;

pub(super) struct Interned {
    pub(super) header: Arc<Header>,
    /// Equal for equal resources, and for no others that are there.
    pub(super) resource: u32,
    hash: u64,
    references: u64,
    bytes: u64,
}

struct Above {
    resource: Resource,
    hash: u64,
    /// Headers that stand below it.
    references: u64,
    bytes: u64,
}

pub(super) struct Headers {
    entries: Slab<Interned>,
    index: Index,
    resources: Slab<Above>,
    by_resource: Index,
    bytes: u64,
}

impl Headers {
    pub(super) fn new() -> Headers {
        Headers {
            entries: Slab::new(),
            index: Index::new(),
            resources: Slab::new(),
            by_resource: Index::new(),
            bytes: 0,
        }
    }

    /// The number of a resource, now with one more reference, and the bytes it takes if it is new.
    pub(super) fn intern_resource(&mut self, spans: &Spans, resource: u32, keys: &Keys) -> (u32, u64) {
        let from = &spans.resources[resource as usize];
        let bytes = &*spans.bytes;
        let parts = [
            hash_of(&from.other_fields, bytes, keys),
            hash_of(&from.resource, bytes, keys),
            u64::from(from.resource.is_empty()),
        ];
        let hash = mixed(&parts, keys);
        let same = |number: u32| self.resources.get(number).is_some_and(|above| is(&above.resource, from, bytes));
        if let Some(number) = self.by_resource.find(hash, same) {
            self.hold_resource(number);
            return (number, 0);
        }
        let resource = Resource::of(spans, resource);
        let taken = resource.other_fields.len()
            + resource.body.as_deref().map_or(0, <[u8]>::len)
            + resource.cluster.len()
            + resource.service.len()
            + 2 * EXTRA;
        let number = self.resources.insert(Above { resource, hash, references: 1, bytes: taken as u64 });
        self.by_resource.insert(hash, number);
        self.bytes += taken as u64;
        (number, taken as u64)
    }

    /// The number of a scope's header, now with one more reference, and the bytes it takes if it is new. `resource` is the
    /// number of the scope's resource.
    pub(super) fn intern(&mut self, spans: &Spans, scope: u32, resource: u32, keys: &Keys) -> (u32, u64) {
        let fields = &spans.scopes[scope as usize].other_fields;
        let bytes = &*spans.bytes;
        let hash = mixed(&[resource.into(), hash_of(fields, bytes, keys)], keys);
        let same = |number: u32| {
            let known = self.entries.get(number);
            known.is_some_and(|known| known.resource == resource && equal(fields, bytes, &known.header.scope_fields))
        };
        if let Some(number) = self.index.find(hash, same) {
            self.hold(number, 1);
            return (number, 0);
        }
        let Some(above) = self.resources.get_mut(resource) else { return (NONE, 0) };
        above.references += 1;
        let header = Header::below(&above.resource, spans, scope);
        let taken = header.scope_fields.len() + size_of::<Header>() + EXTRA;
        let entry = Interned { header: Arc::new(header), resource, hash, references: 1, bytes: taken as u64 };
        let number = self.entries.insert(entry);
        self.index.insert(hash, number);
        self.bytes += taken as u64;
        (number, taken as u64)
    }

    pub(super) fn get(&self, number: u32) -> Option<&Interned> {
        self.entries.get(number)
    }

    pub(super) fn hold(&mut self, number: u32, times: u64) {
        if let Some(entry) = self.entries.get_mut(number) {
            entry.references += times;
        }
    }

    fn hold_resource(&mut self, number: u32) {
        if let Some(above) = self.resources.get_mut(number) {
            above.references += 1;
        }
    }

    pub(super) fn release(&mut self, number: u32, times: u64) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        entry.references = entry.references.saturating_sub(times);
        if entry.references == 0 {
            let (hash, resource) = (entry.hash, entry.resource);
            self.bytes -= entry.bytes;
            self.entries.remove(number);
            self.index.remove(hash, number);
            self.release_resource(resource);
        }
    }

    pub(super) fn release_resource(&mut self, number: u32) {
        let Some(above) = self.resources.get_mut(number) else { return };
        above.references = above.references.saturating_sub(1);
        if above.references == 0 {
            let hash = above.hash;
            self.bytes -= above.bytes;
            self.resources.remove(number);
            self.by_resource.remove(hash, number);
        }
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        let books = self.entries.bytes() + self.index.bytes() + self.resources.bytes() + self.by_resource.bytes();
        self.bytes + books
    }
}

/// Of the bytes at all ranges, one behind the other.
fn hash_of(ranges: &[ByteRange], bytes: &[u8], keys: &Keys) -> u64 {
    match ranges {
        [] => keys.bytes(&[]),
        [one] => keys.bytes(one.of(bytes)),
        many => keys.bytes(&many.iter().flat_map(|range| range.of(bytes)).copied().collect::<Vec<u8>>()),
    }
}

fn is(known: &Resource, from: &ResourceEntry, bytes: &[u8]) -> bool {
    known.body.is_some() != from.resource.is_empty()
        && equal(&from.other_fields, bytes, &known.other_fields)
        && equal(&from.resource, bytes, known.body.as_deref().unwrap_or_default())
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
