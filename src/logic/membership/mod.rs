//! Who is in the mesh: SWIM (crate `foca`) over the links, as a machine without IO.
use crate::model::{BootId, NodeId, Tick};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// What a node says of itself, and others pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: NodeId,
    /// A later run of the same node wins over an earlier one.
    pub boot: BootId,
    /// Bumped when this run has to refute its own death.
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
    LinkDown(&'a NodeId),
    /// A membership message came over the link from `from`.
    Packet {
        from: &'a NodeId,
        bytes: &'a [u8],
    },
    /// This node begins to leave.
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

pub struct Membership {}

impl Membership {
    pub fn new(_me: Identity, _settings: Settings, _seed: u64) -> Membership {
        todo!()
    }
    /// What a call has to say is appended to `out`; the caller empties it before the next call.
    pub fn handle(&mut self, _input: Input<'_>, _now: Tick, _out: &mut Vec<Output>) {
        todo!()
    }
    /// When to call `handle` with [`Input::Timeout`] at the latest.
    pub fn next_deadline(&self) -> Option<Tick> {
        todo!()
    }
    /// This node itself included, sorted by id.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }
    /// This node's current identity (for hellos).
    pub fn me(&self) -> &Identity {
        todo!()
    }
}
