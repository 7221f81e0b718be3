//! The language in one table: every component, every key, and what is known but not built.
//!
//! Readers of fields, "did you mean", the list of `components` and the test that holds `config/example.yaml` complete
//! all use this table, so they cannot disagree. What the Collector or this project's design knows, and this build
//! does not, is refused by name with what to use instead: silence would be taken for support.

mod components;
pub mod traces;

pub use components::{COMPONENTS, Component, Kind, NOT_YET, component};

/// The keys of one map of the file.
#[derive(Debug)]
pub struct Scope {
    /// Where it stands, `*` for any name.
    pub path: &'static str,
    pub keys: &'static [&'static str],
    /// Known keys that are not built, and what to do instead.
    pub not_yet: &'static [(&'static str, &'static str)],
}

/// The general advice for a key that only tunes a transport.
const TUNING: &str = "remove it: it tunes the Collector's transport";
const OTHER_SIGNAL: &str = "remove it: only traces are carried";
const NO_AUTH: &str = "use client certificates: `tls.client_ca_file`";
const HELD: &str = "remove it: a span is held, and its sender waits, until the next one has it; \
                    limit memory with `memory_limiter`";

pub static ROOT: Scope = Scope {
    path: "",
    keys: &["receivers", "processors", "exporters", "connectors", "extensions", "service"],
    not_yet: &[],
};
pub static OTLP: Scope = Scope { path: "receivers.otlp", keys: &["protocols"], not_yet: &[] };
pub static PROTOCOLS: Scope = Scope { path: "receivers.otlp.protocols", keys: &["grpc", "http"], not_yet: &[] };
pub static GRPC: Scope = Scope {
    path: "receivers.otlp.protocols.grpc",
    keys: &["endpoint", "max_recv_msg_size_mib", "tls"],
    not_yet: &[
        ("transport", "remove it: the transport is tcp"),
        ("max_concurrent_streams", TUNING),
        ("read_buffer_size", TUNING),
        ("write_buffer_size", TUNING),
        ("keepalive", TUNING),
        ("auth", NO_AUTH),
        ("include_metadata", "remove it: request metadata is not used"),
        ("middlewares", "remove it"),
    ],
};
pub static HTTP: Scope = Scope {
    path: "receivers.otlp.protocols.http",
    keys: &["endpoint", "max_request_body_size", "traces_url_path", "tls"],
    not_yet: &[
        ("metrics_url_path", OTHER_SIGNAL),
        ("logs_url_path", OTHER_SIGNAL),
        ("profiles_url_path", OTHER_SIGNAL),
        ("cors", "send from a browser through a proxy that answers CORS"),
        ("auth", NO_AUTH),
        ("transport", "remove it: the transport is tcp"),
        ("response_headers", "remove it"),
        ("include_metadata", "remove it: request metadata is not used"),
        ("compression_algorithms", "remove it: none, gzip and zstd are taken"),
        ("read_timeout", TUNING),
        ("read_header_timeout", TUNING),
        ("write_timeout", TUNING),
        ("idle_timeout", TUNING),
        ("keep_alives_enabled", TUNING),
        ("keepalive", TUNING),
        ("middlewares", "remove it"),
    ],
};
pub static SERVER_TLS: Scope = Scope {
    path: "receivers.otlp.protocols.*.tls",
    keys: &["cert_file", "key_file", "client_ca_file"],
    not_yet: &[
        ("ca_file", "name the CA of the clients with `client_ca_file`"),
        ("ca_pem", "use `client_ca_file`"),
        ("cert_pem", "use `cert_file`"),
        ("key_pem", "use `key_file`"),
        ("min_version", "remove it: TLS 1.2 and 1.3 are spoken"),
        ("max_version", "remove it: TLS 1.2 and 1.3 are spoken"),
        ("cipher_suites", "remove it: only sound ones are offered"),
        ("curve_preferences", "remove it: only sound ones are offered"),
        ("reload_interval", "restart the node for new certificates"),
        ("client_ca_file_reload", "restart the node for a new CA"),
        ("include_system_ca_certs_pool", "name the CA of the clients with `client_ca_file`"),
    ],
};
pub static RESOURCE: Scope = Scope { path: "processors.resource", keys: &["attributes"], not_yet: &[] };
pub static RESOURCE_ACTION: Scope = Scope {
    path: "processors.resource.attributes[]",
    keys: &["key", "action", "value", "from_attribute"],
    not_yet: &[
        ("from_context", "use `value` or `from_attribute`"),
        ("pattern", "name the attribute with `key`"),
        ("converted_type", "set a `value` of the type wanted"),
        ("default_value", "use `insert` with a `value`"),
    ],
};
pub static SPAN_DEDUP: Scope =
    Scope { path: "processors.span_dedup", keys: &["wait_duration", "max_memory"], not_yet: &[] };
pub static BATCH: Scope = Scope {
    path: "processors.batch",
    keys: &["timeout", "send_batch_size", "send_batch_max_size"],
    not_yet: &[
        ("metadata_keys", "remove it: request metadata is not used"),
        ("metadata_cardinality_limit", "remove it: request metadata is not used"),
    ],
};
pub static MEMORY_LIMITER: Scope = Scope {
    path: "processors.memory_limiter",
    keys: &["check_interval", "limit_mib", "spike_limit_mib", "limit_percentage", "spike_limit_percentage"],
    not_yet: &[
        ("min_gc_interval_when_soft_limited", "remove it: there is no garbage collector"),
        ("min_gc_interval_when_hard_limited", "remove it: there is no garbage collector"),
    ],
};
pub static OTLP_GRPC_EXPORTER: Scope = Scope {
    path: "exporters.otlp_grpc",
    keys: &["endpoint", "headers", "compression", "timeout", "retry_on_failure", "sending_queue", "tls"],
    not_yet: &[
        ("keepalive", TUNING),
        ("read_buffer_size", TUNING),
        ("write_buffer_size", TUNING),
        ("wait_for_ready", TUNING),
        ("balancer_name", TUNING),
        ("authority", "use `tls.server_name_override`"),
        ("auth", "use `headers`"),
        ("middlewares", "remove it"),
        ("batcher", "use the `batch` processor"),
    ],
};
pub static OTLP_HTTP_EXPORTER: Scope = Scope {
    path: "exporters.otlp_http",
    keys: &[
        "endpoint",
        "traces_endpoint",
        "encoding",
        "headers",
        "compression",
        "timeout",
        "retry_on_failure",
        "sending_queue",
        "tls",
    ],
    not_yet: &[
        ("metrics_endpoint", OTHER_SIGNAL),
        ("logs_endpoint", OTHER_SIGNAL),
        ("profiles_endpoint", OTHER_SIGNAL),
        ("proxy_url", "name the proxy's address as the endpoint, if it can stand for the backend"),
        ("auth", "use `headers`"),
        ("cookies", "use `headers`"),
        ("compression_params", TUNING),
        ("read_buffer_size", TUNING),
        ("write_buffer_size", TUNING),
        ("max_idle_conns", TUNING),
        ("max_idle_conns_per_host", TUNING),
        ("max_conns_per_host", TUNING),
        ("idle_conn_timeout", TUNING),
        ("disable_keep_alives", TUNING),
        ("http2_read_idle_timeout", TUNING),
        ("http2_ping_timeout", TUNING),
        ("force_attempt_http2", TUNING),
        ("middlewares", "remove it"),
        ("batcher", "use the `batch` processor"),
    ],
};
pub static CLIENT_TLS: Scope = Scope {
    path: "exporters.*.tls",
    keys: &["insecure", "insecure_skip_verify", "ca_file", "cert_file", "key_file", "server_name_override"],
    not_yet: &[
        ("ca_pem", "use `ca_file`"),
        ("cert_pem", "use `cert_file`"),
        ("key_pem", "use `key_file`"),
        ("min_version", "remove it: TLS 1.2 and 1.3 are spoken"),
        ("max_version", "remove it: TLS 1.2 and 1.3 are spoken"),
        ("cipher_suites", "remove it: only sound ones are offered"),
        ("curve_preferences", "remove it: only sound ones are offered"),
        ("reload_interval", "restart the node for new certificates"),
        ("include_system_ca_certs_pool", "remove it, or put all CAs into `ca_file`"),
        ("tpm", "use `key_file`"),
    ],
};
pub static RETRY: Scope = Scope {
    path: "exporters.*.retry_on_failure",
    keys: &["enabled", "initial_interval", "randomization_factor", "multiplier", "max_interval", "max_elapsed_time"],
    not_yet: &[],
};
pub static SENDING_QUEUE: Scope = Scope {
    path: "exporters.*.sending_queue",
    keys: &["enabled"],
    not_yet: &[
        ("num_consumers", HELD),
        ("queue_size", HELD),
        ("sizer", HELD),
        ("storage", HELD),
        ("block_on_overflow", HELD),
        ("wait_for_result", HELD),
        ("blocking", HELD),
        ("batch", "use the `batch` processor"),
    ],
};
pub static FILE: Scope = Scope {
    path: "exporters.file",
    keys: &["path", "append", "format"],
    not_yet: &[
        ("rotation", "use logrotate with `copytruncate`, and `append: true`"),
        ("compression", "compress the file when it is rotated"),
        ("flush_interval", "remove it: every batch is written at once"),
        ("encoding", "remove it"),
        ("group_by", "remove it"),
        ("create_directory", "create the directory beforehand"),
        ("directory_permissions", "create the directory beforehand"),
    ],
};
pub static DEBUG: Scope = Scope {
    path: "exporters.debug",
    keys: &["verbosity"],
    not_yet: &[
        ("loglevel", "use `verbosity`"),
        ("sampling_initial", "remove it"),
        ("sampling_thereafter", "remove it"),
        ("use_internal_logger", "remove it"),
        ("output_paths", "use the `file` exporter"),
        ("sending_queue", "remove it"),
    ],
};
pub static MESH: Scope = Scope {
    path: "connectors.mesh",
    keys: &[
        "cluster",
        "node",
        "region",
        "zone",
        "environment",
        "name",
        "listen",
        "advertise",
        "seeds",
        "dns_server",
        "refresh_interval",
        "weight",
        "tls",
        "compression",
        "durability",
        "failover_after",
    ],
    not_yet: &[("storage", "remove it: spans are held in memory until they are settled")],
};
pub static MESH_TLS: Scope = Scope {
    path: "connectors.mesh.tls",
    keys: &["ca_file", "cert_file", "key_file", "reload_interval", "insecure_dev"],
    not_yet: &[
        ("insecure", "for trials there is `insecure_dev: true`"),
        ("insecure_skip_verify", "for trials there is `insecure_dev: true`"),
        ("min_version", "remove it: links speak TLS 1.3"),
    ],
};
pub static HEALTH: Scope = Scope {
    path: "extensions.health_check",
    keys: &["endpoint"],
    not_yet: &[
        ("path", "remove it: the paths are /, /ready and /live"),
        ("response_body", "remove it"),
        ("tls", "remove it"),
        ("check_collector_pipeline", "remove it; it never worked in the Collector"),
        ("auth", "remove it"),
        ("cors", "remove it"),
    ],
};
pub static SERVICE: Scope =
    Scope { path: "service", keys: &["extensions", "pipelines", "telemetry", "admin"], not_yet: &[] };
pub static PIPELINE: Scope =
    Scope { path: "service.pipelines.*", keys: &["receivers", "processors", "exporters"], not_yet: &[] };
pub static TELEMETRY: Scope = Scope {
    path: "service.telemetry",
    keys: &["logs", "metrics"],
    not_yet: &[("traces", "remove it: the node does not trace itself"), ("resource", "remove it")],
};
pub static LOGS: Scope = Scope {
    path: "service.telemetry.logs",
    keys: &["level", "encoding"],
    not_yet: &[
        ("development", "remove it"),
        ("disable_caller", "remove it"),
        ("disable_stacktrace", "remove it"),
        ("sampling", "remove it: repeats are limited"),
        ("output_paths", "remove it: logs go to standard error"),
        ("error_output_paths", "remove it: logs go to standard error"),
        ("initial_fields", "remove it"),
        ("processors", "remove it: logs go to standard error"),
    ],
};
pub static METRICS: Scope = Scope {
    path: "service.telemetry.metrics",
    keys: &["level", "address", "readers"],
    not_yet: &[("views", "remove it")],
};
pub static READER: Scope = Scope {
    path: "service.telemetry.metrics.readers[]",
    keys: &["pull"],
    not_yet: &[("periodic", "metrics are not pushed: let Prometheus, or a Collector, scrape `pull`")],
};
pub static PULL: Scope = Scope {
    path: "service.telemetry.metrics.readers[].pull",
    keys: &["exporter"],
    not_yet: &[("producers", "remove it"), ("cardinality_limits", "remove it")],
};
pub static PULL_EXPORTER: Scope =
    Scope { path: "service.telemetry.metrics.readers[].pull.exporter", keys: &["prometheus"], not_yet: &[] };
pub static PROMETHEUS: Scope = Scope {
    path: "service.telemetry.metrics.readers[].pull.exporter.prometheus",
    keys: &["host", "port"],
    not_yet: &[
        ("without_scope_info", "remove it: there is none"),
        ("without_type_suffix", "remove it: counters end in `_total`"),
        ("without_units", "remove it: names carry their units"),
        ("with_resource_constant_labels", "remove it"),
    ],
};
pub static ADMIN: Scope = Scope { path: "service.admin", keys: &["endpoint"], not_yet: &[] };

/// Every map with fixed keys.
pub static SCOPES: &[&Scope] = &[
    &ROOT,
    &OTLP,
    &PROTOCOLS,
    &GRPC,
    &HTTP,
    &SERVER_TLS,
    &RESOURCE,
    &RESOURCE_ACTION,
    &SPAN_DEDUP,
    &BATCH,
    &MEMORY_LIMITER,
    &traces::GROUP_BY_TRACE,
    &traces::CROSS_CLUSTER,
    &traces::TAIL_SAMPLING,
    &traces::DECISION_CACHE,
    &traces::POLICY,
    &traces::LATENCY,
    &traces::NUMERIC_ATTRIBUTE,
    &traces::PROBABILISTIC,
    &traces::STATUS_CODE,
    &traces::STRING_ATTRIBUTE,
    &traces::BOOLEAN_ATTRIBUTE,
    &traces::TRACE_STATE,
    &traces::RATE_LIMITING,
    &traces::BYTES_LIMITING,
    &traces::SPAN_COUNT,
    &traces::AND,
    &traces::NOT,
    &traces::DROP,
    &traces::COMPOSITE,
    &traces::RATE_ALLOCATION,
    &traces::CROSS_CLUSTER_POLICY,
    &traces::PROBABILISTIC_SAMPLER,
    &OTLP_GRPC_EXPORTER,
    &OTLP_HTTP_EXPORTER,
    &CLIENT_TLS,
    &RETRY,
    &SENDING_QUEUE,
    &FILE,
    &DEBUG,
    &MESH,
    &MESH_TLS,
    &HEALTH,
    &SERVICE,
    &PIPELINE,
    &TELEMETRY,
    &LOGS,
    &METRICS,
    &READER,
    &PULL,
    &PULL_EXPORTER,
    &PROMETHEUS,
    &ADMIN,
];

/// Keys of some maps that stand for the same in others, under another name: (map, key there, what is meant).
const SAME_MEANING: &[(&str, &str, &str)] = &[
    ("processors.tail_sampling", "wait_duration", "decision_wait"),
    ("processors.groupbytrace", "decision_wait", "wait_duration"),
    ("processors.cross_cluster", "decision_wait", "wait_duration"),
];

/// What a key is called in a map that does not have it under this name.
pub fn same_meaning(path: &str, key: &str) -> Option<&'static str> {
    SAME_MEANING.iter().find(|(map, name, _)| (*map, *name) == (path, key)).map(|(.., meant)| *meant)
}

/// Other maps that have this key, for a key that stands in the wrong one.
pub fn homes_of(key: &str) -> Vec<&'static str> {
    SCOPES.iter().filter(|s| !s.path.is_empty() && s.keys.contains(&key)).map(|s| s.path).collect()
}
