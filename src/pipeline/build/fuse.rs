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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::settings::{
        BatchSettings, CrossClusterSettings, DedupSettings, GroupByTraceSettings, MemoryLimiterSettings,
        ProbabilisticSamplerSettings, ResourceSettings, SamplerMode,
    };

    fn processors() -> BTreeMap<ComponentId, ProcessorSettings> {
        let wait_duration = Duration::from_secs(1);
        let dedup = DedupSettings { wait_duration, max_memory_bytes: 1 << 20 };
        let group = GroupByTraceSettings { wait_duration, num_traces: 1, max_memory_bytes: 1 << 20 };
        let cross_cluster = CrossClusterSettings {
            wait_duration,
            max_memory_bytes: 1 << 20,
            write_attributes: false,
            buckets: Vec::new(),
            entry_services: Vec::new(),
            max_series: 1,
        };
        let sampler = ProbabilisticSamplerSettings {
            sampling_percentage: 50.0,
            mode: SamplerMode::Proportional,
            sampling_precision: 4,
            fail_closed: true,
        };
        let batch = BatchSettings { timeout: wait_duration, send_batch_size: 1, send_batch_max_size: 0 };
        let limiter = MemoryLimiterSettings { limit_bytes: 2, soft_limit_bytes: 1 };
        let all = [
            ("span_dedup", ProcessorSettings::SpanDedup(dedup)),
            ("groupbytrace", ProcessorSettings::GroupByTrace(group.clone())),
            ("groupbytrace/2", ProcessorSettings::GroupByTrace(group)),
            ("cross_cluster", ProcessorSettings::CrossCluster(cross_cluster)),
            ("probabilistic_sampler", ProcessorSettings::ProbabilisticSampler(sampler)),
            ("resource", ProcessorSettings::Resource(ResourceSettings { actions: Vec::new() })),
            ("batch", ProcessorSettings::Batch(batch)),
            ("memory_limiter", ProcessorSettings::MemoryLimiter(limiter)),
        ];
        all.into_iter().map(|(id, settings)| (id.to_owned(), settings)).collect()
    }

    /// The steps in words.
    fn steps(names: &[&str]) -> String {
        let (names, processors) = (names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), processors());
        let steps = fuse(&"traces".to_owned(), &names, &processors).unwrap();
        let word = |step: &Step<'_>| match step {
            Step::One(name, _) => (*name).clone(),
            Step::Whole { settings, dedup } => {
                assert_eq!(dedup.is_some(), settings.dedup.is_some());
                let parts = [
                    dedup.map_or("", |name| name),
                    settings.group.as_ref().map_or("", |_| "group"),
                    settings.cross_cluster.as_ref().map_or("", |_| "cross"),
                ];
                format!("[{}]", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("+"))
            }
        };
        steps.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn neighbours_that_need_whole_traces_share_a_buffer() {
        assert_eq!(steps(&["groupbytrace", "cross_cluster", "batch"]), "[group+cross] batch");
        assert_eq!(steps(&["groupbytrace", "batch", "cross_cluster"]), "[group] batch [cross]");
        assert_eq!(steps(&["groupbytrace", "groupbytrace/2"]), "[group] [group]");
    }

    #[test]
    fn a_dedup_in_front_is_done_in_the_buffer_unless_spans_are_dropped_in_between() {
        assert_eq!(steps(&["span_dedup", "groupbytrace"]), "[span_dedup+group]");
        let kept = ["memory_limiter", "span_dedup", "resource", "batch", "groupbytrace"];
        assert_eq!(steps(&kept), "memory_limiter resource batch [span_dedup+group]");
        let dropped = ["span_dedup", "probabilistic_sampler", "groupbytrace"];
        assert_eq!(steps(&dropped), "span_dedup probabilistic_sampler [group]");
        assert_eq!(steps(&["groupbytrace", "span_dedup"]), "[group] span_dedup");
        assert_eq!(steps(&["span_dedup", "batch"]), "span_dedup batch");
    }

    #[test]
    fn behind_a_buffer_no_memory_limiter_can_refuse() {
        assert_eq!(steps(&["memory_limiter", "groupbytrace", "memory_limiter"]), "memory_limiter [group]");
    }
}
