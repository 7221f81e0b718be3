//! Which batches of a peer were taken lately, so that one that comes twice is answered and not taken again.
//!
//! A batch is sent again when its answer was lost with the connection. Dedup at the owner would find its spans one by
//! one; this finds them all at once, and gives the sender the answer that it missed. It is a memory of what was
//! taken, never of what was not: an id that has been forgotten, or that was refused, counts as fresh.

use std::collections::{BTreeMap, VecDeque};

use crate::model::BootId;

/// Ids remembered for each peer. A sender has at most 64 batches under way and sends lost ones first.
const REMEMBERED: usize = 1024;

/// What is known of a batch id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Fresh,
    /// It came before and is being taken now.
    Taking,
    /// Taken; so many of its spans were rejected.
    Taken {
        rejected: u32,
    },
}

/// The batch ids of one peer's present run.
#[derive(Default)]
pub(super) struct Recent {
    boot: Option<BootId>,
    /// `None` while it is being taken.
    known: BTreeMap<u64, Option<u32>>,
    taken: VecDeque<u64>,
}

impl Recent {
    /// What is known of a batch, which is being taken from now on if it is fresh.
    pub(super) fn begin(&mut self, boot: BootId, seq: u64) -> Seen {
        if self.boot != Some(boot) {
            *self = Recent { boot: Some(boot), ..Recent::default() };
        }
        match self.known.get(&seq) {
            Some(Some(rejected)) => Seen::Taken { rejected: *rejected },
            Some(None) => Seen::Taking,
            None => {
                self.known.insert(seq, None);
                Seen::Fresh
            }
        }
    }

    /// How taking it ended; `None`: refused.
    pub(super) fn end(&mut self, boot: BootId, seq: u64, rejected: Option<u32>) {
        if self.boot != Some(boot) {
            return;
        }
        if rejected.is_none() {
            self.known.remove(&seq);
            return;
        }
        self.known.insert(seq, rejected);
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

    #[test]
    fn a_taken_batch_is_known_and_a_refused_one_is_fresh_again() {
        let (mut recent, boot) = (Recent::default(), BootId(1));
        assert_eq!(recent.begin(boot, 5), Seen::Fresh);
        assert_eq!(recent.begin(boot, 5), Seen::Taking);
        recent.end(boot, 5, None);
        assert_eq!(recent.begin(boot, 5), Seen::Fresh);
        recent.end(boot, 5, Some(2));
        assert_eq!(recent.begin(boot, 5), Seen::Taken { rejected: 2 });
    }

    #[test]
    fn another_run_of_the_peer_starts_from_nothing() {
        let mut recent = Recent::default();
        recent.begin(BootId(1), 5);
        recent.end(BootId(1), 5, Some(0));
        assert_eq!(recent.begin(BootId(2), 5), Seen::Fresh);
        recent.end(BootId(1), 5, Some(0));
        assert_eq!(recent.begin(BootId(2), 5), Seen::Taking);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_fresh() {
        let (mut recent, boot) = (Recent::default(), BootId(1));
        for seq in 0..10_000 {
            recent.begin(boot, seq);
            recent.end(boot, seq, Some(0));
        }
        assert_eq!((recent.known.len(), recent.taken.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(recent.begin(boot, 3), Seen::Fresh);
        assert_eq!(recent.begin(boot, 9_999), Seen::Taken { rejected: 0 });
    }
}
