//! From a keyed hash to a number: where a trace or a header is kept.
//!
//! One hash table of a million entries stops everything for tens of milliseconds when it grows. Sixty-four of them grow
//! one at a time. An entry keeps 32 bits of its hash, so that growing looks at nothing but the table, and a look-up rarely
//! looks at anything but what it is after.

use hashbrown::HashTable;

const TABLES: usize = 64;
/// A table with more room than this gives some back when it is nearly empty.
const KEEP: usize = 64;

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    number: u32,
}

pub(super) struct Index {
    tables: Vec<HashTable<Slot>>,
    bytes: u64,
}

/// All tables get another hash than the one that chose the table.
pub(super) fn spread(tag: u64) -> u64 {
    tag.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn place(hash: u64) -> (usize, u32) {
    ((hash >> 58) as usize, (hash >> 26) as u32)
}

impl Index {
    pub(super) fn new() -> Index {
        Index {
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
            bytes: (TABLES * size_of::<HashTable<Slot>>()) as u64,
        }
    }

    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (table, tag) = place(hash);
        self.tables[table].find(spread(tag.into()), |slot| slot.tag == tag && is(slot.number)).map(|slot| slot.number)
    }

    /// There is no such number yet.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        let (table, tag) = place(hash);
        let table = &mut self.tables[table];
        let before = table.allocation_size();
        table.insert_unique(spread(tag.into()), Slot { tag, number }, |slot| spread(slot.tag.into()));
        self.bytes += (table.allocation_size() - before) as u64;
    }

    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let (table, tag) = place(hash);
        let table = &mut self.tables[table];
        if let Ok(entry) = table.find_entry(spread(tag.into()), |slot| slot.number == number) {
            entry.remove();
        }
        if table.capacity() > KEEP && table.len() < table.capacity() / 8 {
            let before = table.allocation_size();
            table.shrink_to(table.len() * 2, |slot| spread(slot.tag.into()));
            self.bytes -= (before - table.allocation_size()) as u64;
        }
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
