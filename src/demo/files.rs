//! What the nodes of the demo are started with: a throw-away CA, a certificate for each, a configuration for each.
//!
//! All of it lies in one directory that only its owner can read, and goes with it at the end. The configurations are
//! written as a user would write them, so that they can be read, changed and run by hand.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::NODE_HEADER;
use super::places::{CLUSTERS, Place};
use super::rules;
use crate::certs::Authority;
use crate::dns_zone::DnsZone;
use crate::runtime::clock::unix_now;

/// `.test` is reserved: the zone can never be somebody's.
pub const ZONE: &str = "mesh.test";
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);

/// The demo's directory, removed when dropped unless it is kept.
pub struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    /// A new directory in the system's place for temporary files.
    pub fn create(keep: bool) -> io::Result<Directory> {
        let path =
            std::env::temp_dir().join(format!("spanmesh-demo-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Directory { path, keep })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory behind, to be looked at.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn is_kept(&self) -> bool {
        self.keep
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::debug!(%error, "the demo's directory could not be removed");
        }
    }
}

/// The files of one node.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    pub config: PathBuf,
    pub log: PathBuf,
}

/// Where the node finds the rest of the demo.
pub struct Surroundings {
    /// The relay's address of each node.
    pub advertise: Vec<SocketAddr>,
    pub dns: SocketAddr,
    pub backend: String,
}

/// Publishes each node under its cluster's name: an address and a service record.
pub fn publish(zone: &DnsZone, advertise: &[SocketAddr]) -> io::Result<()> {
    for (cluster, address) in CLUSTERS.iter().zip(advertise) {
        let host = format!("{cluster}.{ZONE}");
        zone.set_a(&host, &[address.ip()])?;
        zone.set_srv(&format!("_mesh._udp.{host}"), &[(&host, address.port())])?;
    }
    Ok(())
}

/// Makes the CA, and certificate, key and configuration of each node.
pub fn write(directory: &Path, places: &[Place], around: &Surroundings) -> io::Result<Vec<NodeFiles>> {
    let authority = Authority::create(ZONE, unix_now(), VALID).map_err(io::Error::other)?;
    put(&directory.join("ca.crt"), authority.cert_pem())?;
    let mut files = Vec::with_capacity(places.len());
    for (number, place) in places.iter().enumerate() {
        let cluster = place.id.cluster.as_str();
        let issued = authority.issue(&place.id, &[], unix_now(), VALID).map_err(io::Error::other)?;
        put(&directory.join(format!("{cluster}.crt")), &issued.cert_pem)?;
        put(&directory.join(format!("{cluster}.key")), &issued.key_pem)?;
        let config = directory.join(format!("{cluster}.yaml"));
        put(&config, &configuration(directory, number, place, around))?;
        files.push(NodeFiles { config, log: directory.join(format!("{cluster}.log")) });
    }
    Ok(files)
}

/// Writes a new file that only its owner can read.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

fn configuration(directory: &Path, number: usize, place: &Place, around: &Surroundings) -> String {
    let cluster = &place.id.cluster;
    // JSON's strings are YAML's, whatever is in a path; `$` begins a variable and is doubled.
    let file = |name: String| {
        let path = directory.join(name).to_string_lossy().replace('$', "$$");
        serde_json::Value::String(path).to_string()
    };
    let seeds: String = (CLUSTERS.iter().enumerate())
        .filter(|(other, _)| *other != number)
        .map(|(_, other)| format!("\n      - dnssrv+_mesh._udp.{other}.{ZONE}"))
        .collect();
    let advertise = around.advertise.get(number).map(SocketAddr::to_string).unwrap_or_default();
    format!(
        r#"# The node of {cluster} in `spanmesh demo`.
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "{grpc}"}}
      http: {{endpoint: "{http}"}}
processors:
  memory_limiter: {{limit_mib: 512, spike_limit_mib: 128}}
  span_dedup: {{wait_duration: 5m}}
{processors}
exporters:
  otlp_http:
    endpoint: {backend}
    compression: none
    headers: {{{NODE_HEADER}: {id}}}
connectors:
  mesh:
    cluster: {cluster}
    node: {node}
    region: {cluster}
    environment: demo
    name: demo
    listen: "{mesh}"
    # The relay in front of this node: what others dial passes through it.
    advertise: "{advertise}"
    seeds:{seeds}
    dns_server: "{dns}"
    refresh_interval: 5s
    durability: memory
    tls:
      ca_file: {ca}
      cert_file: {cert}
      key_file: {key}
extensions:
  health_check: {{endpoint: "{health}"}}
service:
  extensions: [health_check]
  pipelines:
    traces/local: {{receivers: [otlp], processors: [memory_limiter], exporters: [mesh]}}
    traces/owned: {{receivers: [mesh], processors: [span_dedup, cross_cluster, tail_sampling], exporters: [otlp_http]}}
  telemetry:
    logs: {{encoding: console}}
    metrics: {{address: "{metrics}"}}
  admin: {{endpoint: "{admin}"}}
"#,
        processors = rules::processors(),
        grpc = place.otlp_grpc,
        http = place.otlp_http,
        backend = around.backend,
        id = place.id,
        node = place.id.node,
        mesh = place.mesh,
        dns = around.dns,
        ca = file("ca.crt".to_owned()),
        cert = file(format!("{cluster}.crt")),
        key = file(format!("{cluster}.key")),
        health = place.health,
        metrics = place.metrics,
        admin = place.admin,
    )
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;
    use crate::cli::host;
    use crate::config::settings::{Advertise, MeshSecurity, Seed};
    use crate::config::{self, problem::Source};

    #[test]
    fn every_node_gets_a_configuration_that_is_valid_and_says_where_it_is() {
        let directory = Directory::create(false).unwrap();
        let (places, _) = places::find().unwrap();
        let advertise: Vec<SocketAddr> = (1..=3).map(|n| SocketAddr::from(([127, 0, n, 1], 20_000))).collect();
        let dns = "127.0.0.1:5353".parse().unwrap();
        let around = Surroundings { advertise: advertise.clone(), dns, backend: "http://127.0.0.1:4000".to_owned() };
        let files = write(directory.path(), &places, &around).unwrap();
        for ((place, files), advertise) in places.iter().zip(&files).zip(&advertise) {
            let text = fs::read_to_string(&files.config).unwrap();
            let source = Source { name: "demo.yaml".to_owned(), text };
            let loaded = config::load(&[source], &|_| None, &host::facts()).unwrap();
            assert_eq!(loaded.warnings.to_string(), "");
            let (_, mesh) = loaded.settings.mesh.unwrap();
            assert_eq!((&mesh.cluster, &mesh.node, mesh.listen), (&place.id.cluster, &place.id.node, place.mesh));
            assert_eq!(mesh.advertise, Advertise::Address(advertise.to_string()));
            assert_eq!((mesh.dns_server, mesh.seeds.len()), (Some(dns), 2));
            assert!(mesh.seeds.iter().all(|seed| matches!(seed, Seed::Srv { .. })));
            assert_eq!(loaded.settings.admin.endpoint, Some(place.admin));
            let Some(MeshSecurity::Mtls { ca_file, cert_file, key_file, .. }) = mesh.security else {
                panic!("without mTLS")
            };
            assert!(ca_file.exists() && cert_file.exists() && key_file.exists());
        }
    }

    #[test]
    fn the_directory_is_private_and_goes_unless_it_is_kept() {
        let mut kept = Directory::create(false).unwrap();
        let gone = Directory::create(false).unwrap().path().to_owned();
        assert!(!gone.exists());
        put(&kept.path().join("secret"), "x").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(kept.path()), mode(&kept.path().join("secret"))), (0o700, 0o600));
        }
        kept.keep();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }
}
