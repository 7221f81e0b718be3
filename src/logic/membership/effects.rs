//! Letting `foca` act, and carrying out what it wants.

use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, NoCustomBroadcast, Notification, PostcardCodec};
use rand_chacha::ChaCha8Rng;

use super::node::Node;
use super::timers::{self, Timer};
use super::{Membership, Output, packet, tuning};
use crate::model::{NodeId, Tick};

pub(super) type FocaOf = Foca<Node, PostcardCodec, ChaCha8Rng, NoCustomBroadcast>;

/// One call of [`Membership::handle`].
pub(super) struct Turn<'a> {
    pub(super) now: Tick,
    pub(super) out: &'a mut Vec<Output>,
    pub(super) changed: bool,
}

/// What `foca` wants done.
#[derive(Default)]
pub(super) struct Effects {
    sends: Vec<(NodeId, Bytes)>,
    timers: Vec<(foca::Timer<Node>, Duration)>,
    /// All timers of the probe cycle set before are void.
    cycle_ended: bool,
    contradicted: bool,
}

impl Effects {
    pub(super) fn cycle_ended(&mut self) {
        self.cycle_ended = true;
        self.timers.retain(|(timer, _)| !timers::is_of_cycle(timer));
    }
}

impl foca::Runtime<Node> for Effects {
    fn notify(&mut self, notification: Notification<'_, Node>) {
        match notification {
            Notification::Idle | Notification::Defunct => self.cycle_ended(),
            Notification::Rejoin(_) => {
                self.cycle_ended();
                self.contradicted = true;
            }
            // These are seen in the list of members.
            Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(_, _)
            | Notification::Active => {}
        }
    }

    fn send_to(&mut self, to: Node, data: &[u8]) {
        self.sends.push((to.identity.id, packet::seal(data)));
    }

    fn submit_after(&mut self, event: foca::Timer<Node>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Membership {
    /// Lets `foca` act. Its errors concern one message, which then had no effect, or a probe cycle that it has already
    /// begun anew.
    pub(super) fn foca(
        &mut self,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut FocaOf, &mut Effects) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = self.try_foca(turn, act) {
            tracing::debug!(%error, "a membership message was not sent");
        }
    }

    /// Lets `foca` act, and carries out what it wants.
    pub(super) fn try_foca(
        &mut self,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut FocaOf, &mut Effects) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut effects = Effects::default();
        let done = act(&mut self.foca, &mut effects);
        // A new version of this node leaves `foca` waiting for its next packet before it probes again.
        let resumed = self.foca.apply_many(std::iter::empty(), false, &mut effects);
        debug_assert!(resumed.is_ok(), "nothing was applied");

        if effects.contradicted {
            self.contradicted_at = Some(turn.now);
            self.counts.contradictions += 1;
            turn.changed = true;
        }
        if effects.cycle_ended {
            self.timers.drop_cycle();
        }
        for (timer, after) in effects.timers {
            self.timers.set(turn.now + after, Timer::Foca(timer));
        }
        let me = self.foca.identity().id();
        for (to, bytes) in effects.sends {
            if to != *me {
                self.counts.packets_sent += 1;
                turn.out.push(Output::Send { to, bytes });
            }
        }
        if self.sweep_members(turn.now) {
            turn.changed = true;
            let config = tuning::config(self.foca.num_members() + 1, self.failover_after);
            let scaled = self.foca.set_config(config);
            debug_assert!(scaled.is_ok(), "only what may change is changed");
        }
        done
    }
}
