//! Which batches of a peer were taken lately, so that one that comes twice is answered and not taken again.
//!
//! A batch is sent again when its answer was lost with the connection. Dedup at the owner would find its spans one by
//! one; this finds them all at once, and gives the sender the answer that it missed. It is a memory of what was
//! taken, never of what was not: an id that has been forgotten, or that was refused, counts as fresh.
//!
//! Taking a batch ends for certain: with what became of it, or when its [`Taking`] is dropped, since the task that took
//! it can be cut off at any await when its connection ends. An id that stayed "being taken" would turn its batch away
//! for ever, and with it everything behind it in the sender's queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::BootId;

/// Ids remembered for each peer. A sender has at most 64 batches under way and sends lost ones first.
const REMEMBERED: usize = 1024;

/// What is known of a batch id.
pub(super) enum Seen {
    /// Not seen, or not taken then: it is being taken from now on.
    Fresh(Taking),
    /// It came before and is being taken now.
    BeingTaken,
    /// Taken; so many of its spans were rejected.
    Taken { rejected: u32 },
}

/// The batch ids of one peer's present run.
#[derive(Default)]
struct Recent {
    boot: Option<BootId>,
    /// `None` while it is being taken.
    known: BTreeMap<u64, Option<u32>>,
    taken: VecDeque<u64>,
}

/// The ids of one peer, shared with the batches that are being taken.
#[derive(Clone, Default)]
pub(super) struct RecentIds(Arc<Mutex<Recent>>);

/// One batch being taken. Dropped without [`Taking::ended`] it was not taken.
pub(super) struct Taking {
    ids: RecentIds,
    boot: BootId,
    seq: u64,
    taken: Option<u32>,
}

impl RecentIds {
    /// What is known of a batch, which is being taken from now on if it is fresh.
    pub(super) fn begin(&self, boot: BootId, seq: u64) -> Seen {
        let mut recent = self.recent();
        if recent.boot != Some(boot) {
            *recent = Recent { boot: Some(boot), ..Recent::default() };
        }
        match recent.known.get(&seq) {
            Some(Some(rejected)) => Seen::Taken { rejected: *rejected },
            Some(None) => Seen::BeingTaken,
            None => {
                recent.known.insert(seq, None);
                Seen::Fresh(Taking { ids: self.clone(), boot, seq, taken: None })
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taking {
    /// How it ended: taken but for so many rejected spans, or `None`: refused.
    pub(super) fn ended(mut self, taken: Option<u32>) {
        self.taken = taken;
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.ids.recent().end(self.boot, self.seq, self.taken);
    }
}

impl Recent {
    fn end(&mut self, boot: BootId, seq: u64, taken: Option<u32>) {
        if self.boot != Some(boot) {
            return;
        }
        if taken.is_none() {
            self.known.remove(&seq);
            return;
        }
        self.known.insert(seq, taken);
        self.taken.push_back(seq);
        if self.taken.len() > REMEMBERED
            && let Some(oldest) = self.taken.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(ids: &RecentIds, boot: BootId, seq: u64) -> Taking {
        match ids.begin(boot, seq) {
            Seen::Fresh(taking) => taking,
            Seen::BeingTaken | Seen::Taken { .. } => panic!("{seq} is known"),
        }
    }

    fn rejected_of(ids: &RecentIds, boot: BootId, seq: u64) -> Option<u32> {
        match ids.begin(boot, seq) {
            Seen::Taken { rejected } => Some(rejected),
            Seen::Fresh(_) | Seen::BeingTaken => None,
        }
    }

    #[test]
    fn a_taken_batch_is_known_and_a_refused_one_is_fresh_again() {
        let (ids, boot) = (RecentIds::default(), BootId(1));
        let taking = fresh(&ids, boot, 5);
        assert!(matches!(ids.begin(boot, 5), Seen::BeingTaken));
        taking.ended(None);
        fresh(&ids, boot, 5).ended(Some(2));
        assert_eq!(rejected_of(&ids, boot, 5), Some(2));
    }

    #[test]
    fn a_batch_whose_taking_was_cut_off_is_fresh_again() {
        let (ids, boot) = (RecentIds::default(), BootId(1));
        drop(fresh(&ids, boot, 5));
        fresh(&ids, boot, 5).ended(Some(0));
    }

    #[test]
    fn another_run_of_the_peer_starts_from_nothing() {
        let ids = RecentIds::default();
        fresh(&ids, BootId(1), 5).ended(Some(0));
        let late = fresh(&ids, BootId(1), 6);
        let taking = fresh(&ids, BootId(2), 5);
        late.ended(Some(0));
        fresh(&ids, BootId(2), 6).ended(None);
        assert!(matches!(ids.begin(BootId(2), 5), Seen::BeingTaken));
        taking.ended(None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_fresh() {
        let (ids, boot) = (RecentIds::default(), BootId(1));
        (0..10_000).for_each(|seq| fresh(&ids, boot, seq).ended(Some(0)));
        let known = ids.recent().known.len();
        let taken = ids.recent().taken.len();
        assert_eq!((known, taken), (REMEMBERED, REMEMBERED));
        assert_eq!(rejected_of(&ids, boot, 9_999), Some(0));
        fresh(&ids, boot, 3).ended(None);
    }
}
