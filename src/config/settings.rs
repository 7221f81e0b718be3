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
    GroupByTrace(GroupByTraceSettings),
    CrossCluster(CrossClusterSettings),
    TailSampling(TailSamplingSettings),
    ProbabilisticSampler(ProbabilisticSamplerSettings),
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

/// `groupbytrace`: holds traces and passes them on whole.
#[derive(Clone, Debug)]
pub struct GroupByTraceSettings {
    /// From a trace's first span on (1s).
    pub wait_duration: Duration,
    /// Most open traces (1,000,000); what is above is passed on early.
    pub num_traces: usize,
    /// Most memory of the pipeline's trace buffer (`max_memory`, ours). Resolved: a quarter of the memory limit if it
    /// is not given.
    pub max_memory_bytes: u64,
}

/// `cross_cluster`, ours: metrics of the calls between clusters, and of what is missing in traces.
#[derive(Clone, Debug)]
pub struct CrossClusterSettings {
    /// How long a trace is waited for where no other processor of the pipeline says it (30s).
    pub wait_duration: Duration,
    /// As in [`GroupByTraceSettings`].
    pub max_memory_bytes: u64,
    /// Write `cross_cluster.source` and `cross_cluster.target` on both spans of a call between clusters (false).
    pub write_attributes: bool,
    /// Upper bounds of the histograms' buckets in seconds, ascending, without infinity.
    pub buckets: Vec<f64>,
    /// Services whose SERVER and CONSUMER roots are never unexpected.
    pub entry_services: Vec<String>,
    /// Most label sets of one metric (2,000); what is above is counted under one set of its own.
    pub max_series: usize,
}

/// `tail_sampling`, with the Collector's names and meanings; what is ours says so.
#[derive(Clone, Debug)]
pub struct TailSamplingSettings {
    /// From a trace's first span to the decision (30s).
    pub decision_wait: Duration,
    /// From the arrival of its root span, if that is sooner; zero: the root changes nothing (0).
    pub decision_wait_after_root_received: Duration,
    /// Most open traces; 0: as many as the memory takes (0; the Collector's 50,000).
    pub num_traces: usize,
    /// Most verdicts of kept traces that are remembered; 0: ten times the open traces
    /// (`decision_cache.sampled_cache_size`).
    pub sampled_cache_size: usize,
    /// The same for dropped ones (`decision_cache.non_sampled_cache_size`).
    pub non_sampled_cache_size: usize,
    /// The first policy that says keep is the last one asked (false).
    pub sample_on_first_match: bool,
    /// A trace of more bytes is decided early; 0: an eighth of the buffer (0).
    pub maximum_trace_size_bytes: u64,
    /// A trace of more spans is decided early (`maximum_trace_spans`, ours, 32,000).
    pub maximum_trace_spans: u32,
    /// At the node's stop, open traces are dropped and not decided (`drop_pending_traces_on_shutdown`, false).
    pub drop_pending_traces_on_shutdown: bool,
    /// As in [`GroupByTraceSettings`].
    pub max_memory_bytes: u64,
    /// Everything is kept; what would have gone is marked (ours, false).
    pub dry_run: bool,
    /// What kept spans are marked with (`marks`, ours, none).
    pub marks: SamplingMarks,
    pub policies: Vec<PolicySettings>,
}

/// Attributes written on kept spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SamplingMarks {
    /// `tailsampling.policy`, as the Collector names it: the policy that kept the trace.
    pub policy: bool,
    /// `spanmesh.owner`: the node that decided.
    pub owner: bool,
    /// `spanmesh.decision_cause`: why it was decided then.
    pub reason: bool,
}

/// One policy; names are unique within their list.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    pub name: String,
    pub kind: PolicyKind,
}

/// What a policy asks of a trace. The Collector's types and fields, and `cross_cluster` of our own.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyKind {
    AlwaysSample,
    /// From the earliest start to the latest end, in whole milliseconds: at least `threshold`; with `upper_threshold` more
    /// than `threshold`, and at most that.
    Latency {
        threshold: Duration,
        upper_threshold: Option<Duration>,
    },
    /// A bound of 0 counts as not given, as in the Collector.
    NumericAttribute {
        key: String,
        min_value: Option<i64>,
        max_value: Option<i64>,
        invert_match: bool,
    },
    Probabilistic {
        sampling_percentage: f64,
        hash_salt: String,
    },
    StatusCode {
        status_codes: Vec<StatusCode>,
    },
    StringAttribute {
        key: String,
        values: Vec<String>,
        enabled_regex_matching: bool,
        /// Most values whose match against the regexes is remembered; 0: none.
        cache_max_size: usize,
        invert_match: bool,
    },
    BooleanAttribute {
        key: String,
        value: bool,
        invert_match: bool,
    },
    TraceState {
        key: String,
        values: Vec<String>,
    },
    /// Any span with the sampled flag.
    TraceFlags,
    RateLimiting {
        spans_per_second: u64,
        burst_capacity: u64,
    },
    BytesLimiting {
        bytes_per_second: u64,
        burst_capacity: u64,
    },
    SpanCount {
        min_spans: u32,
        max_spans: Option<u32>,
    },
    And(Vec<PolicySettings>),
    Not(Box<PolicySettings>),
    Drop(Vec<PolicySettings>),
    /// In the order of `policy_order`.
    Composite {
        max_total_spans_per_second: u64,
        parts: Vec<CompositePart>,
    },
    /// Any call between clusters; from one of the sources and to one of the targets, where lists are given.
    CrossCluster {
        source_clusters: Vec<String>,
        target_clusters: Vec<String>,
    },
}

/// A sub-policy of `composite`, and the rate it may use.
#[derive(Clone, Debug, PartialEq)]
pub struct CompositePart {
    pub policy: PolicySettings,
    pub spans_per_second: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    Unset,
    Ok,
    Error,
}

/// `probabilistic_sampler`: keeps a share of the traces, span by span, without waiting for the whole.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbabilisticSamplerSettings {
    /// 0 to 100.
    pub sampling_percentage: f64,
    pub mode: SamplerMode,
    /// Hex digits of the threshold that is written (4).
    pub sampling_precision: u8,
    /// What cannot be decided is dropped (true).
    pub fail_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerMode {
    HashSeed { seed: u32 },
    Proportional,
    Equalizing,
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
