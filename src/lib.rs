//! spanmesh: a peer-to-peer federated trace collector. One binary, one node per cluster, one owner per trace.
//!
//! The modules are in the order of a span's path; `ARCHITECTURE.md` is the map.

pub mod config;
pub mod logic;
pub mod model;
pub mod wire;

#[cfg(feature = "node")]
pub mod certs;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod discover;
#[cfg(feature = "node")]
pub mod dns_zone;
#[cfg(feature = "node")]
pub mod link;
#[cfg(feature = "node")]
pub mod pipeline;
#[cfg(feature = "node")]
pub mod runtime;
