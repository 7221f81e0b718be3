//! How components are joined: references that lead somewhere, and pipelines that neither split a trace nor lose a span.
//!
//! The rules of the mesh. Spans of a trace come from many nodes and meet only at its owner, that is in pipelines that
//! receive from `mesh`. What may stand where in a pipeline is in [`order`], what buffers may hold in [`memory`].

use std::collections::BTreeMap;

use super::components::{Components, Used};
use super::ports::{check_loop, check_ports};
use super::service::{Pipeline, Reference, Service};
use super::{Check, memory, order};
use crate::config::problem::Problem;
use crate::config::schema::Kind;
use crate::config::settings::{ExporterSettings, HealthSettings, MeshSettings, PipelineSettings, Settings};
use crate::config::suggest::nearest;
use crate::config::tree::Place;

pub(super) fn wire(check: &mut Check<'_>, mut components: Components, service: Service) -> Settings {
    let used = resolve(check, &components, &service);
    unused(check, &components, &used);
    let health_check = health_check(check, &components, &service);
    let mesh = mesh(check, &components, &service, &used);
    order::check_order(check, &components, &service.pipelines, mesh.as_ref().map(|(id, _)| id.as_str()));
    memory::share(check, &mut components, &service.pipelines, &used);
    // Listeners of receivers that no pipeline names are not opened.
    check.listens.retain(|l| {
        components.find(Kind::Receiver, &l.owner).is_none_or(|_| used.contains(&(Kind::Receiver, l.owner.clone())))
            && components
                .find(Kind::Connector, &l.owner)
                .is_none_or(|_| used.contains(&(Kind::Connector, l.owner.clone())))
    });
    check_ports(check);
    targets(check, &components, &used);
    let keep = |kind: Kind, id: &String| used.contains(&(kind, id.clone()));
    let ids = |list: &[Reference]| list.iter().map(|r| r.id.clone()).collect();
    let pipelines = service.pipelines.iter().map(|p| {
        let (receivers, processors, exporters) = (ids(&p.receivers), ids(&p.processors), ids(&p.exporters));
        (p.id.clone(), PipelineSettings { receivers, processors, exporters })
    });
    let pipelines = pipelines.collect();
    Settings {
        receivers: components.receivers.into_iter().filter(|(id, _)| keep(Kind::Receiver, id)).collect(),
        processors: components.processors.into_iter().filter(|(id, _)| keep(Kind::Processor, id)).collect(),
        exporters: components.exporters.into_iter().filter(|(id, _)| keep(Kind::Exporter, id)).collect(),
        mesh,
        health_check,
        pipelines,
        telemetry: service.telemetry,
        admin: service.admin,
    }
}

/// Every reference leads to a component; returns those that are led to.
fn resolve(check: &mut Check<'_>, components: &Components, service: &Service) -> Used {
    let mut used = Used::new();
    let mut look = |check: &mut Check<'_>, path: &str, kinds: &[Kind], list: &[Reference]| {
        for reference in list {
            match kinds.iter().find(|kind| components.find(**kind, &reference.id).is_some()) {
                Some(kind) => {
                    used.insert((*kind, reference.id.clone()));
                }
                None => undefined(check, components, path, kinds, reference),
            }
        }
    };
    look(check, "service.extensions", &[Kind::Extension], &service.extensions);
    for pipeline in &service.pipelines {
        let path = |part: &str| format!("service.pipelines.{}.{part}", pipeline.id);
        look(check, &path("receivers"), &[Kind::Receiver, Kind::Connector], &pipeline.receivers);
        look(check, &path("processors"), &[Kind::Processor], &pipeline.processors);
        look(check, &path("exporters"), &[Kind::Exporter, Kind::Connector], &pipeline.exporters);
    }
    used
}

fn undefined(check: &mut Check<'_>, components: &Components, path: &str, kinds: &[Kind], reference: &Reference) {
    let noun = kinds.iter().map(|k| k.noun()).collect::<Vec<_>>().join(" or ");
    let id = reference.id.escape_debug();
    let problem = Problem::error(reference.place, path, format!("no {noun} `{id}` is defined"));
    let elsewhere = components.defined.iter().find(|d| d.id == reference.id);
    let problem = match elsewhere {
        Some(other) => {
            problem.related(other.place, format!("`{id}` is defined as one of the {}", other.kind.section()))
        }
        None => {
            let known = components.defined.iter().filter(|d| kinds.contains(&d.kind)).map(|d| d.id.as_str());
            match nearest(&reference.id, known.clone()) {
                Some(near) => problem.suggest(Some(near.to_owned())),
                None => {
                    let known = known.collect::<Vec<_>>().join(", ");
                    if known.is_empty() { problem } else { problem.allowed(known) }
                }
            }
        }
    };
    check.say(problem);
}

fn unused(check: &mut Check<'_>, components: &Components, used: &Used) {
    for defined in &components.defined {
        let known = Components::type_of(defined.kind, &defined.id).is_some();
        if known && !used.contains(&(defined.kind, defined.id.clone())) {
            let list = if defined.kind == Kind::Extension { "service.extensions" } else { "any pipeline" };
            let message = format!("the {} `{}` is defined and not used", defined.kind.noun(), defined.id);
            let problem = Problem::warning(defined.place, defined.kind.section(), message);
            check.say(problem.help(format!("it is not started; name it in {list}")));
        }
    }
}

fn health_check(check: &mut Check<'_>, components: &Components, service: &Service) -> Option<HealthSettings> {
    let mut found: Option<(&Reference, &HealthSettings)> = None;
    for reference in &service.extensions {
        let Some(settings) = components.health_checks.get(&reference.id) else { continue };
        if let Some((first, _)) = found {
            let problem = Problem::error(reference.place, "service.extensions", "a second health_check");
            check.say(problem.related(first.place, "the first one"));
            continue;
        }
        let path = format!("extensions.{}.endpoint", reference.id);
        let place = components.find(Kind::Extension, &reference.id).map_or(reference.place, |d| d.place);
        let owner = reference.id.clone();
        check.listens.push(super::Listen { address: settings.endpoint, udp: false, owner, path, place });
        found = Some((reference, settings));
    }
    found.map(|(_, settings)| settings.clone())
}

/// The mesh, if there is one in use; and whether spans can come in to it and out of it.
fn mesh(
    check: &mut Check<'_>,
    components: &Components,
    service: &Service,
    used: &Used,
) -> Option<(String, MeshSettings)> {
    let mut defined = components.defined.iter().filter(|d| d.kind == Kind::Connector);
    let first = defined.next()?;
    for second in defined {
        let problem = Problem::error(second.place, "connectors", "a node is in one mesh, and this is a second one");
        check.say(problem.related(first.place, "the first one"));
    }
    if !used.contains(&(Kind::Connector, first.id.clone())) {
        return None;
    }
    let id = first.id.as_str();
    let find = |list: fn(&Pipeline) -> &Vec<Reference>| {
        service.pipelines.iter().find_map(|p| list(p).iter().find(|r| r.id == id))
    };
    let (feeds, owns) = (find(|p| &p.exporters), find(|p| &p.receivers));
    if let Some(settings) = components.meshes.get(id) {
        match (feeds, owns) {
            (Some(feed), None) if settings.weight > 0 => {
                let message =
                    format!("`{id}` is exported to and never received from: traces this node owns go nowhere");
                let problem = Problem::error(feed.place, &format!("connectors.{id}"), message);
                check.say(problem.help(format!(
                    "add a pipeline `traces/owned: {{receivers: [{id}], exporters: [...]}}`, or set `weight: 0` to own nothing"
                )));
            }
            (None, Some(own)) if settings.security.is_none() => {
                let message = format!("`{id}` is received from, but nothing can come out of it");
                let problem = Problem::error(own.place, &format!("connectors.{id}"), message);
                check.say(
                    problem.help(format!("export to `{id}` in a local pipeline, or give certificates to join a mesh")),
                );
            }
            _ => {}
        }
        bypass(check, service, id);
    }
    components.meshes.get(id).map(|settings| (id.to_owned(), settings.clone()))
}

/// Local spans that go to a backend without passing the mesh.
fn bypass(check: &mut Check<'_>, service: &Service, mesh: &str) {
    let has = |list: &[Reference]| list.iter().any(|r| r.id == mesh);
    let owned = |id: &str| {
        service.pipelines.iter().filter(|p| has(&p.receivers)).flat_map(|p| &p.exporters).find(|r| r.id == id)
    };
    let meshed = |id: &str| {
        service.pipelines.iter().filter(|p| has(&p.exporters)).any(|p| p.receivers.iter().any(|r| r.id == id))
    };
    for pipeline in service.pipelines.iter().filter(|p| !has(&p.receivers)) {
        for exporter in pipeline.exporters.iter().filter(|e| e.id != mesh) {
            let path = format!("service.pipelines.{}.exporters", pipeline.id);
            let twice = has(&pipeline.exporters) || pipeline.receivers.iter().any(|r| meshed(&r.id));
            let (id, place) = (&exporter.id, exporter.place);
            match owned(id) {
                Some(other) if twice => {
                    let message = format!("`{id}` would get every span twice: from here, and from the trace's owner");
                    let problem = Problem::error(place, &path, message);
                    check.say(problem.related(other.place, "owned traces go to it here"));
                }
                Some(_) => {
                    let message = format!("spans go to `{id}` past `{mesh}`: their traces are not put together");
                    check.say(Problem::warning(place, &path, message).help(format!("export to `{mesh}` instead")));
                }
                None => {}
            }
        }
    }
}

/// Exporters that would write into one another, or into this node.
fn targets(check: &mut Check<'_>, components: &Components, used: &Used) {
    let mut files: BTreeMap<&std::path::Path, (&str, Place)> = BTreeMap::new();
    for defined in components.defined.iter().filter(|d| used.contains(&(Kind::Exporter, d.id.clone()))) {
        match components.exporters.get(&defined.id) {
            Some(ExporterSettings::OtlpGrpc(otlp) | ExporterSettings::OtlpHttp(otlp)) => {
                check_loop(check, &defined.id, &otlp.url, defined.place);
            }
            Some(ExporterSettings::File(file)) => {
                if let Some((first, at)) = files.insert(&file.path, (&defined.id, defined.place)) {
                    let message = format!("`{}` and `{first}` write to the same file", defined.id);
                    let problem = Problem::error(defined.place, &format!("exporters.{}", defined.id), message);
                    check.say(problem.related(at, "the first one").help("name one exporter in both pipelines"));
                }
            }
            _ => {}
        }
    }
}
