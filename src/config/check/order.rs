//! What may stand where in a pipeline.
//!
//! Whatever needs to see a whole trace, or what was settled before, stands behind the mesh; whatever only the place of
//! origin knows stands ahead of it. Processors that wait for whole traces share one buffer, so they stand side by side.

use super::Check;
use super::components::{Components, type_name};
use super::fields::join;
use super::service::{Pipeline, Reference};
use crate::config::problem::Problem;
use crate::config::settings::{ActionKind, PolicyKind, PolicySettings, ProcessorSettings, SamplerMode};

pub(super) fn check_order(check: &mut Check<'_>, components: &Components, pipelines: &[Pipeline], mesh: Option<&str>) {
    for pipeline in pipelines {
        processors(check, components, pipeline, mesh);
        whole_traces(check, components, pipeline, mesh);
    }
    sampled_before(check, components, pipelines, mesh);
    hashed_behind(check, components, pipelines, mesh);
    buffers(check, components, pipelines);
}

/// The mesh at the beginning of a pipeline, and at its end.
fn ends<'p>(pipeline: &'p Pipeline, mesh: Option<&str>) -> (Option<&'p Reference>, Option<&'p Reference>) {
    let find = |list: &'p [Reference]| list.iter().find(|r| Some(r.id.as_str()) == mesh);
    (find(&pipeline.receivers), find(&pipeline.exporters))
}

/// What stands where in one pipeline.
fn processors(check: &mut Check<'_>, components: &Components, pipeline: &Pipeline, mesh: Option<&str>) {
    let path = format!("service.pipelines.{}", pipeline.id);
    let (from_mesh, to_mesh) = ends(pipeline, mesh);
    if let (Some(_), Some(to)) = (&from_mesh, &to_mesh) {
        let message = format!("this pipeline sends what comes from `{}` back to it: spans would go round", to.id);
        check.say(
            Problem::error(to.place, &path, message).help("one pipeline for local spans, another for owned traces"),
        );
    }
    if let Some(from) = &from_mesh
        && let Some(local) = pipeline.receivers.iter().find(|r| r.id != from.id)
    {
        let message = format!(
            "`{}` beside `{}`: local spans would skip their owner, and their traces be split",
            local.id, from.id
        );
        let problem = Problem::error(local.place, &path, message);
        check.say(problem.help(format!("receive `{}` in a pipeline that exports to `{}`", local.id, from.id)));
    }
    for (index, reference) in pipeline.processors.iter().enumerate() {
        let id = &reference.id;
        match components.processors.get(id) {
            Some(ProcessorSettings::SpanDedup(_)) if to_mesh.is_some() => {
                let message = format!("`{id}` ahead of the mesh: duplicates meet only at the owner of their trace");
                let problem = Problem::error(reference.place, &path, message);
                check.say(problem.help("move it to the pipeline that receives from the mesh"));
            }
            Some(ProcessorSettings::MemoryLimiter(_)) if index > 0 => {
                let ahead = pipeline.processors.iter().take(index);
                let buffer = ahead.rev().find(|r| components.processors.get(&r.id).is_some_and(waits_for_traces));
                let message = match buffer {
                    Some(buffer) => format!(
                        "`{id}` behind `{}` limits nothing: it is left out, as what has waited there can no longer be refused",
                        buffer.id
                    ),
                    None => format!("`{id}` behind other processors: it refuses what already took their work"),
                };
                check.say(Problem::warning(reference.place, &path, message).help("put it first"));
            }
            Some(ProcessorSettings::Resource(settings)) if from_mesh.is_some() => {
                let renames = settings
                    .actions
                    .iter()
                    .any(|action| action.key == "k8s.cluster.name" && !matches!(action.kind, ActionKind::Delete));
                if renames {
                    let message = format!("`{id}` sets k8s.cluster.name on spans that came from other clusters");
                    let problem = Problem::error(reference.place, &path, message);
                    check.say(problem.help("set it where the spans come in: in the pipeline that exports to the mesh"));
                }
            }
            _ => {}
        }
    }
}

fn waits_for_traces(settings: &ProcessorSettings) -> bool {
    matches!(
        settings,
        ProcessorSettings::GroupByTrace(_) | ProcessorSettings::CrossCluster(_) | ProcessorSettings::TailSampling(_)
    )
}

/// Processors that wait for whole traces: behind the mesh, side by side, behind `span_dedup`, each kind once.
fn whole_traces(check: &mut Check<'_>, components: &Components, pipeline: &Pipeline, mesh: Option<&str>) {
    let path = format!("service.pipelines.{}.processors", pipeline.id);
    let (from_mesh, to_mesh) = ends(pipeline, mesh);
    let all: Vec<(&Reference, &ProcessorSettings)> =
        pipeline.processors.iter().filter_map(|r| Some((r, components.processors.get(&r.id)?))).collect();
    let Some(first) = all.iter().position(|(_, settings)| waits_for_traces(settings)) else { return };
    let last = all.iter().rposition(|(_, settings)| waits_for_traces(settings)).unwrap_or(first);
    let head = all[first].0;
    let (mut kinds, mut out_of_place): (Vec<(&str, &Reference)>, bool) = (Vec::new(), false);
    for (index, (reference, settings)) in all.iter().enumerate().skip(first) {
        let id = &reference.id;
        let dedup = matches!(settings, ProcessorSettings::SpanDedup(_));
        if waits_for_traces(settings) {
            if let Some(to) = to_mesh {
                let message = format!("`{id}` ahead of `{}`: spans of other clusters are not there yet", to.id);
                let problem = Problem::error(reference.place, &path, message);
                check.say(problem.help(format!(
                    "policies must run where the whole trace is: move it to the pipeline that receives from `{}`",
                    to.id
                )));
            }
            let kind = type_name(id);
            match kinds.iter().find(|(other, _)| *other == kind) {
                Some((_, other)) => {
                    let problem = Problem::error(reference.place, &path, format!("a second `{kind}` in one pipeline"));
                    check.say(problem.related(other.place, "the first one").help("put all of it into one"));
                }
                None => kinds.push((kind, reference)),
            }
        } else if dedup && to_mesh.is_none() {
            let message = format!("`{id}` behind `{}`: duplicates would be counted and judged with the rest", head.id);
            let problem = Problem::error(reference.place, &path, message);
            check.say(problem.help(format!("move it ahead of `{}`", head.id)));
        } else if index < last && !dedup && !out_of_place {
            out_of_place = true;
            let message = format!("`{id}` between `{}` and `{}`", head.id, all[last].0.id);
            let problem = Problem::error(reference.place, &path, message);
            check.say(problem.help("they share one buffer of traces: move it ahead of both, or behind both"));
        }
    }
    let dedup = all.iter().any(|(_, settings)| matches!(settings, ProcessorSettings::SpanDedup(_)));
    if from_mesh.is_some() && !dedup {
        let message = format!("`{}` without a `span_dedup`: what is sent again counts as further spans", head.id);
        check.say(Problem::note(head.place, &path, message).help(format!("put `span_dedup` ahead of `{}`", head.id)));
    }
}

/// `probabilistic_sampler` ahead of `tail_sampling`, in a pipeline or on the way to the mesh.
fn sampled_before(check: &mut Check<'_>, components: &Components, pipelines: &[Pipeline], mesh: Option<&str>) {
    let find = |pipeline: &Pipeline, wanted: fn(&ProcessorSettings) -> bool| {
        pipeline.processors.iter().position(|r| components.processors.get(&r.id).is_some_and(wanted))
    };
    let tail = |p: &Pipeline| find(p, |settings| matches!(settings, ProcessorSettings::TailSampling(_)));
    let chance = |p: &Pipeline| find(p, |settings| matches!(settings, ProcessorSettings::ProbabilisticSampler(_)));
    let at_owner = pipelines
        .iter()
        .filter(|p| ends(p, mesh).0.is_some())
        .find_map(|p| tail(p).and_then(|index| p.processors.get(index)));
    for pipeline in pipelines {
        let Some(index) = chance(pipeline) else { continue };
        let Some(sampler) = pipeline.processors.get(index) else { continue };
        let here = tail(pipeline).filter(|tail| index < *tail).and_then(|tail| pipeline.processors.get(tail));
        let Some(judge) = here.or_else(|| at_owner.filter(|_| ends(pipeline, mesh).1.is_some())) else { continue };
        let message = format!(
            "`{}` ahead of `{}`: it drops errors and slow traces by chance, before the policies can see them",
            sampler.id, judge.id
        );
        let problem = Problem::warning(sampler.place, &format!("service.pipelines.{}", pipeline.id), message);
        let help = format!("make it a policy of `{}`, `type: probabilistic`", judge.id);
        check.say(problem.help(help).related(judge.place, "the policies run here"));
    }
}

/// A `probabilistic_sampler` that hashes, behind something that writes thresholds: in a pipeline, or on the way through the
/// mesh. What others have written contradicts its hash, so the decision is that of `fail_closed` for every span.
fn hashed_behind(check: &mut Check<'_>, components: &Components, pipelines: &[Pipeline], mesh: Option<&str>) {
    let settings = |reference: &Reference| components.processors.get(&reference.id);
    let writes = |reference: &&Reference| settings(reference).is_some_and(writes_thresholds);
    let origins = || pipelines.iter().filter(|pipeline| ends(pipeline, mesh).1.is_some());
    for pipeline in pipelines {
        let owned = ends(pipeline, mesh).0.is_some();
        let mut first = origins().filter(|_| owned).flat_map(|origin| &origin.processors).find(writes);
        for reference in &pipeline.processors {
            if let (Some(ProcessorSettings::ProbabilisticSampler(sampler)), Some(before)) = (settings(reference), first)
                && matches!(sampler.mode, SamplerMode::HashSeed { .. })
            {
                let fate = if sampler.fail_closed { "dropped, since `fail_closed` is on" } else { "kept" };
                let message = format!(
                    "`{}` with `mode: hash_seed` behind `{}`, which writes its threshold to spans: all those are {fate}",
                    reference.id, before.id
                );
                let problem = Problem::warning(reference.place, &format!("service.pipelines.{}", pipeline.id), message);
                let help = "sample by chance in one place only, or in all with `mode: equalizing` or `proportional`";
                check.say(problem.help(help).related(before.place, "written here"));
            }
            first = first.or(Some(reference).filter(writes));
        }
    }
}

/// Spans that it keeps say by which threshold.
fn writes_thresholds(settings: &ProcessorSettings) -> bool {
    fn by_chance(policy: &PolicySettings) -> bool {
        match &policy.kind {
            PolicyKind::Probabilistic { hash_salt, .. } => hash_salt.is_empty(),
            PolicyKind::And(parts) => parts.iter().any(by_chance),
            _ => false,
        }
    }
    match settings {
        ProcessorSettings::ProbabilisticSampler(_) => true,
        ProcessorSettings::TailSampling(settings) => settings.policies.iter().any(by_chance),
        _ => false,
    }
}

/// What follows from one buffer for each pipeline.
fn buffers(check: &mut Check<'_>, components: &Components, pipelines: &[Pipeline]) {
    let mut seen: Vec<&Reference> = Vec::new();
    for pipeline in pipelines {
        let path = join(&["service".into(), "pipelines".into(), pipeline.id.clone(), "processors".into()]);
        let waiting = |r: &&Reference| components.processors.get(&r.id).is_some_and(waits_for_traces);
        let mut waits = Vec::new();
        for reference in pipeline.processors.iter().filter(waiting) {
            match seen.iter().find(|other| other.id == reference.id) {
                Some(other) => {
                    let message = format!("`{}` in a second pipeline: it has a buffer in each", reference.id);
                    let problem = Problem::note(reference.place, &path, message);
                    check.say(problem.related(other.place, "the first one"));
                }
                None => seen.push(reference),
            }
            waits.extend(match components.processors.get(&reference.id) {
                Some(ProcessorSettings::GroupByTrace(settings)) => Some((settings.wait_duration, reference)),
                Some(ProcessorSettings::TailSampling(settings)) => Some((settings.decision_wait, reference)),
                _ => None,
            });
        }
        if let [(a, _), (b, second)] = waits.as_slice()
            && a != b
        {
            let longest = if a > b { waits[0].1 } else { second };
            let message = format!("one buffer holds the traces, and waits once: as long as `{}` says", longest.id);
            check.say(Problem::note(second.place, &path, message));
        }
    }
}
