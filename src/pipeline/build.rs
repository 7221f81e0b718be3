//! Pipelines made from the configuration.
//!
//! The mesh connector stands at both ends: pipelines of local senders end in it, and it feeds the pipelines of what
//! this node owns. It needs the latter when it starts, and the former need it. So the building has two steps, and the
//! types keep their order: [`OwnedPipelines::start`] makes all pipelines that do not end in the mesh, the mesh is
//! started with [`OwnedPipelines::owned`], and [`OwnedPipelines::join`] makes the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use thiserror::Error;

use self::fuse::{Step, fuse};
use super::Consume;
use super::assemble::{Assemble, AssembleStatus, Failures, Surroundings};
use super::batch::Batcher;
use super::outputs::{FanOut, Outputs};
use super::sampler::ProbabilisticSampler;
use super::stages::{MemoryLimiter, SpanDedup, Stage};
use crate::config::settings::{ComponentId, DedupSettings, PipelineSettings, ProcessorSettings, Settings};
use crate::export::ExportQueue;
use crate::logic::dedup::Dedup;
use crate::logic::traces::{TraceReport, Wanted};
use crate::model::{Batch, Budget, Tick, TraceId};
use crate::runtime::clock::Clock;
use crate::wire::ResourceEdits;

mod fuse;

/// What stages take from the node.
#[derive(Clone, Debug)]
pub struct Environment {
    pub clock: Clock,
    /// The node's bytes of spans.
    pub budget: Budget,
    /// Keys the hashes of dedup and of the trace buffer; never leaves the node.
    pub seed: u64,
}

/// The configuration names something that the node has not started. Checked configurations do not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    #[error("pipeline {pipeline}: there is no processor {id}")]
    Processor { pipeline: ComponentId, id: ComponentId },
    #[error("pipeline {pipeline}: there is no exporter {id}")]
    Exporter { pipeline: ComponentId, id: ComponentId },
    #[error("pipeline {pipeline}: it ends in the mesh, and the node is in none")]
    NoMesh { pipeline: ComponentId },
    #[error("pipeline {pipeline}: it begins and ends in the mesh, so its spans would go round")]
    MeshLoop { pipeline: ComponentId },
    #[error(
        "pipeline {pipeline}: the system gives no thread for deciding traces ({error}); raise the limit of threads"
    )]
    Thread { pipeline: ComponentId, error: String },
}

/// One pipeline, in spans.
#[derive(Clone, Debug, Serialize)]
pub struct PipelineStatus {
    pub id: ComponentId,
    /// Offered to it.
    pub incoming_spans: u64,
    /// Refused by its memory limiters.
    pub memory_limited_spans: u64,
    /// Dropped by its `probabilistic_sampler`s.
    pub sampled_out_spans: u64,
    /// Spans at which its `probabilistic_sampler`s found what cannot be said of earlier sampling: malformed, untrue, or in
    /// `hash_seed` any. Dropped unless `fail_closed` is off.
    pub sampling_error_spans: u64,
    /// Actions of its `resource` processors left out, once for each resource that they would have made too large.
    pub resource_actions_left_out: u64,
    /// Waiting in its `batch` stages for more.
    pub batching_spans: u64,
    /// Batches that its `batch` stages have sent on.
    pub sent_batches: u64,
}

/// All pipelines of a node.
pub struct Pipelines {
    settings: Settings,
    built: BTreeMap<ComponentId, Built>,
    failures: Failures,
}

/// The pipelines that do not end in the mesh. See the module's head.
pub struct OwnedPipelines {
    settings: Settings,
    exporters: BTreeMap<ComponentId, Arc<ExportQueue>>,
    environment: Environment,
    built: BTreeMap<ComponentId, Built>,
    failures: Failures,
}

/// A pipeline, and handles on those of its stages that have something to say.
struct Built {
    head: Arc<Pipeline>,
    limiters: Vec<Arc<MemoryLimiter>>,
    dedups: Vec<(ComponentId, Arc<Dedup>)>,
    samplers: Vec<Arc<ProbabilisticSampler>>,
    edits: Vec<ResourceEdits>,
    /// In the order of the path.
    batchers: Vec<Arc<Batcher>>,
    /// In the order of the path.
    assembles: Vec<Arc<Assemble>>,
}

/// Where a pipeline begins.
struct Pipeline {
    incoming_spans: AtomicU64,
    first: Chain,
}

/// Stages up to the end of the pipeline or the next stage that waits.
struct Chain {
    stages: Vec<Stage>,
    end: Arc<dyn Consume>,
}

impl Consume for Pipeline {
    fn consume(&self, batch: Batch) {
        self.incoming_spans.fetch_add(u64::from(batch.receipt.spans()), Relaxed);
        self.first.consume(batch);
    }
}

impl Consume for Chain {
    fn consume(&self, batch: Batch) {
        let out = self.stages.iter().try_fold(batch, |batch, stage| stage.apply(batch));
        if let Some(batch) = out {
            self.end.consume(batch);
        }
    }
}

impl OwnedPipelines {
    /// Builds every pipeline that does not end in the mesh. Needs a tokio runtime.
    pub fn start(
        settings: &Settings,
        exporters: &BTreeMap<ComponentId, Arc<ExportQueue>>,
        environment: Environment,
    ) -> Result<OwnedPipelines, BuildError> {
        let mut owned = OwnedPipelines {
            settings: settings.clone(),
            exporters: exporters.clone(),
            environment,
            built: BTreeMap::new(),
            failures: Failures::default(),
        };
        for (id, pipeline) in &settings.pipelines {
            if !ends_in_mesh(settings, pipeline) {
                let built = owned.build(id, pipeline, None)?;
                owned.built.insert(id.clone(), built);
            }
        }
        Ok(owned)
    }

    /// What the mesh feeds with the spans that this node owns; `None` if no pipeline begins in the mesh.
    pub fn owned(&self) -> Option<Arc<dyn Consume>> {
        let (mesh, _) = self.settings.mesh.as_ref()?;
        feed(&self.settings, &self.built, mesh)
    }

    /// Builds the pipelines that end in the mesh.
    pub fn join(mut self, mesh: Option<Arc<dyn Consume>>) -> Result<Pipelines, BuildError> {
        let settings = self.settings.clone();
        for (id, pipeline) in &settings.pipelines {
            if ends_in_mesh(&settings, pipeline) {
                let built = self.build(id, pipeline, mesh.as_ref())?;
                self.built.insert(id.clone(), built);
            }
        }
        Ok(Pipelines { settings, built: self.built, failures: self.failures })
    }

    fn build(
        &self,
        id: &ComponentId,
        pipeline: &PipelineSettings,
        mesh: Option<&Arc<dyn Consume>>,
    ) -> Result<Built, BuildError> {
        let mut end: Arc<dyn Consume> = Arc::new(self.outputs(id, pipeline, mesh)?);
        let (mut limiters, mut dedups) = (Vec::new(), Vec::new());
        let (mut samplers, mut edits) = (Vec::new(), Vec::new());
        let (mut batchers, mut assembles) = (Vec::new(), Vec::new());
        // Of its own for each pipeline: of two that a receiver feeds, the second would else see duplicates.
        let mut dedup_of = |name: &ComponentId, settings: &DedupSettings| {
            let dedup = Arc::new(Dedup::new(settings, self.environment.seed));
            dedups.push((name.clone(), dedup.clone()));
            dedup
        };
        let mut steps = fuse(id, &pipeline.processors, &self.settings.processors)?;
        // From the end to the beginning: a stage that waits is started with what follows it.
        let mut stages = Vec::new();
        while let Some(step) = steps.pop() {
            match step {
                Step::Whole { settings, dedup } => {
                    let next = Arc::new(Chain { stages: in_order(&mut stages), end });
                    let dedup = dedup.zip(settings.dedup.as_ref()).map(|(name, settings)| dedup_of(name, settings));
                    let started = Assemble::start(id.clone(), &settings, dedup, self.surroundings(), next);
                    let thread =
                        |error: std::io::Error| BuildError::Thread { pipeline: id.clone(), error: error.to_string() };
                    let assemble = started.map_err(thread)?;
                    assembles.push(assemble.clone());
                    end = assemble;
                }
                Step::One(name, processor) => match processor {
                    ProcessorSettings::MemoryLimiter(settings) => {
                        let limiter = Arc::new(MemoryLimiter::new(settings.clone()));
                        limiters.push(limiter.clone());
                        stages.push(Stage::MemoryLimiter(limiter));
                    }
                    ProcessorSettings::Resource(settings) => {
                        let compiled = ResourceEdits::compile(settings);
                        edits.push(compiled.clone());
                        stages.push(Stage::Resource(compiled));
                    }
                    ProcessorSettings::SpanDedup(settings) => {
                        let dedup = dedup_of(name, settings);
                        stages.push(Stage::SpanDedup(SpanDedup { dedup, clock: self.environment.clock }));
                    }
                    // Whole-trace processors are steps of their own.
                    ProcessorSettings::GroupByTrace(_)
                    | ProcessorSettings::CrossCluster(_)
                    | ProcessorSettings::TailSampling(_) => {}
                    ProcessorSettings::ProbabilisticSampler(settings) => {
                        let sampler = Arc::new(ProbabilisticSampler::new(settings));
                        samplers.push(sampler.clone());
                        stages.push(Stage::ProbabilisticSampler(sampler));
                    }
                    ProcessorSettings::Batch(settings) => {
                        let next = Arc::new(Chain { stages: in_order(&mut stages), end });
                        let batcher = Batcher::start(settings.clone(), self.environment.clock, next);
                        batchers.push(batcher.clone());
                        end = batcher;
                    }
                },
            }
        }
        batchers.reverse();
        assembles.reverse();
        let first = Chain { stages: in_order(&mut stages), end };
        let head = Arc::new(Pipeline { incoming_spans: AtomicU64::new(0), first });
        Ok(Built { head, limiters, dedups, samplers, edits, batchers, assembles })
    }

    fn surroundings(&self) -> Surroundings {
        let Environment { clock, budget, seed } = self.environment.clone();
        let mesh = self.settings.mesh.as_ref().map(|(_, mesh)| mesh);
        let owner = mesh.map(|mesh| format!("{}/{}", mesh.cluster, mesh.node)).unwrap_or_default();
        Surroundings { clock, budget, seed, owner, failures: self.failures.clone() }
    }

    fn outputs(
        &self,
        id: &ComponentId,
        pipeline: &PipelineSettings,
        mesh: Option<&Arc<dyn Consume>>,
    ) -> Result<Outputs, BuildError> {
        let mut outputs = Outputs::default();
        for name in &pipeline.exporters {
            if is_mesh(&self.settings, name) {
                if pipeline.receivers.contains(name) {
                    return Err(BuildError::MeshLoop { pipeline: id.clone() });
                }
                let mesh = mesh.ok_or_else(|| BuildError::NoMesh { pipeline: id.clone() })?;
                outputs.others.push(mesh.clone());
            } else {
                let missing = || BuildError::Exporter { pipeline: id.clone(), id: name.clone() };
                outputs.queues.push(self.exporters.get(name).ok_or_else(missing)?.clone());
            }
        }
        Ok(outputs)
    }
}

fn in_order(reversed: &mut Vec<Stage>) -> Vec<Stage> {
    let mut stages = std::mem::take(reversed);
    stages.reverse();
    stages
}

fn is_mesh(settings: &Settings, id: &ComponentId) -> bool {
    settings.mesh.as_ref().is_some_and(|(mesh, _)| mesh == id)
}

fn ends_in_mesh(settings: &Settings, pipeline: &PipelineSettings) -> bool {
    pipeline.exporters.iter().any(|id| is_mesh(settings, id))
}

/// All pipelines that `receiver` feeds, as one.
fn feed(settings: &Settings, built: &BTreeMap<ComponentId, Built>, receiver: &str) -> Option<Arc<dyn Consume>> {
    let fed = settings.pipelines.iter().filter(|(_, pipeline)| pipeline.receivers.iter().any(|id| id == receiver));
    let places = fed.filter_map(|(id, _)| built.get(id)).map(|built| built.head.clone() as Arc<dyn Consume>);
    FanOut::over(places.collect())
}

impl Pipelines {
    /// What the receiver of this id feeds; `None` if no pipeline names it.
    pub fn feed(&self, receiver: &str) -> Option<Arc<dyn Consume>> {
        feed(&self.settings, &self.built, receiver)
    }

    /// The dedup stages, as (pipeline, processor, machine).
    pub fn dedups(&self) -> impl Iterator<Item = (&ComponentId, &ComponentId, &Arc<Dedup>)> {
        self.built.iter().flat_map(|(id, built)| built.dedups.iter().map(move |(name, dedup)| (id, name, dedup)))
    }

    pub fn status(&self) -> Vec<PipelineStatus> {
        self.built.iter().map(|(id, built)| built.status(id)).collect()
    }

    /// The trace buffers.
    pub fn traces(&self) -> Vec<AssembleStatus> {
        self.assembles().map(|assemble| assemble.status()).collect()
    }

    /// What the first pipeline that knows the trace says of it.
    pub fn report(&self, trace: &TraceId, wanted: Wanted) -> Option<TraceReport> {
        self.assembles().find_map(|assemble| assemble.report(trace, wanted))
    }

    /// How far back the verdicts on traces are remembered, in seconds; `None`: no pipeline waits for whole traces.
    pub fn remembers_seconds(&self) -> Option<f64> {
        self.assembles().map(|assemble| assemble.remembers_seconds()).reduce(f64::min)
    }

    /// Waits until a part that the pipelines cannot be without has failed, and names it. The node must stop then.
    pub async fn failed(&self) -> &'static str {
        self.failures.any().await;
        "deciding traces"
    }

    /// Hands what waits in pipelines that end in the mesh over to it, and lets everything later pass without waiting. To
    /// be called before the node leaves the mesh. Returns the spans that the mesh did not take until `until`.
    pub async fn stop_local(&self, until: Tick) -> u64 {
        self.stop_those(true, until).await
    }

    /// The same for all other pipelines, once the mesh sends nothing more: traces are decided, and what is kept goes to the
    /// exporters, which are drained after this. Returns the spans that they did not take until `until`; those are
    /// resolved as dropped at shutdown.
    pub async fn stop(&self, until: Tick) -> u64 {
        self.stop_those(false, until).await
    }

    async fn stop_those(&self, before_mesh: bool, until: Tick) -> u64 {
        let ends_there =
            |id: &ComponentId| self.settings.pipelines.get(id).is_some_and(|p| ends_in_mesh(&self.settings, p));
        let those = || self.built.iter().filter(|(id, _)| ends_there(id) == before_mesh).map(|(_, built)| built);
        // Batches first, also those behind a trace buffer: what they do not get rid of goes back to it while it runs.
        those().flat_map(|built| &built.batchers).for_each(|batcher| batcher.stop());
        // Each on its own: one whose exporter is down must not take the others' time.
        let mut stops = tokio::task::JoinSet::new();
        for built in those() {
            let assembles = built.assembles.clone();
            stops.spawn(async move {
                let mut lost = 0;
                for assemble in assembles {
                    lost += assemble.stop(until).await;
                }
                lost
            });
        }
        stops.join_all().await.into_iter().sum()
    }

    /// Spans of whole traces that no exporter took. Once the exporters are drained there will be no more of them: what they
    /// refuse on the way is among these, and no longer in what [`Pipelines::stop`] returned.
    pub fn unsettled_spans(&self) -> u64 {
        self.assembles().map(|assemble| assemble.unsettled_spans()).sum()
    }

    fn assembles(&self) -> impl Iterator<Item = &Arc<Assemble>> {
        self.built.values().flat_map(|built| &built.assembles)
    }
}

impl Built {
    fn status(&self, id: &ComponentId) -> PipelineStatus {
        PipelineStatus {
            id: id.clone(),
            incoming_spans: self.head.incoming_spans.load(Relaxed),
            memory_limited_spans: self.limiters.iter().map(|limiter| limiter.refused_spans()).sum(),
            sampled_out_spans: self.samplers.iter().map(|sampler| sampler.dropped_spans()).sum(),
            sampling_error_spans: self.samplers.iter().map(|sampler| sampler.error_spans()).sum(),
            resource_actions_left_out: self.edits.iter().map(ResourceEdits::left_out).sum(),
            batching_spans: self.batchers.iter().map(|batcher| batcher.waiting_spans() as u64).sum(),
            sent_batches: self.batchers.iter().map(|batcher| batcher.sent_batches()).sum(),
        }
    }
}

#[cfg(test)]
mod tests;
