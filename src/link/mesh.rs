//! The node's side of the mesh, as the rest of the node sees it: something that takes batches, and a status.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::control::Control;
use super::dial::DialPlan;
use super::endpoint;
use super::explain::{self, Answers, Explanation, Questions};
use super::frame::{Code, text_fits};
use super::inbound;
use super::link::LinkContext;
use super::place::Parked;
use super::shared::{Core, Event, MeshCounts, Table, Tuning};
use super::status::{self, MeshStatus};
use super::tls::Identities;
use crate::config::settings::{Advertise, MeshSecurity, MeshSettings};
use crate::discover::Discovery;
use crate::logic::membership::{Identity, Membership, Settings};
use crate::logic::ring::Ring;
use crate::logic::traces::Wanted;
use crate::model::{Batch, BootId, Budget, NodeId, TraceId};
use crate::pipeline::{Consume, Ledger};
use crate::runtime::clock::{Clock, unix_now};
use crate::runtime::tasks::Tasks;
use crate::wire;

/// News that may wait for the membership task: some seconds of a large mesh's gossip.
const EVENTS: usize = 1024;
/// How long peers get to hear that this node leaves before its links close.
const NOTICE: Duration = Duration::from_millis(300);

/// Why the mesh cannot start. All of these are for the operator to mend.
#[derive(Debug, Error)]
pub enum MeshError {
    #[error("cannot listen on UDP {address}: {error}; if another process has the port, choose another `listen`")]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error("the advertised address {0:?} is not host:port, or does not resolve: {1}")]
    Advertise(String, String),
    #[error("{0}: at most 256 bytes without control characters can be told to peers")]
    Text(&'static str),
    #[error("mesh security is configured, but no certificates were loaded")]
    NoIdentities,
}

/// One node's part in the mesh. Takes batches of the local pipelines, and gives what this node owns, whether it came from
/// here or from peers, to the owned pipeline.
pub struct Mesh {
    core: Arc<Core>,
    discovery: Option<Discovery>,
    plan: Arc<Mutex<DialPlan>>,
    tasks: Tasks,
}

impl Mesh {
    /// Binds the socket and starts dialling. Without `security` in the settings there is no socket: the node is alone
    /// and owns everything, whatever its weight.
    #[allow(clippy::too_many_arguments, reason = "what a node is made of; a struct of it would have one user")]
    pub async fn start(
        settings: MeshSettings,
        identities: Option<Arc<Identities>>,
        clock: Clock,
        budget: Budget,
        ledger: Arc<Ledger>,
        limits: wire::Limits,
        owned: Arc<dyn Consume>,
    ) -> Result<Arc<Mesh>, MeshError> {
        Self::start_with(settings, identities, clock, budget, ledger, limits, owned, Tuning::default()).await
    }

    #[allow(clippy::too_many_arguments, reason = "as above")]
    pub(super) async fn start_with(
        settings: MeshSettings,
        identities: Option<Arc<Identities>>,
        clock: Clock,
        budget: Budget,
        ledger: Arc<Ledger>,
        limits: wire::Limits,
        owned: Arc<dyn Consume>,
        tuning: Tuning,
    ) -> Result<Arc<Mesh>, MeshError> {
        let MeshSettings { name, region, zone, environment, .. } = &settings;
        let texts = [("name", name), ("region", region), ("zone", zone), ("environment", environment)];
        if let Some((what, _)) = texts.into_iter().find(|(_, text)| !text_fits(text)) {
            return Err(MeshError::Text(what));
        }
        let me = NodeId { cluster: settings.cluster.clone(), node: settings.node.clone() };
        let (endpoint, socket) = match (&settings.security, &identities) {
            (None, _) => (None, None),
            (Some(_), None) => return Err(MeshError::NoIdentities),
            (Some(_), Some(identities)) => {
                let bound = endpoint::bind(settings.listen, identities.server_config());
                let (endpoint, report) = bound.map_err(|error| MeshError::Bind { address: settings.listen, error })?;
                (Some(endpoint), Some(report))
            }
        };
        if matches!(settings.security, Some(MeshSecurity::InsecureDev)) {
            warn!("insecure_dev: anybody who reaches this node may join the mesh as anybody, and read and forge spans");
        }
        let listen = socket.map(|report| report.address);
        let address = match &settings.advertise {
            Advertise::None => None,
            Advertise::Learned => listen.filter(|listen| !listen.ip().is_unspecified()),
            Advertise::Address(text) => Some(resolve(text, listen).await?),
        };
        let weight = if endpoint.is_none() { settings.weight.max(1) } else { settings.weight };
        let boot = BootId(unix_now().0);
        let identity = Identity { id: me.clone(), boot, revision: 0, address, weight };
        let failover_after = settings.failover_after;
        let membership = Membership::new(identity.clone(), Settings { failover_after }, rand::random());

        let (events, news) = mpsc::channel(EVENTS);
        let (stranded, settled, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()), CancellationToken::new());
        let link_context = Arc::new(LinkContext {
            boot,
            clock,
            queue_bytes: tuning.queue_bytes,
            reply_deadline: tuning.reply_deadline,
            inbound_bytes: tuning.inbound_bytes,
            stranded: stranded.clone(),
            settled: settled.clone(),
            stop: stop.child_token(),
        });
        let discovery = (endpoint.is_some() && !settings.seeds.is_empty())
            .then(|| Discovery::start(settings.seeds.clone(), settings.dns_server, settings.refresh_interval));
        let stamp = wire::ClusterStamp::new(me.cluster.as_str());
        let core = Arc::new(Core {
            limits: limits.of_peers(),
            stamp,
            me: me.clone(),
            boot,
            settings,
            tuning,
            clock,
            budget,
            ledger,
            owned,
            endpoint: endpoint.clone(),
            socket,
            identities: identities.clone(),
            identity: ArcSwap::from_pointee(identity),
            table: ArcSwap::from_pointee(Table::empty()),
            members: ArcSwap::default(),
            membership: ArcSwap::default(),
            links: RwLock::new(BTreeMap::new()),
            link_context,
            parked: Mutex::new(Parked::default()),
            moving: Mutex::default(),
            questions: Questions::default(),
            leaving: AtomicBool::new(false),
            events,
            counts: MeshCounts::default(),
            stranded,
            settled,
            stop,
        });
        // A node has owners from its first moment: itself, unless it is a spoke.
        if weight > 0 {
            core.publish(Ring::build(&core.settings.name, &[(me, weight)]));
        }
        let plan = Arc::new(Mutex::new(DialPlan::default()));
        let tasks = Tasks::new(core.stop.clone());
        if let (Some(endpoint), Some(identities)) = (endpoint, identities) {
            tasks.spawn("accepting links", inbound::accept_all(core.clone(), endpoint));
            let stop = core.stop.clone();
            tasks.spawn("certificates", async move {
                stop.run_until_cancelled(identities.reload_forever()).await;
            });
        }
        let candidates = discovery.as_ref().map(Discovery::candidates);
        tasks.spawn("membership", Control::new(core.clone(), membership, news, candidates, plan.clone()).run());
        Ok(Arc::new(Mesh { core, discovery, plan, tasks }))
    }

    /// Where the node listens; `None` if it is alone.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.core.socket.map(|socket| socket.address)
    }

    /// Looks at the ring in force here.
    pub fn with_ring<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&self.core.table.load().ring)
    }

    /// Who owns a trace by the ring in force here.
    pub fn owner_of(&self, trace: &TraceId) -> Option<NodeId> {
        self.with_ring(|ring| ring.members().get(usize::from(ring.owner(trace)?)).cloned())
    }

    /// From now on questions of peers and of [`Mesh::explain`] are answered with what `answers` knows. A second call changes
    /// nothing.
    pub fn answer_with(&self, answers: Answers) {
        let _ = self.core.questions.answers.set(answers);
    }

    /// What the mesh knows of a trace: its owner, and if that does not know it, the other members. Takes a few seconds at
    /// most.
    pub async fn explain(&self, trace: TraceId, wanted: Wanted) -> Explanation {
        explain::explain(&self.core, trace, wanted).await
    }

    /// Waits until something that the mesh cannot be without has ended by itself, and names it. The node must stop then.
    pub async fn failed(&self) -> &'static str {
        self.tasks.failed().await
    }

    pub fn status(&self) -> MeshStatus {
        let mut status = status::status(&self.core);
        status.seeds = self.discovery.as_ref().map(Discovery::status).unwrap_or_default();
        status.dials = self.plan.lock().unwrap_or_else(PoisonError::into_inner).status();
        status
    }

    /// Leaves the mesh: says so, takes nothing more, hands over what waits for peers within `deadline`, and closes the
    /// links. Returns the spans that could not be handed over; they are resolved as dropped at shutdown. A second call
    /// does nothing.
    pub async fn leave(&self, deadline: Duration) -> u64 {
        let core = &self.core;
        if core.leaving.swap(true, Relaxed) {
            return 0;
        }
        let until = core.clock.instant(core.clock.now() + deadline);
        let notice = core.clock.instant(core.clock.now() + NOTICE.min(deadline));
        if core.endpoint.is_some() {
            self.announce(Event::Leave, until).await;
        }
        loop {
            let settled = core.settled.notified();
            if core.outstanding() == 0 {
                break;
            }
            tokio::select! {
                () = settled => {}
                // What settles between the look and the wait is seen a little later.
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                () = tokio::time::sleep_until(until) => break,
            }
        }
        if let Some(endpoint) = &core.endpoint {
            self.announce(Event::Left, until).await;
            if !core.all_links().is_empty() {
                tokio::time::sleep_until(notice).await;
            }
            core.stop.cancel();
            core.all_links().iter().for_each(|link| link.close(Code::Leaving, "this node has left"));
            endpoint.close(Code::Leaving.varint(), b"this node has left");
        }
        let late = self.tasks.stop(NOTICE).await;
        if !late.is_empty() {
            warn!(tasks = ?late, "tasks of the mesh did not end by themselves");
        }
        for link in core.all_links() {
            link.finished().await;
        }
        let lost = core.give_up();
        if lost > 0 {
            warn!(spans = lost, "spans that waited for other nodes are given up");
        } else {
            info!("left the mesh, all spans handed over");
        }
        if let Some(endpoint) = &core.endpoint {
            // So that the peers hear of the close and need not wait for silence.
            let _ = tokio::time::timeout(NOTICE, endpoint.wait_idle()).await;
        }
        lost
    }

    #[cfg(test)]
    pub(super) fn break_connections(&self) {
        self.core.all_links().iter().for_each(|link| link.close(Code::Duplicate, "broken by a test"));
    }

    async fn announce(&self, event: impl FnOnce(oneshot::Sender<()>) -> Event, until: tokio::time::Instant) {
        let (done, said) = oneshot::channel();
        let announced = async {
            self.core.tell(event(done)).await;
            let _ = said.await;
        };
        let _ = tokio::time::timeout_at(until, announced).await;
    }
}

impl Consume for Mesh {
    fn consume(&self, batch: Batch) {
        self.core.place(batch);
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.core.stop.cancel();
        if let Some(endpoint) = &self.core.endpoint {
            endpoint.close(Code::Leaving.varint(), b"this node has stopped");
        }
    }
}

/// `host:port` to an address of the family that the node listens on.
async fn resolve(text: &str, listen: Option<SocketAddr>) -> Result<SocketAddr, MeshError> {
    let wrong = |why: String| MeshError::Advertise(text.to_owned(), why);
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host(text).await.map_err(|error| wrong(error.to_string()))?.collect();
    let v4_only = matches!(listen.map(|listen| listen.ip()), Some(IpAddr::V4(_)));
    let fitting = found.iter().find(|address| !v4_only || address.is_ipv4());
    fitting.copied().ok_or_else(|| wrong("it has no address of the family that this node listens on".to_owned()))
}
