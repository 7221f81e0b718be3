//! The `mesh` connector.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::fields::{Choice, Fields, join};
use super::{Check, Listen, address};
use crate::config::problem::Problem;
use crate::config::schema::{MESH, MESH_TLS};
use crate::config::settings::{Advertise, LinkCompression, MeshSecurity, MeshSettings, Seed};
use crate::config::tree::{Node, Place, Value};
use crate::model::{ClusterName, NodeName};

const COMPRESSIONS: Choice<LinkCompression> = Choice {
    values: &[("zstd", LinkCompression::Zstd), ("lz4", LinkCompression::Lz4), ("none", LinkCompression::None)],
    not_yet: &[],
};

const DURABILITIES: Choice<()> = Choice {
    values: &[("memory", ())],
    not_yet: &[("disk", "use `memory`: spans live in memory until they are settled, and a crash loses those in hand")],
};

/// More seeds than that are a list of members, which the mesh keeps itself.
const MOST_SEEDS: usize = 64;
const NAME_FORM: &str = "1 to 128 of the letters a-z A-Z 0-9 . _ -";

pub(super) fn read(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> Option<MeshSettings> {
    let fields = Fields::open(check, node, at, path, &MESH);
    fields.choice(check, "durability", "memory", &DURABILITIES);
    let seeds = seeds(check, &fields);
    let security = security(check, &fields, &seeds);
    let listen = listen(check, &fields, security.as_ref());
    let weight = fields.count(check, "weight", 100, (0, 10_000));
    if weight == 0 && security.is_none() && fields.get("tls").is_none() && seeds.is_empty() {
        fields.wrong(
            check,
            "weight",
            "a node that runs alone must own its traces: with weight 0 they have no owner",
            "1 to 10000, or seeds and certificates to join others",
        );
    }
    let seconds = |low, high| (Duration::from_secs(low), Duration::from_secs(high));
    let cluster = cluster(check, &fields);
    let node = node_name(check, &fields);
    let settings = MeshSettings {
        cluster: cluster?,
        node: node?,
        region: label(check, &fields, "region"),
        zone: label(check, &fields, "zone"),
        environment: label(check, &fields, "environment"),
        name: fields.read(check, "name", ("default".to_owned(), "default".to_owned()), NAME_FORM, |text| {
            ClusterName::new(text).ok().map(|name| name.to_string())
        }),
        listen,
        advertise: advertise(check, &fields),
        seeds,
        dns_server: dns_server(check, &fields),
        refresh_interval: fields.duration(check, "refresh_interval", Duration::from_secs(30), seconds(1, 3600)),
        weight: u16::try_from(weight).unwrap_or(u16::MAX),
        security,
        compression: fields.choice(check, "compression", "zstd", &COMPRESSIONS),
        failover_after: fields.duration(check, "failover_after", Duration::from_secs(10), seconds(1, 3600)),
    };
    Some(settings)
}

fn cluster(check: &mut Check<'_>, fields: &Fields<'_>) -> Option<ClusterName> {
    let Some(text) = fields.text(check, "cluster") else {
        fields.missing(check, "cluster", "the name of the place this node runs in, like `cluster: us-east-1`");
        return None;
    };
    let name = ClusterName::new(&text).ok();
    if name.is_none() {
        fields.wrong(check, "cluster", "this cannot be the name of a cluster", NAME_FORM);
    }
    name
}

fn node_name(check: &mut Check<'_>, fields: &Fields<'_>) -> Option<NodeName> {
    if let Some(text) = fields.text(check, "node").filter(|t| !t.is_empty()) {
        let name = NodeName::new(&text).ok();
        if name.is_none() {
            fields.wrong(check, "node", "this cannot be the name of a node", NAME_FORM);
        }
        return name;
    }
    let name = NodeName::new(&check.host.hostname).ok();
    match &name {
        Some(name) => fields.default(check, "node", name.as_str()),
        None => fields.missing(check, "node", "the name of this machine cannot be used as one"),
    }
    name
}

/// A text that is shown and may be matched by policies.
fn label(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> String {
    let text = fields.text_or(check, key, "");
    if text.len() > 128 || text.chars().any(char::is_control) {
        fields.wrong(check, key, "too long, or not printable", "at most 128 bytes of printable text");
        return String::new();
    }
    text
}

/// With certificates every peer is proven, and a mesh on loopback meets nobody: all addresses. Without proof: loopback.
fn listen(check: &mut Check<'_>, fields: &Fields<'_>, security: Option<&MeshSecurity>) -> SocketAddr {
    let insecure = matches!(security, Some(MeshSecurity::InsecureDev));
    let address = fields.endpoint(check, "listen", if insecure { "127.0.0.1:4319" } else { "0.0.0.0:4319" });
    let path = join(&fields.path_of("listen"));
    let place = fields.place("listen");
    if security.is_some() {
        let owner = fields.path.get(1).cloned().unwrap_or_default();
        check.listens.push(Listen { address, udp: true, owner, path: path.clone(), place });
    }
    if insecure && !address.ip().is_loopback() {
        let message = "with `insecure_dev` anybody who reaches this address may join the mesh as any node";
        check.say(Problem::warning(place, &path, message).help("for more than a trial, use certificates"));
    }
    address
}

fn advertise(check: &mut Check<'_>, fields: &Fields<'_>) -> Advertise {
    let allowed = "HOST:PORT that other nodes can dial, \"none\", or \"\" (what they see)";
    fields.read(check, "advertise", (Advertise::Learned, String::new()), allowed, |text| match text {
        "" => Some(Advertise::Learned),
        "none" => Some(Advertise::None),
        _ => {
            let (host, _) = address::host_port(text)?;
            let nowhere = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
            (!nowhere).then(|| Advertise::Address(text.to_owned()))
        }
    })
}

fn dns_server(check: &mut Check<'_>, fields: &Fields<'_>) -> Option<SocketAddr> {
    let form = "IP:PORT of a DNS server, like 10.0.0.10:53; empty: the system's";
    fields.read(check, "dns_server", (None, String::new()), form, |text| match text {
        "" => Some(None),
        _ => text.parse().ok().filter(|a: &SocketAddr| a.port() != 0 && !a.ip().is_unspecified()).map(Some),
    })
}

/// A list, or one string with commas, which is what fits into an environment variable.
fn seeds(check: &mut Check<'_>, fields: &Fields<'_>) -> Vec<Seed> {
    if fields.get("seeds").is_none() {
        fields.default(check, "seeds", "[]");
    }
    let (mut seeds, mut known) = (Vec::new(), BTreeSet::new());
    for (path, item) in fields.list(check, "seeds") {
        let Value::Scalar(scalar) = &item.value else {
            if !matches!(item.value, Value::Unresolved) {
                let problem = Problem::error(item.at, &join(&path), "a seed is a string").value(item.shown());
                check.say(problem.allowed(address::SEED_FORM));
            }
            continue;
        };
        for text in scalar.text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            match address::seed(text) {
                Ok(seed) if known.insert(seed.clone()) => seeds.push(seed),
                Ok(seed) if scalar.written.is_none() => {
                    check.say(Problem::warning(item.at, &join(&path), format!("the seed {seed} is given twice")));
                }
                Ok(_) => {}
                Err(help) => {
                    let problem = Problem::error(item.at, &join(&path), "this is no seed").value(item.shown());
                    let problem = problem.allowed(address::SEED_FORM);
                    check.say(help.into_iter().fold(problem, |p, help| p.help(help)));
                }
            }
        }
    }
    if seeds.len() > MOST_SEEDS {
        fields.wrong(
            check,
            "seeds",
            "too many seeds",
            &format!("at most {MOST_SEEDS}; members are learned from any one"),
        );
    }
    seeds
}

fn security(check: &mut Check<'_>, parent: &Fields<'_>, seeds: &[Seed]) -> Option<MeshSecurity> {
    let fields = parent.map(check, "tls", &MESH_TLS);
    let ca_file = fields.path_buf(check, "ca_file");
    let cert_file = fields.path_buf(check, "cert_file");
    let key_file = fields.path_buf(check, "key_file");
    let insecure = fields.flag(check, "insecure_dev", false);
    let range = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    let reload_interval = fields.duration(check, "reload_interval", Duration::from_secs(30), range);
    let files = [("ca_file", &ca_file), ("cert_file", &cert_file), ("key_file", &key_file)];
    let any = files.iter().any(|(_, file)| file.is_some());
    if insecure {
        if any {
            let message = "`insecure_dev: true` and certificates: it must be clear whether peers prove who they are";
            check.say(Problem::error(fields.place("insecure_dev"), &join(&fields.path), message));
        }
        return Some(MeshSecurity::InsecureDev);
    }
    if any {
        for (key, _) in files.iter().filter(|(_, file)| file.is_none()) {
            fields.missing(check, key, "mutual TLS needs `ca_file`, `cert_file` and `key_file`");
        }
        return Some(MeshSecurity::Mtls {
            ca_file: ca_file?,
            cert_file: cert_file?,
            key_file: key_file?,
            reload_interval,
        });
    }
    if !seeds.is_empty() {
        let problem = Problem::error(parent.place("seeds"), &join(&parent.path), "seeds without certificates");
        check.say(problem.help(
            "give `tls: {ca_file: , cert_file: , key_file: }` (`spanmesh certs` makes trial ones), \
             or for a trial `tls: {insecure_dev: true}`",
        ));
    }
    None
}
