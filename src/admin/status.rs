//! The one truth about a node, as plain values.
//!
//! The JSON API, the page, the metrics and the commands are all renderings of [`NodeStatus`], so that no two of them can
//! contradict each other. It is a snapshot: every part takes its own counts without a common lock, so two figures may
//! be some microseconds apart; the ledger's are taken together, because they have to add up.

use serde::Serialize;

use crate::config::settings::ComponentId;
use crate::discover::SeedStatus;
use crate::export::ExporterStatus;
use crate::link::status::{LinkStatus, MemberStatus, MeshStatus, RingStatus};
use crate::logic::dedup::DedupStatus;
use crate::model::Budget;
use crate::pipeline::ledger::LedgerStatus;
use crate::pipeline::{AssembleStatus, PipelineStatus};
use crate::receive::ReceiverStatus;
use crate::runtime::memory;

/// Version of the shape of everything under `/api/v1`. Fields are added without a change of it; it grows when one
/// changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// All that a node says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub node: NodeFacts,
    pub process: ProcessStatus,
    pub budget: BudgetStatus,
    pub ledger: LedgerStatus,
    pub receivers: Vec<ReceiverStatus>,
    pub pipelines: Vec<PipelineStatus>,
    pub exporters: Vec<ExporterStatus>,
    /// One for each `span_dedup` of each pipeline.
    pub dedup: Vec<NamedDedup>,
    /// One for each pipeline that waits for whole traces.
    pub traces: Vec<AssembleStatus>,
    /// Absent: the node has no `mesh` connector.
    pub mesh: Option<MeshStatus>,
}

/// Who the node is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeFacts {
    pub version: &'static str,
    pub cluster: String,
    pub node: String,
    pub state: NodeState,
    /// Anybody may join the mesh as anybody (`insecure_dev`).
    pub insecure: bool,
    /// Unix seconds.
    pub started_at: u64,
    pub uptime_seconds: f64,
    /// What an operator should know and nothing else says: one sentence each.
    pub warnings: Vec<String>,
}

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    #[default]
    Starting,
    Ready,
    /// Leaving the mesh, finishing what is in hand.
    Draining,
}

impl NodeState {
    pub fn label(self) -> &'static str {
        match self {
            NodeState::Starting => "starting",
            NodeState::Ready => "ready",
            NodeState::Draining => "draining",
        }
    }
}

/// What the process uses.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ProcessStatus {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_files: u64,
    /// What the process may use: the smallest cgroup limit or the machine's RAM.
    pub available_bytes: Option<u64>,
}

impl ProcessStatus {
    /// Reads it now: a handful of small files under `/proc`.
    pub fn read() -> ProcessStatus {
        let usage = memory::usage();
        ProcessStatus {
            cpu_seconds: usage.cpu.as_secs_f64(),
            resident_bytes: usage.resident_bytes,
            open_files: usage.open_files,
            available_bytes: memory::available_bytes(),
        }
    }
}

/// Bytes of spans held.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BudgetStatus {
    pub held_bytes: u64,
    pub peak_bytes: u64,
    /// Local senders are refused above this; absent: never.
    pub limit_bytes: Option<u64>,
}

impl BudgetStatus {
    pub fn of(budget: &Budget, limit_bytes: Option<u64>) -> BudgetStatus {
        BudgetStatus { held_bytes: budget.bytes(), peak_bytes: budget.peak_bytes(), limit_bytes }
    }
}

/// A dedup stage, and where it stands.
#[derive(Clone, Debug, Serialize)]
pub struct NamedDedup {
    pub pipeline: ComponentId,
    pub id: ComponentId,
    #[serde(flatten)]
    pub status: DedupStatus,
}

/// A part of the status with the schema's version, as the API answers it.
#[derive(Serialize)]
pub(super) struct Versioned<'a, T: Serialize> {
    pub schema: u32,
    #[serde(flatten)]
    pub part: &'a T,
}

/// `/api/v1/members`
#[derive(Serialize)]
pub(super) struct MembersPart<'a> {
    pub mesh: Option<&'a str>,
    pub members: &'a [MemberStatus],
    pub seeds: &'a [SeedStatus],
}

/// `/api/v1/ring`
#[derive(Serialize)]
pub(super) struct RingPart<'a> {
    pub mesh: Option<&'a str>,
    pub ring: Option<&'a RingStatus>,
}

/// `/api/v1/links`
#[derive(Serialize)]
pub(super) struct LinksPart<'a> {
    pub mesh: Option<&'a str>,
    pub links: &'a [LinkStatus],
}

/// `/api/v1/ledger`
#[derive(Serialize)]
pub(super) struct LedgerPart<'a> {
    pub ledger: &'a LedgerStatus,
}

impl NodeStatus {
    fn mesh_name(&self) -> Option<&str> {
        self.mesh.as_ref().map(|mesh| mesh.mesh.as_str())
    }

    pub(super) fn members(&self) -> MembersPart<'_> {
        let mesh = self.mesh.as_ref();
        MembersPart {
            mesh: self.mesh_name(),
            members: mesh.map_or(&[], |mesh| &mesh.members),
            seeds: mesh.map_or(&[], |mesh| &mesh.seeds),
        }
    }

    pub(super) fn ring(&self) -> RingPart<'_> {
        RingPart { mesh: self.mesh_name(), ring: self.mesh.as_ref().map(|mesh| &mesh.ring) }
    }

    pub(super) fn links(&self) -> LinksPart<'_> {
        LinksPart { mesh: self.mesh_name(), links: self.mesh.as_ref().map_or(&[], |mesh| &mesh.links) }
    }
}

/// Who owns a trace, `/api/v1/ring/owner/{trace_id}`.
#[derive(Clone, Debug, Serialize)]
pub struct OwnerStatus {
    pub trace_id: String,
    pub slot: u16,
    /// `cluster/node`; absent: nobody owns anything now.
    pub owner: Option<String>,
    /// This node is the owner.
    pub me: bool,
    /// The ring that says so.
    pub ring_version: String,
}
