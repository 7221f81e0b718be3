//! The configuration of `spanmesh run --cluster X --export URL`: a file in the binary, filled in like any other.
//!
//! Flags become the variables that the file names, so there is one path from text to settings, no second language,
//! and `print-config` shows exactly what runs. A flag stands before the variable of its name. Only the exporter is
//! chosen here, by the URL:
//!
//! | `--export` | Exporter |
//! |---|---|
//! | none | `debug` |
//! | `http(s)://HOST:4317`, no path | `otlp_grpc`: it is gRPC's port |
//! | `grpc://HOST:PORT`, `grpcs://HOST:PORT` | `otlp_grpc`, without and with TLS |
//! | any other `http(s)://…` | `otlp_http`; the URL as it is if its path ends in `/v1/traces`, else `/v1/traces` is added |

use std::collections::BTreeMap;

use super::problem::Source;

const BASE: &str = include_str!("builtin.yaml");
const NAME: &str = "built-in configuration";

const TO_DEBUG: &str = "\
exporters: {debug: }
service: {pipelines: {traces/owned: {exporters: [debug]}}}
";
const TO_GRPC: &str = "\
exporters: {otlp_grpc: {endpoint: \"${env:SPANMESH_EXPORT}\"}}
service: {pipelines: {traces/owned: {exporters: [otlp_grpc]}}}
";
const TO_HTTP: &str = "\
exporters: {otlp_http: {endpoint: \"${env:SPANMESH_EXPORT}\"}}
service: {pipelines: {traces/owned: {exporters: [otlp_http]}}}
";
const TO_HTTP_PATH: &str = "\
exporters: {otlp_http: {traces_endpoint: \"${env:SPANMESH_EXPORT}\"}}
service: {pipelines: {traces/owned: {exporters: [otlp_http]}}}
";
/// Where the machine's memory is not known, a percentage of it means nothing.
const FIXED_MEMORY: &str =
    "processors: {memory_limiter: {limit_percentage: , spike_limit_percentage: , limit_mib: 1024}}\n";

/// Variables that adjust the built-in configuration. Each has a flag of the same name.
pub const VARIABLES: [&str; 11] = [
    "SPANMESH_CLUSTER",
    "SPANMESH_NODE",
    "SPANMESH_SEEDS",
    "SPANMESH_EXPORT",
    "SPANMESH_LISTEN",
    "SPANMESH_ADVERTISE",
    "SPANMESH_BIND",
    "SPANMESH_TLS_CA",
    "SPANMESH_TLS_CERT",
    "SPANMESH_TLS_KEY",
    "SPANMESH_INSECURE_DEV",
];

/// The built-in configuration, and the environment to load it with.
pub struct Builtin {
    pub sources: Vec<Source>,
    pub variables: BTreeMap<&'static str, String>,
}

/// Fills in from `flags` (by the name of their variable), then from `env`.
pub fn builtin(
    flags: &BTreeMap<&'static str, String>,
    env: &dyn Fn(&str) -> Option<String>,
    memory_known: bool,
) -> Builtin {
    let mut variables = BTreeMap::new();
    for name in VARIABLES {
        // A variable set to nothing is how an optional setting looks in a manifest.
        if let Some(value) = flags.get(name).cloned().or_else(|| env(name)).filter(|v| !v.is_empty()) {
            variables.insert(name, value);
        }
    }
    if let Some(bind) = variables.get_mut("SPANMESH_BIND")
        && bind.contains(':')
        && !bind.starts_with('[')
    {
        *bind = format!("[{bind}]");
    }
    let mut texts = vec![BASE];
    if !memory_known {
        texts.push(FIXED_MEMORY);
    }
    let (text, url) = exporter(variables.get("SPANMESH_EXPORT").map(String::as_str));
    texts.push(text);
    if let Some(url) = url {
        variables.insert("SPANMESH_EXPORT", url);
    }
    let sources = texts.into_iter().map(|text| Source { name: NAME.to_owned(), text: text.to_owned() }).collect();
    Builtin { sources, variables }
}

fn exporter(url: Option<&str>) -> (&'static str, Option<String>) {
    let Some(url) = url else { return (TO_DEBUG, None) };
    for (scheme, plain) in [("grpc://", "http://"), ("grpcs://", "https://")] {
        if let Some(rest) = url.strip_prefix(scheme) {
            return (TO_GRPC, Some(format!("{plain}{rest}")));
        }
    }
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let text = if rest.trim_end_matches('/').ends_with(":4317") {
        TO_GRPC
    } else if url.ends_with("/v1/traces") {
        TO_HTTP_PATH
    } else {
        TO_HTTP
    };
    (text, Some(url.to_owned()))
}
