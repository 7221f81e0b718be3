//! Seeds: addresses at which other nodes may be found. Candidates only: who they are is settled by the handshake.
use crate::config::settings::Seed;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// What is known about one seed, for the status.
#[derive(Clone, Debug, Serialize)]
pub struct SeedStatus {
    pub seed: String,
    pub addresses: Vec<SocketAddr>,
    /// Text of the last failure, if the last lookup failed; the addresses are then those of the last good answer.
    pub error: Option<String>,
    pub failures_total: u64,
}

/// Looks the seeds up, now and for ever. Dropping it ends the lookups.
pub struct Discovery {}

impl Discovery {
    pub fn start(_seeds: Vec<Seed>, _dns_server: Option<SocketAddr>, _refresh: Duration) -> Discovery {
        todo!()
    }
    /// The union of all last good answers, at most 64 a seed; changes are seen through the watch.
    pub fn candidates(&self) -> tokio::sync::watch::Receiver<BTreeSet<SocketAddr>> {
        todo!()
    }
    pub fn status(&self) -> Vec<SeedStatus> {
        todo!()
    }
}
