//! Who owns a trace.
use crate::model::{NodeId, TraceId};

/// Index of a member in [`Ring::members`].
pub type MemberIndex = u16;

/// The pure function (members, weights) -> owner of a trace id.
pub struct Ring {}

impl Ring {
    /// `members` in any order; those of weight 0 are left out. Same members, same name: same ring on every node.
    pub fn build(_mesh_name: &str, _members: &[(NodeId, u16)]) -> Ring {
        todo!()
    }
    /// Nobody owns anything.
    pub fn empty() -> Ring {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Owner of a trace; `None` on an empty ring.
    pub fn owner(&self, _trace: &TraceId) -> Option<MemberIndex> {
        todo!()
    }
    /// Sorted by id. At most 65,535.
    pub fn members(&self) -> &[NodeId] {
        todo!()
    }
    pub fn slot(&self, _trace: &TraceId) -> u16 {
        todo!()
    }
    /// Slots of each member, in the order of `members`; they add up to 65,536 unless the ring is empty.
    pub fn slots_owned(&self) -> &[u32] {
        todo!()
    }
    /// Equal on nodes that agree: a hash over the members and weights.
    pub fn version(&self) -> u64 {
        todo!()
    }
    /// Slots with another owner (by id) in `other`.
    pub fn moved(&self, _other: &Ring) -> u32 {
        todo!()
    }
}
