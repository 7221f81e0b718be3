//! Receivers: `otlp`.

use super::fields::{Fields, join};
use super::{Check, Listen};
use crate::config::problem::Problem;
use crate::config::schema::{GRPC, HTTP, OTLP, PROTOCOLS, SERVER_TLS};
use crate::config::settings::{OtlpReceiverSettings, ServerSettings, ServerTlsSettings};
use crate::config::tree::{Node, Place};

/// Room for the largest requests that SDKs and Collectors send; the Collector's own 4 MiB lose whole batches.
const DEFAULT_REQUEST: u64 = 64 << 20;
const LARGEST_REQUEST: u64 = 1 << 30;

pub(super) fn otlp(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> OtlpReceiverSettings {
    let fields = Fields::open(check, node, at, path, &OTLP);
    let protocols = fields.map(check, "protocols", &PROTOCOLS);
    // `grpc:` with nothing behind it serves gRPC at its defaults; an absent key does not serve it.
    let grpc = protocols.entry("grpc").map(|_| grpc(check, &protocols));
    let http = protocols.entry("http").map(|_| http(check, &protocols));
    if grpc.is_none() && http.is_none() {
        protocols.missing(check, "grpc", "name at least one protocol: `protocols: {grpc: , http: }`");
    }
    OtlpReceiverSettings { grpc, http }
}

fn grpc(check: &mut Check<'_>, protocols: &Fields<'_>) -> ServerSettings {
    let fields = protocols.map(check, "grpc", &GRPC);
    let mebibytes = fields.count(check, "max_recv_msg_size_mib", DEFAULT_REQUEST >> 20, (1, LARGEST_REQUEST >> 20));
    let endpoint = fields.endpoint(check, "endpoint", "127.0.0.1:4317");
    if endpoint.port() == 4318 {
        let path = join(&fields.path_of("endpoint"));
        let problem = Problem::warning(fields.place("endpoint"), &path, "gRPC on 4318, the port of OTLP/HTTP");
        check.say(problem.help("senders expect OTLP/gRPC at 4317; nodes of the mesh meet at connectors.mesh.listen"));
    }
    listens(check, &fields, endpoint);
    let max_request_bytes = usize::try_from(mebibytes << 20).unwrap_or(usize::MAX);
    ServerSettings { endpoint, max_request_bytes, traces_path: String::new(), tls: server_tls(check, &fields) }
}

fn http(check: &mut Check<'_>, protocols: &Fields<'_>) -> ServerSettings {
    let fields = protocols.map(check, "http", &HTTP);
    let bytes = fields.size(check, "max_request_body_size", DEFAULT_REQUEST, (1, LARGEST_REQUEST));
    let endpoint = fields.endpoint(check, "endpoint", "127.0.0.1:4318");
    listens(check, &fields, endpoint);
    let form = "a path like /v1/traces";
    let default = ("/v1/traces".to_owned(), "/v1/traces".to_owned());
    let traces_path = fields.read(check, "traces_url_path", default, form, |text| {
        let legal = text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        // The Collector takes the path without its slash, too.
        legal.then(|| if text.starts_with('/') { text.to_owned() } else { format!("/{text}") })
    });
    let max_request_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    ServerSettings { endpoint, max_request_bytes, traces_path, tls: server_tls(check, &fields) }
}

fn listens(check: &mut Check<'_>, fields: &Fields<'_>, address: std::net::SocketAddr) {
    let owner = fields.path.get(1).cloned().unwrap_or_default();
    let path = join(&fields.path_of("endpoint"));
    check.listens.push(Listen { address, udp: false, owner, path, place: fields.place("endpoint") });
}

fn server_tls(check: &mut Check<'_>, parent: &Fields<'_>) -> Option<ServerTlsSettings> {
    parent.get("tls")?;
    let fields = parent.map(check, "tls", &SERVER_TLS);
    let cert_file = fields.path_buf(check, "cert_file");
    let key_file = fields.path_buf(check, "key_file");
    let client_ca_file = fields.path_buf(check, "client_ca_file");
    for (file, key) in [(&cert_file, "cert_file"), (&key_file, "key_file")] {
        if file.is_none() {
            fields.missing(check, key, "a server shows a certificate: give `cert_file` and `key_file`");
        }
    }
    Some(ServerTlsSettings { cert_file: cert_file?, key_file: key_file?, client_ca_file })
}
