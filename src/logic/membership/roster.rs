//! The members as they are shown: `foca`'s list, compared with what it was, and bounded.

use foca::State;

use super::effects::Turn;
use super::node::Node;
use super::{MemberState, Membership};
use crate::model::{NodeId, Tick};

/// Most members that are not dead.
pub(super) const MAX_MEMBERS: usize = 4096;
/// Most members with the dead ones.
const MAX_KNOWN: usize = 10_000;

/// What `foca` thinks of a member, and since when we show it so.
pub(super) struct Record {
    pub(super) node: Node,
    pub(super) incarnation: u16,
    pub(super) foca_state: State,
    pub(super) state: MemberState,
    pub(super) since: Tick,
    /// Seen in the current sweep over `foca`'s list.
    sweep: u64,
}

impl Membership {
    /// Brings the records in line with `foca`'s list, which does not tell of suspicions. True if any differs.
    pub(super) fn sweep_members(&mut self, now: Tick) -> bool {
        self.sweep += 1;
        let sweep = self.sweep;
        let mut changed = false;
        for member in self.foca.iter_membership_state().filter(|member| member.id().id() != self.foca.identity().id()) {
            let state = match (member.state(), member.id().leaving) {
                (State::Down, _) => MemberState::Dead,
                (_, true) => MemberState::Leaving,
                (State::Suspect, false) => MemberState::Suspect,
                (State::Alive, false) => MemberState::Active,
            };
            let (node, incarnation, foca_state) = (member.id(), member.incarnation(), member.state());
            match self.records.get_mut(node.id()) {
                None => {
                    let record = Record { node: node.clone(), incarnation, foca_state, state, since: now, sweep };
                    self.records.insert(node.id().clone(), record);
                    changed = true;
                }
                Some(record) => {
                    if record.state != state {
                        (record.state, record.since) = (state, now);
                        changed = true;
                    }
                    if record.node != *node {
                        record.node = node.clone();
                        changed = true;
                    }
                    (record.incarnation, record.foca_state, record.sweep) = (incarnation, foca_state, sweep);
                }
            }
        }
        let known = self.records.len();
        self.records.retain(|_, record| record.sweep == sweep);
        changed | (self.records.len() != known)
    }

    /// How many unknown members may still be taken in on others' word.
    pub(super) fn room(&self) -> usize {
        let living = self.records.values().filter(|record| record.foca_state != State::Down).count();
        MAX_MEMBERS.saturating_sub(living + 1).min(MAX_KNOWN.saturating_sub(self.records.len()))
    }

    pub(super) fn has_room(&self) -> bool {
        self.records.len() + 1 < MAX_MEMBERS || self.room() > 0
    }

    /// Room for a peer with a link: the longest dead goes, else one that is known by hearsay only.
    pub(super) fn make_room(&mut self, id: &NodeId, turn: &mut Turn<'_>) -> bool {
        if self.records.contains_key(id) || self.has_room() {
            return true;
        }
        let dead = self.records.values().filter(|record| record.foca_state == State::Down);
        let hearsay = self.records.values().filter(|record| !self.linked.contains_key(record.node.id()));
        let living = self.records.values().filter(|record| record.foca_state != State::Down).count();
        let victim = if living + 1 < MAX_MEMBERS {
            dead.min_by_key(|record| record.since)
        } else {
            hearsay.filter(|record| record.foca_state != State::Down).max_by_key(|record| record.since)
        };
        let Some(victim) = victim.map(|record| record.node.clone()) else {
            return false;
        };
        let down = foca::Member::down(victim.clone());
        self.foca(turn, |foca, effects| {
            foca.apply_many(std::iter::once(down), false, &mut *effects)?;
            foca.handle_timer(foca::Timer::RemoveDown(victim), effects)
        });
        true
    }
}
