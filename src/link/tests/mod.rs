//! Whole meshes on loopback: real sockets, real certificates, and a sink in place of the owned pipeline.

mod hostile;
mod placing;
mod questions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tempfile::TempDir;

use super::frame::{Compression, Hello, PROTOCOL_MIN};
use super::mesh::Mesh;
use super::shared::Tuning;
use super::status::MeshStatus;
use super::tls::Identities;
use crate::certs::Authority;
use crate::config::settings::{Advertise, LinkCompression, MeshSecurity, MeshSettings, Seed};
use crate::logic::membership::Identity;
use crate::logic::trace::headers_of;
use crate::model::{Batch, BootId, Budget, Fate, NodeId, Reason, Refusal, Spans, TraceId};
use crate::pipeline::{Consume, Ledger, Source};
use crate::runtime::clock::{Clock, unix_now};
use crate::wire::{self, Limits};

const DAY: Duration = Duration::from_secs(86_400);
/// For what must happen some time. Generous: these machines are shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh's CA, and the files of its nodes.
struct World {
    authority: Authority,
    files: TempDir,
}

impl World {
    fn new() -> World {
        let authority = Authority::create("test.example", unix_now(), DAY).unwrap();
        World { authority, files: TempDir::new().unwrap() }
    }

    fn security(&self, name: &str) -> MeshSecurity {
        let pair = self.authority.issue(&id(name), &[], unix_now(), DAY).unwrap();
        let at = |what: &str| self.files.path().join(format!("{name}-{what}.pem"));
        std::fs::write(at("ca"), self.authority.cert_pem()).unwrap();
        std::fs::write(at("cert"), pair.cert_pem).unwrap();
        std::fs::write(at("key"), pair.key_pem).unwrap();
        MeshSecurity::Mtls { ca_file: at("ca"), cert_file: at("cert"), key_file: at("key"), reload_interval: DAY }
    }

    fn identities(&self, name: &str) -> Arc<Identities> {
        Identities::load(&self.security(name), &id(name)).unwrap()
    }

    async fn node(&self, name: &str, seeds: &[SocketAddr]) -> Node {
        self.node_with(self.settings(name, seeds), Tuning::default()).await
    }

    fn settings(&self, name: &str, seeds: &[SocketAddr]) -> MeshSettings {
        let NodeId { cluster, node } = id(name);
        let seed = |address: &SocketAddr| Seed::Host { host: address.ip().to_string(), port: address.port() };
        MeshSettings {
            cluster,
            node,
            region: "r".into(),
            zone: "z".into(),
            environment: "test".into(),
            name: "default".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Advertise::Learned,
            seeds: seeds.iter().map(seed).collect(),
            dns_server: None,
            refresh_interval: Duration::from_secs(30),
            weight: 100,
            security: Some(self.security(name)),
            compression: LinkCompression::Zstd,
            failover_after: Duration::from_secs(1),
        }
    }

    async fn node_with(&self, settings: MeshSettings, tuning: Tuning) -> Node {
        let me = NodeId { cluster: settings.cluster.clone(), node: settings.node.clone() };
        let identities = settings.security.as_ref().map(|security| Identities::load(security, &me).unwrap());
        let (sink, ledger, budget, clock) =
            (Sink::default(), Arc::new(Ledger::default()), Budget::default(), Clock::start());
        let owned = Arc::new(sink.clone());
        let (l, b) = (ledger.clone(), budget.clone());
        let mesh = Mesh::start_with(settings, identities, clock, b, l, Limits::default(), owned, tuning).await.unwrap();
        Node { id: me, mesh, sink, ledger, budget }
    }
}

fn id(name: &str) -> NodeId {
    format!("{name}/node").parse().unwrap()
}

struct Node {
    id: NodeId,
    mesh: Arc<Mesh>,
    sink: Sink,
    ledger: Arc<Ledger>,
    budget: Budget,
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.mesh.listen_addr().unwrap()
    }

    fn status(&self) -> MeshStatus {
        self.mesh.status()
    }

    fn owners(&self) -> Vec<String> {
        self.status().ring.members.into_iter().map(|member| member.id).collect()
    }

    fn link_to(&self, peer: &NodeId) -> Option<super::status::LinkStatus> {
        self.status().links.into_iter().find(|link| link.peer == peer.to_string())
    }

    /// Offers spans as a local sender, and gives the answer.
    async fn offer(&self, spans: Spans) -> Result<(), Refusal> {
        self.offer_after(spans, 0).await
    }

    async fn offer_after(&self, spans: Spans, hops: u8) -> Result<(), Refusal> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let receipt = self.ledger.open(spans.len() as u32, Source::Local, move |result| {
            let _ = answer.send(result);
        });
        let held = self.budget.hold(spans.bytes.len());
        self.mesh.consume(Batch { spans, receipt, held, hops });
        tokio::time::timeout(PATIENCE, answered).await.expect("the sender is answered").unwrap()
    }

    /// A trace that `owner` owns by this node's ring.
    fn trace_of(&self, owner: &NodeId, from: u64) -> TraceId {
        (from..from + 100_000).map(trace).find(|trace| self.mesh.owner_of(trace).as_ref() == Some(owner)).unwrap()
    }
}

/// Takes what its node owns.
#[derive(Clone, Default)]
struct Sink {
    /// How often each span came.
    seen: Arc<Mutex<BTreeMap<(TraceId, u64), u32>>>,
    /// Clusters that the resources name, of each span's number.
    clusters: Arc<Mutex<BTreeMap<u64, String>>>,
    /// So many batches are refused first.
    refusals: Arc<AtomicU32>,
}

impl Sink {
    fn spans(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn seen(&self) -> BTreeMap<(TraceId, u64), u32> {
        self.seen.lock().unwrap().clone()
    }
}

impl Consume for Sink {
    fn consume(&self, batch: Batch) {
        if self.refusals.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            let after = Duration::from_millis(10);
            return batch.receipt.resolve(Fate::Refused(Refusal::RetryAfter { after, reason: Reason::MemoryLimit }));
        }
        let Batch { spans, mut receipt, .. } = batch;
        receipt.accept();
        let headers = headers_of(&spans);
        for span in &spans.spans {
            let number = u64::from_be_bytes(span.span_id.0) - 1;
            *self.seen.lock().unwrap().entry((span.trace_id, number)).or_default() += 1;
            let cluster = headers[span.scope as usize].cluster.to_string();
            self.clusters.lock().unwrap().insert(number, cluster);
        }
        receipt.resolve(Fate::Exported);
    }
}

fn trace(n: u64) -> TraceId {
    TraceId((u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n + 1)).to_be_bytes())
}

/// An encoded request of spans (trace, number of the span), with `padding` bytes in each span's name.
pub(super) fn request(spans: impl IntoIterator<Item = (TraceId, u64)>, padding: usize) -> Vec<u8> {
    let spans = spans
        .into_iter()
        .map(|(trace, span)| Span {
            trace_id: trace.0.to_vec(),
            span_id: (span + 1).to_be_bytes().to_vec(),
            name: "x".repeat(padding),
            start_time_unix_nano: 1,
            end_time_unix_nano: 2,
            ..Span::default()
        })
        .collect();
    let scope = ScopeSpans { spans, ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

fn spans(spans: impl IntoIterator<Item = (TraceId, u64)>) -> Spans {
    padded(spans, 10)
}

fn padded(spans: impl IntoIterator<Item = (TraceId, u64)>, padding: usize) -> Spans {
    wire::walk(request(spans, padding).into(), &Limits::default()).unwrap().spans
}

/// A runtime for one node, which can be stopped as a process can.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Stops a node where it stands: when this returns nothing of it runs any more.
async fn kill(its_runtime: tokio::runtime::Runtime) {
    tokio::task::spawn_blocking(move || its_runtime.shutdown_timeout(PATIENCE)).await.unwrap();
}

fn free_port() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// Waits until all of these nodes agree that they, and nobody else, own traces, and are linked.
async fn converged(nodes: &[&Node]) {
    let mut all: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
    all.sort();
    until("the nodes agree on their ring", || {
        nodes.iter().all(|node| {
            let status = node.status();
            let owners: Vec<String> = status.ring.members.iter().map(|member| member.id.clone()).collect();
            owners == all && status.members.iter().filter(|member| member.linked).count() == nodes.len()
        })
    })
    .await;
}

/// A peer made by hand, for what no real node does.
struct Raw {
    endpoint: quinn::Endpoint,
    identities: Arc<Identities>,
    hello: Hello,
}

impl Raw {
    fn new(world: &World, name: &str) -> Raw {
        let identities = world.identities(name);
        let (endpoint, _) = super::endpoint::bind("127.0.0.1:0".parse().unwrap(), identities.server_config()).unwrap();
        let identity = Identity { id: id(name), boot: BootId(unix_now().0), revision: 0, address: None, weight: 100 };
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            // The first version: nothing but batches comes unless a test asks for more.
            protocol_max: PROTOCOL_MIN,
            mesh: "default".into(),
            identity,
            address_learned: false,
            region: String::new(),
            zone: String::new(),
            environment: String::new(),
            version: "raw".into(),
            decodes: Compression::all_bits(),
            observed: None,
        };
        Raw { endpoint, identities, hello }
    }

    /// Dials and says hello; `Err`: the other side's reason to close.
    async fn greet(&self, node: &Node) -> Result<quinn::Connection, quinn::ConnectionError> {
        let config = self.identities.client_config();
        let quic = self.endpoint.connect_with(config, node.address(), super::tls::SERVER_NAME).unwrap().await?;
        let (mut send, mut recv) = quic.open_bi().await?;
        send.write_all(&self.hello.encode()).await.unwrap();
        let _ = send.finish();
        match super::stream::read_kind(&mut recv).await {
            Ok(_) => Ok(quic),
            Err(_) => Err(quic.closed().await),
        }
    }
}
