//! Which spans of an open trace are there: exact, with next to no memory for small traces.
//!
//! A small trace has a word in which each span sets three bits. Spans that find one of theirs unset are new; the others,
//! few, are compared with the records of the trace. Above [`FEW`] spans comparing would be quadratic work at a sender's
//! wish: from there on all 64-bit hashes are kept, whose key nobody outside knows. Sets that have become large are cut up,
//! because a table of a million hashes that grows is a pause.

use hashbrown::HashTable;

use super::index::spread;

/// Spans that are compared one by one.
pub(super) const FEW: usize = 32;
/// Hashes above which one table becomes many.
const CUT: usize = 4096;
const TABLES: usize = 64;

#[derive(Default)]
pub(super) struct Seen {
    bits: u64,
    many: Option<Box<Many>>,
}

struct Many {
    tables: Vec<HashTable<u64>>,
}

impl Seen {
    /// Notes a span; false if it is there already. `there` compares it with all that are there.
    pub(super) fn note(&mut self, hash: u64, there: impl FnOnce() -> bool) -> bool {
        if let Some(many) = &mut self.many {
            return many.note(hash);
        }
        let bits = 1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63);
        if self.bits & bits == bits && there() {
            return false;
        }
        self.bits |= bits;
        true
    }

    pub(super) fn compares(&self) -> bool {
        self.many.is_none()
    }

    /// From now on with a set, in which these are.
    pub(super) fn keep(&mut self, hashes: impl Iterator<Item = u64>) {
        let many = self.many.insert(Box::new(Many { tables: vec![HashTable::new()] }));
        hashes.for_each(|hash| _ = many.note(hash));
    }

    /// Memory in use besides its own size.
    pub(super) fn bytes(&self) -> u64 {
        let Some(many) = &self.many else { return 0 };
        let tables = &many.tables;
        tables.iter().map(|table| table.allocation_size() as u64).sum::<u64>()
            + (size_of::<Many>() + tables.capacity() * size_of::<HashTable<u64>>()) as u64
    }
}

impl Many {
    fn note(&mut self, hash: u64) -> bool {
        use hashbrown::hash_table::Entry::{Occupied, Vacant};
        if let [one] = &mut self.tables[..]
            && one.len() >= CUT
        {
            let mut cut: Vec<HashTable<u64>> = (0..TABLES).map(|_| HashTable::new()).collect();
            for hash in one.drain() {
                cut[table_of(hash, TABLES)].insert_unique(spread(hash), hash, |hash| spread(*hash));
            }
            self.tables = cut;
        }
        let table = table_of(hash, self.tables.len());
        match self.tables[table].entry(spread(hash), |known| *known == hash, |known| spread(*known)) {
            Occupied(_) => false,
            Vacant(vacant) => {
                vacant.insert(hash);
                true
            }
        }
    }
}

fn table_of(hash: u64, tables: usize) -> usize {
    (hash >> 40) as usize % tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_exact_from_few_to_many() {
        let mut seen = Seen::default();
        let hash = |n: u64| spread(n + 1).rotate_left(17);
        let mut there: Vec<u64> = Vec::new();
        for n in 0..20_000 {
            if there.len() == FEW {
                seen.keep(there.iter().copied());
            }
            let new = seen.note(hash(n), || there.contains(&hash(n)));
            assert!(new, "{n}");
            there.push(hash(n));
            let again = hash(n / 2);
            assert!(!seen.note(again, || there.contains(&again)), "{n}");
        }
        assert!(seen.bytes() > 20_000 * 8 && seen.bytes() < 20_000 * 24);
    }
}
