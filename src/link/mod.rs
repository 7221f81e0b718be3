//! The mesh's own transport: QUIC with mutual TLS between nodes.

pub mod endpoint;
pub mod tls;
