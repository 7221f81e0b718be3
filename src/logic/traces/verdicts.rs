//! Verdicts that outlive their traces: what comes late follows them.
//!
//! A verdict forgotten too early makes a late span a new trace, and a second verdict on a fragment. So they are many, small
//! and remembered by count as well as by time. An entry is a word: 48 bits of keyed hash and 16 of verdict; six more bits
//! chose its table, so that two traces are mistaken for each other once in 2^54 pairs. Kept and dropped traces have their
//! own room, as drops are usually many more and must not push out what was kept.
//!
//! Room is generations that follow each other. The oldest goes as a whole when the newest has its share of the count or of
//! the time, without looking at one entry. Least-recently-used order would need three times the memory for what happens
//! rarely: late spans come soon after. Tables are many and small, so that growing is no pause.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use super::Cause;
use super::index::spread;
use crate::logic::sampling::PolicyIndex;
use crate::model::Tick;

const TABLES: usize = 64;
/// The one that is being filled, and full ones: those alone are as many, and reach as far back, as was promised.
const GENERATIONS: usize = 3;
/// Verdicts for each open trace, at most times.
const PER_OPEN: usize = 10;
const FEWEST: usize = 4096;
const HASH: u64 = (1 << 48) - 1;
/// Policies above this are not remembered.
const NO_POLICY: u16 = 0x7ff;
/// Bits of a verdict's word above its policy.
const BY_CHANCE: u16 = 11;
const CAUSE: u16 = 12;
const WOULD_DROP: u16 = 15;

/// What is remembered of a decided trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) kept: bool,
    /// Kept for a dry run only.
    pub(super) would_drop: bool,
    pub(super) policy: Option<PolicyIndex>,
    /// Nothing but chance kept it, with the threshold that the policy writes to all of its traces. Where another policy
    /// wanted the trace too, a threshold on a late span would make backends count the trace several times.
    pub(super) by_chance: bool,
    pub(super) cause: Cause,
}

impl Remembered {
    fn encode(self) -> u16 {
        let policy = self.policy.unwrap_or(NO_POLICY).min(NO_POLICY);
        let by_chance = self.by_chance && policy < NO_POLICY;
        let flags = u16::from(by_chance) << BY_CHANCE | u16::from(self.would_drop) << WOULD_DROP;
        policy | (self.cause as u16) << CAUSE | flags
    }

    fn decode(bits: u16, kept: bool) -> Remembered {
        let policy = bits & NO_POLICY;
        let cause = Cause::ALL.get(usize::from(bits >> CAUSE & 7)).copied().unwrap_or(Cause::Waited);
        Remembered {
            kept,
            would_drop: bits >> WOULD_DROP & 1 == 1,
            policy: (policy < NO_POLICY).then_some(policy),
            by_chance: bits >> BY_CHANCE & 1 == 1,
            cause,
        }
    }
}

pub(super) struct Verdicts {
    kept: Memory,
    dropped: Memory,
    most: u64,
    time: Duration,
    /// Most open traces at once since the generation began, and in the one before.
    peak: [usize; 2],
}

impl Verdicts {
    /// 0: as many as ten times the most open traces there were. Not above `max_bytes` in any case, but for an empty shell.
    pub(super) fn new(kept: usize, dropped: usize, time: Duration, max_bytes: u64) -> Verdicts {
        let memory = |count| Memory { count, generations: VecDeque::new(), forgotten: None, bytes: 0 };
        Verdicts { kept: memory(kept), dropped: memory(dropped), most: max_bytes, time, peak: [0; 2] }
    }

    /// `open`: traces that are open.
    pub(super) fn remember(&mut self, hash: u64, verdict: Remembered, open: usize, now: Tick) {
        self.peak[0] = self.peak[0].max(open);
        let peak = self.peak[0].max(self.peak[1]);
        let (memory, other) = match verdict.kept {
            true => (&mut self.kept, self.dropped.bytes),
            false => (&mut self.dropped, self.kept.bytes),
        };
        // One kind may have what the other does not use, and neither is without room.
        let most = self.most.saturating_sub(other).max(self.most / 8);
        if memory.insert(hash, verdict.encode(), peak, most, self.time, now) {
            self.peak = [open, self.peak[0]];
        }
        // What one kind took while the other was small it gives back when that grows.
        while self.bytes() > self.most {
            let larger = if self.kept.bytes > self.dropped.bytes { &mut self.kept } else { &mut self.dropped };
            if larger.generations.len() < 2 {
                break;
            }
            larger.forget();
        }
    }

    pub(super) fn find(&self, hash: u64) -> Option<Remembered> {
        let kept = self.kept.find(hash).map(|bits| Remembered::decode(bits, true));
        kept.or_else(|| self.dropped.find(hash).map(|bits| Remembered::decode(bits, false)))
    }

    pub(super) fn expire(&mut self, now: Tick) {
        self.kept.expire(self.time, now);
        self.dropped.expire(self.time, now);
    }

    /// How far back all of them are remembered.
    pub(super) fn reach(&self, now: Tick) -> Duration {
        let of = |memory: &Memory| memory.forgotten.map_or(self.time, |at| now.since(at).min(self.time));
        of(&self.kept).min(of(&self.dropped))
    }

    /// Kept and dropped ones that are remembered.
    pub(super) fn len(&self) -> (u64, u64) {
        let of = |memory: &Memory| memory.generations.iter().map(|generation| generation.len as u64).sum();
        (of(&self.kept), of(&self.dropped))
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.bytes + self.dropped.bytes
    }
}

struct Memory {
    count: usize,
    /// The newest is the last.
    generations: VecDeque<Generation>,
    /// When the youngest verdict was made that is forgotten.
    forgotten: Option<Tick>,
    bytes: u64,
}

struct Generation {
    tables: Vec<HashTable<u64>>,
    len: usize,
    bytes: u64,
    begun: Tick,
    last: Tick,
}

impl Memory {
    /// True if a generation has begun with it.
    fn insert(&mut self, hash: u64, bits: u16, peak: usize, most: u64, time: Duration, now: Tick) -> bool {
        let whole = if self.count == 0 { peak.saturating_mul(PER_OPEN).max(FEWEST) } else { self.count };
        let share = whole.div_ceil(GENERATIONS - 1).max(1);
        let slice = time / (GENERATIONS - 1) as u32;
        let most = most / GENERATIONS as u64;
        let full = |newest: &Generation| {
            newest.len >= share || newest.bytes + newest.growth(hash) > most || now.since(newest.begun) >= slice
        };
        let begins = self.generations.back().is_none_or(full);
        if begins {
            while self.generations.len() >= GENERATIONS {
                self.forget();
            }
            self.generations.push_back(Generation::new(now));
            self.bytes += self.generations.back().map_or(0, |newest| newest.bytes);
        }
        if let Some(newest) = self.generations.back_mut() {
            self.bytes += newest.insert(hash, bits);
            newest.last = now;
        }
        begins
    }

    fn forget(&mut self) {
        if let Some(oldest) = self.generations.pop_front() {
            self.bytes -= oldest.bytes;
            self.forgotten = Some(oldest.last);
        }
    }

    fn find(&self, hash: u64) -> Option<u16> {
        self.generations.iter().rev().find_map(|generation| generation.find(hash))
    }

    fn expire(&mut self, time: Duration, now: Tick) {
        while self.generations.front().is_some_and(|oldest| now.since(oldest.last) > time) {
            self.forget();
        }
    }
}

fn place(hash: u64) -> (usize, u64) {
    ((hash >> 58) as usize, hash & HASH)
}

impl Generation {
    fn new(now: Tick) -> Generation {
        let tables: Vec<HashTable<u64>> = (0..TABLES).map(|_| HashTable::new()).collect();
        let bytes = (TABLES * size_of::<HashTable<u64>>()) as u64;
        Generation { tables, len: 0, bytes, begun: now, last: now }
    }

    /// How much more memory one more entry takes: tables that are full double.
    fn growth(&self, hash: u64) -> u64 {
        let table = &self.tables[place(hash).0];
        if table.len() < table.capacity() { 0 } else { table.allocation_size() as u64 }
    }

    /// How much more memory it takes then.
    fn insert(&mut self, hash: u64, bits: u16) -> u64 {
        let (table, hash) = place(hash);
        let table = &mut self.tables[table];
        let before = table.allocation_size();
        table.insert_unique(spread(hash), hash << 16 | u64::from(bits), |entry| spread(entry >> 16));
        let more = (table.allocation_size() - before) as u64;
        self.len += 1;
        self.bytes += more;
        more
    }

    fn find(&self, hash: u64) -> Option<u16> {
        let (table, hash) = place(hash);
        self.tables[table].find(spread(hash), |entry| entry >> 16 == hash).map(|entry| *entry as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_remembered_as_it_was() {
        for cause in Cause::ALL {
            for policy in [None, Some(0), Some(1), Some(NO_POLICY - 1)] {
                for (would_drop, by_chance) in [(false, false), (false, true), (true, false), (true, true)] {
                    let by_chance = by_chance && policy.is_some();
                    let verdict = Remembered { kept: true, would_drop, policy, by_chance, cause };
                    assert_eq!(Remembered::decode(verdict.encode(), true), verdict);
                }
            }
        }
    }

    #[test]
    fn a_policy_beyond_the_room_is_no_policy_and_not_another() {
        for policy in [NO_POLICY, NO_POLICY + 1, u16::MAX] {
            let verdict = Remembered {
                kept: true,
                would_drop: false,
                policy: Some(policy),
                by_chance: true,
                cause: Cause::Waited,
            };
            let remembered = Remembered::decode(verdict.encode(), true);
            assert_eq!(remembered, Remembered { policy: None, by_chance: false, ..verdict });
        }
    }

    #[test]
    fn one_kind_may_fill_the_room_of_both_and_fills_it_well() {
        const ROOM: u64 = 4 << 20;
        let mut verdicts = Verdicts::new(0, 0, Duration::from_secs(600), ROOM);
        let dropped =
            Remembered { kept: false, would_drop: false, policy: None, by_chance: false, cause: Cause::Waited };
        for number in 0..2_000_000_u64 {
            verdicts.remember(spread(number + 1), dropped, 1_000_000, Tick(number));
            assert!(verdicts.bytes() <= ROOM);
        }
        let (_, remembered) = verdicts.len();
        assert!(remembered * 24 > ROOM, "{remembered} verdicts in {ROOM} bytes");
        // The other kind has room nevertheless.
        for number in 0..10_000_u64 {
            let kept = Remembered { kept: true, ..dropped };
            verdicts.remember(spread(number | 1 << 40), kept, 1_000_000, Tick(number));
        }
        assert!(verdicts.bytes() <= ROOM);
        assert_eq!(verdicts.find(spread(9_999 | 1 << 40)).map(|verdict| verdict.kept), Some(true));
    }

    #[test]
    fn verdicts_take_no_more_than_their_share_whatever_was_asked_for() {
        let (time, most) = (Duration::from_secs(3_600), 1 << 20);
        let mut verdicts = Verdicts::new(usize::MAX, usize::MAX, time, most);
        let shells = (2 * GENERATIONS * TABLES * size_of::<HashTable<u64>>()) as u64;
        let mut highest = 0;
        for n in 0..200_000_u64 {
            let kept = n.is_multiple_of(2);
            let verdict = Remembered { kept, would_drop: false, policy: None, by_chance: false, cause: Cause::Waited };
            verdicts.remember(spread(n).rotate_left(20), verdict, usize::MAX, Tick(n));
            highest = highest.max(verdicts.bytes());
        }
        assert!(highest > most / 4 && highest <= most + shells, "{highest}");
        assert!(verdicts.find(spread(199_999).rotate_left(20)).is_some());
    }
}
