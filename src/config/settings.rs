//! The checked configuration: plain values that mean what they say.
//!
//! Nothing below `config` reads YAML, flags or the environment. A [`Settings`] exists only if every name in it
//! resolves and every number is in its range, so the code that builds a node from it asks no questions.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{ClusterName, NodeName};

/// `type/name` of a component as the user wrote it, `otlp/backup`.
pub type ComponentId = String;

/// A node's whole configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub receivers: BTreeMap<ComponentId, ReceiverSettings>,
    pub processors: BTreeMap<ComponentId, ProcessorSettings>,
    pub exporters: BTreeMap<ComponentId, ExporterSettings>,
    /// At most one: a node is in one mesh.
    pub mesh: Option<(ComponentId, MeshSettings)>,
    pub health_check: Option<HealthSettings>,
    pub pipelines: BTreeMap<ComponentId, PipelineSettings>,
    pub telemetry: TelemetrySettings,
    pub admin: AdminSettings,
}

/// One pipeline: who feeds it, what it does in order, where it ends. The mesh connector's id may stand at either end.
#[derive(Clone, Debug, Default)]
pub struct PipelineSettings {
    pub receivers: Vec<ComponentId>,
    pub processors: Vec<ComponentId>,
    pub exporters: Vec<ComponentId>,
}

#[derive(Clone, Debug)]
pub enum ReceiverSettings {
    Otlp(OtlpReceiverSettings),
}

/// `otlp`: an absent protocol is not served.
#[derive(Clone, Debug)]
pub struct OtlpReceiverSettings {
    pub grpc: Option<ServerSettings>,
    pub http: Option<ServerSettings>,
}

/// One listening port of the OTLP receiver.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Port 0 takes a free one.
    pub endpoint: SocketAddr,
    /// Most bytes of one request, as sent and after decompression (`max_recv_msg_size_mib` / `max_request_body_size`).
    pub max_request_bytes: usize,
    /// Path of traces, `/v1/traces` (HTTP only).
    pub traces_path: String,
    pub tls: Option<ServerTlsSettings>,
}

#[derive(Clone, Debug)]
pub struct ServerTlsSettings {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Set: clients must show a certificate of this CA.
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub enum ProcessorSettings {
    Resource(ResourceSettings),
    SpanDedup(DedupSettings),
    Batch(BatchSettings),
    MemoryLimiter(MemoryLimiterSettings),
}

/// `resource`: edits of resource attributes, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceSettings {
    pub actions: Vec<ResourceAction>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResourceAction {
    pub key: String,
    pub kind: ActionKind,
}

/// The Collector's `action`s.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionKind {
    /// Only if the key is absent.
    Insert(AttributeSource),
    /// Only if the key is present.
    Update(AttributeSource),
    /// In any case.
    Upsert(AttributeSource),
    Delete,
}

/// Where a new value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeSource {
    Value(AttributeValue),
    /// Another resource attribute; if that is absent, nothing is done.
    FromAttribute(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    String(String),
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// `span_dedup`.
#[derive(Clone, Debug)]
pub struct DedupSettings {
    /// How long a settled span is remembered (`wait_duration`, 5m): a sender's retry horizon.
    pub wait_duration: Duration,
    /// Most memory of all its filters together (`max_memory`, 256MiB). Reached: the window shrinks, and says so.
    pub max_memory_bytes: usize,
}

/// `batch`, with the Collector's meaning and defaults.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// 200ms.
    pub timeout: Duration,
    /// Spans after which a batch goes out without waiting (8192).
    pub send_batch_size: usize,
    /// Most spans of one batch; 0: no limit (0).
    pub send_batch_max_size: usize,
}

/// `memory_limiter`: percentages are resolved to bytes already.
#[derive(Clone, Debug)]
pub struct MemoryLimiterSettings {
    /// Peers are refused from here on.
    pub limit_bytes: u64,
    /// Local senders are refused from here on: `limit - spike_limit`.
    pub soft_limit_bytes: u64,
}

#[derive(Clone, Debug)]
pub enum ExporterSettings {
    OtlpGrpc(OtlpExporterSettings),
    OtlpHttp(OtlpExporterSettings),
    File(FileExporterSettings),
    Debug(DebugExporterSettings),
}

/// `otlp` / `otlp_grpc` and `otlphttp` / `otlp_http`.
#[derive(Clone, Debug)]
pub struct OtlpExporterSettings {
    /// For gRPC `http(s)://host:port`; for HTTP the full URL that traces are posted to.
    pub url: String,
    pub headers: Vec<(String, Secret)>,
    pub compression: ExportCompression,
    /// One attempt (5s gRPC, 30s HTTP: the Collector's).
    pub timeout: Duration,
    pub retry: RetrySettings,
    pub tls: ClientTlsSettings,
    /// HTTP only: `proto` or `json`.
    pub encoding: ExportEncoding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportCompression {
    None,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportEncoding {
    Proto,
    Json,
}

#[derive(Clone, Debug, Default)]
pub struct ClientTlsSettings {
    /// In place of the system's roots.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// gRPC without TLS.
    pub insecure: bool,
    pub insecure_skip_verify: bool,
    pub server_name_override: Option<String>,
}

/// `retry_on_failure`, the Collector's fields and defaults.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    pub enabled: bool,
    /// 5s
    pub initial_interval: Duration,
    /// 0.5
    pub randomization_factor: f64,
    /// 1.5
    pub multiplier: f64,
    /// 30s
    pub max_interval: Duration,
    /// 300s; zero: never give up.
    pub max_elapsed_time: Duration,
}

#[derive(Clone, Debug)]
pub struct FileExporterSettings {
    /// One OTLP/JSON `TracesData` object a line.
    pub path: PathBuf,
    pub append: bool,
}

#[derive(Clone, Debug)]
pub struct DebugExporterSettings {
    pub verbosity: Verbosity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    Basic,
    Normal,
    Detailed,
}

/// The `mesh` connector.
#[derive(Clone, Debug)]
pub struct MeshSettings {
    pub cluster: ClusterName,
    pub node: NodeName,
    pub region: String,
    pub zone: String,
    pub environment: String,
    /// Meshes of different names never merge; also the key of the ring's hash.
    pub name: String,
    pub listen: SocketAddr,
    pub advertise: Advertise,
    pub seeds: Vec<Seed>,
    /// In place of the system's resolver, for seeds (`dns_server`).
    pub dns_server: Option<SocketAddr>,
    pub refresh_interval: Duration,
    /// Share of traces to own; 0 owns nothing.
    pub weight: u16,
    /// `None`: neither seeds nor certificates are given, the node runs alone.
    pub security: Option<MeshSecurity>,
    pub compression: LinkCompression,
    /// How long a silent owner's spans wait before its traces move.
    pub failover_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// Peers dial the address that they see.
    Learned,
    /// Nobody can dial this node; it dials out.
    None,
    /// host:port, the host may be a name.
    Address(String),
}

/// One entry of `seeds`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seed {
    /// `dns+host:port`: every A and AAAA record of the name.
    Dns { host: String, port: u16 },
    /// `dnssrv+_service._udp.host`: every SRV record, and its target's addresses.
    Srv { name: String },
    /// `host:port`: an address, or a name looked up like `dns+`.
    Host { host: String, port: u16 },
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seed::Dns { host, port } => write!(f, "dns+{host}:{port}"),
            Seed::Srv { name } => write!(f, "dnssrv+{name}"),
            Seed::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Seed::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Clone, Debug)]
pub enum MeshSecurity {
    /// Mutual TLS with certificates from these files, read again every `reload_interval`.
    Mtls { ca_file: PathBuf, cert_file: PathBuf, key_file: PathBuf, reload_interval: Duration },
    /// `insecure_dev: true`: encrypted, but anybody may join as anybody. For trials.
    InsecureDev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCompression {
    Zstd,
    Lz4,
    None,
}

#[derive(Clone, Debug)]
pub struct HealthSettings {
    /// 127.0.0.1:13133
    pub endpoint: SocketAddr,
}

/// `service.telemetry`.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    pub log_level: String,
    pub log_format: LogFormat,
    /// Prometheus; `None`: not served. 127.0.0.1:8888
    pub metrics: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// `service.admin`, ours: the admin page and API.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// `None`: not served. 127.0.0.1:4320
    pub endpoint: Option<SocketAddr>,
}

/// A value that is sent, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The value, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
