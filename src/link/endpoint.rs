//! The UDP socket and the QUIC endpoint on it, with transport limits that do not trust a peer.
use std::net::SocketAddr;

/// Binds the socket (buffers asked for and what was got), sets transport limits, installs the server side.
pub fn bind(_listen: SocketAddr, _server: quinn::ServerConfig) -> std::io::Result<quinn::Endpoint> {
    todo!()
}

/// Transport limits for both directions: windows, streams, keep-alive 10 s, idle 30 s, MTU discovery bound.
pub fn transport() -> quinn::TransportConfig {
    todo!()
}
