//! The mesh's own transport: QUIC with mutual TLS between nodes, and what is sent on it.
//!
//! From outside only [`Mesh`] matters: a [`crate::pipeline::Consume`] that takes a batch to its owners. Inside, in the
//! order of a span's way: [`place`] asks the ring, [`queue`] and [`link`] hold and send what is a peer's, [`conn`] puts it
//! on the wire as [`frame`] and [`compress`] say; at the peer [`inbound`] takes it and places it again. [`control`] owns
//! membership and puts rings in force, [`dial`] plans whom to call, [`greet`] decides whom to believe. [`explain`] asks the
//! mesh what became of a trace, [`clock`] how far the peers' clocks are away.

mod clock;
pub mod compress;
mod conn;
mod control;
mod dial;
pub mod endpoint;
pub mod explain;
pub mod frame;
mod greet;
mod inbound;
#[allow(clippy::module_inception, reason = "the link of two nodes is what this module is about")]
mod link;
mod mesh;
mod place;
mod queue;
mod recent;
mod shared;
pub mod status;
mod stream;
#[cfg(test)]
mod tests;
pub mod tls;

pub use mesh::{Mesh, MeshError};
pub use status::MeshStatus;
