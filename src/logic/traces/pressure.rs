//! Staying within the bound: what gives way, in which order, and how much at a time.
//!
//! Two measures. What is *used* decides about traces: it falls with each that goes, so that just as much is decided early
//! as came in, in small portions. What is *held* is more, by the holes that traces leave in the arena; it follows by moving
//! pieces together. If deciding waited for memory to be given back, whole segments had to empty first: thousands of
//! traces would go at once, and too many.
//!
//! Explanations give way first, then the heaviest and oldest open traces are decided, and say why. Nothing is forgotten
//! undecided.

use super::release::Release;
use super::{Cause, Traces};

/// Share of the bound that is left to holes.
const HOLES: u64 = 16;
/// Without need pieces are moved only if a quarter of the memory is holes, and not for less than this.
const WORTH: u64 = 4 << 20;
/// Bytes moved for each byte that came in, at most, and for each call.
const MOVES: usize = 8;
const MOVES_ANYWAY: usize = 1 << 20;

impl Traces {
    /// Makes room after `came` bytes have come.
    pub(super) fn relieve(&mut self, came: usize, out: &mut Vec<Release>) {
        let most = self.bounds.max_bytes - self.bounds.max_bytes / HOLES;
        while self.used_bytes() > most {
            if self.forget_oldest() {
                continue;
            }
            let Some(number) = self.by_weight.heaviest(&self.store.traces, self.now) else { break };
            self.decide(number, Cause::Memory, out);
        }
        let mut moves = MOVES_ANYWAY.saturating_add(came.saturating_mul(MOVES));
        while moves > 0 && self.has_holes() {
            if self.held() > self.bounds.max_bytes && self.store.arena.spare() > 0 {
                self.store.arena.drop_spares();
                continue;
            }
            let Some(moved) = self.store.compact() else { break };
            // Looking for the segment is work too.
            moves = moves.saturating_sub(moved.max(4096));
        }
    }

    fn has_holes(&self) -> bool {
        let arena = &self.store.arena;
        self.held() > self.bounds.max_bytes || (arena.wasted() > arena.allocated() / 4 && arena.wasted() > WORTH)
    }

    /// Memory in use; what is on its way out in this moment does not count.
    pub(super) fn held(&self) -> u64 {
        self.store.bytes() + self.verdicts.bytes()
    }

    /// Memory in use without holes.
    fn used_bytes(&self) -> u64 {
        self.held() - self.store.arena.wasted() - self.store.arena.spare()
    }
}
