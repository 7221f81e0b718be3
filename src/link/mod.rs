//! The mesh's own transport: QUIC with mutual TLS between nodes.

pub mod compress;
pub mod endpoint;
pub mod frame;
pub mod tls;
