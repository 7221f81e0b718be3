//! Whole configurations: what loads, and what is said about what does not.

use super::*;

mod loading;
mod mesh;
mod policies;
mod reports;
mod whole_traces;

fn host() -> HostFacts {
    HostFacts { hostname: "node-7".to_owned(), memory_bytes: 1 << 30 }
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn sources(texts: &[&str]) -> Vec<Source> {
    let source = |(n, text): (usize, &&str)| Source { name: format!("{n}.yaml"), text: (*text).to_owned() };
    texts.iter().enumerate().map(source).collect()
}

fn load_text(text: &str) -> Result<Loaded, Problems> {
    load(&sources(&[text]), &no_env, &host())
}

fn loaded(text: &str) -> Loaded {
    load_text(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// `line:column message` of every problem that is no note.
fn said(text: &str) -> Vec<String> {
    let problems = match load_text(text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let line = |p: &Problem| {
        let at = p.place.map(|at| format!("{}:{}", at.line, at.column)).unwrap_or_default();
        format!("{at} {}", p.message)
    };
    problems.iter().filter(|p| p.severity != Severity::Note).map(line).collect()
}

const MESH: &str = "\
receivers: {otlp: {protocols: {grpc: , http: }}}
processors: {span_dedup: }
exporters: {debug: }
connectors: {mesh: {cluster: us-east-1}}
service:
  pipelines:
    traces/local: {receivers: [otlp], exporters: [mesh]}
    traces/owned: {receivers: [mesh], processors: [span_dedup], exporters: [debug]}
";

/// The mesh configuration with some text laid over it.
fn over_mesh(text: &str) -> Result<Loaded, Problems> {
    load(&sources(&[MESH, text]), &no_env, &host())
}

fn said_over_mesh(text: &str) -> String {
    match over_mesh(text) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(problems) => problems.to_string(),
    }
}
