//! How much the trace buffers may hold, where `max_memory` does not say it.
//!
//! A quarter of what the node may use: the strictest memory limiter in use says how much that is, else the machine.
//! The rest is for what arrives, what waits for links and exporters, and for the duplicates' filters.

use super::Check;
use super::components::{Components, Used};
use super::fields::join;
use super::service::{Pipeline, Reference};
use super::whole_traces::MEMORY;
use crate::config::problem::Problem;
use crate::config::schema::Kind;
use crate::config::settings::ProcessorSettings;
use crate::config::units;

/// Where neither a limiter nor the machine says it.
const UNKNOWN_MACHINE: u64 = 1 << 30;

pub(super) fn share(check: &mut Check<'_>, components: &mut Components, pipelines: &[Pipeline], used: &Used) {
    let limits = components.processors.iter().filter_map(|(id, settings)| match settings {
        ProcessorSettings::MemoryLimiter(limiter) if used.contains(&(Kind::Processor, id.clone())) => {
            Some(limiter.limit_bytes)
        }
        _ => None,
    });
    let machine = if check.host.memory_bytes == 0 { UNKNOWN_MACHINE } else { check.host.memory_bytes };
    let limit = limits.min().unwrap_or(machine);
    for pipeline in pipelines {
        one_buffer(check, components, pipeline, limit);
    }
    let default = (limit / 4).clamp(MEMORY.0, MEMORY.1);
    for (id, settings) in &mut components.processors {
        if let Some(bytes) = bytes(settings)
            && *bytes == 0
        {
            *bytes = default;
            let path = vec![Kind::Processor.section().to_owned(), id.clone(), "max_memory".to_owned()];
            check.defaults.push((path, units::show_size(default)));
        }
    }
    for pipeline in pipelines {
        largest_trace(check, components, pipeline);
    }
}

/// One trace must leave the buffer room for others, or they are all decided early for its sake.
fn largest_trace(check: &mut Check<'_>, components: &Components, pipeline: &Pipeline) {
    let path = join(&["service".into(), "pipelines".into(), pipeline.id.clone(), "processors".into()]);
    for reference in &pipeline.processors {
        let Some(ProcessorSettings::TailSampling(settings)) = components.processors.get(&reference.id) else {
            continue;
        };
        let (trace, buffer) = (settings.maximum_trace_size_bytes, settings.max_memory_bytes);
        if trace > buffer / 2 {
            let message = format!(
                "`{}`: maximum_trace_size_bytes is {}, and max_memory {}: one such trace has all others decided early",
                reference.id,
                units::show_size(trace),
                units::show_size(buffer)
            );
            let help =
                format!("at most half of max_memory, or 0 for an eighth of it, {}", units::show_size(buffer / 8));
            check.say(Problem::warning(reference.place, &path, message).help(help));
        }
    }
}

/// The processors of a pipeline that wait for whole traces have one buffer, and it has one size.
fn one_buffer(check: &mut Check<'_>, components: &mut Components, pipeline: &Pipeline, limit: u64) {
    let path = join(&["service".into(), "pipelines".into(), pipeline.id.clone(), "processors".into()]);
    let mut given: Option<(&Reference, u64)> = None;
    for reference in &pipeline.processors {
        let Some(size) = components.processors.get_mut(&reference.id).and_then(bytes).map(|b| *b) else { continue };
        match given {
            _ if size == 0 => {}
            None => given = Some((reference, size)),
            Some((first, other)) if size != other => {
                let message =
                    format!("`{}` and `{}` share a buffer, and differ in `max_memory`", first.id, reference.id);
                check.say(Problem::error(reference.place, &path, message).help("give it in one of them, or the same"));
            }
            Some(_) => {}
        }
    }
    let Some((first, size)) = given else { return };
    if size > limit {
        let message = format!(
            "`{}` may hold {}, and the node {}: spans are refused before it is full",
            first.id,
            units::show_size(size),
            units::show_size(limit)
        );
        check
            .say(Problem::warning(first.place, &path, message).help("make `max_memory` smaller than the memory limit"));
    }
    for reference in &pipeline.processors {
        if let Some(bytes) = components.processors.get_mut(&reference.id).and_then(bytes)
            && *bytes == 0
        {
            *bytes = size;
        }
    }
}

/// The size of the buffer; 0 as long as nothing says it.
fn bytes(settings: &mut ProcessorSettings) -> Option<&mut u64> {
    match settings {
        ProcessorSettings::GroupByTrace(settings) => Some(&mut settings.max_memory_bytes),
        ProcessorSettings::CrossCluster(settings) => Some(&mut settings.max_memory_bytes),
        ProcessorSettings::TailSampling(settings) => Some(&mut settings.max_memory_bytes),
        _ => None,
    }
}
