//! The types of components: those of this build, and those that are known and not built.

/// The section a component is defined in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Receiver,
    Processor,
    Exporter,
    Connector,
    Extension,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Receiver, Kind::Processor, Kind::Exporter, Kind::Connector, Kind::Extension];

    /// Its section of the file.
    pub fn section(self) -> &'static str {
        match self {
            Kind::Receiver => "receivers",
            Kind::Processor => "processors",
            Kind::Exporter => "exporters",
            Kind::Connector => "connectors",
            Kind::Extension => "extensions",
        }
    }

    pub fn noun(self) -> &'static str {
        self.section().trim_end_matches('s')
    }
}

/// A component of this build.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    pub kind: Kind,
    /// The Collector's present name.
    pub name: &'static str,
    /// Its older name, accepted as well.
    pub alias: Option<&'static str>,
    /// `beta`: used as documented; `alpha`: keys may still change.
    pub stability: &'static str,
    pub about: &'static str,
}

macro_rules! component {
    ($kind:ident, $name:literal, $alias:expr, $stability:literal, $about:literal) => {
        Component { kind: Kind::$kind, name: $name, alias: $alias, stability: $stability, about: $about }
    };
}

pub const COMPONENTS: &[Component] = &[
    component!(Receiver, "otlp", None, "beta", "spans by OTLP/gRPC and OTLP/HTTP"),
    component!(Processor, "batch", None, "beta", "joins small batches; the sender is answered when the whole is safe"),
    component!(Processor, "cross_cluster", None, "alpha", "metrics of the calls between clusters, from whole traces"),
    component!(Processor, "groupbytrace", None, "alpha", "holds the spans of a trace and passes them on together"),
    component!(Processor, "memory_limiter", None, "beta", "refuses spans while the node holds too many bytes"),
    component!(Processor, "probabilistic_sampler", None, "alpha", "keeps a share of the traces, span by span"),
    component!(Processor, "resource", None, "beta", "edits resource attributes"),
    component!(Processor, "span_dedup", None, "alpha", "drops spans that were settled before"),
    component!(Processor, "tail_sampling", None, "alpha", "keeps or drops whole traces by policies"),
    component!(Exporter, "debug", None, "beta", "prints what passes"),
    component!(Exporter, "file", None, "beta", "one OTLP/JSON object a line"),
    component!(Exporter, "otlp_grpc", Some("otlp"), "beta", "OTLP/gRPC, with retries"),
    component!(Exporter, "otlp_http", Some("otlphttp"), "beta", "OTLP/HTTP, with retries"),
    component!(Connector, "mesh", None, "alpha", "brings the spans of a trace together at its owner"),
    component!(Extension, "health_check", None, "beta", "/, /ready and /live"),
];

/// Known components that this build does not have, and what to do instead.
pub const NOT_YET: &[(Kind, &str, &str)] = &[
    (Kind::Receiver, "zipkin", "send OTLP to the `otlp` receiver"),
    (Kind::Receiver, "jaeger", "send OTLP to the `otlp` receiver"),
    (Kind::Receiver, "opencensus", "send OTLP to the `otlp` receiver"),
    (Kind::Receiver, "otlpjsonfile", "send OTLP to the `otlp` receiver"),
    (Kind::Receiver, "kafka", "send OTLP to the `otlp` receiver"),
    (Kind::Receiver, "prometheus", "only traces are carried; scrape with Prometheus or a Collector"),
    (Kind::Receiver, "hostmetrics", "only traces are carried; use a Collector beside this node"),
    (Kind::Receiver, "filelog", "only traces are carried; use a Collector beside this node"),
    (Kind::Processor, "attributes", "edit resource attributes with `resource`, span attributes in the SDKs"),
    (Kind::Processor, "transform", "use a Collector in front of this node"),
    (Kind::Processor, "filter", "use a Collector in front of this node"),
    (Kind::Processor, "span", "use a Collector in front of this node"),
    (Kind::Processor, "redaction", "use a Collector in front of this node"),
    (
        Kind::Processor,
        "resourcedetection",
        "use `resource` with values from the environment: `value: ${env:NODE_NAME}`",
    ),
    (Kind::Processor, "k8sattributes", "use `resource` with values from the Downward API: `value: ${env:POD_NAME}`"),
    (Kind::Processor, "k8s_attributes", "use `resource` with values from the Downward API: `value: ${env:POD_NAME}`"),
    (Kind::Exporter, "loadbalancing", "use the `mesh` connector: it sends each trace to its owner"),
    (Kind::Exporter, "load_balancing", "use the `mesh` connector: it sends each trace to its owner"),
    (Kind::Exporter, "zipkin", "use `otlp_http`"),
    (Kind::Exporter, "jaeger", "use `otlp_grpc`: Jaeger takes OTLP"),
    (Kind::Exporter, "kafka", "use `otlp_grpc` to a Collector with a kafka exporter"),
    (Kind::Exporter, "prometheus", "the node's own metrics are served by service.telemetry.metrics"),
    (Kind::Exporter, "logging", "use `debug`, which replaced it in the Collector"),
    (Kind::Exporter, "nop", "use `debug`"),
    (Kind::Connector, "failover", "give `otlp_http` an endpoint that fails over by itself; refused spans are retried"),
    (Kind::Connector, "spanmetrics", "use a Collector behind this node: it gets whole traces from their owner"),
    (Kind::Connector, "servicegraph", "use a Collector behind this node: it gets whole traces from their owner"),
    (Kind::Connector, "forward", "list the components in one pipeline"),
    (Kind::Connector, "routing", "use a Collector behind this node"),
    (Kind::Extension, "file_storage", "remove it: spans are held in memory until they are settled"),
    (Kind::Extension, "healthcheckv2", "use `health_check`"),
    (Kind::Extension, "pprof", "remove it"),
    (Kind::Extension, "zpages", "remove it; see service.admin"),
    (Kind::Extension, "basicauth", "use client certificates: `tls.client_ca_file`"),
    (Kind::Extension, "bearertokenauth", "receivers: `tls.client_ca_file`; exporters: `headers`"),
    (Kind::Extension, "oauth2client", "use `headers`"),
    (Kind::Extension, "oidc", "use client certificates: `tls.client_ca_file`"),
    (Kind::Extension, "headers_setter", "use `headers`"),
    (Kind::Extension, "memory_ballast", "remove it; use the `memory_limiter` processor"),
    (Kind::Extension, "k8s_observer", "remove it"),
    (Kind::Extension, "opamp", "remove it"),
];

/// The component of this build with that type, by its name or alias.
pub fn component(kind: Kind, name: &str) -> Option<&'static Component> {
    COMPONENTS.iter().find(|c| c.kind == kind && (c.name == name || c.alias == Some(name)))
}
