//! Who is in the mesh: SWIM (crate `foca`) over the links, as a machine without IO.
//!
//! SWIM was chosen because its cost per node does not grow with the mesh (one probe a second, news carried along with
//! it), and `foca` because it is a plain state machine: bytes, timers and a random number generator go in, bytes and
//! timers come out. Rejected: `chitchat`, whose messages cannot be sent over a transport of our own and whose digests
//! grow to 60 kB at 1,000 nodes; `memberlist`, which brings its own endpoints and tasks.
//!
//! `foca` trusts its peers. Here every peer has a certificate, but one of them may still be broken or taken over, so
//! its packets are taken apart first, and three rules stand before `foca`:
//!
//! - **A link outranks a rumour.** A link's other end has proved who it is. While it also answers probes, nobody
//!   else's word makes it another run of itself, and nobody's word makes it dead: that only counts as a suspicion,
//!   which it can contradict until `failover_after` has passed. Half of that time in suspicion, and a word of its
//!   death is believed, so that real deaths spread no slower.
//! - **A link outranks the past.** A peer whose link comes up is alive, though it was declared dead or its clock was
//!   set back between two runs.
//! - **Lists are bounded.** 4,096 members, 10,000 with the dead; who has a link finds room, others do not.
//!
//! Leaving is a flag in what a node says of itself, not SWIM's "down": a leaver still answers, and is the previous
//! owner of its traces for a while.

mod effects;
mod node;
mod packet;
mod roster;
mod rumours;
mod timers;
mod tuning;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, PostcardCodec, State};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use self::effects::{FocaOf, Turn};
use self::node::Node;
use self::roster::Record;
use self::timers::{Timer, Timers};
use crate::model::{BootId, NodeId, Tick};

/// Own death is contradicted at most this often: who is rightly replaced by a later run would never stop otherwise.
const CONTRADICT_EVERY: Duration = Duration::from_secs(1);
/// A timer this late means that this node was held up, not that a peer is silent.
const HELD_UP: Duration = Duration::from_millis(250);
/// Up to this many peers are told of a new version of this node at once; in larger meshes gossip does it.
const TELL_AT_ONCE: usize = 32;

/// What a node says of itself, and others pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: NodeId,
    /// A later run of the same node wins over an earlier one.
    pub boot: BootId,
    /// Bumped when this run has to refute its own death, or says something new of itself.
    pub revision: u16,
    /// Where others dial it; `None`: it dials out only.
    pub address: Option<SocketAddr>,
    /// Share of traces to own.
    pub weight: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    Active,
    Suspect,
    Leaving,
    Dead,
}

/// A member as this node sees it; dead ones are kept for an hour, to be shown.
#[derive(Clone, Debug)]
pub struct Member {
    pub identity: Identity,
    pub state: MemberState,
    /// When it came into that state.
    pub since: Tick,
}

pub struct Settings {
    /// From silence suspected to declared dead.
    pub failover_after: Duration,
}

pub enum Input<'a> {
    /// A link to a peer is up, its certificate and hello are checked.
    LinkUp(&'a Identity),
    /// The last link to a peer is gone. It may still be reached by others: it is not taken for dead.
    LinkDown(&'a NodeId),
    /// A membership message came over the link from `from`.
    Packet { from: &'a NodeId, bytes: &'a [u8] },
    /// This node's own address or weight is different now.
    Change { address: Option<SocketAddr>, weight: u16 },
    /// This node begins to leave: others see it as [`MemberState::Leaving`]. A second time: it is gone, and others
    /// need not find out by its silence.
    Leave,
    /// A deadline has passed.
    Timeout,
}

#[derive(Debug)]
pub enum Output {
    /// Send over the link to `to`: a datagram if it fits, else a stream; if there is no link, drop it.
    Send { to: NodeId, bytes: Bytes },
    /// `members()` is different now.
    Changed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MembershipStatus {
    /// This node included.
    pub active: u64,
    pub suspect: u64,
    pub leaving: u64,
    pub dead: u64,
    pub packets_received: u64,
    /// Malformed, or not from whom they say.
    pub packets_refused: u64,
    pub packets_sent: u64,
    /// What others said about members and was not believed.
    pub rumours_refused: u64,
    /// How often this node had to contradict its own death.
    pub contradictions: u64,
}

pub struct Membership {
    foca: FocaOf,
    failover_after: Duration,
    timers: Timers,
    /// All members that `foca` knows, without this node.
    records: BTreeMap<NodeId, Record>,
    linked: BTreeMap<NodeId, Identity>,
    sweep: u64,
    contradicted_at: Option<Tick>,
    /// When this node came into its state.
    since: Tick,
    counts: MembershipStatus,
}

impl Membership {
    /// `seed` decides whom this node probes and tells: the same inputs and seed give the same outputs.
    pub fn new(me: Identity, settings: Settings, seed: u64) -> Membership {
        let config = tuning::config(1, settings.failover_after);
        let me = Node { identity: me, leaving: false };
        Membership {
            foca: Foca::new(me, config, ChaCha8Rng::seed_from_u64(seed), PostcardCodec),
            failover_after: settings.failover_after,
            timers: Timers::default(),
            records: BTreeMap::new(),
            linked: BTreeMap::new(),
            sweep: 0,
            contradicted_at: None,
            since: Tick::ZERO,
            counts: MembershipStatus::default(),
        }
    }

    /// What a call has to say is appended to `out`; the caller empties it before the next call.
    pub fn handle(&mut self, input: Input<'_>, now: Tick, out: &mut Vec<Output>) {
        let mut turn = Turn { now, out, changed: false };
        match input {
            Input::LinkUp(peer) => self.link_up(peer, &mut turn),
            Input::LinkDown(peer) => {
                self.linked.remove(peer);
            }
            Input::Packet { from, bytes } => self.packet(from, bytes, &mut turn),
            Input::Change { address, weight } => {
                let mut next = self.foca.identity().revised();
                if (next.identity.address, next.identity.weight) != (address, weight) {
                    next.identity.address = address;
                    next.identity.weight = weight;
                    self.become_version(next, &mut turn);
                }
            }
            Input::Leave if self.foca.identity().leaving => {
                self.foca(&mut turn, |foca, effects| foca.leave_cluster(effects));
            }
            Input::Leave => {
                let mut next = self.foca.identity().revised();
                next.leaving = true;
                self.since = now;
                self.become_version(next, &mut turn);
            }
            Input::Timeout => self.timeout(&mut turn),
        }
        if turn.changed {
            self.revive_wrongly_dead(&mut turn);
            out.push(Output::Changed);
        }
    }

    /// When to call `handle` with [`Input::Timeout`] at the latest.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.first()
    }

    /// This node itself included, sorted by id.
    pub fn members(&self) -> Vec<Member> {
        let me = self.foca.identity();
        let state = if me.leaving { MemberState::Leaving } else { MemberState::Active };
        let member = |r: &Record| Member { identity: r.node.identity.clone(), state: r.state, since: r.since };
        let mut members: Vec<Member> = self.records.range(..me.id()).map(|(_, record)| member(record)).collect();
        members.push(Member { identity: me.identity.clone(), state, since: self.since });
        members.extend(self.records.range(me.id()..).map(|(_, record)| member(record)));
        members
    }

    /// This node's current identity (for hellos).
    pub fn me(&self) -> &Identity {
        &self.foca.identity().identity
    }

    pub fn status(&self) -> MembershipStatus {
        let mut status = self.counts.clone();
        for member in self.members() {
            match member.state {
                MemberState::Active => status.active += 1,
                MemberState::Suspect => status.suspect += 1,
                MemberState::Leaving => status.leaving += 1,
                MemberState::Dead => status.dead += 1,
            }
        }
        status
    }

    fn link_up(&mut self, peer: &Identity, turn: &mut Turn<'_>) {
        if peer.id == *self.foca.identity().id() || !self.make_room(&peer.id, turn) {
            return;
        }
        self.linked.insert(peer.id.clone(), peer.clone());
        self.revive(peer, turn);
        let known = self.records.get(&peer.id).map(|record| record.node.clone());
        if let Some(known) = known {
            self.foca(turn, |foca, effects| foca.announce(known, effects));
        }
    }

    /// Takes in what a link proved, over whatever death was known before.
    fn revive(&mut self, peer: &Identity, turn: &mut Turn<'_>) {
        let dead = self.records.get(&peer.id).filter(|record| record.state == MemberState::Dead);
        if let Some(dead) = dead.map(|record| record.node.clone()) {
            if dead.leaving && dead.identity.boot == peer.boot {
                return; // It is on its way out; that its link is still up is no news.
            }
            self.foca(turn, |foca, effects| foca.handle_timer(foca::Timer::RemoveDown(dead), effects));
        }
        let alive = foca::Member::alive(Node { identity: peer.clone(), leaving: false });
        self.foca(turn, |foca, effects| foca.apply_many(std::iter::once(alive), true, effects));
    }

    fn packet(&mut self, from: &NodeId, bytes: &[u8], turn: &mut Turn<'_>) {
        self.counts.packets_received += 1;
        let packet = packet::decode(bytes).ok().filter(|packet| packet.header.src.id() == from);
        let known = self.records.contains_key(from);
        let Some(mut packet) = packet.filter(|_| known || self.has_room()) else {
            self.counts.packets_refused += 1;
            return;
        };
        let contradicted_lately = self.contradicted_at.is_some_and(|at| turn.now.since(at) < CONTRADICT_EVERY);
        if contradicted_lately && packet.header.message == foca::Message::TurnUndead {
            return;
        }
        self.screen(&mut packet, contradicted_lately, turn.now);
        let taken = packet::encode_for_foca(&packet)
            .is_ok_and(|bytes| self.try_foca(turn, |foca, effects| foca.handle_data(&bytes, effects)).is_ok());
        self.counts.packets_refused += u64::from(!taken);
    }

    /// Says something new of this node.
    fn become_version(&mut self, next: Node, turn: &mut Turn<'_>) {
        let told: Vec<Node> =
            self.foca.iter_members().map(|member| member.id().clone()).take(TELL_AT_ONCE + 1).collect();
        self.foca(turn, |foca, effects| {
            foca.change_identity(next, &mut *effects)?;
            effects.cycle_ended();
            if told.len() <= TELL_AT_ONCE {
                told.into_iter().try_for_each(|peer| foca.announce(peer, &mut *effects))?;
            }
            Ok(())
        });
        turn.changed = true;
    }

    fn timeout(&mut self, turn: &mut Turn<'_>) {
        while let Some((due, timer)) = self.timers.pop_due(turn.now) {
            match timer {
                Timer::Foca(foca::Timer::ProbeRandomMember(_) | foca::Timer::ChangeSuspectToDown { .. })
                | Timer::Judge(_)
                    if turn.now.since(due) > HELD_UP =>
                {
                    // The answers of those who are to be blamed may lie unread: they are read first.
                    self.timers.set(turn.now + 2 * HELD_UP, timer);
                }
                Timer::Foca(timer) => self.foca(turn, |foca, effects| foca.handle_timer(timer, effects)),
                Timer::Judge(id) => {
                    let suspect = self.records.get(&id).filter(|record| record.foca_state == State::Suspect);
                    if let Some(record) = suspect {
                        let down = foca::Member::new(record.node.clone(), record.incarnation, State::Down);
                        self.foca(turn, |foca, effects| foca.apply_many(std::iter::once(down), true, effects));
                    }
                }
            }
        }
    }

    /// A later run was believed in, died, and all the while the link was to an earlier one: that one it is, then.
    fn revive_wrongly_dead(&mut self, turn: &mut Turn<'_>) {
        let wrongly_dead = |record: &Record| {
            let linked = self.linked.get(record.node.id())?;
            let another_run = record.state == MemberState::Dead && record.node.identity.boot > linked.boot;
            another_run.then(|| linked.clone())
        };
        let peers: Vec<Identity> = self.records.values().filter_map(wrongly_dead).collect();
        for peer in peers {
            self.revive(&peer, turn);
        }
    }
}

#[cfg(test)]
mod tests;
