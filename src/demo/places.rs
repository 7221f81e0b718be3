//! Where everything of the demo is: three clusters, their addresses on loopback, the ports, the distances between them.
//!
//! On Linux each cluster has an address of its own (127.0.1.1, 127.0.2.1, 127.0.3.1), so that every node can have the
//! usual ports, as it would on its own machine. Where those addresses cannot be bound, all share 127.0.0.1. A port that is
//! taken is replaced by a free one, and the replacement is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::model::ids::IdError;
use crate::model::{ClusterName, NodeId, NodeName};

/// The demo's clusters; everywhere else they are numbered as here.
pub const CLUSTERS: [&str; 3] = ["us-east-1", "us-west-2", "eu-west-1"];
pub const NODES: usize = CLUSTERS.len();
/// Every cluster has one node of this name.
pub const NODE_NAME: &str = "node-0";

/// Round trip between two clusters.
pub fn round_trip(a: usize, b: usize) -> Duration {
    match (a.min(b), a.max(b)) {
        (a, b) if a == b => Duration::ZERO,
        (0, 1) => Duration::from_millis(60),
        _ => Duration::from_millis(90),
    }
}

/// Number of the node that the user means by `us-east-1`, `us-east-1/node-0`.
pub fn node_number(name: &str) -> Option<usize> {
    CLUSTERS.iter().position(|cluster| name == *cluster || name.strip_prefix(cluster) == Some("/node-0"))
}

/// What one node listens on.
#[derive(Clone, Debug)]
pub struct Place {
    pub id: NodeId,
    pub otlp_grpc: SocketAddr,
    pub otlp_http: SocketAddr,
    /// UDP. Other nodes do not dial this but the relay's socket in front of it.
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub health: SocketAddr,
}

/// A usual port that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub what: &'static str,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// Finds addresses for all nodes. Between this and a node's start another process may take a port: the node then says so.
pub fn find() -> io::Result<(Vec<Place>, Vec<Moved>)> {
    find_from([4317, 4318, 4319, 4320, 8888, 13133])
}

fn find_from(usual: [u16; 6]) -> io::Result<(Vec<Place>, Vec<Moved>)> {
    let mut finder = Finder::default();
    let mut places = Vec::with_capacity(NODES);
    for number in 0..NODES {
        let ip = own_address(number);
        let [grpc, http, mesh, admin, metrics, health] = usual;
        places.push(Place {
            id: node_id(number).map_err(io::Error::other)?,
            otlp_grpc: finder.tcp("OTLP/gRPC", ip, grpc)?,
            otlp_http: finder.tcp("OTLP/HTTP", ip, http)?,
            mesh: finder.udp("mesh", ip, mesh)?,
            admin: finder.tcp("admin", ip, admin)?,
            metrics: finder.tcp("metrics", ip, metrics)?,
            health: finder.tcp("health", ip, health)?,
        });
    }
    Ok((places, finder.moved))
}

fn node_id(number: usize) -> Result<NodeId, IdError> {
    Ok(NodeId { cluster: ClusterName::new(CLUSTERS[number % NODES])?, node: NodeName::new(NODE_NAME)? })
}

/// The cluster's own loopback address if the system has it.
fn own_address(number: usize) -> IpAddr {
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, number as u8 + 1, 1));
    match UdpSocket::bind((own, 0)) {
        Ok(_) => own,
        Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// Holds every socket until all are found, so that no two free ports are the same one.
#[derive(Default)]
struct Finder {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    moved: Vec<Moved>,
}

impl Finder {
    fn tcp(&mut self, what: &'static str, ip: IpAddr, port: u16) -> io::Result<SocketAddr> {
        let usual = SocketAddr::new(ip, port);
        let socket = TcpListener::bind(usual).or_else(|_| TcpListener::bind((ip, 0)))?;
        let addr = socket.local_addr()?;
        self.tcp.push(socket);
        Ok(self.note(what, usual, addr))
    }

    fn udp(&mut self, what: &'static str, ip: IpAddr, port: u16) -> io::Result<SocketAddr> {
        let usual = SocketAddr::new(ip, port);
        let socket = UdpSocket::bind(usual).or_else(|_| UdpSocket::bind((ip, 0)))?;
        let addr = socket.local_addr()?;
        self.udp.push(socket);
        Ok(self.note(what, usual, addr))
    }

    fn note(&mut self, what: &'static str, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        if from != to {
            self.moved.push(Moved { what, from, to });
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_taken_port_moves_aside_and_says_so() {
        let ip = own_address(1);
        let taken = TcpListener::bind((ip, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let (places, moved) = find_from([port, 0, 0, 0, 0, 0]).unwrap();
        let aside = moved.iter().find(|m| m.from == taken.local_addr().unwrap()).unwrap();
        assert_eq!((aside.what, aside.to), ("OTLP/gRPC", places[1].otlp_grpc));
        let tcp: BTreeSet<_> =
            places.iter().flat_map(|p| [p.otlp_grpc, p.otlp_http, p.admin, p.metrics, p.health]).collect();
        assert_eq!(tcp.len(), 15, "no two are the same");
    }

    #[test]
    fn a_node_may_be_named_by_its_cluster() {
        assert_eq!(node_number("us-west-2"), Some(1));
        assert_eq!(node_number("eu-west-1/node-0"), Some(2));
        assert_eq!(node_number("eu-west-1/node-1"), None);
        assert_eq!(node_number("eu-west"), None);
    }

    #[test]
    fn distances_are_those_of_the_map() {
        assert_eq!(round_trip(1, 0).as_millis(), 60);
        assert_eq!((round_trip(0, 2).as_millis(), round_trip(2, 1).as_millis()), (90, 90));
    }
}
