//! Entries with a number that stays, in chunks: growing moves nothing, and a chunk that has become empty is given back.

use std::collections::BTreeSet;

/// No entry has this number.
pub(super) const NONE: u32 = u32::MAX;
/// Entries of a chunk: the bits of a word.
const CHUNK: u32 = u64::BITS;

struct Chunk<T> {
    used: u64,
    entries: Box<[Option<T>]>,
}

pub(super) struct Slab<T> {
    chunks: Vec<Option<Chunk<T>>>,
    /// Chunks with room. The lowest is filled first, so that the others can empty.
    roomy: BTreeSet<u32>,
    /// Numbers without a chunk.
    vacant: BTreeSet<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), roomy: BTreeSet::new(), vacant: BTreeSet::new() }
    }

    pub(super) fn insert(&mut self, entry: T) -> u32 {
        let number = match self.roomy.first() {
            Some(number) => *number,
            None => self.add_chunk(),
        };
        let mut slot = 0;
        if let Some(Some(chunk)) = self.chunks.get_mut(number as usize) {
            slot = chunk.used.trailing_ones().min(CHUNK - 1);
            chunk.used |= 1 << slot;
            chunk.entries[slot as usize] = Some(entry);
            if chunk.used == u64::MAX {
                self.roomy.remove(&number);
            }
        }
        number * CHUNK + slot
    }

    fn add_chunk(&mut self) -> u32 {
        let number = self.vacant.pop_first().unwrap_or(self.chunks.len() as u32);
        if number as usize == self.chunks.len() {
            self.chunks.push(None);
        }
        let entries = (0..CHUNK).map(|_| None).collect();
        self.chunks[number as usize] = Some(Chunk { used: 0, entries });
        self.roomy.insert(number);
        number
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (at, slot) = (number / CHUNK, number % CHUNK);
        let place = self.chunks.get_mut(at as usize)?;
        let chunk = place.as_mut()?;
        let entry = chunk.entries[slot as usize].take()?;
        chunk.used &= !(1 << slot);
        if chunk.used == 0 {
            *place = None;
            self.roomy.remove(&at);
            self.vacant.insert(at);
            while let Some(None) = self.chunks.last() {
                self.chunks.pop();
                self.vacant.remove(&(self.chunks.len() as u32));
            }
        } else {
            self.roomy.insert(at);
        }
        Some(entry)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let chunk = self.chunks.get((number / CHUNK) as usize)?.as_ref()?;
        chunk.entries[(number % CHUNK) as usize].as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut((number / CHUNK) as usize)?.as_mut()?;
        chunk.entries[(number % CHUNK) as usize].as_mut()
    }

    /// Memory in use, without what entries point to.
    pub(super) fn bytes(&self) -> u64 {
        let chunks = self.chunks.len() - self.vacant.len();
        (self.chunks.capacity() * size_of::<Option<Chunk<T>>>() + chunks * CHUNK as usize * size_of::<Option<T>>())
            as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_memory_of_what_is_gone_is_given_back() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..1_000_u32).map(|value| slab.insert(value)).collect();
        let full = slab.bytes();
        for number in &numbers[..990] {
            assert_eq!(slab.remove(*number), Some(*number));
            assert_eq!(slab.remove(*number), None);
        }
        assert_eq!((slab.get(995), slab.get(3)), (Some(&995), None));
        assert_eq!(slab.insert(7), 960, "what is in use is filled first");
        numbers[990..].iter().for_each(|number| assert!(slab.remove(*number).is_some()));
        slab.remove(960);
        assert!(slab.bytes() < full / 10);
        assert_eq!(slab.insert(1), 0);
    }
}
