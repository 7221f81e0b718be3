//! Seeds: addresses at which other nodes may be found. Candidates only: who they are is settled by the handshake.
//!
//! A mesh must outlive its DNS. So a seed is looked up for ever (a split mesh finds itself again when names come back),
//! and what was found last is kept through everything that is not a better answer: NXDOMAIN, an empty answer, SERVFAIL,
//! silence. Half an answer (A came, AAAA timed
//! out) adds what it has and removes nothing. Every seed has a task of its own, so
//! that a dead name server of one delays no other. While a seed fails it is looked up more often: after a second, then
//! ever later up to the refresh interval.
//!
//! Answers are not trusted: 64 addresses a seed, none that cannot be dialled. If there are more, each look takes
//! another window of them, chosen by chance: always the first ones might be 64 dead addresses for ever.

mod lookup;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::settings::Seed;
use lookup::{Found, Patience};

/// Most addresses that one seed contributes.
pub const MAX_ADDRESSES: usize = 64;
/// Pause after the first failed look.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What is known about one seed, for the status.
#[derive(Clone, Debug, Serialize)]
pub struct SeedStatus {
    pub seed: String,
    pub addresses: Vec<SocketAddr>,
    /// Text of the last failure, if the last lookup failed; the addresses are then those of the last good answer.
    pub error: Option<String>,
    pub failures_total: u64,
    pub lookups_total: u64,
    /// Addresses of answers that were not taken: more than 64, or impossible to dial.
    pub dropped_total: u64,
}

/// Looks the seeds up, now and for ever. Dropping it ends the lookups.
pub struct Discovery {
    shared: Arc<Shared>,
    /// Owned for their end: dropping the set aborts the tasks.
    _tasks: JoinSet<()>,
}

struct Shared {
    seeds: Mutex<Vec<SeedStatus>>,
    candidates: watch::Sender<BTreeSet<SocketAddr>>,
}

impl Discovery {
    /// Starts a task for each seed. `dns_server` stands in for the system's name servers. Needs a tokio runtime.
    pub fn start(seeds: Vec<Seed>, dns_server: Option<SocketAddr>, refresh: Duration) -> Discovery {
        Discovery::start_with(seeds, dns_server, refresh, Patience::DEFAULT)
    }

    fn start_with(
        seeds: Vec<Seed>,
        dns_server: Option<SocketAddr>,
        refresh: Duration,
        patience: Patience,
    ) -> Discovery {
        let status = |seed: &Seed| SeedStatus {
            seed: seed.to_string(),
            addresses: Vec::new(),
            error: None,
            failures_total: 0,
            lookups_total: 0,
            dropped_total: 0,
        };
        let shared = Arc::new(Shared {
            seeds: Mutex::new(seeds.iter().map(status).collect()),
            candidates: watch::Sender::new(BTreeSet::new()),
        });
        let mut tasks = JoinSet::new();
        for (nth, seed) in seeds.into_iter().enumerate() {
            match lookup::literal(&seed) {
                Some(address) => {
                    let addresses = BTreeSet::from([address]);
                    shared.record(nth, Found { addresses, complete: true, ..Found::default() });
                }
                None => {
                    tasks.spawn(look_for_ever(Arc::clone(&shared), nth, seed, dns_server, refresh, patience));
                }
            }
        }
        Discovery { shared, _tasks: tasks }
    }

    /// The union of all last good answers, at most 64 a seed; changes are seen through the watch.
    pub fn candidates(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.shared.candidates.subscribe()
    }

    pub fn status(&self) -> Vec<SeedStatus> {
        self.shared.seeds().clone()
    }
}

async fn look_for_ever(
    shared: Arc<Shared>,
    nth: usize,
    seed: Seed,
    dns_server: Option<SocketAddr>,
    refresh: Duration,
    patience: Patience,
) {
    let mut retry = FIRST_RETRY.min(refresh);
    loop {
        let found = lookup::look(&seed, dns_server, patience).await;
        let pause = if shared.record(nth, found) {
            retry = FIRST_RETRY.min(refresh);
            refresh
        } else {
            let pause = retry;
            retry = (retry * 2).min(refresh);
            pause
        };
        // Nodes that started together must not ask together for ever.
        tokio::time::sleep(pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
    }
}

impl Shared {
    fn seeds(&self) -> MutexGuard<'_, Vec<SeedStatus>> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a look found into the status and the candidates. True if it was a good answer.
    fn record(&self, nth: usize, found: Found) -> bool {
        let mut seeds = self.seeds();
        let Some(seed) = seeds.get_mut(nth) else { return false };
        let good = seed.take(found);
        // Under the lock, so that an older union never overwrites a newer one.
        let union: BTreeSet<SocketAddr> = seeds.iter().flat_map(|seed| &seed.addresses).copied().collect();
        self.candidates.send_if_modified(|candidates| {
            let modified = *candidates != union;
            *candidates = union;
            modified
        });
        good
    }
}

impl SeedStatus {
    fn take(&mut self, found: Found) -> bool {
        self.lookups_total += 1;
        let asked_for = found.addresses.len() + found.dropped;
        let mut usable: Vec<SocketAddr> = found
            .addresses
            .into_iter()
            .map(canonical)
            .filter(can_be_dialled)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let too_many = usable.len() > MAX_ADDRESSES;
        if too_many {
            let start = rand::random_range(0..usable.len());
            usable.rotate_left(start);
            usable.truncate(MAX_ADDRESSES);
        }
        let dropped = asked_for.saturating_sub(usable.len());
        self.dropped_total += dropped as u64;
        let good = found.complete && !usable.is_empty();
        let error = (!good).then(|| match found.error {
            Some(error) => error,
            None if asked_for > 0 => "every address in the answer is impossible to dial".to_owned(),
            None => "the name has no addresses".to_owned(),
        });
        self.replace_addresses(usable, good, too_many);
        self.replace_error(error, dropped);
        good
    }

    /// A good answer replaces; half an answer fills up what room there is.
    fn replace_addresses(&mut self, mut found: Vec<SocketAddr>, good: bool, window: bool) {
        if !good {
            let missing: Vec<SocketAddr> =
                self.addresses.iter().filter(|address| !found.contains(address)).copied().collect();
            found.extend(missing);
            found.truncate(MAX_ADDRESSES);
        }
        found.sort_unstable();
        if found == self.addresses {
            return;
        }
        let old = std::mem::replace(&mut self.addresses, found);
        // A window changes at every look; that is not news.
        if !window || old.is_empty() {
            let added: Vec<_> = self.addresses.iter().filter(|address| !old.contains(address)).collect();
            let removed: Vec<_> = old.iter().filter(|address| !self.addresses.contains(address)).collect();
            tracing::info!(seed = self.seed, ?added, ?removed, "addresses of a seed have changed");
        }
    }

    fn replace_error(&mut self, error: Option<String>, dropped: usize) {
        self.failures_total += u64::from(error.is_some());
        match (&self.error, &error) {
            (old, Some(new)) if old.as_ref() != Some(new) => {
                tracing::warn!(
                    seed = self.seed,
                    error = new,
                    kept = self.addresses.len(),
                    "a seed gives no good answer; what was found before is kept"
                );
            }
            (Some(_), None) => tracing::info!(seed = self.seed, "a seed answers again"),
            _ if dropped > 0 => tracing::debug!(seed = self.seed, dropped, "addresses of a seed were not taken"),
            _ => {}
        }
        self.error = error;
    }
}

/// IPv4 in IPv6 clothes is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Not nobody, not everybody, and not a link-local address, which means nothing without naming the link.
fn can_be_dialled(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let is_special = match ip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_special
}
