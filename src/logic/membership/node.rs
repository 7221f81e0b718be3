//! A member as the gossip carries it.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Identity;
use crate::model::{BootId, ClusterName, NodeId, NodeName};

/// An [`Identity`] and whether it is on its way out. Two are the same if id and [`Node::version`] are: what else an
/// identity says can only change with a new version, and a peer's learned idea of an address must not make a stranger
/// of a known member.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) leaving: bool,
}

impl Node {
    pub(super) fn id(&self) -> &NodeId {
        &self.identity.id
    }

    /// Of two with one id, the greater is the later word of that member.
    pub(super) fn version(&self) -> (BootId, u16, bool) {
        (self.identity.boot, self.identity.revision, self.leaving)
    }

    /// The next version of the same run. Should the revisions run out, the run counts as begun a nanosecond later.
    pub(super) fn revised(&self) -> Node {
        let mut next = self.clone();
        match self.identity.revision.checked_add(1) {
            Some(revision) => next.identity.revision = revision,
            None => {
                next.identity.boot = BootId(self.identity.boot.0.saturating_add(1));
                next.identity.revision = 0;
            }
        }
        next
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.version() == other.version() && self.id() == other.id()
    }
}

impl Eq for Node {}

impl foca::Identity for Node {
    type Addr = NodeId;

    fn renew(&self) -> Option<Node> {
        let next = self.revised();
        next.win_addr_conflict(self).then_some(next)
    }

    fn addr(&self) -> NodeId {
        self.identity.id.clone()
    }

    fn win_addr_conflict(&self, adversary: &Node) -> bool {
        self.version() > adversary.version()
    }
}

/// The form on the wire. Strings are borrowed from the packet and checked before anything is allocated for them.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    cluster: &'a str,
    node: &'a str,
    boot: u64,
    revision: u16,
    address: Option<SocketAddr>,
    weight: u16,
    leaving: bool,
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Identity { id, boot, revision, address, weight } = &self.identity;
        let wire = Wire {
            cluster: id.cluster.as_str(),
            node: id.node.as_str(),
            boot: boot.0,
            revision: *revision,
            address: *address,
            weight: *weight,
            leaving: self.leaving,
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let cluster = ClusterName::new(wire.cluster).map_err(de::Error::custom)?;
        let node = NodeName::new(wire.node).map_err(de::Error::custom)?;
        let identity = Identity {
            id: NodeId { cluster, node },
            boot: BootId(wire.boot),
            revision: wire.revision,
            address: wire.address,
            weight: wire.weight,
        };
        Ok(Node { identity, leaving: wire.leaving })
    }
}
