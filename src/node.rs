//! The composition root: what a node is made of, in what order it starts, and in what order it stops.
//!
//! This is the only file that knows everyone. A node is ready only when all its ports are taken. It stops along the way
//! of a span: the doors are closed first and the way out last, so that each stage is empty when the next one is asked to
//! finish; the ports of the operators answer until the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tracing::{info, warn};

use crate::admin::status::{BudgetStatus, NamedDedup, NodeFacts, NodeState, NodeStatus, OwnerStatus, ProcessStatus};
use crate::admin::trace::TraceAnswer;
use crate::admin::{Health, Report, serve_admin, serve_health, serve_metrics};
use crate::config::settings::{ComponentId, MeshSecurity, MeshSettings, ProcessorSettings, ReceiverSettings, Settings};
use crate::export::{self, ExportQueue};
use crate::link::explain::{Explanation, PeerAnswer, Silence};
use crate::link::tls::{Identities, TlsError};
use crate::link::{Mesh, MeshError};
use crate::logic::dedup::Dedup;
use crate::logic::ring::Ring;
use crate::logic::traces::{TraceReport, Wanted};
use crate::model::{Batch, Budget, Fate, NodeId, Reason, Refusal, Tick, TraceId};
use crate::pipeline::build::{BuildError, Environment, OwnedPipelines, Pipelines};
use crate::pipeline::{Consume, Ledger};
use crate::receive::OtlpReceiver;
use crate::receive::listen::Server;
use crate::runtime::clock::{Clock, unix_now};
use crate::runtime::memory;
use crate::wire::Limits;

/// Bytes held beyond which no request is read, where neither a `memory_limiter` nor the system says less.
const DEFAULT_ADMIT_BYTES: u64 = 1 << 30;

/// Why a node does not start. Every text names what to mend.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{what}: {error}{}", hint(.error))]
    Listen { what: String, error: std::io::Error },
    #[error("exporters.{id}: {error}")]
    Exporter { id: ComponentId, error: export::StartError },
    #[error("connectors.mesh.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("connectors.mesh: {0}")]
    Mesh(#[from] MeshError),
    #[error(transparent)]
    Pipelines(#[from] BuildError),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process has the port: stop it, or configure another endpoint",
        std::io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        std::io::ErrorKind::PermissionDenied => "; the process may not take that port",
        _ => "",
    }
}

/// Where a node listens. Absent: not configured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Addresses {
    /// Of the first `otlp` receiver that serves it.
    pub otlp_grpc: Option<SocketAddr>,
    pub otlp_http: Option<SocketAddr>,
    /// UDP.
    pub mesh: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Accepted spans that could not be delivered in time: lost, and counted as dropped.
    pub unsettled_spans: u64,
}

/// A running node.
pub struct Node {
    parts: Arc<Parts>,
    admin: Option<Server>,
    metrics: Option<Server>,
    health: Option<Server>,
}

/// What the status is read from.
struct Parts {
    clock: Clock,
    health: Health,
    budget: Budget,
    admit_bytes: u64,
    ledger: Arc<Ledger>,
    receivers: Vec<OtlpReceiver>,
    pipelines: Pipelines,
    exporters: BTreeMap<ComponentId, Arc<ExportQueue>>,
    mesh: Option<Arc<Mesh>>,
    me: Option<NodeId>,
    insecure: bool,
    warnings: Vec<String>,
}

impl Node {
    /// Starts everything that the settings name. `warnings` are sentences for the status. Needs a tokio runtime.
    pub async fn start(settings: Settings, mut warnings: Vec<String>) -> Result<Node, StartError> {
        let clock = Clock::start();
        let health = Health::new(clock);
        let (budget, ledger) = (Budget::default(), Arc::new(Ledger::default()));
        let limits = Limits::default();
        let admit_bytes = admit_bytes(&settings);

        let mut exporters = BTreeMap::new();
        for (id, exporter) in &settings.exporters {
            let started = export::start(id, exporter, clock);
            let queue = started.map_err(|error| StartError::Exporter { id: id.clone(), error })?;
            exporters.insert(id.clone(), queue);
        }

        let environment = Environment { clock, budget: budget.clone(), seed: rand::random() };
        let owned = OwnedPipelines::start(&settings, &exporters, environment)?;
        let mesh = match &settings.mesh {
            Some((_, mesh)) => {
                let inside = (budget.clone(), ledger.clone(), limits.clone());
                Some(join_mesh(mesh, &owned, clock, inside, &mut warnings).await?)
            }
            None => None,
        };
        let pipelines = owned.join(mesh.clone().map(|mesh| mesh as Arc<dyn Consume>))?;

        let mut receivers = Vec::new();
        for (id, receiver) in &settings.receivers {
            let Some(next) = pipelines.feed(id) else { continue };
            let ReceiverSettings::Otlp(otlp) = receiver;
            let inside = (budget.clone(), ledger.clone(), limits.clone());
            let started = OtlpReceiver::start(id, otlp, next, inside.0, inside.1, inside.2, admit_bytes).await;
            receivers.push(started.map_err(listen(&format!("receivers.{id}")))?);
        }

        let mesh_settings = settings.mesh.as_ref().map(|(_, mesh)| mesh);
        let me = mesh_settings.map(|mesh| NodeId { cluster: mesh.cluster.clone(), node: mesh.node.clone() });
        let insecure = mesh_settings.is_some_and(|mesh| matches!(mesh.security, Some(MeshSecurity::InsecureDev)));
        let parts = Arc::new(Parts {
            clock,
            health: health.clone(),
            budget,
            admit_bytes,
            ledger,
            receivers,
            pipelines,
            exporters,
            mesh,
            me,
            insecure,
            warnings,
        });
        if let Some(mesh) = &parts.mesh {
            // Weak: the mesh belongs to the parts.
            let of_node = Arc::downgrade(&parts);
            mesh.answer_with(Arc::new(move |trace, wanted| match of_node.upgrade() {
                Some(parts) => parts.known(trace, wanted),
                None => PeerAnswer::new(unix_now(), 0.0, None, None),
            }));
        }
        let report = Parts::report(&parts);
        let admin = match settings.admin.endpoint {
            Some(at) => Some(serve_admin(at, report.clone()).await.map_err(listen("service.admin"))?),
            None => None,
        };
        let metrics = match settings.telemetry.metrics {
            Some(at) => Some(serve_metrics(at, report).await.map_err(listen("service.telemetry.metrics"))?),
            None => None,
        };
        let probes = match &settings.health_check {
            Some(at) => {
                let served = serve_health(at.endpoint, health.clone()).await;
                Some(served.map_err(listen("extensions.health_check"))?)
            }
            None => None,
        };
        health.set(NodeState::Ready);
        Ok(Node { parts, admin, metrics, health: probes })
    }

    pub fn addresses(&self) -> Addresses {
        let receivers = &self.parts.receivers;
        Addresses {
            otlp_grpc: receivers.iter().find_map(OtlpReceiver::grpc_addr),
            otlp_http: receivers.iter().find_map(OtlpReceiver::http_addr),
            mesh: self.parts.mesh.as_ref().and_then(|mesh| mesh.listen_addr()),
            admin: self.admin.as_ref().map(Server::addr),
            metrics: self.metrics.as_ref().map(Server::addr),
            health: self.health.as_ref().map(Server::addr),
        }
    }

    pub fn status(&self) -> NodeStatus {
        self.parts.status()
    }

    /// Waits until a part of the node that it cannot be without has ended by itself, and names it: time to stop.
    pub async fn failed(&self) -> &'static str {
        let mesh = async {
            match &self.parts.mesh {
                Some(mesh) => mesh.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            part = mesh => part,
            part = self.parts.pipelines.failed() => part,
        }
    }

    /// Stops in order, within `grace`: what is in hand is delivered, what cannot be is counted.
    pub async fn stop(self, grace: Duration) -> Stopped {
        let parts = &self.parts;
        let until = parts.clock.now() + grace;
        let left = || until.since(parts.clock.now());
        parts.health.set(NodeState::Draining);
        info!(held_bytes = parts.budget.bytes(), "stopping: no new requests, what is in hand is delivered");

        for receiver in &parts.receivers {
            // A sender that dawdles must not use up the time of the spans that are here.
            if !receiver.stop(left() / 4).await {
                warn!("some requests were cut off; their senders got no success and send again");
            }
        }
        // The mesh still takes what waits in batches for it; once it has left, no span comes any more, and open traces
        // are as whole as they will be.
        let _ = parts.pipelines.stop_local(parts.clock.now() + left() / 4).await;
        let mut unsettled_spans = match &parts.mesh {
            Some(mesh) => mesh.leave(left() / 2).await,
            None => 0,
        };
        // Exporters deliver meanwhile; the last quarter is for what they got last.
        let _ = parts.pipelines.stop(parts.clock.now() + left() * 3 / 4).await;
        unsettled_spans += drain(&parts.exporters, until).await;
        // Asked last: what was on the way to an exporter may have been refused by it until now.
        unsettled_spans += parts.pipelines.unsettled_spans();
        let ledger = parts.ledger.status();
        info!(
            unsettled_spans,
            received_local = ledger.received_local,
            received_peer = ledger.received_peer,
            forwarded = ledger.forwarded,
            exported = ledger.exported,
            sampled_out = ledger.sampled_out,
            duplicate = ledger.duplicate,
            "stopped"
        );
        for (reason, spans) in ledger.dropped.into_iter().filter(|(_, spans)| *spans > 0) {
            warn!(reason, spans, "spans were dropped while the node ran or at its stop");
        }
        let operators = [&self.admin, &self.metrics, &self.health];
        for server in operators.into_iter().flatten() {
            server.stop(Duration::from_millis(200)).await;
        }
        Stopped { unsettled_spans }
    }
}

/// Stands where a spoke has no pipeline for owned traces.
struct OwnsNothing;

impl Consume for OwnsNothing {
    fn consume(&self, batch: Batch) {
        batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::NoOwner)));
    }
}

/// All exporters at once: one whose backend is down must not take the others' time.
async fn drain(exporters: &BTreeMap<ComponentId, Arc<ExportQueue>>, until: Tick) -> u64 {
    let mut drains = tokio::task::JoinSet::new();
    for queue in exporters.values() {
        let queue = queue.clone();
        drains.spawn(async move { queue.drain(until).await });
    }
    drains.join_all().await.into_iter().sum()
}

/// Loads the certificates, says what kind of membership this is, and starts it.
async fn join_mesh(
    settings: &MeshSettings,
    owned: &OwnedPipelines,
    clock: Clock,
    (budget, ledger, limits): (Budget, Arc<Ledger>, Limits),
    warnings: &mut Vec<String>,
) -> Result<Arc<Mesh>, StartError> {
    let me = NodeId { cluster: settings.cluster.clone(), node: settings.node.clone() };
    let identities = match &settings.security {
        Some(security) => Some(Identities::load(security, &me)?),
        None => None,
    };
    match &settings.security {
        Some(MeshSecurity::Mtls { .. }) => {}
        Some(MeshSecurity::InsecureDev) => {
            let sentence = "insecure_dev: anybody who reaches the mesh port may join as any node; for trials only";
            warn!("{sentence}");
            warnings.push(sentence.to_owned());
        }
        None => info!(node = %me, "no seeds and no certificates: this node runs alone, without a mesh port"),
    }
    // A spoke has no pipeline for what it owns, since it owns nothing.
    let owned = owned.owned().unwrap_or_else(|| Arc::new(OwnsNothing));
    Ok(Mesh::start(settings.clone(), identities, clock, budget, ledger, limits, owned).await?)
}

/// Bytes held beyond which requests are refused before they are read: what the strictest memory limiter would refuse
/// anyway, and never more than half of what the process may use.
fn admit_bytes(settings: &Settings) -> u64 {
    let limits = settings.processors.values().filter_map(|processor| match processor {
        ProcessorSettings::MemoryLimiter(limiter) => Some(limiter.limit_bytes),
        _ => None,
    });
    let half = memory::available_bytes().map_or(DEFAULT_ADMIT_BYTES, |bytes| bytes / 2);
    limits.min().unwrap_or(half).min(half)
}

fn listen(what: &str) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.to_owned();
    move |error| StartError::Listen { what, error }
}

impl Parts {
    fn report(parts: &Arc<Parts>) -> Report {
        let (for_status, for_owner, for_explain) = (parts.clone(), parts.clone(), parts.clone());
        Report {
            status: Arc::new(move || for_status.status()),
            owner: Arc::new(move |trace| for_owner.owner_of(trace)),
            explain: Arc::new(move |trace, wanted| {
                let parts = for_explain.clone();
                Box::pin(async move { parts.explain(trace, wanted).await })
            }),
        }
    }

    fn status(&self) -> NodeStatus {
        let now = self.clock.now();
        let dedup = |(pipeline, id, dedup): (&ComponentId, &ComponentId, &Arc<Dedup>)| NamedDedup {
            id: id.clone(),
            pipeline: pipeline.clone(),
            status: dedup.status(now),
        };
        let mesh = self.mesh.as_ref().map(|mesh| mesh.status());
        NodeStatus {
            node: NodeFacts {
                version: env!("CARGO_PKG_VERSION"),
                cluster: self.me.as_ref().map(|me| me.cluster.to_string()).unwrap_or_default(),
                node: self.me.as_ref().map(|me| me.node.to_string()).unwrap_or_default(),
                state: self.health.state(),
                insecure: self.insecure,
                started_at: self.health.started_at(),
                uptime_seconds: now.since(Tick::ZERO).as_secs_f64(),
                warnings: self.warnings.clone(),
            },
            process: ProcessStatus::read(),
            budget: BudgetStatus::of(&self.budget, Some(self.admit_bytes)),
            ledger: self.ledger.status(),
            receivers: self.receivers.iter().map(OtlpReceiver::status).collect(),
            pipelines: self.pipelines.status(),
            exporters: self.exporters.values().map(|queue| queue.status()).collect(),
            dedup: self.pipelines.dedups().map(dedup).collect(),
            traces: self.pipelines.traces(),
            mesh,
        }
    }

    fn owner_of(&self, trace: &TraceId) -> OwnerStatus {
        let owner = self.mesh.as_ref().and_then(|mesh| mesh.owner_of(trace));
        let view = |ring: &Ring| (ring.slot(trace), format!("{:016x}", ring.version()));
        let (slot, ring_version) = self.mesh.as_ref().map(|mesh| mesh.with_ring(view)).unwrap_or_default();
        OwnerStatus {
            trace_id: trace.to_string(),
            slot,
            me: owner.is_some() && owner == self.me,
            owner: owner.map(|owner| owner.to_string()),
            ring_version,
        }
    }

    /// What this node itself knows of a trace.
    fn known(&self, trace: &TraceId, wanted: Wanted) -> PeerAnswer {
        let (remembers_seconds, report) = self.remembered(trace, wanted);
        let up_seconds = self.clock.now().since(Tick::ZERO).as_secs_f64();
        PeerAnswer::new(unix_now(), up_seconds, remembers_seconds, report)
    }

    /// How far back the owned pipelines remember, absent if none waits for whole traces, and what they know.
    fn remembered(&self, trace: &TraceId, wanted: Wanted) -> (Option<f64>, Option<TraceReport>) {
        (self.pipelines.remembers_seconds(), self.pipelines.report(trace, wanted))
    }

    /// What the mesh knows of a trace, or this node if it is in none.
    async fn explain(self: Arc<Self>, trace: TraceId, wanted: Wanted) -> TraceAnswer {
        let me = self.me.as_ref().map_or_else(|| "this node".to_owned(), ToString::to_string);
        let explanation = match &self.mesh {
            Some(mesh) => mesh.explain(trace, wanted).await,
            None => {
                let looked = tokio::task::spawn_blocking(move || self.known(&trace, wanted)).await;
                Explanation::alone(looked.map_err(|_| Silence::Broken("looking it up failed".to_owned())))
            }
        };
        TraceAnswer::new(trace, explanation, &me)
    }
}
