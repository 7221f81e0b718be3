//! What others say about members: which of it is news, and which of it to believe. The rules are in the head of
//! [`super`].

use foca::State;

use super::node::Node;
use super::packet::Packet;
use super::timers::Timer;
use super::{MemberState, Membership};
use crate::model::{NodeId, Tick};

/// What to make of something that another node says about a member.
enum Rumour {
    Believed,
    NoNews,
    Refused,
    /// Its death is not believed yet, but it is to show that it lives.
    OnlySuspicion(foca::Member<Node>),
}

impl Membership {
    /// Leaves those updates in the packet that are news and may be believed.
    pub(super) fn screen(&mut self, packet: &mut Packet, contradicted_lately: bool, now: Tick) {
        let mut room = self.room();
        let mut refused = 0;
        let mut to_judge = Vec::new();
        let from = packet.header.src.id().clone();
        let updates = std::mem::take(&mut packet.updates);
        packet.updates = updates
            .into_iter()
            .filter_map(|update| {
                let verdict = self.judge_rumour(&update, &from, &mut room, contradicted_lately, now);
                refused += u64::from(matches!(verdict, Rumour::Refused | Rumour::OnlySuspicion(_)));
                match verdict {
                    Rumour::Believed => Some(update),
                    Rumour::NoNews | Rumour::Refused => None,
                    Rumour::OnlySuspicion(suspect) => {
                        to_judge.push(suspect.id().id().clone());
                        Some(suspect)
                    }
                }
            })
            .collect();
        self.counts.rumours_refused += refused;
        for id in to_judge {
            if !self.timers.is_to_be_judged(&id) {
                self.timers.set(now + self.failover_after, Timer::Judge(id));
            }
        }
    }

    fn judge_rumour(
        &self,
        update: &foca::Member<Node>,
        from: &NodeId,
        room: &mut usize,
        contradicted_lately: bool,
        now: Tick,
    ) -> Rumour {
        let (node, down) = (update.id(), update.state() == State::Down);
        let me = self.foca.identity();
        if node.id() == me.id() {
            // Which run this node is, it knows best; its death is worth contradicting.
            let of_this_run = node.identity.boot == me.identity.boot;
            return if of_this_run && !(down && contradicted_lately) { Rumour::Believed } else { Rumour::Refused };
        }
        let Some(record) = self.records.get(node.id()) else {
            if *room == 0 {
                return Rumour::Refused;
            }
            *room -= 1;
            return Rumour::Believed;
        };
        let stale = record.foca_state == update.state() && update.incarnation() <= record.incarnation;
        if node.version() < record.node.version() || (record.node == *node && stale) {
            return Rumour::NoNews;
        }
        if node.id() == from || !self.linked.contains_key(node.id()) {
            return Rumour::Believed;
        }
        if record.foca_state == State::Alive && node.identity.boot != record.node.identity.boot {
            return Rumour::Refused;
        }
        let doubted_long = record.state == MemberState::Suspect && now.since(record.since) >= self.failover_after / 2;
        let expected = record.state == MemberState::Leaving || record.state == MemberState::Dead;
        if down && !doubted_long && !expected {
            let suspect = foca::Member::new(record.node.clone(), record.incarnation, State::Suspect);
            return Rumour::OnlySuspicion(suspect);
        }
        Rumour::Believed
    }
}
