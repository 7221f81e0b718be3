//! Addresses: those to listen at, those to dial, and the mesh's seeds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Check;
use super::fields::Fields;
use crate::config::settings::Seed;

pub(super) const LISTEN_FORM: &str = "IP:PORT, localhost:PORT or :PORT (every address), like 127.0.0.1:4317";

/// An address to listen at. `localhost` is 127.0.0.1: looking names up is not the business of a configuration.
pub(super) fn listen(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let ip = match host {
        "" => Ipv4Addr::UNSPECIFIED,
        "localhost" => Ipv4Addr::LOCALHOST,
        _ => return None,
    };
    Some(SocketAddr::new(IpAddr::V4(ip), number(port)?))
}

/// A port, in digits only.
fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// `host:port` to dial; an IPv6 address stands in brackets, and comes back without.
pub(super) fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = number(port).filter(|p| *p != 0)?;
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return matches!(inner.parse(), Ok(IpAddr::V6(_))).then(|| (inner.to_owned(), port));
    }
    is_host(host).then(|| (host.to_owned(), port))
}

/// A name that DNS can hold, or an IPv4 address.
pub(super) fn is_host(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let legal = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(legal)
        && (!numeric || name.parse::<Ipv4Addr>().is_ok())
}

pub(super) const SEED_FORM: &str = "dns+HOST:PORT, dnssrv+_SERVICE._udp.HOST or HOST:PORT";

/// One seed. `Err` says why not, if more can be said than that the form is wrong.
pub(super) fn seed(text: &str) -> Result<Seed, Option<&'static str>> {
    if text.starts_with("dnssrvnoa+") {
        return Err(Some("`dnssrvnoa+` is not supported yet; use `dnssrv+`"));
    }
    if let Some(name) = text.strip_prefix("dnssrv+") {
        let service = name.starts_with('_') && name.split('.').count() > 2 && is_host(name);
        return if service { Ok(Seed::Srv { name: name.to_owned() }) } else { Err(None) };
    }
    if let Some(rest) = text.strip_prefix("dns+") {
        return host_port(rest).map(|(host, port)| Seed::Dns { host, port }).ok_or(None);
    }
    host_port(text).map(|(host, port)| Seed::Host { host, port }).ok_or(None)
}

impl Fields<'_> {
    /// An address to listen at.
    pub(super) fn endpoint(&self, check: &mut Check<'_>, key: &'static str, default: &str) -> SocketAddr {
        let fallback = listen(default).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        self.read(check, key, (fallback, default.to_owned()), LISTEN_FORM, listen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_as_the_collector_reads_them_but_names_are_not_looked_up() {
        for (text, address) in [
            ("127.0.0.1:4317", "127.0.0.1:4317"),
            ("localhost:0", "127.0.0.1:0"),
            (":4317", "0.0.0.0:4317"),
            ("[::1]:4317", "[::1]:4317"),
        ] {
            assert_eq!(listen(text), Some(address.parse().unwrap()), "{text}");
        }
        for bad in ["", "4317", "127.0.0.1", "host:4317", "localhost:+1", "localhost:70000", "::1:4317:x"] {
            assert_eq!(listen(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn seeds_are_read_in_every_form() {
        for text in
            ["dns+mesh.test:4319", "dnssrv+_mesh._udp.mesh.test", "10.0.0.1:4319", "[::1]:4319", "dns+a_b.svc:1"]
        {
            assert_eq!(seed(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "mesh.test", "dns+mesh.test", "dns+:1", "a b:1", "a:0", "a:65536", "dnssrv+x", "1.2.3:4", "-a:1"]
        {
            assert_eq!(seed(bad), Err(None), "{bad:?}");
        }
        assert!(seed("dnssrvnoa+_a._udp.x").unwrap_err().is_some());
    }
}
