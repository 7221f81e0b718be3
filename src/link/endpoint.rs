//! The UDP socket and the QUIC endpoint on it, with transport limits that do not trust a peer.
//!
//! One endpoint listens and dials: a peer behind a firewall then sees answers from the port it knows. What was measured
//! and is easy to get wrong:
//!
//! - **Path MTU.** quinn sends at most ten segments in one GSO call and takes "message too long" for sent, so above
//!   6,550 bytes of payload every full burst is lost and the link stalls. Discovery therefore ends at 6,500; it starts
//!   at 1,200, which every path carries. Both ends must also *accept* that much: the endpoint's default is 1,472.
//! - **Socket buffers.** The kernel's default of 208 KiB loses packets at full rate. 4 MiB are asked for, and what was
//!   got is reported, since a container cannot raise its node's limit.
//! - **GSO.** Without it a sender pays four times the CPU. Whether the kernel has it is in the report.
//! - **Memory.** A peer may fill its connection's receive window and no more: 16 MiB is 1 Gbit/s at 130 ms.
//!
//! Migration stays on: links outlive the rebinding of a NAT or load balancer, and quinn validates a new path before it
//! believes it. Session tickets, and with them 0-RTT, do not exist here (see [`super::tls`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime, ServerConfig, TransportConfig, VarInt};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes asked of the kernel for each of the two socket buffers.
const SOCKET_BUFFER: usize = 4 << 20;
/// Largest UDP payload in bytes, sent or accepted.
const MAX_UDP_PAYLOAD: u16 = 6_500;
/// Most bytes in flight on one stream. Batches are about 256 KiB, a stream each.
const STREAM_WINDOW: u32 = 2 << 20;
/// Most bytes in flight on one connection, either way.
const CONNECTION_WINDOW: u32 = 16 << 20;
const BI_STREAMS: u32 = 256;
const UNI_STREAMS: u32 = 64;
/// Bytes of membership datagrams that wait for being sent or read; when full the oldest is dropped.
const DATAGRAM_BUFFER: usize = 256 << 10;
/// Shorter than the idle timeouts of NATs and load balancers, the shortest of which are 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes that may be in flight before a path has shown what it carries. quinn's default of 12,000 is less than two
/// packets of [`MAX_UDP_PAYLOAD`]: on a path that carries those, one probe of path MTU discovery in flight blocks
/// everything else, even the close of a connection, whose reason then never reaches the peer. This is ten packets, as
/// RFC 9002 §7.2 has it, of that size; about what public servers start with.
const INITIAL_WINDOW: u64 = 10 * MAX_UDP_PAYLOAD as u64;
/// Milliseconds without a packet after which a link is dead.
const IDLE_MILLIS: u32 = 30_000;

/// Most connection attempts that wait to be looked at; further ones are refused.
const MAX_INCOMING: usize = 1_024;
/// Bytes kept for one waiting attempt, and for all of them.
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFER_TOTAL: u64 = 8 << 20;
/// Handshakes in progress from which on a dialler must first prove its address.
const RETRY_FROM: usize = 64;
/// Handshakes in progress from which on nobody new is admitted.
const REFUSE_FROM: usize = 512;

/// What the kernel gave. Sizes in bytes, as asked for (Linux's own doubling taken out).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SocketReport {
    pub address: SocketAddr,
    pub buffer_asked_bytes: usize,
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// Most packets of one send call; 1: no segmentation offload (GSO), sending costs four times the CPU.
    pub send_segments: usize,
    /// Most packets of one receive call and buffer; 1: no receive offload (GRO).
    pub receive_segments: usize,
}

/// Binds the socket (buffers asked for), sets transport limits, installs the server side. Needs a tokio runtime. Gives
/// what the kernel gave too, for the status; shortfalls are also logged.
pub fn bind(listen: SocketAddr, server: ServerConfig) -> io::Result<(quinn::Endpoint, SocketReport)> {
    let (socket, receive_buffer_bytes, send_buffer_bytes) = open(listen)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = runtime.wrap_udp_socket(socket)?;
    let report = SocketReport {
        address: socket.local_addr()?,
        buffer_asked_bytes: SOCKET_BUFFER,
        receive_buffer_bytes,
        send_buffer_bytes,
        send_segments: socket.max_transmit_segments(),
        receive_segments: socket.max_receive_segments(),
    };
    log(&report);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MAX_UDP_PAYLOAD).map_err(io::Error::other)?;
    let endpoint = quinn::Endpoint::new_with_abstract_socket(config, Some(bounded(server)), socket, runtime)?;
    Ok((endpoint, report))
}

fn open(listen: SocketAddr) -> io::Result<(std::net::UdpSocket, usize, usize)> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        // `[::]` serves both families, also where the system's default says otherwise.
        socket.set_only_v6(false)?;
    }
    for (which, outcome) in
        [("receive", socket.set_recv_buffer_size(SOCKET_BUFFER)), ("send", socket.set_send_buffer_size(SOCKET_BUFFER))]
    {
        if let Err(error) = outcome {
            tracing::debug!(%error, which, "the kernel did not take the wish for a socket buffer");
        }
    }
    // Linux doubles what it is asked for, to pay for its own bookkeeping, and reports the double.
    let doubled = if cfg!(target_os = "linux") { 2 } else { 1 };
    let (receive, send) = (socket.recv_buffer_size()? / doubled, socket.send_buffer_size()? / doubled);
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok((socket.into(), receive, send))
}

fn log(report: &SocketReport) {
    tracing::info!(address = %report.address, receive_buffer_bytes = report.receive_buffer_bytes,
        send_buffer_bytes = report.send_buffer_bytes, send_segments = report.send_segments, "mesh socket is bound");
    if report.receive_buffer_bytes.min(report.send_buffer_bytes) < SOCKET_BUFFER / 2 {
        tracing::warn!(
            asked_bytes = SOCKET_BUFFER,
            receive_buffer_bytes = report.receive_buffer_bytes,
            send_buffer_bytes = report.send_buffer_bytes,
            "the kernel gave small UDP buffers, packets will be lost at high rates: raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    if report.send_segments == 1 {
        tracing::warn!("no UDP segmentation offload (GSO): sending on links costs about four times the CPU");
    }
}

/// `server` with limits on what strangers can make it hold.
fn bounded(mut server: ServerConfig) -> ServerConfig {
    server
        .transport_config(Arc::new(transport()))
        .migration(true)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    server
}

/// Transport limits for both directions: windows, streams, keep-alive 10 s, idle 30 s, MTU discovery bound.
pub fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP_PAYLOAD);
    let mut congestion = quinn::congestion::CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(congestion))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(BI_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        // A batch is a stream: sent in turns, all of them would arrive at the end; sent in order, each as soon as it can.
        .send_fairness(false)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .mtu_discovery_config(Some(mtu));
    config
}

/// Why a connection attempt is not gone on with. It has been answered; there is nothing to do but count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// With a token: it may come again and prove with it that its address is its own. Nothing is kept for it.
    Retry,
    /// Too many handshakes at once.
    Refused,
}

/// Decides on a connection attempt, given how many handshakes are in progress. A flood from forged addresses costs one
/// small answer a packet and no memory (never more bytes out than in); diallers with an address of their own get in.
pub fn admit(incoming: quinn::Incoming, handshakes: usize) -> Result<quinn::Incoming, TurnedAway> {
    if handshakes >= RETRY_FROM && incoming.may_retry() {
        // Fails only where `may_retry` is false; the attempt is refused then, by being dropped.
        return Err(incoming.retry().map_or(TurnedAway::Refused, |()| TurnedAway::Retry));
    }
    if handshakes >= REFUSE_FROM {
        incoming.refuse();
        return Err(TurnedAway::Refused);
    }
    Ok(incoming)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::MeshSecurity;
    use crate::link::tls::{Identities, SERVER_NAME};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn node() -> (Arc<Identities>, quinn::Endpoint, SocketReport) {
        let identities = Identities::load(&MeshSecurity::InsecureDev, &"c/n".parse().unwrap()).unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let (endpoint, report) = bind(listen, identities.server_config()).unwrap();
        (identities, endpoint, report)
    }

    #[tokio::test]
    async fn what_the_kernel_gave_is_reported() {
        let (_, endpoint, report) = node();
        assert_eq!(report.address, endpoint.local_addr().unwrap());
        assert!(report.receive_buffer_bytes > 0 && report.receive_buffer_bytes <= report.buffer_asked_bytes);
        assert!(report.send_buffer_bytes > 0 && report.send_segments >= 1 && report.receive_segments >= 1);
    }

    #[tokio::test]
    async fn two_endpoints_cannot_share_a_port() {
        let (identities, endpoint, _) = node();
        assert!(bind(endpoint.local_addr().unwrap(), identities.server_config()).is_err());
    }

    #[tokio::test]
    async fn a_link_finds_large_packets_and_stays_below_what_gso_breaks_at() {
        let (identities, here, _) = node();
        let (_, there, _) = node();
        let dial = here.connect_with(identities.client_config(), there.local_addr().unwrap(), SERVER_NAME).unwrap();
        let (dialled, accepted) = tokio::join!(dial, async { there.accept().await.unwrap().await });
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        let send = async {
            let mut stream = dialled.open_uni().await.unwrap();
            stream.write_all(&vec![7; 8 << 20]).await.unwrap();
            stream.finish().unwrap();
            stream.stopped().await.unwrap();
        };
        let receive = async { accepted.accept_uni().await.unwrap().read_to_end(8 << 20).await.unwrap().len() };
        let (_, received) = tokio::time::timeout(PATIENCE, async { tokio::join!(send, receive) }).await.unwrap();
        assert_eq!(received, 8 << 20);
        let mtu = dialled.stats().path.current_mtu;
        assert!(mtu > 6_000 && mtu <= MAX_UDP_PAYLOAD, "{mtu}");
    }

    #[tokio::test]
    async fn under_a_flood_a_dialler_proves_its_address_and_gets_in() {
        let (identities, here, _) = node();
        let (_, there, _) = node();
        let dial = here.connect_with(identities.client_config(), there.local_addr().unwrap(), SERVER_NAME).unwrap();
        let accept = async {
            let first = there.accept().await.unwrap();
            assert_eq!(admit(first, RETRY_FROM).err(), Some(TurnedAway::Retry));
            let second = there.accept().await.unwrap();
            assert!(second.remote_address_validated());
            let second = admit(second, RETRY_FROM).expect("a proven address is admitted");
            second.await
        };
        let (dialled, accepted) = tokio::time::timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
        assert!(dialled.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn with_too_many_handshakes_even_a_proven_address_is_refused() {
        let (identities, here, _) = node();
        let (_, there, _) = node();
        let dial = here.connect_with(identities.client_config(), there.local_addr().unwrap(), SERVER_NAME).unwrap();
        let accept = async {
            assert_eq!(admit(there.accept().await.unwrap(), REFUSE_FROM).err(), Some(TurnedAway::Retry));
            assert_eq!(admit(there.accept().await.unwrap(), REFUSE_FROM).err(), Some(TurnedAway::Refused));
        };
        let (dialled, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap();
        assert!(dialled.is_err());
    }
}
