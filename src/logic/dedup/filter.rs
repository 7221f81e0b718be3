//! What one time window remembers: a set of span keys that may, very rarely, take a stranger for a member.
//!
//! Whoever is wrongly taken for a member is a lost span, so the rate to reach is below 1e-9, and it must hold at the
//! design load by construction. Lines of 64 bytes, each with room for twelve 40-bit fingerprints: a key's hash names
//! its line and its fingerprint, a full line spills into the next. One cache line is read for most look-ups, a
//! stranger is compared with some ten fingerprints of 2^-40 each.
//!
//! Measured with 10 M random keys (`benches/logic.rs`, CPU time on one Zen 5 core), each filter nearly full:
//!
//! | | bytes a key | look up | insert | error |
//! |---|---|---|---|---|
//! | `bloomfilter` 3.0, set to 1e-9 | 5.4 | 182 ns | 720 ns | 1e-9 |
//! | `fastbloom` 0.17, set to 1e-9 | 5.4 | 132 ns | 356 ns | 1e-9 |
//! | `fastbloom` 0.17, fed with our hash | 5.4 | 39 ns | 297 ns | 1e-9 |
//! | two blocked Bloom filters of 36 bits a key | 9.0 | 39 ns | 96 ns | 4e-10 |
//! | these lines | 7.1 | 38 ns | 11 ns | 2e-11 |
//!
//! A Bloom filter for 1e-9 sets thirty bits in thirty places of memory for every span, a blocked one alone cannot
//! reach 1e-9 at any size worth having, and all of them get worse without limit once they are past their load. Here a
//! full table refuses, and the error grows with the load in proportion. What it costs is 1.7 bytes a key.
//! An exact table of 64-bit fingerprints takes 11 bytes at the same load, for an error that nobody can tell apart.
//!
//! The table is allocated zeroed, which costs nothing until a page is touched, and never grows: no moment exists in
//! which all of it is hashed again. It cannot forget a single key; whole tables are dropped instead.

use std::hint::black_box;

/// Words of a line: twelve low halves of fingerprints, three words with their high bytes, one count.
const WORDS: usize = 16;
const SLOTS: usize = 12;
const HIGH: usize = SLOTS;
const COUNT: usize = 15;
/// Design load of a line: at 9 of 12, one in five look-ups reads a second line.
pub(super) const FILL: usize = 9;

pub(super) const LINE_BYTES: usize = WORDS * 4;

/// A set of keys, sized once.
pub struct Filter {
    words: Vec<u32>,
    /// Where the first line begins, so that none straddles two cache lines.
    offset: usize,
    lines: usize,
    len: usize,
}

struct Print {
    line: usize,
    low: u32,
    high: u8,
}

impl Filter {
    /// Room for at least `keys` keys, in at most `max_bytes` (and at least one line).
    pub fn new(keys: usize, max_bytes: usize) -> Filter {
        let most = (max_bytes / LINE_BYTES).saturating_sub(1).max(1);
        let lines = keys.div_ceil(FILL).clamp(1, most);
        let words = vec![0u32; (lines + 1) * WORDS];
        let offset = words.as_ptr().align_offset(LINE_BYTES).min(WORDS - 1);
        Filter { words, offset, lines, len: 0 }
    }

    /// Keys in it.
    pub fn keys(&self) -> usize {
        self.len
    }

    /// Keys it may hold: the design load.
    pub fn capacity(&self) -> usize {
        self.lines * FILL
    }

    pub fn bytes(&self) -> usize {
        self.words.len() * 4
    }

    /// The chance that a stranger is taken for a member, from above: it is compared with what its line holds, and
    /// with what the lines hold that this one may have spilled into.
    pub fn error_ratio(&self) -> f64 {
        let compared = 2.0 * self.len as f64 / self.lines as f64;
        compared / (1u64 << 40) as f64
    }

    /// Asks the memory for a key's line; done for many keys before the first is looked up, the waits overlap.
    pub fn touch(&self, key: u128) {
        black_box(self.line(self.print(key).line)[COUNT]);
    }

    pub fn contains(&self, key: u128) -> bool {
        let Print { line: mut at, low, high } = self.print(key);
        // Ends: at the design load a quarter of all slots is free.
        loop {
            let line = self.line(at);
            if holds(line, low, high) {
                return true;
            }
            if (line[COUNT] as usize) < SLOTS {
                return false;
            }
            at = self.after(at);
        }
    }

    /// Adds a key that is not in it. False if it is full: nothing was added.
    pub fn insert(&mut self, key: u128) -> bool {
        if self.len >= self.capacity() {
            return false;
        }
        let Print { line: mut at, low, high } = self.print(key);
        while self.line(at)[COUNT] as usize >= SLOTS {
            at = self.after(at);
        }
        let offset = self.offset;
        let line = &mut self.words[offset..].as_chunks_mut::<WORDS>().0[at];
        let slot = line[COUNT] as usize % SLOTS;
        line[slot] = low;
        line[HIGH + slot / 4] |= u32::from(high) << (8 * (slot % 4));
        line[COUNT] += 1;
        self.len += 1;
        true
    }

    fn line(&self, at: usize) -> &[u32; WORDS] {
        &self.words[self.offset..].as_chunks::<WORDS>().0[at]
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.lines { 0 } else { at + 1 }
    }

    /// The line comes from bits 60 to 123, the fingerprint from bits 0 to 39: no bit serves both.
    fn print(&self, key: u128) -> Print {
        let line = ((u128::from((key >> 60) as u64) * self.lines as u128) >> 64) as usize;
        Print { line, low: key as u32, high: (key >> 32) as u8 }
    }
}

fn holds(line: &[u32; WORDS], low: u32, high: u8) -> bool {
    // Without a branch per slot, so that it becomes three vector comparisons.
    let maybe = line[..SLOTS].iter().fold(0, |found, word| found | u32::from(*word == low));
    maybe != 0
        && (0..line[COUNT] as usize)
            .any(|slot| line[slot] == low && (line[HIGH + slot / 4] >> (8 * (slot % 4))) as u8 == high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    fn key(n: u64) -> u128 {
        xxh3_128(&n.to_le_bytes())
    }

    #[test]
    fn it_holds_what_it_promised_and_not_one_more() {
        let mut filter = Filter::new(1000, 1 << 20);
        let capacity = filter.capacity() as u64;
        assert!((1000..1010).contains(&capacity));
        assert!((0..capacity).all(|n| filter.insert(key(n))));
        assert!(!filter.insert(key(capacity)));
        assert!((0..capacity).all(|n| filter.contains(key(n))));
        assert_eq!((filter.keys() as u64, filter.contains(key(capacity))), (capacity, false));
        assert!(filter.error_ratio() < 2e-11);
    }

    #[test]
    fn a_full_one_takes_no_stranger_for_a_member() {
        let mut filter = Filter::new(100_000, 1 << 30);
        let capacity = filter.capacity() as u64;
        assert!((0..capacity).all(|n| filter.insert(key(n))));
        assert_eq!((capacity..capacity + 1_000_000).filter(|n| filter.contains(key(*n))).count(), 0);
    }

    #[test]
    fn the_error_is_what_is_stated_measured_with_fingerprints_cut_to_twenty_bits() {
        let cut = |n: u64| key(n) & !(0xf_ffff << 20);
        let mut filter = Filter::new(50_000, 1 << 30);
        let capacity = filter.capacity() as u64;
        assert!((0..capacity).all(|n| filter.insert(cut(n))));
        let strangers = 2_000_000;
        let mistaken = (capacity..capacity + strangers).filter(|n| filter.contains(cut(*n))).count();
        let (measured, stated) = (mistaken as f64 / strangers as f64, filter.error_ratio() * (1 << 20) as f64);
        assert!(measured < stated && measured > stated / 3.0, "{measured} {stated}");
    }

    #[test]
    fn keys_that_share_all_but_their_fingerprint_spill_over_and_are_found() {
        let mut filter = Filter::new(90, 1 << 20);
        let same_line = |n: u128| (0xffff_u128 << 112) | n;
        assert!((0..90).all(|n| filter.insert(same_line(n))));
        assert!((0..90).all(|n| filter.contains(same_line(n))));
        assert!(!filter.contains(same_line(91)) && !filter.contains(0));
    }

    #[test]
    fn fingerprints_that_differ_in_their_high_byte_only_are_told_apart() {
        let mut filter = Filter::new(9, 1 << 20);
        assert!(filter.insert(0x05_0000_0007) && filter.insert(0x80_0000_0007));
        assert!(filter.contains(0x05_0000_0007) && filter.contains(0x80_0000_0007));
        assert!(!filter.contains(0x07_0000_0007) && !filter.contains(7));
    }

    #[test]
    fn memory_is_bounded_before_capacity_is_reached() {
        let filter = Filter::new(1 << 40, 1 << 16);
        assert!(filter.bytes() <= 1 << 16 && filter.capacity() > 8000);
        assert_eq!(Filter::new(0, 0).capacity(), FILL);
    }
}
