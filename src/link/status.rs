//! What the mesh side of a node says of itself: the admin API and the metrics page are rendered from this.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

pub use super::dial::DialStatus;
use super::endpoint::SocketReport;
use super::link::Link;
use super::shared::Core;
use super::tls::TlsStatus;
use crate::config::settings::MeshSecurity;
use crate::discover::SeedStatus;
use crate::logic::membership::{MemberState, MembershipStatus};
use crate::model::Tick;

/// The whole of it. Counts are since the node's start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeshStatus {
    /// `cluster/node`.
    pub node: String,
    pub mesh: String,
    /// `None`: the node runs alone.
    pub listen: Option<SocketAddr>,
    /// Where others dial this node, as far as it knows.
    pub advertised: Option<SocketAddr>,
    pub region: String,
    pub zone: String,
    pub environment: String,
    pub weight: u16,
    /// Anybody may join as anybody: for trials.
    pub insecure: bool,
    /// Unix seconds.
    pub certificate_expires: Option<u64>,
    /// `None`: the node runs alone. So is `socket`.
    pub tls: Option<TlsStatus>,
    pub socket: Option<SocketReport>,
    pub leaving: bool,
    pub members: Vec<MemberStatus>,
    pub membership: MembershipStatus,
    pub ring: RingStatus,
    pub links: Vec<LinkStatus>,
    pub seeds: Vec<SeedStatus>,
    /// Addresses that do not lead to a link now; at most 256.
    pub dials: Vec<DialStatus>,
    /// In custody without a place to go.
    pub parked_bytes: u64,
    pub parked_spans: u64,
    /// Spans kept here because they had been sent on too often, and not because the ring says so.
    pub hop_limit_spans: u64,
    /// Peers whose hello was not what their certificate says: an alarm.
    pub identity_mismatches: u64,
    /// Spans that found another owner while they waited.
    pub rerouted_spans: u64,
    pub handshakes_failed: u64,
    /// Connections refused because too many handshakes were pending.
    pub handshakes_turned_away: u64,
    pub dials_failed: u64,
    /// Membership messages dropped because this node was behind.
    pub gossip_dropped: u64,
    /// Spans of local senders whose resource named another cluster than this node's.
    pub cluster_conflict_spans: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemberStatus {
    pub id: String,
    /// `active`, `suspect`, `leaving` or `dead`.
    pub state: &'static str,
    pub since_seconds: f64,
    pub address: Option<SocketAddr>,
    pub weight: u16,
    /// These four are known of nodes that this one is or was linked with.
    pub region: String,
    pub zone: String,
    pub environment: String,
    pub version: String,
    /// A connection is up; always true for this node itself.
    pub linked: bool,
    pub me: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct RingStatus {
    /// Hex; equal on nodes that agree.
    pub version: String,
    pub changes: u64,
    pub members: Vec<ShareStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ShareStatus {
    pub id: String,
    pub slots: u32,
    /// Of all traces, 0.0 to 1.0.
    pub share: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct LinkStatus {
    pub peer: String,
    pub connected: bool,
    pub address: Option<SocketAddr>,
    /// `dialled` or `accepted`, by this node.
    pub direction: Option<&'static str>,
    pub connected_seconds: Option<f64>,
    pub rtt_ms: Option<f64>,
    /// The peer's clock minus this node's; absent until they have been compared. Off by the error at most.
    pub clock_offset_seconds: Option<f64>,
    pub clock_offset_error_seconds: Option<f64>,
    /// Bytes of UDP payload.
    pub path_mtu: Option<u16>,
    pub lost_packets: Option<u64>,
    pub sent_packets: Option<u64>,
    /// Waiting and under way, as spans (not compressed).
    pub queue_bytes: u64,
    pub queue_spans: u64,
    pub in_flight_batches: u64,
    pub in_flight_bytes: u64,
    pub sent_batches: u64,
    pub sent_spans: u64,
    pub sent_raw_bytes: u64,
    pub sent_wire_bytes: u64,
    pub received_batches: u64,
    pub received_spans: u64,
    pub received_raw_bytes: u64,
    pub received_wire_bytes: u64,
    /// Batches that the peer refused, and that this node refused the peer.
    pub refused_by_peer: u64,
    pub refused_here: u64,
    /// Spans that the peer's limits did not let pass.
    pub rejected_by_peer_spans: u64,
    /// Batches that came back without an answer.
    pub unanswered: u64,
    /// Batches that came twice and were taken once.
    pub replayed: u64,
    /// Streams and datagrams that broke the protocol or a deadline.
    pub bad_streams: u64,
    pub reconnects: u64,
    pub last_error: Option<String>,
}

pub(super) fn state_label(state: MemberState) -> &'static str {
    match state {
        MemberState::Active => "active",
        MemberState::Suspect => "suspect",
        MemberState::Leaving => "leaving",
        MemberState::Dead => "dead",
    }
}

/// Everything but seeds and dials, which the control task knows.
pub(super) fn status(core: &Core) -> MeshStatus {
    let now = core.clock.now();
    let links = core.all_links();
    let (table, members) = (core.table.load(), core.members.load());
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    let (parked_bytes, parked_spans) = {
        let parked = core.parked();
        (parked.bytes() as u64, parked.spans())
    };
    let settings = &core.settings;
    MeshStatus {
        node: core.me.to_string(),
        mesh: settings.name.clone(),
        listen: core.endpoint.as_ref().and_then(|endpoint| endpoint.local_addr().ok()),
        advertised: core.identity.load().address,
        region: settings.region.clone(),
        zone: settings.zone.clone(),
        environment: settings.environment.clone(),
        weight: settings.weight,
        insecure: matches!(settings.security, Some(MeshSecurity::InsecureDev)),
        certificate_expires: core.identities.as_ref().and_then(|identities| identities.expires_at()),
        tls: core.identities.as_ref().map(|identities| identities.status()),
        socket: core.socket,
        leaving: core.is_leaving(),
        members: members.iter().map(|member| member_status(core, member, now)).collect(),
        membership: MembershipStatus::clone(&core.membership.load()),
        ring: RingStatus {
            version: format!("{:016x}", table.ring.version()),
            changes: count(&core.counts.ring_changes),
            members: shares(&table.ring),
        },
        links: links.iter().map(|link| link_status(link, now)).collect(),
        parked_bytes,
        parked_spans,
        hop_limit_spans: count(&core.counts.hop_limit_spans),
        identity_mismatches: count(&core.counts.identity_mismatches),
        rerouted_spans: count(&core.counts.rerouted_spans),
        handshakes_failed: count(&core.counts.handshakes_failed),
        handshakes_turned_away: count(&core.counts.handshakes_turned_away),
        dials_failed: count(&core.counts.dials_failed),
        gossip_dropped: count(&core.counts.gossip_dropped),
        cluster_conflict_spans: count(&core.counts.cluster_conflict_spans),
        seeds: Vec::new(),
        dials: Vec::new(),
    }
}

fn shares(ring: &crate::logic::ring::Ring) -> Vec<ShareStatus> {
    let share = |(id, slots): (&crate::model::NodeId, &u32)| ShareStatus {
        id: id.to_string(),
        slots: *slots,
        share: f64::from(*slots) / 65_536.0,
    };
    ring.members().iter().zip(ring.slots_owned()).map(share).collect()
}

fn member_status(core: &Core, member: &crate::logic::membership::Member, now: Tick) -> MemberStatus {
    let id = &member.identity.id;
    let me = *id == core.me;
    let link = core.link_to(id);
    let hello = if me { None } else { link.as_ref().and_then(|link| link.last_hello()) };
    let (region, zone, environment, version) = match hello {
        Some(hello) => (hello.region, hello.zone, hello.environment, hello.version),
        None if me => {
            let settings = &core.settings;
            let version = env!("CARGO_PKG_VERSION").to_owned();
            (settings.region.clone(), settings.zone.clone(), settings.environment.clone(), version)
        }
        None => Default::default(),
    };
    MemberStatus {
        id: id.to_string(),
        state: state_label(member.state),
        since_seconds: now.since(member.since).as_secs_f64(),
        address: member.identity.address,
        weight: member.identity.weight,
        region,
        zone,
        environment,
        version,
        linked: me || link.is_some_and(|link| link.conn().is_some()),
        me,
    }
}

fn link_status(link: &Link, now: Tick) -> LinkStatus {
    let snapshot = link.snapshot();
    let counts = &link.counts;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    let path = snapshot.conn.as_ref().map(|conn| conn.quic.stats().path);
    let clock_offset = snapshot.clock_offset.filter(|_| snapshot.conn.is_some());
    LinkStatus {
        peer: link.peer.to_string(),
        connected: snapshot.conn.is_some(),
        address: snapshot.conn.as_ref().map(|conn| conn.address()),
        direction: snapshot.conn.as_ref().map(|conn| conn.direction.label()),
        connected_seconds: snapshot.conn.as_ref().map(|conn| now.since(conn.since).as_secs_f64()),
        rtt_ms: path.as_ref().map(|path| path.rtt.as_secs_f64() * 1_000.0),
        clock_offset_seconds: clock_offset.map(|offset| offset.seconds()),
        clock_offset_error_seconds: clock_offset.map(|offset| offset.error_seconds()),
        path_mtu: path.as_ref().map(|path| path.current_mtu),
        lost_packets: path.as_ref().map(|path| path.lost_packets),
        sent_packets: path.as_ref().map(|path| path.sent_packets),
        queue_bytes: snapshot.queue_bytes as u64,
        queue_spans: snapshot.queue_spans,
        in_flight_batches: snapshot.in_flight.0 as u64,
        in_flight_bytes: snapshot.in_flight.1 as u64,
        sent_batches: count(&counts.sent_batches),
        sent_spans: count(&counts.sent_spans),
        sent_raw_bytes: count(&counts.sent_raw_bytes),
        sent_wire_bytes: count(&counts.sent_wire_bytes),
        received_batches: count(&counts.received_batches),
        received_spans: count(&counts.received_spans),
        received_raw_bytes: count(&counts.received_raw_bytes),
        received_wire_bytes: count(&counts.received_wire_bytes),
        refused_by_peer: count(&counts.refused_by_peer),
        refused_here: count(&counts.refused_here),
        rejected_by_peer_spans: count(&counts.rejected_by_peer_spans),
        unanswered: count(&counts.unanswered),
        replayed: count(&counts.replayed),
        bad_streams: count(&counts.bad_streams),
        reconnects: count(&counts.connections).saturating_sub(1),
        last_error: snapshot.last_error,
    }
}
