//! A small authoritative DNS server in this process, for `spanmesh demo` and for tests of discovery.
//!
//! Discovery is only proven by real packets: truncation, TCP fallback, NXDOMAIN and silence are where resolvers go
//! wrong, and a mocked resolver has none of them. So this is hickory's server on real UDP and TCP sockets of one port,
//! answering for the root zone, so that any name can be put into it. A change builds a new zone and swaps it in whole:
//! a query sees the zone before or after a change, never half of it. [`Fault`] makes it fail like servers fail.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordSet, RecordType, RrKey};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, MessageResponseBuilder, ZoneHandler, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

/// Time to live of every record, in seconds: short, since zones of a demo change while one looks.
const TTL: u32 = 1;

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fault {
    /// Truthfully.
    #[default]
    None,
    /// SERVFAIL to everything.
    ServFail,
    /// Not at all: queries are read and forgotten.
    Silent,
}

/// A running server. Dropping it, or [`DnsZone::stop`], closes its sockets.
pub struct DnsZone {
    addr: SocketAddr,
    answers: Arc<Answers>,
    records: Mutex<BTreeMap<Name, Records>>,
    server: Server<Handler>,
}

#[derive(Clone, Default)]
struct Records {
    addresses: Vec<IpAddr>,
    services: Vec<(Name, u16)>,
}

struct Answers {
    catalog: ArcSwap<Catalog>,
    fault: ArcSwap<Fault>,
}

impl DnsZone {
    /// Serves an empty zone on UDP and TCP of `listen`; port 0 takes one that is free for both. Needs a tokio runtime.
    pub fn start(listen: SocketAddr) -> io::Result<DnsZone> {
        let (udp, tcp) = bind_both(listen)?;
        let addr = udp.local_addr()?;
        let answers = Arc::new(Answers {
            catalog: ArcSwap::from_pointee(catalog(&BTreeMap::new())),
            fault: ArcSwap::from_pointee(Fault::None),
        });
        let mut server = Server::new(Handler(Arc::clone(&answers)));
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 64);
        Ok(DnsZone { addr, answers, records: Mutex::default(), server })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the A and AAAA records of `name`. Without addresses and services a name does not exist (NXDOMAIN); with
    /// services only, it has no addresses (an empty answer).
    pub fn set_a(&self, name: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let name = absolute(name)?;
        self.change(|records| records.entry(name).or_default().addresses = addresses.to_vec());
        Ok(())
    }

    /// Replaces the SRV records of `name`: targets and ports.
    pub fn set_srv(&self, name: &str, targets: &[(&str, u16)]) -> io::Result<()> {
        let name = absolute(name)?;
        let services =
            targets.iter().map(|(target, port)| Ok((absolute(target)?, *port))).collect::<io::Result<Vec<_>>>()?;
        self.change(|records| records.entry(name).or_default().services = services);
        Ok(())
    }

    /// Empties the zone: every name is then NXDOMAIN.
    pub fn clear(&self) {
        self.change(BTreeMap::clear);
    }

    pub fn set_fault(&self, fault: Fault) {
        self.answers.fault.store(Arc::new(fault));
    }

    /// Ends the server and waits until its sockets are closed, so that its port can be taken again.
    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::debug!(%error, "a task of the DNS server failed while it was stopped");
        }
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<Name, Records>)) {
        let mut records: MutexGuard<'_, _> = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut records);
        records.retain(|_, of_name| !of_name.addresses.is_empty() || !of_name.services.is_empty());
        self.answers.catalog.store(Arc::new(catalog(&records)));
    }
}

/// A UDP and a TCP socket of one port. A free UDP port may be taken for TCP, hence the tries.
fn bind_both(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries_left = if listen.port() == 0 { 16 } else { 1 };
    loop {
        tries_left -= 1;
        let udp = std::net::UdpSocket::bind(listen)?;
        match std::net::TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?));
            }
            Err(error) if tries_left == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

fn absolute(name: &str) -> io::Result<Name> {
    let mut name = Name::from_ascii(name)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no DNS name: {error}")))?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

/// The zone as hickory wants it: record sets by name and type, with the SOA that negative answers carry.
fn catalog(records: &BTreeMap<Name, Records>) -> Catalog {
    let root = Name::root();
    let mut zone: InMemoryZoneHandler = InMemoryZoneHandler::empty(root.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let sets = zone.records_get_mut();
    let mut put = |name: &Name, kind: RecordType, data: RData| {
        let set = sets
            .entry(RrKey::new(LowerName::new(name), kind))
            .or_insert_with(|| Arc::new(RecordSet::new(name.clone(), kind, 0)));
        Arc::make_mut(set).insert(Record::from_rdata(name.clone(), TTL, data), 0);
    };
    let ttl = i32::try_from(TTL).unwrap_or(i32::MAX);
    put(&root, RecordType::SOA, RData::SOA(SOA::new(root.clone(), root.clone(), 1, ttl, ttl, ttl, TTL)));
    for (name, of_name) in records {
        for address in &of_name.addresses {
            match address {
                IpAddr::V4(v4) => put(name, RecordType::A, RData::A(A(*v4))),
                IpAddr::V6(v6) => put(name, RecordType::AAAA, RData::AAAA(AAAA(*v6))),
            }
        }
        for (target, port) in &of_name.services {
            put(name, RecordType::SRV, RData::SRV(SRV::new(0, 0, *port, target.clone())));
        }
    }
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::new(&root), vec![Arc::new(zone) as Arc<dyn ZoneHandler>]);
    catalog
}

struct Handler(Arc<Answers>);

impl Handler {
    async fn answer<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = ResponseCode::ServFail;
        let failed = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        match **self.0.fault.load() {
            Fault::None => {
                let catalog = self.0.catalog.load_full();
                catalog.handle_request::<R, T>(request, to).await
            }
            Fault::Silent => failed,
            Fault::ServFail => {
                let answer = MessageResponseBuilder::from_message_request(request)
                    .error_msg(&request.metadata, ResponseCode::ServFail);
                to.send_response(answer).await.unwrap_or(failed)
            }
        }
    }
}

impl RequestHandler for Handler {
    // The trait is declared with `async_trait`; this is what that macro makes of an `async fn`.
    fn handle_request<'life0, 'life1, 'async_trait, R, T>(
        &'life0 self,
        request: &'life1 Request,
        response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'async_trait>>
    where
        R: ResponseHandler + 'async_trait,
        T: Time + 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.answer::<R, T>(request, response_handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::{Resolver, TokioResolver};

    fn resolver(server: SocketAddr) -> TokioResolver {
        let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut name_server.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_parts(None, vec![], vec![name_server]);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.options_mut().attempts = 1;
        builder.options_mut().timeout = Duration::from_millis(300);
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn a_real_resolver_sees_every_change_and_every_fault() {
        let zone = DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let resolver = resolver(zone.addr());
        let nodes = async || resolver.lookup_ip("nodes.mesh.test.").await;

        assert!(nodes().await.unwrap_err().is_nx_domain());
        zone.set_a("nodes.mesh.test", &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]).unwrap();
        assert_eq!(nodes().await.unwrap().iter().count(), 2);

        zone.set_srv("_mesh._udp.mesh.test", &[("nodes.mesh.test", 4319)]).unwrap();
        let srv = resolver.srv_lookup("_mesh._udp.mesh.test.").await.unwrap();
        assert!(srv.answers().iter().any(|r| matches!(&r.data, RData::SRV(srv) if srv.port == 4319)));
        assert!(resolver.lookup_ip("_mesh._udp.mesh.test.").await.unwrap_err().is_no_records_found());

        zone.set_fault(Fault::ServFail);
        assert!(!nodes().await.unwrap_err().is_nx_domain());
        zone.set_fault(Fault::Silent);
        assert!(nodes().await.is_err());
        zone.set_fault(Fault::None);
        assert_eq!(nodes().await.unwrap().iter().count(), 2);
        zone.clear();
        assert!(nodes().await.unwrap_err().is_nx_domain());
    }

    #[tokio::test]
    async fn an_answer_too_big_for_udp_is_had_over_tcp() {
        let zone = DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let many: Vec<IpAddr> = (0..1_000u16).map(|n| IpAddr::from([10, 1, (n >> 8) as u8, n as u8])).collect();
        zone.set_a("many.test", &many).unwrap();
        assert_eq!(resolver(zone.addr()).lookup_ip("many.test.").await.unwrap().iter().count(), 1_000);
    }

    #[tokio::test]
    async fn a_stopped_server_frees_its_port() {
        let zone = DnsZone::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = zone.addr();
        zone.stop().await;
        assert_eq!(DnsZone::start(addr).unwrap().addr(), addr);
    }
}
