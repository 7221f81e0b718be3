//! The sections that define components: ids, types, and the decoder of each type.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{Fields, join};
use super::{Check, exporters, mesh, processors, receivers};
use crate::config::problem::Problem;
use crate::config::schema::{self, HEALTH, Kind};
use crate::config::settings::{
    ComponentId, ExporterSettings, HealthSettings, MeshSettings, ProcessorSettings, ReceiverSettings,
};
use crate::config::suggest::nearest;
use crate::config::tree::{Entry, Node, Place, Value};

/// Kind and id of every component that is led to.
pub(super) type Used = BTreeSet<(Kind, String)>;

/// Every component that the file defines, whether a pipeline names it or not.
#[derive(Default)]
pub(super) struct Components {
    pub receivers: BTreeMap<ComponentId, ReceiverSettings>,
    pub processors: BTreeMap<ComponentId, ProcessorSettings>,
    pub exporters: BTreeMap<ComponentId, ExporterSettings>,
    pub meshes: BTreeMap<ComponentId, MeshSettings>,
    pub health_checks: BTreeMap<ComponentId, HealthSettings>,
    /// Where each is defined, in the order of the file; also of those that could not be read.
    pub defined: Vec<Defined>,
}

#[derive(Clone, Debug)]
pub(super) struct Defined {
    pub kind: Kind,
    pub id: ComponentId,
    pub place: Place,
}

impl Components {
    pub(super) fn find(&self, kind: Kind, id: &str) -> Option<&Defined> {
        self.defined.iter().find(|d| d.kind == kind && d.id == id)
    }

    /// The present type name of a component of this build.
    pub(super) fn type_of(kind: Kind, id: &str) -> Option<&'static str> {
        schema::component(kind, type_name(id)).map(|c| c.name)
    }
}

/// `otlp` of `otlp/backup`.
pub(super) fn type_name(id: &str) -> &str {
    id.split_once('/').map_or(id, |(name, _)| name).trim()
}

pub(super) fn read(check: &mut Check<'_>, root: &Fields<'_>) -> Components {
    let mut components = Components::default();
    for kind in Kind::ALL {
        let Some(section) = root.get(kind.section()) else { continue };
        match &section.value {
            Value::Map(entries) => entries.iter().for_each(|e| define(check, &mut components, kind, e)),
            Value::Unresolved => {}
            _ => {
                let message = format!("{} is a map of components", kind.section());
                check.say(Problem::error(section.at, kind.section(), message).value(section.shown()));
            }
        }
    }
    components
}

fn define(check: &mut Check<'_>, components: &mut Components, kind: Kind, entry: &Entry) {
    let id = entry.key.clone();
    components.defined.push(Defined { kind, id: id.clone(), place: entry.key_at });
    if !check_id(check, kind, entry) {
        return;
    }
    let path = vec![kind.section().to_owned(), id.clone()];
    let (node, at) = (&entry.node, entry.key_at);
    match (kind, Components::type_of(kind, &id)) {
        (Kind::Receiver, Some("otlp")) => {
            let otlp = receivers::otlp(check, node, at, path);
            components.receivers.insert(id, ReceiverSettings::Otlp(otlp));
        }
        (Kind::Processor, Some(name)) => {
            if let Some(settings) = processors::read(check, name, node, at, path) {
                components.processors.insert(id, settings);
            }
        }
        (Kind::Exporter, Some(name)) => {
            if let Some(settings) = exporters::read(check, name, node, at, path) {
                components.exporters.insert(id, settings);
            }
        }
        (Kind::Connector, Some("mesh")) => {
            if let Some(settings) = mesh::read(check, node, at, path) {
                components.meshes.insert(id, settings);
            }
        }
        (Kind::Extension, Some("health_check")) => {
            let settings = health_check(check, node, at, path);
            components.health_checks.insert(id, settings);
        }
        (kind, _) => unknown_type(check, kind, entry),
    }
}

fn health_check(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> HealthSettings {
    let fields = Fields::open(check, node, at, path, &HEALTH);
    HealthSettings { endpoint: fields.endpoint(check, "endpoint", "127.0.0.1:13133") }
}

/// `type` or `type/name`.
fn check_id(check: &mut Check<'_>, kind: Kind, entry: &Entry) -> bool {
    let (name, rest) = match entry.key.split_once('/') {
        Some((name, rest)) => (name, Some(rest)),
        None => (entry.key.as_str(), None),
    };
    let legal_type = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let legal_name = rest.is_none_or(|rest| !rest.trim().is_empty() && !rest.chars().any(char::is_control));
    if legal_type && legal_name && entry.key.len() <= 256 && entry.key.trim() == entry.key {
        return true;
    }
    let message = format!("`{}` cannot be the id of a component", entry.key.escape_debug());
    check.say(Problem::error(entry.key_at, kind.section(), message).allowed("TYPE or TYPE/NAME, like otlp/backup"));
    false
}

fn unknown_type(check: &mut Check<'_>, kind: Kind, entry: &Entry) {
    let name = type_name(&entry.key);
    let path = join(&[kind.section().to_owned()]);
    if let Some((_, _, help)) = schema::NOT_YET.iter().find(|(k, n, _)| *k == kind && *n == name) {
        let message = format!("the {} `{name}` is not supported yet", kind.noun());
        check.say(Problem::error(entry.key_at, &path, message).help(*help));
        return;
    }
    let mut known: Vec<&str> = schema::COMPONENTS.iter().filter(|c| c.kind == kind).map(|c| c.name).collect();
    let message = format!("there is no {} `{name}`", kind.noun());
    let mut problem = Problem::error(entry.key_at, &path, message).allowed(known.join(", "));
    known.extend(schema::COMPONENTS.iter().filter(|c| c.kind == kind).filter_map(|c| c.alias));
    known.extend(schema::NOT_YET.iter().filter(|(k, ..)| *k == kind).map(|(_, n, _)| *n));
    let elsewhere = Kind::ALL.into_iter().find(|k| schema::component(*k, name).is_some());
    let not_yet = schema::NOT_YET.iter().find(|(_, n, _)| *n == name);
    problem = match (elsewhere, not_yet) {
        (Some(home), _) => problem.help(format!("`{name}` belongs under {}", home.section())),
        (None, Some((home, _, help))) => {
            problem.help(format!("as one of the {}, `{name}` is not supported yet: {help}", home.section()))
        }
        (None, None) => problem.suggest(nearest(name, known).map(str::to_owned)),
    };
    check.say(problem);
}
