//! Who owns a trace.
//!
//! Every node must give the same answer from the same member list, without asking anybody, and the answer must change
//! as little as possible when a member comes or goes. Trace-id space is cut into 65,536 slots by a hash; each slot is
//! given to a member by weighted rendezvous hashing: every member draws a number for the slot, and the best draw wins.
//! A member's draws depend on nothing but itself, so a newcomer takes exactly the slots it wins, and a leaver's slots
//! are the only ones that move. The lookup is one hash and one read from a 128 KiB table, whatever the mesh's size.
//!
//! Rejected: a ring of virtual nodes (10 to 30 % imbalance, a search per lookup), jump hashing (moves up to half of
//! everything when a member in the middle leaves), Maglev (moves several times its share at 1,000 members), plain
//! rendezvous hashing per trace (0.8 µs at 1,000 members).
//!
//! A draw `h` of weight `w` counts as `-log2(h / 2^64) / w`, least wins: each member's share is then its weight. The
//! logarithm is ours, in integers, because `f64::ln` differs between platforms in its last bit and two nodes that
//! disagree about a slot split its traces. Among equal weights the larger `h` wins without a logarithm, so only the
//! winners of each weight are compared; in a mesh with one weight none is computed.
//!
//! All hashes are keyed with the mesh's name, so that ids crafted against the hash function alone do not gather at
//! one owner. Members are hashed by id, never by address, and never by a run's [`crate::model::BootId`]: a restart
//! moves nothing.

mod draw;

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::model::{NodeId, TraceId};

/// Slots of trace-id space.
pub const SLOTS: usize = 1 << 16;

/// Index of a member in [`Ring::members`].
pub type MemberIndex = u16;

/// Most members of one ring: an index must fit a [`MemberIndex`].
const MAX_MEMBERS: usize = u16::MAX as usize;

/// The pure function (members, weights) -> owner of a trace id.
#[derive(Clone)]
pub struct Ring {
    /// Keys the hash of trace ids.
    trace_seed: u64,
    /// Owner of each slot: [`SLOTS`] of them, or none in an empty ring.
    table: Box<[MemberIndex]>,
    members: Box<[NodeId]>,
    slots_owned: Box<[u32]>,
    version: u64,
}

impl Ring {
    /// `members` in any order; those of weight 0 are left out. Same members, same name: same ring on every node.
    ///
    /// Of members named twice the greater weight counts; beyond 65,535 members the last by id are left out. Costs
    /// about 0.6 ns per member and slot: 40 ms at 1,000 members, so call it where a pause does no harm.
    pub fn build(mesh_name: &str, members: &[(NodeId, u16)]) -> Ring {
        let mut members: Vec<&(NodeId, u16)> = members.iter().filter(|(_, weight)| *weight > 0).collect();
        members
            .sort_unstable_by(|(id, weight), (other_id, other_weight)| id.cmp(other_id).then(other_weight.cmp(weight)));
        members.dedup_by(|(id, _), (kept, _)| id == kept);
        members.truncate(MAX_MEMBERS);

        let keys = MeshKeys::of(mesh_name);
        let drawn: Vec<(u128, u16)> = members.iter().map(|(id, weight)| (keys.member(id), *weight)).collect();
        let table = draw::owners(&drawn, keys.slots);
        let mut slots_owned = vec![0u32; members.len()];
        for &owner in &table {
            slots_owned[usize::from(owner)] += 1;
        }
        Ring {
            trace_seed: keys.traces,
            table: table.into(),
            slots_owned: slots_owned.into(),
            version: keys.version(&members),
            members: members.into_iter().map(|(id, _)| id.clone()).collect(),
        }
    }

    /// Nobody owns anything.
    pub fn empty() -> Ring {
        Ring::build("", &[])
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Owner of a trace; `None` on an empty ring.
    pub fn owner(&self, trace: &TraceId) -> Option<MemberIndex> {
        self.table.get(usize::from(self.slot(trace))).copied()
    }

    /// Sorted by id. At most 65,535.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// The partition a trace lies in. The same in all rings of one mesh name, whoever their members are.
    pub fn slot(&self, trace: &TraceId) -> u16 {
        (xxh3_64_with_seed(&trace.0, self.trace_seed) >> 48) as u16
    }

    /// Slots of each member, in the order of `members`; they add up to 65,536 unless the ring is empty.
    pub fn slots_owned(&self) -> &[u32] {
        &self.slots_owned
    }

    /// Equal on nodes that agree: a hash over the members and weights.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Slots with another owner (by id) in `other`.
    #[cfg(test)]
    fn moved(&self, other: &Ring) -> u32 {
        // Where each of our members stands in `other`. Both lists are sorted.
        let theirs: Vec<Option<MemberIndex>> = self
            .members
            .iter()
            .map(|id| other.members.binary_search(id).ok().and_then(|index| MemberIndex::try_from(index).ok()))
            .collect();
        let differs = |slot: usize| {
            let ours = self.table.get(slot).map(|owner| theirs[usize::from(*owner)]);
            ours != other.table.get(slot).map(|owner| Some(*owner))
        };
        (0..SLOTS).map(|slot| u32::from(differs(slot))).sum()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = format_args!("{:016x}", self.version);
        f.debug_struct("Ring").field("version", &version).field("members", &self.members).finish_non_exhaustive()
    }
}

/// What the mesh's name makes of the hash functions. The labels are part of the protocol between versions.
struct MeshKeys {
    members: u64,
    slots: u64,
    traces: u64,
    version: u64,
}

impl MeshKeys {
    fn of(mesh_name: &str) -> MeshKeys {
        let key = |label: &str| xxh3_64_with_seed(mesh_name.as_bytes(), xxh3_64_with_seed(label.as_bytes(), 1));
        MeshKeys { members: key("member"), slots: key("slot"), traces: key("trace"), version: key("version") }
    }

    fn member(&self, id: &NodeId) -> u128 {
        xxh3_128_with_seed(id.to_string().as_bytes(), self.members)
    }

    fn version(&self, members: &[&(NodeId, u16)]) -> u64 {
        members
            .iter()
            .fold(self.version, |so_far, (id, weight)| xxh3_64_with_seed(format!("{id} {weight}").as_bytes(), so_far))
    }
}

#[cfg(test)]
mod tests;
