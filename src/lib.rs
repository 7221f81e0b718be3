//! spanmesh: a peer-to-peer federated trace collector. One binary, one node per cluster, one owner per trace.
//!
//! `ARCHITECTURE.md` is the map: the path of a span, who may name whom, and what must never be true. The modules without
//! a feature are sans-IO; those of the feature `node` own sockets, files, clocks and tasks.

#![allow(rustdoc::private_intra_doc_links, reason = "module heads are for whoever reads the code, private parts too")]

pub mod config;
pub mod logic;
pub mod model;
pub mod sampling_tests;
pub mod wire;

#[cfg(feature = "node")]
pub mod admin;
#[cfg(feature = "node")]
pub mod certs;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod demo;
#[cfg(feature = "node")]
pub mod discover;
#[cfg(feature = "node")]
pub mod dns_zone;
#[cfg(feature = "node")]
pub mod export;
#[cfg(feature = "node")]
pub mod link;
#[cfg(feature = "node")]
pub mod load;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod pipeline;
#[cfg(feature = "node")]
pub mod receive;
#[cfg(feature = "node")]
pub mod runtime;
#[cfg(feature = "node")]
pub mod telemetry;
