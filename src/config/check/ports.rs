//! Two listeners on one port, and an exporter that sends to its own node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Check, Listen};
use crate::config::problem::Problem;
use crate::config::tree::Place;

/// Reports listeners that cannot both be bound. Port 0 takes a free one.
pub(super) fn check_ports(check: &mut Check<'_>) {
    let listens = std::mem::take(&mut check.listens);
    for (index, later) in listens.iter().enumerate() {
        let clash = listens.iter().take(index).find(|first| clash(first, later));
        if let Some(first) = clash {
            let message = format!("{} is used twice: by {} and {}", later.address, first.owner, later.owner);
            let problem = Problem::error(later.place, &later.path, message);
            check.say(problem.related(first.place, format!("{} listens at {}", first.owner, first.address)));
        }
    }
    check.listens = listens;
}

fn clash(a: &Listen, b: &Listen) -> bool {
    let (x, y) = (a.address, b.address);
    let overlap = x.ip() == y.ip() || covers(x, y) || covers(y, x);
    a.udp == b.udp && x.port() == y.port() && x.port() != 0 && overlap
}

/// An unspecified address takes the port at all others; `[::]` takes IPv4's as well.
fn covers(wide: SocketAddr, other: SocketAddr) -> bool {
    wide.ip().is_unspecified() && (wide.is_ipv6() || other.is_ipv4())
}

/// An exporter's address that is one of this node's receivers would send every span round for ever.
pub(super) fn check_loop(check: &mut Check<'_>, exporter: &str, url: &str, place: Place) {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or(authority);
    let Some((host, port)) = super::address::host_port(authority) else { return };
    // Other addresses of 127.0.0.0/8 are other places: several nodes and backends of one machine may be told apart so.
    let to: Vec<IpAddr> = match host.as_str() {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => host.parse().into_iter().collect(),
    };
    let target = check.listens.iter().find(|l| {
        let ip = l.address.ip();
        let reached = to.iter().any(|to| *to == ip || (ip.is_unspecified() && to.is_loopback()));
        reached && !l.udp && l.address.port() == port
    });
    if let Some(target) = target.cloned() {
        let message = format!("`{exporter}` sends to this node's own {}", target.owner);
        let problem = Problem::error(place, &format!("exporters.{exporter}"), message);
        check.say(problem.related(target.place, format!("{} listens at {}", target.owner, target.address)));
    }
}
