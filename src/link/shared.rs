//! What the parts of a mesh node share: who it is, its links, the ring in force.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use quinn::{ClientConfig, Connection, Endpoint};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::conn::{Conn, Direction, address_of};
use super::endpoint::SocketReport;
use super::explain::Questions;
use super::frame::{Code, Compression, Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use super::inbound::{self, MAX_STREAMS};
use super::link::{Link, LinkContext};
use super::place::Parked;
use super::tls::Identities;
use crate::config::settings::{Advertise, MeshSettings};
use crate::logic::membership::{Identity, Member, MembershipStatus};
use crate::logic::ring::{MemberIndex, Ring};
use crate::model::{BootId, Budget, NodeId};
use crate::pipeline::{Consume, Ledger};
use crate::runtime::clock::Clock;
use crate::wire;

/// Most links, up or not: twice the members that a mesh may have.
const MAX_LINKS: usize = 8192;

/// Bounds that tests make small. The defaults are argued where they are used.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    pub(super) queue_bytes: usize,
    /// Bytes a peer may have this node hold before they are walked: twice what a sender has under way.
    pub(super) inbound_bytes: usize,
    /// For a stream's head, and for its body beside the time that [`SLOWEST`] allows it.
    pub(super) read_deadline: Duration,
    pub(super) reply_deadline: Duration,
    /// For a question about a trace or the time, from asking to the end of the answer. People wait for it.
    pub(super) question_deadline: Duration,
    pub(super) clock_interval: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            queue_bytes: super::queue::QUEUE_BYTES,
            inbound_bytes: 32 << 20,
            read_deadline: Duration::from_secs(10),
            reply_deadline: Duration::from_secs(15),
            question_deadline: Duration::from_secs(2),
            clock_interval: super::clock::INTERVAL,
        }
    }
}

/// Bytes a second below which a stream is taken for stalled.
const SLOWEST: usize = 64 << 10;

/// Time that `bytes` may take beside a deadline.
pub(super) fn at_slowest(bytes: usize) -> Duration {
    Duration::from_millis((bytes / (SLOWEST / 1000)) as u64)
}

/// What happens on links, for the task that owns membership.
pub(super) enum Event {
    /// A link went up, or down, or to another run of the peer: look.
    Link(NodeId),
    /// A peer says at which address it sees this node.
    Observed(SocketAddr),
    Gossip(NodeId, Bytes),
    /// Announce that this node leaves. Answered when that is on its way.
    Leave(oneshot::Sender<()>),
    /// All is delivered: say so, others need not wait for this node's silence.
    Left(oneshot::Sender<()>),
}

/// The ring in force, and the links to its members.
pub(super) struct Table {
    pub(super) ring: Ring,
    pub(super) me: Option<MemberIndex>,
    /// In the order of the ring's members; `None` for this node.
    links: Vec<Option<Arc<Link>>>,
}

impl Table {
    pub(super) fn empty() -> Table {
        Table { ring: Ring::empty(), me: None, links: Vec::new() }
    }

    pub(super) fn link(&self, owner: MemberIndex) -> Option<&Arc<Link>> {
        self.links.get(usize::from(owner))?.as_ref()
    }
}

#[derive(Default)]
pub(super) struct MeshCounts {
    pub(super) hop_limit_spans: AtomicU64,
    pub(super) identity_mismatches: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    pub(super) handshakes_turned_away: AtomicU64,
    pub(super) dials_failed: AtomicU64,
    pub(super) rerouted_spans: AtomicU64,
    pub(super) ring_changes: AtomicU64,
    pub(super) gossip_dropped: AtomicU64,
    pub(super) cluster_conflict_spans: AtomicU64,
    /// Second of the node's clock in which a failed handshake was last told to the log.
    told_at: AtomicU64,
}

impl MeshCounts {
    pub(super) fn add(&self, what: fn(&MeshCounts) -> &AtomicU64, n: u64) {
        what(self).fetch_add(n, Relaxed);
    }
}

impl Core {
    /// Whether the log may be told of one more failed handshake: strangers must not fill it.
    pub(super) fn may_tell_of_strangers(&self) -> bool {
        let second = self.clock.now().0 / 1_000_000_000 + 1;
        self.counts.told_at.swap(second, Relaxed) != second
    }
}

pub(super) struct Core {
    pub(super) me: NodeId,
    pub(super) boot: BootId,
    pub(super) settings: MeshSettings,
    pub(super) tuning: Tuning,
    pub(super) clock: Clock,
    pub(super) budget: Budget,
    pub(super) ledger: Arc<Ledger>,
    /// Of what peers send.
    pub(super) limits: wire::Limits,
    /// This node's cluster, for what local senders bring.
    pub(super) stamp: wire::ClusterStamp,
    pub(super) owned: Arc<dyn Consume>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) socket: Option<SocketReport>,
    pub(super) identities: Option<Arc<Identities>>,
    pub(super) identity: ArcSwap<Identity>,
    pub(super) table: ArcSwap<Table>,
    pub(super) members: ArcSwap<Vec<Member>>,
    pub(super) membership: ArcSwap<MembershipStatus>,
    pub(super) links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    pub(super) link_context: Arc<LinkContext>,
    pub(super) parked: Mutex<Parked>,
    /// See [`Core::outstanding`].
    pub(super) moving: Mutex<()>,
    pub(super) questions: Questions,
    pub(super) leaving: AtomicBool,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counts: MeshCounts,
    /// Told when parked parts or parts in a queue of no owner wait for another place.
    pub(super) stranded: Arc<Notify>,
    /// Told when spans that were held for a peer have met their fate.
    pub(super) settled: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

impl Core {
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// What this node says to a peer at `observed`.
    pub(super) fn hello(&self, observed: SocketAddr) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            mesh: self.settings.name.clone(),
            identity: Identity::clone(&self.identity.load()),
            address_learned: self.settings.advertise == Advertise::Learned,
            region: self.settings.region.clone(),
            zone: self.settings.zone.clone(),
            environment: self.settings.environment.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            decodes: Compression::all_bits(),
            observed: Some(observed),
        }
    }

    /// The node that the peer's certificate names; `None` where nobody is asked for one.
    pub(super) fn certified(&self, quic: &Connection) -> Result<Option<NodeId>, String> {
        match &self.identities {
            Some(identities) => identities.peer_of(quic).map_err(|error| error.to_string()),
            None => Err("this node has no mesh identity".to_owned()),
        }
    }

    /// For the next dial: with the certificate in use now.
    pub(super) fn client_config(&self) -> Option<ClientConfig> {
        Some(self.identities.as_ref()?.client_config())
    }

    /// Takes a checked connection into use.
    pub(super) async fn link_up(self: &Arc<Self>, quic: Connection, mut hello: Hello, direction: Direction) {
        let address = address_of(&quic);
        if self.is_leaving() {
            return quic.close(Code::Leaving.varint(), b"this node is leaving");
        }
        if hello.address_learned && hello.identity.address.is_none() {
            hello.identity.address = Some(address);
        }
        quic.set_max_concurrent_bi_streams(MAX_STREAMS.into());
        quic.set_max_concurrent_uni_streams(MAX_STREAMS.into());
        let peer = hello.identity.id.clone();
        let observed = hello.observed;
        let conn = Arc::new(Conn::new(quic, hello, direction, self.clock.now(), self.settings.compression));
        let attached = {
            // Under the lock, so that an idle link is not taken out of the table between being found and being used.
            let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
            match self.link_in(&mut links, &peer) {
                Some(link) => link.attach(conn.clone(), self.me < peer).map(|()| link),
                None => Err(Code::TooMany),
            }
        };
        match attached {
            Ok(link) => {
                info!(%peer, %address, direction = direction.label(), "link up");
                tokio::spawn(inbound::serve(self.clone(), link, conn));
                self.tell(Event::Link(peer)).await;
                if let Some(observed) = observed {
                    self.tell(Event::Observed(observed)).await;
                }
            }
            Err(code) => {
                info!(%peer, %address, ?code, "a link is turned away");
                conn.close(code, "a later run of this node is linked, or too many nodes are");
            }
        }
    }

    fn link_in(&self, links: &mut BTreeMap<NodeId, Arc<Link>>, peer: &NodeId) -> Option<Arc<Link>> {
        if let Some(link) = links.get(peer) {
            return Some(link.clone());
        }
        if links.len() >= MAX_LINKS {
            return None;
        }
        let link = Link::start(peer.clone(), self.link_context.clone());
        links.insert(peer.clone(), link.clone());
        Some(link)
    }

    /// The link to a peer, if there is one, whether up or not.
    pub(super) fn link_to(&self, peer: &NodeId) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    pub(super) fn all_links(&self) -> Vec<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Puts a ring in force: its members get links, what waits for others is stranded.
    pub(super) fn publish(&self, ring: Ring) {
        let me = ring.members().binary_search(&self.me).ok().and_then(|at| MemberIndex::try_from(at).ok());
        let members = ring.members().to_vec();
        {
            let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
            let owners: Vec<Option<Arc<Link>>> =
                members.iter().map(|id| if *id == self.me { None } else { self.link_in(&mut links, id) }).collect();
            owners.iter().flatten().for_each(|link| link.set_owner(true));
            self.table.store(Arc::new(Table { ring, me, links: owners }));
            for (id, link) in links.iter() {
                if members.binary_search(id).is_err() {
                    link.set_owner(false);
                }
            }
        }
        self.counts.add(|counts| &counts.ring_changes, 1);
    }

    /// Forgets links that nothing needs.
    pub(super) fn drop_idle_links(&self) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| {
            let idle = link.is_idle();
            if idle {
                link.end();
            }
            !idle
        });
    }

    /// Tells the membership task, and waits if it is behind: for tasks that serve one peer.
    pub(super) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// A membership message; dropped if the membership task is behind, as the network drops them too.
    pub(super) fn tell_gossip(&self, from: &NodeId, message: Bytes) {
        if self.events.try_send(Event::Gossip(from.clone(), message)).is_err() {
            self.counts.add(|counts| &counts.gossip_dropped, 1);
        }
    }
}
