//! `service`: which extensions run, the pipelines, and the node's own logs, metrics and admin page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::components::type_name;
use super::fields::{Choice, Fields, join};
use super::{Check, Listen, address};
use crate::config::problem::Problem;
use crate::config::schema::{
    ADMIN, LOGS, METRICS, PIPELINE, PROMETHEUS, PULL, PULL_EXPORTER, READER, SERVICE, TELEMETRY,
};
use crate::config::settings::{AdminSettings, ComponentId, LogFormat, TelemetrySettings};
use crate::config::suggest::nearest;
use crate::config::tree::{Place, Value};

pub(super) struct Service {
    pub extensions: Vec<Reference>,
    pub pipelines: Vec<Pipeline>,
    pub telemetry: TelemetrySettings,
    pub admin: AdminSettings,
}

pub(super) struct Pipeline {
    pub id: ComponentId,
    pub receivers: Vec<Reference>,
    pub processors: Vec<Reference>,
    pub exporters: Vec<Reference>,
}

/// A component's id where it is used.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub id: ComponentId,
    pub place: Place,
}

const LEVELS: Choice<&str> = Choice {
    values: &[("info", "info"), ("debug", "debug"), ("warn", "warn"), ("error", "error"), ("trace", "trace")],
    not_yet: &[],
};

const LOG_FORMATS: Choice<LogFormat> = Choice {
    values: &[("auto", LogFormat::Auto), ("console", LogFormat::Text), ("json", LogFormat::Json)],
    not_yet: &[],
};

/// The Collector's levels of detail; here there is one, and `none`.
const METRIC_LEVELS: Choice<bool> =
    Choice { values: &[("normal", true), ("none", false), ("basic", true), ("detailed", true)], not_yet: &[] };

pub(super) fn read(check: &mut Check<'_>, root: &Fields<'_>) -> Service {
    let fields = root.map(check, "service", &SERVICE);
    let extensions = references(check, &fields, "extensions");
    let pipelines = pipelines(check, &fields);
    let telemetry = telemetry(check, &fields);
    let admin = fields.map(check, "admin", &ADMIN);
    let admin =
        AdminSettings { endpoint: optional_endpoint(check, &admin, "endpoint", "127.0.0.1:4320", "service.admin") };
    Service { extensions, pipelines, telemetry, admin }
}

fn references(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    for (path, item) in fields.list(check, key) {
        match &item.value {
            Value::Scalar(scalar) => {
                let (id, place) = (scalar.text.trim().to_owned(), item.at);
                if let Some(first) = found.iter().find(|r| r.id == id) {
                    let problem =
                        Problem::error(place, &join(&path), format!("`{}` is listed twice", id.escape_debug()));
                    check.say(problem.related(first.place, "first listed here"));
                } else {
                    found.push(Reference { id, place });
                }
            }
            Value::Unresolved => {}
            Value::List(_) | Value::Map(_) => {
                check.say(Problem::error(item.at, &join(&path), "the id of a component is wanted here"));
            }
        }
    }
    found
}

fn pipelines(check: &mut Check<'_>, service: &Fields<'_>) -> Vec<Pipeline> {
    let Some(node) = service.get("pipelines") else {
        service.missing(check, "pipelines", "like `pipelines: {traces: {receivers: [otlp], exporters: [debug]}}`");
        return Vec::new();
    };
    let Value::Map(entries) = &node.value else {
        if !matches!(node.value, Value::Unresolved) {
            service.wrong(check, "pipelines", "`pipelines` is a map", "traces, traces/NAME");
        }
        return Vec::new();
    };
    if entries.is_empty() {
        service.missing(check, "pipelines", "like `pipelines: {traces: {receivers: [otlp], exporters: [debug]}}`");
    }
    let mut pipelines = Vec::new();
    for entry in entries {
        let (id, place) = (entry.key.clone(), entry.key_at);
        let path = vec!["service".to_owned(), "pipelines".to_owned(), id.clone()];
        match type_name(&id) {
            "traces" => {}
            signal @ ("metrics" | "logs" | "profiles") => {
                let message = format!("a pipeline of {signal}: spanmesh carries traces only");
                let problem = Problem::error(place, "service.pipelines", message);
                check.say(problem.help(format!("send {signal} to a Collector, and only traces here")));
                continue;
            }
            other => {
                let problem = Problem::error(place, "service.pipelines", "this is no pipeline of traces");
                let near = nearest(other, ["traces"]).map(str::to_owned);
                check.say(problem.allowed("traces, traces/NAME").suggest(near));
                continue;
            }
        }
        let fields = Fields::open(check, &entry.node, place, path, &PIPELINE);
        for (key, role) in [("receivers", "spans come from"), ("exporters", "spans go to")] {
            let empty = matches!(fields.get(key).map(|n| &n.value), Some(Value::List(items)) if items.is_empty());
            if fields.get(key).is_none() || empty {
                fields.missing(check, key, &format!("what {role}"));
            }
        }
        let receivers = references(check, &fields, "receivers");
        let processors = references(check, &fields, "processors");
        let exporters = references(check, &fields, "exporters");
        pipelines.push(Pipeline { id, receivers, processors, exporters });
    }
    pipelines
}

fn telemetry(check: &mut Check<'_>, service: &Fields<'_>) -> TelemetrySettings {
    let fields = service.map(check, "telemetry", &TELEMETRY);
    let logs = fields.map(check, "logs", &LOGS);
    let log_level = logs.choice(check, "level", "info", &LEVELS).to_owned();
    let log_format = logs.choice(check, "encoding", "auto", &LOG_FORMATS);
    let metrics_fields = fields.map(check, "metrics", &METRICS);
    let metrics = metrics(check, &metrics_fields);
    TelemetrySettings { log_level, log_format, metrics }
}

/// `level: none`, the Collector's `readers`, or its older and shorter `address`.
fn metrics(check: &mut Check<'_>, fields: &Fields<'_>) -> Option<SocketAddr> {
    let served = fields.choice(check, "level", "normal", &METRIC_LEVELS);
    let readers = fields.list(check, "readers");
    if readers.is_empty() {
        let key = "address";
        let served = served && !is_empty(fields, "readers");
        return if served {
            optional_endpoint(check, fields, key, "127.0.0.1:8888", "service.telemetry.metrics")
        } else {
            None
        };
    }
    if fields.get("address").is_some() {
        fields.wrong(check, "address", "`address` and `readers` cannot both be given", "one of them");
    }
    let mut found = None;
    for (path, item) in readers {
        let reader = Fields::open(check, item, item.at, path, &READER);
        if reader.get("pull").is_none() {
            continue;
        }
        let pull = reader.map(check, "pull", &PULL);
        let exporter = pull.map(check, "exporter", &PULL_EXPORTER);
        let prometheus = exporter.map(check, "prometheus", &PROMETHEUS);
        let port = prometheus.count(check, "port", 8888, (0, 65_535));
        let local = (IpAddr::V4(Ipv4Addr::LOCALHOST), "localhost".to_owned());
        let host = prometheus.read(check, "host", local, "an IP address, or localhost", |text| match text {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => text.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        });
        let address = SocketAddr::new(host, u16::try_from(port).unwrap_or(0));
        if found.is_some() {
            check.say(Problem::error(item.at, &join(&reader.path), "a second reader is not supported yet"));
            continue;
        }
        found = Some(address);
        let (path, place) = (join(&prometheus.path), prometheus.place("port"));
        if served {
            let owner = "service.telemetry.metrics".to_owned();
            check.listens.push(Listen { address, udp: false, owner, path, place });
        }
    }
    found.filter(|_| served)
}

fn is_empty(fields: &Fields<'_>, key: &'static str) -> bool {
    matches!(fields.get(key).map(|n| &n.value), Some(Value::List(items)) if items.is_empty())
}

/// An address to listen at; `none` or an empty string: nothing is served.
fn optional_endpoint(
    check: &mut Check<'_>,
    fields: &Fields<'_>,
    key: &'static str,
    default: &str,
    owner: &str,
) -> Option<SocketAddr> {
    let form = format!("{}, or none", address::LISTEN_FORM);
    let fallback = (address::listen(default), default.to_owned());
    let address = fields.read(check, key, fallback, &form, |text| match text {
        "" | "none" => Some(None),
        _ => address::listen(text).map(Some),
    })?;
    let (owner, path) = (owner.to_owned(), join(&fields.path_of(key)));
    check.listens.push(Listen { address, udp: false, owner, path, place: fields.place(key) });
    Some(address)
}
