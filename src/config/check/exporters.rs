//! Exporters: `otlp_grpc`, `otlp_http`, `file`, `debug`.

use std::time::Duration;

use super::Check;
use super::address;
use super::fields::{Choice, Fields, join};
use crate::config::problem::Problem;
use crate::config::schema::{CLIENT_TLS, DEBUG, FILE, OTLP_GRPC_EXPORTER, OTLP_HTTP_EXPORTER, RETRY, SENDING_QUEUE};
use crate::config::secrets;
use crate::config::settings::{
    ClientTlsSettings, DebugExporterSettings, ExportCompression, ExportEncoding, ExporterSettings,
    FileExporterSettings, OtlpExporterSettings, RetrySettings, Secret, Verbosity,
};
use crate::config::tree::{Node, Place, Value};

const COMPRESSIONS: Choice<ExportCompression> = Choice {
    values: &[
        ("gzip", ExportCompression::Gzip),
        ("zstd", ExportCompression::Zstd),
        ("none", ExportCompression::None),
        ("", ExportCompression::None),
    ],
    not_yet: &[
        ("snappy", "use gzip or zstd"),
        ("x-snappy-framed", "use gzip or zstd"),
        ("zlib", "use gzip or zstd"),
        ("deflate", "use gzip or zstd"),
        ("lz4", "use gzip or zstd"),
    ],
};

const ENCODINGS: Choice<ExportEncoding> =
    Choice { values: &[("proto", ExportEncoding::Proto), ("json", ExportEncoding::Json)], not_yet: &[] };

const VERBOSITIES: Choice<Verbosity> = Choice {
    values: &[("basic", Verbosity::Basic), ("normal", Verbosity::Normal), ("detailed", Verbosity::Detailed)],
    not_yet: &[],
};

const FORMATS: Choice<()> = Choice { values: &[("json", ())], not_yet: &[("proto", "use json: one object a line")] };

const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(
    check: &mut Check<'_>,
    name: &str,
    node: &Node,
    at: Place,
    path: Vec<String>,
) -> Option<ExporterSettings> {
    match name {
        "otlp_grpc" => grpc(check, node, at, path).map(ExporterSettings::OtlpGrpc),
        "otlp_http" => http(check, node, at, path).map(ExporterSettings::OtlpHttp),
        "file" => {
            let fields = Fields::open(check, node, at, path, &FILE);
            fields.choice(check, "format", "json", &FORMATS);
            let append = fields.flag(check, "append", false);
            let path = fields.path_buf(check, "path");
            if path.is_none() {
                fields.missing(check, "path", "the file to write to");
            }
            Some(ExporterSettings::File(FileExporterSettings { path: path?, append }))
        }
        "debug" => {
            let fields = Fields::open(check, node, at, path, &DEBUG);
            let verbosity = fields.choice(check, "verbosity", "basic", &VERBOSITIES);
            Some(ExporterSettings::Debug(DebugExporterSettings { verbosity }))
        }
        _ => None,
    }
}

fn grpc(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> Option<OtlpExporterSettings> {
    let fields = Fields::open(check, node, at, path, &OTLP_GRPC_EXPORTER);
    let mut tls = client_tls(check, &fields);
    let headers = headers(check, &fields, true);
    let common = common(check, &fields, Duration::from_secs(5));
    let Some(text) = fields.text(check, "endpoint") else {
        fields.missing(check, "endpoint", "the backend, like `endpoint: tempo.example.com:4317`");
        return None;
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
    // `dns:///host:port` is how Go's resolver is asked to look a name up; every name is looked up here.
    let authority = match scheme {
        "dns" => rest.trim_start_matches('/'),
        _ => rest.trim_end_matches('/'),
    };
    let form = "HOST:PORT, http://HOST:PORT or https://HOST:PORT";
    if secrets::has_credentials(&text) {
        fields.wrong(check, "endpoint", "credentials in an address are not supported: use `headers`", form);
        return None;
    }
    if !matches!(scheme, "" | "http" | "https" | "dns") || address::host_port(authority).is_none() {
        fields.wrong(check, "endpoint", "this is no address of a gRPC server", form);
        return None;
    }
    if scheme == "https" && tls.insecure {
        let problem = Problem::error(fields.place("endpoint"), &join(&fields.path), "`https` and `tls.insecure: true`");
        check.say(problem.help("`insecure` means: without TLS. Remove it, or write http://"));
    }
    tls.insecure |= scheme == "http";
    let url = format!("{}://{authority}", if tls.insecure { "http" } else { "https" });
    let Common { compression, timeout, retry } = common;
    let encoding = ExportEncoding::Proto;
    Some(OtlpExporterSettings { url, headers, compression, timeout, retry, tls, encoding })
}

fn http(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> Option<OtlpExporterSettings> {
    let fields = Fields::open(check, node, at, path, &OTLP_HTTP_EXPORTER);
    let tls = client_tls(check, &fields);
    let headers = headers(check, &fields, false);
    let encoding = fields.choice(check, "encoding", "proto", &ENCODINGS);
    let common = common(check, &fields, Duration::from_secs(30));
    let base = url(check, &fields, "endpoint");
    let full = url(check, &fields, "traces_endpoint");
    let given = |key| fields.get(key).is_some();
    if !given("endpoint") && !given("traces_endpoint") {
        fields.missing(
            check,
            "endpoint",
            "the backend, like `endpoint: https://otlp.example.com` (/v1/traces is added)",
        );
    }
    let url = full.or_else(|| base.map(|base| format!("{}/v1/traces", base.trim_end_matches('/'))))?;
    let Common { compression, timeout, retry } = common;
    Some(OtlpExporterSettings { url, headers, compression, timeout, retry, tls, encoding })
}

fn url(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Option<String> {
    let text = fields.text(check, key)?;
    let form = "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]";
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    if secrets::has_credentials(&text) {
        fields.wrong(check, key, "credentials in an address are not supported: use `headers`", form);
        return None;
    }
    let authority = rest.and_then(|r| r.split(['/', '?']).next()).unwrap_or("");
    let is_address = address::host_port(authority).is_some()
        || address::is_host(authority)
        || address::host_port(&format!("{authority}:1")).is_some();
    let legal = rest.is_some() && is_address && text.len() <= 2048;
    if !legal || !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
        fields.wrong(check, key, "this is no URL to post to", form);
        return None;
    }
    Some(text)
}

/// What both protocols share.
struct Common {
    compression: ExportCompression,
    timeout: Duration,
    retry: RetrySettings,
}

fn common(check: &mut Check<'_>, fields: &Fields<'_>, timeout: Duration) -> Common {
    sending_queue(check, fields);
    let range = (Duration::from_millis(1), Duration::from_secs(3600));
    let timeout = fields.duration(check, "timeout", timeout, range);
    let compression = fields.choice(check, "compression", "gzip", &COMPRESSIONS);
    Common { compression, timeout, retry: retry(check, fields) }
}

/// `enabled: false` is what this build does; everything else asks for more.
fn sending_queue(check: &mut Check<'_>, parent: &Fields<'_>) {
    if parent.get("sending_queue").is_none() {
        return;
    }
    let fields = parent.map(check, "sending_queue", &SENDING_QUEUE);
    let enabled = match fields.get("enabled") {
        Some(_) => fields.flag(check, "enabled", false),
        None => true,
    };
    if enabled {
        let place = parent.entry("sending_queue").map_or(parent.at, |e| e.key_at);
        let problem = Problem::error(place, &join(&parent.path), "`sending_queue` is not supported yet");
        check.say(problem.help(
            "remove it, or write `sending_queue: {enabled: false}`: a span is held, and its sender waits, \
             until the next one has it",
        ));
    }
}

fn retry(check: &mut Check<'_>, parent: &Fields<'_>) -> RetrySettings {
    let fields = parent.map(check, "retry_on_failure", &RETRY);
    let seconds = Duration::from_secs;
    let short = (Duration::from_millis(1), MAX_INTERVAL);
    let settings = RetrySettings {
        enabled: fields.flag(check, "enabled", true),
        initial_interval: fields.duration(check, "initial_interval", seconds(5), short),
        randomization_factor: fields.number(check, "randomization_factor", 0.5, (0.0, 1.0)),
        multiplier: fields.number(check, "multiplier", 1.5, (1.0, 100.0)),
        max_interval: fields.duration(check, "max_interval", seconds(30), short),
        max_elapsed_time: fields.duration(
            check,
            "max_elapsed_time",
            seconds(300),
            (Duration::ZERO, seconds(30 * 86_400)),
        ),
    };
    let longest = settings.initial_interval.max(settings.max_interval);
    if settings.enabled && !settings.max_elapsed_time.is_zero() && settings.max_elapsed_time < longest {
        let allowed = "0 (never give up), or at least `initial_interval` and `max_interval`";
        fields.wrong(check, "max_elapsed_time", "ends before the first retries", allowed);
    }
    settings
}

fn client_tls(check: &mut Check<'_>, parent: &Fields<'_>) -> ClientTlsSettings {
    let fields = parent.map(check, "tls", &CLIENT_TLS);
    let tls = ClientTlsSettings {
        ca_file: fields.path_buf(check, "ca_file"),
        cert_file: fields.path_buf(check, "cert_file"),
        key_file: fields.path_buf(check, "key_file"),
        insecure: fields.flag(check, "insecure", false),
        insecure_skip_verify: fields.flag(check, "insecure_skip_verify", false),
        server_name_override: fields.text(check, "server_name_override").filter(|n| !n.is_empty()),
    };
    if tls.server_name_override.as_deref().is_some_and(|name| !address::is_host(name)) {
        fields.wrong(check, "server_name_override", "this is no host name", "a host name");
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => fields.missing(check, "key_file", "`cert_file` and `key_file` belong together"),
        (None, Some(_)) => fields.missing(check, "cert_file", "`cert_file` and `key_file` belong together"),
        _ => {}
    }
    if tls.insecure_skip_verify {
        let path = join(&fields.path_of("insecure_skip_verify"));
        let message = "the backend's certificate is not verified: anybody on the way can read the spans";
        check.say(Problem::warning(fields.place("insecure_skip_verify"), &path, message));
    }
    tls
}

/// `headers: {NAME: VALUE}`, or the Collector's newer `headers: [{name: NAME, value: VALUE}]`.
fn headers(check: &mut Check<'_>, fields: &Fields<'_>, grpc: bool) -> Vec<(String, Secret)> {
    let Some(node) = fields.get("headers") else { return Vec::new() };
    let path = join(&fields.path_of("headers"));
    let mut pairs: Vec<(String, Place, &Node)> = Vec::new();
    match &node.value {
        Value::Map(entries) => pairs.extend(entries.iter().map(|e| (e.key.clone(), e.key_at, &e.node))),
        Value::List(items) => {
            for item in items {
                let name = item.get("name").and_then(Node::scalar).map(|s| s.text.clone());
                match (name, item.get("value"), item.entries().map_or(0, <[_]>::len)) {
                    (Some(name), Some(value), 2) => pairs.push((name, item.at, value)),
                    _ => check.say(Problem::error(item.at, &path, "a header is `{name: NAME, value: VALUE}`")),
                }
            }
        }
        Value::Unresolved => {}
        Value::Scalar(_) => fields.wrong(check, "headers", "`headers` is a map", "NAME: VALUE"),
    }
    let mut headers = Vec::new();
    for (name, place, node) in pairs {
        let name = if grpc { name.to_ascii_lowercase() } else { name };
        let path = format!("{path}.{}", name.escape_debug());
        if let Some(reason) = refused_header(&name, grpc) {
            check.say(Problem::error(place, &path, reason));
            continue;
        }
        match &node.value {
            Value::Scalar(scalar) if is_header_value(&scalar.text) => {
                headers.push((name, Secret::new(scalar.text.clone())));
            }
            Value::Unresolved => {}
            _ => check.say(Problem::error(place, &path, "the value of a header is one line of printable ASCII")),
        }
    }
    headers
}

fn is_header_value(text: &str) -> bool {
    text.len() <= 16 * 1024 && text.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
}

fn refused_header(name: &str, grpc: bool) -> Option<&'static str> {
    const OURS: [&str; 8] = [
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "te",
        "host",
        "grpc-timeout",
    ];
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Some("this is no name of a header");
    }
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || lower.starts_with("grpc-") {
        return Some("this header is set by the exporter itself");
    }
    (grpc && lower.ends_with("-bin")).then_some("binary metadata (`-bin`) is not supported yet")
}
