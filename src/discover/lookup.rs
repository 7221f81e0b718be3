//! One look at one seed.
//!
//! Each look builds its resolver anew. Keeping one would save two small files being read every half a minute, and
//! cost: its cache (an answer must be seen when it changes), its opinion of name servers (hickory's pool can stay with
//! a broken one, hickory-dns#3837), and a `resolv.conf` or `hosts` that has changed since.
//!
//! A look asks several questions: A and AAAA, and for SRV those of every target. Some may fail while others are
//! answered; [`Found::complete`] keeps the two apart, so that half an answer is never taken for the whole.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::MAX_ADDRESSES;
use crate::config::settings::Seed;

/// SRV targets that are looked up at once.
const TARGETS_AT_ONCE: usize = 8;
const LATE: &str = "name servers did not answer in time";

/// How patient one look is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// One question to one name server.
    pub(super) question: Duration,
    /// The whole look; what has not been answered then is missing.
    pub(super) look: Duration,
}

impl Patience {
    pub(super) const DEFAULT: Patience = Patience { question: Duration::from_secs(2), look: Duration::from_secs(15) };
}

/// What one look has found. Neither capped nor checked yet.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) addresses: BTreeSet<SocketAddr>,
    /// Why a question got no answer, or else a negative one. Also there may be addresses.
    pub(super) error: Option<String>,
    /// Every question was answered, be it with "there is none".
    pub(super) complete: bool,
    /// SRV targets that were not looked up, being beyond the bound.
    pub(super) dropped: usize,
}

/// The address that a seed is, if it needs no looking up.
pub(super) fn literal(seed: &Seed) -> Option<SocketAddr> {
    match seed {
        Seed::Dns { host, port } | Seed::Host { host, port } => {
            host.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, *port))
        }
        Seed::Srv { .. } => None,
    }
}

/// Asks for `seed`. Ends in time, and leaves nothing running when dropped.
pub(super) async fn look(seed: &Seed, dns_server: Option<SocketAddr>, patience: Patience) -> Found {
    let resolver = match resolver(dns_server, patience) {
        Ok(resolver) => resolver,
        Err(error) => return Found { error: Some(format!("no resolver: {error}")), ..Found::default() },
    };
    let deadline = Instant::now() + patience.look;
    match seed {
        Seed::Dns { host, port } | Seed::Host { host, port } => {
            targets(&resolver, vec![(host.clone(), *port)], deadline).await
        }
        Seed::Srv { name } => match tokio::time::timeout_at(deadline, services(&resolver, name)).await {
            Ok(Ok(mut services)) => {
                let dropped = services.len().saturating_sub(MAX_ADDRESSES);
                services.truncate(MAX_ADDRESSES);
                Found { dropped, ..targets(&resolver, services, deadline).await }
            }
            Ok(Err(error)) => Found { complete: is_negative(&error), error: Some(say(&error)), ..Found::default() },
            Err(_) => Found { error: Some(LATE.to_owned()), ..Found::default() },
        },
    }
}

fn resolver(dns_server: Option<SocketAddr>, patience: Patience) -> Result<TokioResolver, NetError> {
    let mut builder = match dns_server {
        // Without a usable resolv.conf there is still the hosts file, and `localhost`.
        None => Resolver::builder_tokio().unwrap_or_else(|error| {
            tracing::debug!(%error, "the system's resolver configuration cannot be used");
            Resolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), Vec::new()),
                TokioRuntimeProvider::default(),
            )
        }),
        Some(server) => {
            let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut name_server.connections {
                connection.port = server.port();
            }
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    // At most: `options timeout attempts` of resolv.conf may ask for less.
    options.timeout = options.timeout.min(patience.question);
    options.attempts = options.attempts.clamp(1, 2);
    builder.build()
}

/// Targets and ports of a service, by priority. A target of "." says that there is none (RFC 2782).
async fn services(resolver: &TokioResolver, name: &str) -> Result<Vec<(String, u16)>, NetError> {
    let answer = resolver.lookup(name, RecordType::SRV).await?;
    let mut services: Vec<_> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) if !srv.target.is_root() => Some((srv.priority, srv.target.to_ascii(), srv.port)),
            _ => None,
        })
        .collect();
    services.sort();
    services.dedup();
    Ok(services.into_iter().map(|(_, target, port)| (target, port)).collect())
}

/// The addresses of all `hosts`, a few at a time. An empty list is a complete answer without addresses.
async fn targets(resolver: &TokioResolver, hosts: Vec<(String, u16)>, deadline: Instant) -> Found {
    let turns = Arc::new(Semaphore::new(TARGETS_AT_ONCE));
    let mut looks = JoinSet::new();
    for (host, port) in hosts {
        let (resolver, turns) = (resolver.clone(), Arc::clone(&turns));
        looks.spawn(async move {
            // Never closed: an error here cannot be.
            let _turn = turns.acquire().await;
            let (v4, v6) =
                tokio::join!(resolver.lookup(&*host, RecordType::A), resolver.lookup(&*host, RecordType::AAAA));
            (port, [v4, v6])
        });
    }
    let mut found = Found { complete: true, ..Found::default() };
    loop {
        match tokio::time::timeout_at(deadline, looks.join_next()).await {
            Ok(None) => return found,
            Ok(Some(Ok((port, answers)))) => answers.into_iter().for_each(|answer| found.add(port, answer)),
            Ok(Some(Err(error))) => found.fail(format!("the lookup ended early: {error}")),
            Err(_) => {
                found.fail(LATE.to_owned());
                return found;
            }
        }
    }
}

impl Found {
    fn add(&mut self, port: u16, answer: Result<Lookup, NetError>) {
        match answer {
            Ok(answer) => {
                let addresses = answer.answers().iter().filter_map(|record| record.data.ip_addr());
                self.addresses.extend(addresses.map(|address| SocketAddr::new(address, port)));
            }
            Err(error) if is_negative(&error) => self.error = self.error.take().or(Some(say(&error))),
            Err(error) => self.fail(say(&error)),
        }
    }

    fn fail(&mut self, error: String) {
        self.complete = false;
        self.error = Some(error);
    }
}

/// "There is none": an answer, though not a welcome one. Other response codes without records are failures.
fn is_negative(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none))
        if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError))
}

fn say(error: &NetError) -> String {
    if error.is_nx_domain() {
        "the name does not exist (NXDOMAIN)".to_owned()
    } else if is_negative(error) {
        "the name has no such records".to_owned()
    } else {
        error.to_string()
    }
}
