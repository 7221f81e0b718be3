//! Which processors of a pipeline become one stage.
//!
//! Processors that need whole traces and stand side by side share one buffer. A `span_dedup` in front of them is done in
//! that buffer, also across stages that take a batch as a whole: a duplicate is the same span whatever its resource says.
//! It stays a stage of its own where what stands between drops spans by their content.
//!
//! A `memory_limiter` behind a buffer is left out. What comes from a buffer is in custody and cannot be refused, only put
//! off; and put off for lack of memory it would wait for memory that it holds itself.

use std::collections::BTreeMap;

use super::BuildError;
use crate::config::settings::{ComponentId, ProcessorSettings};
use crate::pipeline::assemble::AssembleSettings;

/// One stage to be made.
#[derive(Debug)]
pub(super) enum Step<'a> {
    One(&'a ComponentId, &'a ProcessorSettings),
    /// A trace buffer, and the name of the `span_dedup` that is done in it.
    Whole {
        settings: Box<AssembleSettings>,
        dedup: Option<&'a ComponentId>,
    },
}

/// The steps of a pipeline, in the order of the path.
pub(super) fn fuse<'a>(
    pipeline: &ComponentId,
    names: &'a [ComponentId],
    processors: &'a BTreeMap<ComponentId, ProcessorSettings>,
) -> Result<Vec<Step<'a>>, BuildError> {
    let mut steps: Vec<Step<'a>> = Vec::with_capacity(names.len());
    // Where the `span_dedup` stands that the next buffer may take over.
    let mut dedup_at = None;
    for name in names {
        let missing = || BuildError::Processor { pipeline: pipeline.clone(), id: name.clone() };
        let processor = processors.get(name).ok_or_else(missing)?;
        match processor {
            ProcessorSettings::GroupByTrace(_)
            | ProcessorSettings::CrossCluster(_)
            | ProcessorSettings::TailSampling(_) => {
                if let Some(Step::Whole { settings, .. }) = steps.last_mut()
                    && add(settings, processor)
                {
                    continue;
                }
                let mut settings = Box::<AssembleSettings>::default();
                add(&mut settings, processor);
                let fused = dedup_at.take().map(|at| steps.remove(at));
                let dedup = match fused {
                    Some(Step::One(name, ProcessorSettings::SpanDedup(dedup))) => {
                        settings.dedup = Some(dedup.clone());
                        Some(name)
                    }
                    _ => None,
                };
                steps.push(Step::Whole { settings, dedup });
            }
            ProcessorSettings::SpanDedup(_) => {
                dedup_at = Some(steps.len());
                steps.push(Step::One(name, processor));
            }
            ProcessorSettings::ProbabilisticSampler(_) => {
                dedup_at = None;
                steps.push(Step::One(name, processor));
            }
            ProcessorSettings::MemoryLimiter(_) if steps.iter().any(|step| matches!(step, Step::Whole { .. })) => {}
            ProcessorSettings::Resource(_) | ProcessorSettings::Batch(_) | ProcessorSettings::MemoryLimiter(_) => {
                steps.push(Step::One(name, processor));
            }
        }
    }
    Ok(steps)
}

/// Adds a processor to those of a buffer. False: it has one of this kind.
fn add(settings: &mut AssembleSettings, processor: &ProcessorSettings) -> bool {
    fn put<T: Clone>(place: &mut Option<T>, value: &T) -> bool {
        let is_free = place.is_none();
        if is_free {
            *place = Some(value.clone());
        }
        is_free
    }
    match processor {
        ProcessorSettings::GroupByTrace(group) => put(&mut settings.group, group),
        ProcessorSettings::CrossCluster(cross_cluster) => put(&mut settings.cross_cluster, cross_cluster),
        ProcessorSettings::TailSampling(sampling) => put(&mut settings.sampling, sampling),
        ProcessorSettings::Resource(_)
        | ProcessorSettings::SpanDedup(_)
        | ProcessorSettings::Batch(_)
        | ProcessorSettings::MemoryLimiter(_)
        | ProcessorSettings::ProbabilisticSampler(_) => false,
    }
}
