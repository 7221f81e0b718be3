//! The reference payload: OTLP requests whose size and mix are those that all measurements of this project refer to.
//!
//! A request of the full shape has 512 spans of 682 bytes in 10 resources of 10 to 11 attributes, 8 spans a trace
//! spread over the resources, 10 attributes of the HTTP and database conventions a span, 1 to 2 events, 3 % errors.
//! Ids, UUIDs, times and the ids in URLs differ from span to span, everything else comes from small dictionaries, so
//! that compressors find about as much as in real traffic (zstd -1: a factor of 5 to 6).
//!
//! Spans are copied from templates that were written once; only what differs is patched in. Building them with prost
//! would cost more than the node needs to take them, and a load tool must not be the bottleneck. Everything follows
//! from the seed and the time given: equal seeds give equal requests.

use std::sync::Arc;

use super::proto::{ProtoWriter, put_len_header, varint_len};
use crate::model::UnixNanos;

/// What the spans of a payload are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Mean encoded bytes of a request of 512 spans, per span.
    pub span_bytes: usize,
    /// Spans of a trace; the last trace of a request may have fewer.
    pub spans_per_trace: usize,
    /// Resources of a request of 512 spans; smaller requests have proportionally fewer, but one.
    pub resources: usize,
}

impl Shape {
    /// Smallest span that can be asked for: ids, times and one attribute.
    pub const MIN_SPAN_BYTES: usize = 160;
    /// Largest: the receiver's own limit of one span.
    pub const MAX_SPAN_BYTES: usize = 1 << 20;

    /// 682 bytes a span: 10 attributes and 1 to 2 events.
    pub fn full() -> Shape {
        Shape::of(682)
    }

    /// 260 bytes a span: 5 attributes, no events.
    pub fn small() -> Shape {
        Shape::of(260)
    }

    /// Spans of `span_bytes` in the mean, held between [`Shape::MIN_SPAN_BYTES`] and [`Shape::MAX_SPAN_BYTES`].
    pub fn of(span_bytes: usize) -> Shape {
        Shape {
            span_bytes: span_bytes.clamp(Self::MIN_SPAN_BYTES, Self::MAX_SPAN_BYTES),
            spans_per_trace: 8,
            resources: 10,
        }
    }

    pub fn spans_per_trace(self, spans_per_trace: usize) -> Shape {
        Shape { spans_per_trace: spans_per_trace.max(1), ..self }
    }

    /// How much a span of this size can hold.
    fn richness(&self) -> Richness {
        match self.span_bytes {
            600.. => Richness::Full,
            240.. => Richness::Lean,
            _ => Richness::Bare,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Richness {
    Full,
    Lean,
    Bare,
}

/// splitmix64: small, quick, and the same everywhere. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound` as nearly as 64 bits allow; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True `per_mille` times out of 1,000.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.get(self.below(from.len() as u64) as usize).copied().unwrap_or_default()
    }
}

/// What is patched into a copy of a template.
#[derive(Clone, Copy)]
enum Patch {
    /// Eight bytes, little endian: the span's start.
    Start,
    End,
    /// A moment between the two, in 1/256 of the duration.
    Within(u8),
    /// This many characters, random hex.
    Hex(u8),
}

/// A span without its ids.
struct Template {
    rest: Vec<u8>,
    patches: Vec<(usize, Patch)>,
}

/// A resource with its scope, as `ResourceSpans` and `ScopeSpans` fields.
struct Resource {
    /// `ResourceSpans.resource`
    resource: Vec<u8>,
    /// `ScopeSpans.scope`
    scope: Vec<u8>,
    /// `ScopeSpans.schema_url`
    schema_url: Vec<u8>,
}

struct Planned {
    trace: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    start: u64,
    end: u64,
    template: usize,
    resource: usize,
}

impl Planned {
    fn len(&self, templates: &[Template]) -> usize {
        let rest = templates.get(self.template).map_or(0, |t| t.rest.len());
        18 + 10 + if self.parent.is_some() { 10 } else { 0 } + rest
    }
}

/// Writes requests of one [`Shape`].
pub struct Payload {
    rng: Rng,
    shape: Shape,
    templates: Arc<[Template]>,
    resources: Arc<[Resource]>,
    planned: Vec<Planned>,
}

/// Enough that a compressor does not see the same text eight times in one request.
const TEMPLATES: usize = 512;
/// Spans of the request that the shape's size is meant for.
const REFERENCE_SPANS: usize = 512;

impl Payload {
    pub fn new(seed: u64, shape: Shape) -> Payload {
        let mut rng = Rng::new(seed);
        let resources: Arc<[_]> = (0..shape.resources.max(1)).map(|i| Resource::write(&mut rng, i)).collect();
        let headers: usize = resources.iter().map(Resource::overhead).sum();
        let richness = shape.richness();
        // Lengths around a span (3 bytes) and its ids (37 in the mean: a root has no parent) are not in the template.
        let ids = 38 - 10 / shape.spans_per_trace.max(1);
        let target = shape.span_bytes.saturating_sub(headers / REFERENCE_SPANS + ids + 3);
        let bases: Vec<u64> = (0..TEMPLATES).map(|_| rng.next()).collect();
        let written: usize = bases.iter().map(|seed| Template::write(*seed, richness, 0).rest.len()).sum();
        let pad = (target * TEMPLATES).saturating_sub(written) / TEMPLATES;
        let templates = bases.iter().map(|seed| Template::write(*seed, richness, pad)).collect();
        Payload { rng, shape, templates, resources, planned: Vec::new() }
    }

    /// Another writer with the same texts and other ids, for a second task.
    pub fn fork(&self, seed: u64) -> Payload {
        Payload {
            rng: Rng::new(seed),
            shape: self.shape.clone(),
            templates: Arc::clone(&self.templates),
            resources: Arc::clone(&self.resources),
            planned: Vec::new(),
        }
    }

    /// One encoded `ExportTraceServiceRequest` of `spans` spans, whose traces ended shortly before `now`.
    pub fn request(&mut self, spans: usize, now: UnixNanos) -> Vec<u8> {
        let resources = (spans * self.resources.len()).div_ceil(REFERENCE_SPANS).clamp(1, self.resources.len());
        self.plan(spans, resources, now);
        let Payload { rng, templates, resources: all, planned, .. } = self;

        let lengths: Vec<usize> = all
            .iter()
            .take(resources)
            .enumerate()
            .map(|(r, _)| planned.iter().filter(|p| p.resource == r).map(|p| field_len(p.len(templates))).sum())
            .collect();
        let total: usize = all.iter().zip(&lengths).map(|(r, spans)| spans + r.overhead() + 16).sum();
        let mut out = Vec::with_capacity(total);
        for (r, (resource, spans)) in all.iter().zip(&lengths).enumerate() {
            let scope_spans = resource.scope.len() + spans + resource.schema_url.len();
            put_len_header(&mut out, 1, resource.resource.len() + field_len(scope_spans));
            out.extend_from_slice(&resource.resource);
            put_len_header(&mut out, 2, scope_spans);
            out.extend_from_slice(&resource.scope);
            for span in planned.iter().filter(|p| p.resource == r) {
                put_len_header(&mut out, 2, span.len(templates));
                if let Some(template) = templates.get(span.template) {
                    template.copy(span, rng, &mut out);
                }
            }
            out.extend_from_slice(&resource.schema_url);
        }
        out
    }

    /// Ids, times and places of the next request's spans: trees in which children lie within their parents.
    fn plan(&mut self, spans: usize, resources: usize, now: UnixNanos) {
        self.planned.clear();
        let per_trace = self.shape.spans_per_trace.max(1);
        while self.planned.len() < spans {
            let first = self.planned.len();
            let trace = id16(&mut self.rng);
            let duration = 5_000_000 + self.rng.below(400_000_000);
            let end = now.0.saturating_sub(self.rng.below(50_000_000));
            for i in 0..per_trace.min(spans - first) {
                let parent = (i > 0).then(|| first + self.rng.below(i as u64) as usize);
                let (parent_id, start, end) = match parent.and_then(|p| self.planned.get(p)) {
                    None => (None, end.saturating_sub(duration), end),
                    Some(p) => {
                        let slack = (p.end - p.start) / 4;
                        (Some(p.span), p.start + self.rng.below(slack), p.end - self.rng.below(slack))
                    }
                };
                let span = id8(&mut self.rng);
                let template = self.rng.below(self.templates.len() as u64) as usize;
                let resource = (first + i + i / resources) % resources;
                self.planned.push(Planned { trace, span, parent: parent_id, start, end, template, resource });
            }
        }
    }
}

/// Length of a length-delimited field with a key of one byte.
fn field_len(content: usize) -> usize {
    1 + varint_len(content) + content
}

fn id16(rng: &mut Rng) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.next().to_le_bytes());
    id[8..].copy_from_slice(&(rng.next() | 1).to_le_bytes());
    id
}

fn id8(rng: &mut Rng) -> [u8; 8] {
    (rng.next() | 1).to_le_bytes()
}

const SERVICES: [&str; 10] = [
    "api-gateway",
    "auth-service",
    "user-service",
    "order-service",
    "inventory-service",
    "shipping-service",
    "payment-service",
    "billing-service",
    "catalog-service",
    "notification-service",
];
const ROUTES: [&str; 8] = [
    "/api/v2/users/{id}",
    "/api/v2/orders/{id}",
    "/api/v2/orders/{id}/items",
    "/api/v1/inventory/{sku}",
    "/api/v1/payments/{id}",
    "/api/v1/shipments/{id}/status",
    "/internal/auth/token",
    "/api/v2/catalog/search",
];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const AGENTS: [&str; 4] =
    ["Mozilla/5.0 (X11; Linux x86_64) Chrome/142", "okhttp/5.1.0", "python-requests/2.32.5", "Go-http-client/2.0"];
const HOSTS: [&str; 6] = [
    "orders.prod.svc.cluster.local",
    "users.prod.svc.cluster.local",
    "payments.prod.svc.cluster.local",
    "orders-db-0.prod.internal",
    "users-db-1.prod.internal",
    "catalog-db-0.prod.internal",
];
const TABLES: [&str; 6] = ["orders", "order_items", "users", "sessions", "payments", "stock_levels"];
const WORDS: [&str; 24] = [
    "id",
    "status",
    "created_at",
    "updated_at",
    "customer_id",
    "currency",
    "amount",
    "AND",
    "OR",
    "LEFT JOIN",
    "WHERE",
    "ORDER BY",
    "LIMIT",
    "IS NOT NULL",
    "warehouse",
    "sku",
    "quantity",
    "reserved",
    "region",
    "tenant",
    "version",
    "total",
    "count(*)",
    "GROUP BY",
];

/// `len` characters of words, a different sequence for every template.
fn filler(rng: &mut Rng, len: usize) -> String {
    let mut text = String::with_capacity(len + 16);
    while text.len() < len {
        text.push(' ');
        text.push_str(rng.pick(&WORDS));
    }
    text.truncate(len);
    text
}

impl Resource {
    fn write(rng: &mut Rng, index: usize) -> Resource {
        let service = SERVICES.get(index % SERVICES.len()).copied().unwrap_or_default();
        let mut w = ProtoWriter::default();
        w.message(1, |r| {
            r.attribute(1, "service.name", service);
            r.attribute(1, "service.version", "2.14.3");
            r.attribute(1, "service.namespace", "shop");
            r.attribute(1, "service.instance.id", &uuid(rng));
            r.attribute(1, "deployment.environment.name", "production");
            r.attribute(1, "k8s.namespace.name", "prod");
            r.attribute(1, "k8s.pod.name", &format!("{service}-{:010x}", rng.next() >> 24));
            r.attribute(1, "host.name", &format!("ip-10-0-{}-{}.internal", rng.below(256), rng.below(256)));
            r.attribute(1, "telemetry.sdk.language", "java");
            r.attribute(1, "telemetry.sdk.version", "1.55.0");
            if index.is_multiple_of(2) {
                r.attribute(1, "cloud.availability_zone", "us-east-1b");
            }
        });
        let resource = std::mem::take(&mut w.bytes);
        w.message(1, |s| {
            s.bytes(1, b"io.opentelemetry.spring-webmvc-6.0");
            s.bytes(2, b"2.21.0-alpha");
        });
        let scope = std::mem::take(&mut w.bytes);
        w.bytes(3, b"https://opentelemetry.io/schemas/1.37.0");
        Resource { resource, scope, schema_url: w.bytes }
    }

    /// Bytes of a `ResourceSpans` besides its spans, but for the two lengths around them.
    fn overhead(&self) -> usize {
        self.resource.len() + self.scope.len() + self.schema_url.len() + 8
    }
}

fn uuid(rng: &mut Rng) -> String {
    let (a, b) = (rng.next(), rng.next());
    format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48 & 0xfff, b >> 16)
}

/// A template's writer with its patches.
struct SpanWriter {
    w: ProtoWriter,
    patches: Vec<(usize, Patch)>,
    rng: Rng,
}

impl SpanWriter {
    fn time(&mut self, field: u32, patch: Patch) {
        let at = self.w.fixed64(field, 0);
        self.patches.push((at, patch));
    }

    /// An attribute with a UUID that is new in every span.
    fn uuid(&mut self, key: &str) {
        let text = uuid(&mut self.rng);
        let at = self.w.attribute(9, key, &text);
        // The groups without the dashes and the digits that say which kind of UUID it is.
        for (offset, digits) in [(0, 8), (9, 4), (15, 3), (20, 3), (24, 12)] {
            self.patches.push((at + offset, Patch::Hex(digits)));
        }
    }

    fn event(&mut self, name: &str, attributes: &[(&str, &str)]) {
        let within = self.rng.next() as u8;
        let content = self.w.message(11, |e| {
            e.fixed64(1, 0);
            e.bytes(2, name.as_bytes());
            for (key, value) in attributes {
                e.attribute(3, key, value);
            }
        });
        // The time is the event's first field: its value follows the key of one byte.
        self.patches.push((content + 1, Patch::Within(within)));
    }
}

impl Template {
    /// The template that follows from `seed`, with `pad` bytes of further text.
    fn write(seed: u64, richness: Richness, pad: usize) -> Template {
        let mut s = SpanWriter { w: ProtoWriter::default(), patches: Vec::new(), rng: Rng::new(seed) };
        let error = s.rng.chance(30);
        let database = s.rng.chance(400);
        let (method, route, host) = (s.rng.pick(&METHODS), s.rng.pick(&ROUTES), s.rng.pick(&HOSTS));
        let table = s.rng.pick(&TABLES);
        let name = if database { format!("SELECT {table}") } else { format!("{method} {route}") };
        s.w.bytes(5, name.as_bytes());
        s.w.varint(6, if database { 3 } else { 2 + s.rng.below(2) });
        s.time(7, Patch::Start);
        s.time(8, Patch::End);

        // A stream of its own, so that the length of the padding changes nothing else.
        let text = filler(&mut Rng::new(seed ^ 0xf111), pad);
        match (richness, database) {
            (Richness::Bare, _) => {
                s.w.attribute(9, "k", &text);
            }
            (_, false) => s.http(richness, error, method, route, host, &text),
            (_, true) => s.database(richness, table, host, &text),
        }
        if richness == Richness::Full {
            s.events(error);
        }
        s.w.message(15, |status| {
            if error {
                status.bytes(2, b"upstream timed out");
                status.varint(3, 2);
            }
        });
        s.w.fixed32(16, 0x101);
        Template { rest: s.w.bytes, patches: s.patches }
    }

    /// Appends the span's content.
    fn copy(&self, span: &Planned, rng: &mut Rng, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x0a, 16]);
        out.extend_from_slice(&span.trace);
        out.extend_from_slice(&[0x12, 8]);
        out.extend_from_slice(&span.span);
        if let Some(parent) = &span.parent {
            out.extend_from_slice(&[0x22, 8]);
            out.extend_from_slice(parent);
        }
        let base = out.len();
        out.extend_from_slice(&self.rest);
        for (at, patch) in &self.patches {
            let time = match patch {
                Patch::Start => span.start,
                Patch::End => span.end,
                Patch::Within(part) => span.start + (span.end - span.start) / 256 * u64::from(*part),
                Patch::Hex(digits) => {
                    let mut random = rng.next();
                    for byte in out.iter_mut().skip(base + at).take(usize::from(*digits)) {
                        *byte = b"0123456789abcdef"[(random & 15) as usize];
                        random >>= 4;
                    }
                    continue;
                }
            };
            if let Some(place) = out.get_mut(base + at..base + at + 8) {
                place.copy_from_slice(&time.to_le_bytes());
            }
        }
    }
}

impl SpanWriter {
    fn http(&mut self, richness: Richness, error: bool, method: &str, route: &str, host: &str, text: &str) {
        let path = route.replace("{id}", "00000000").replace("{sku}", "00000000");
        let (key, url) = match richness {
            Richness::Full => ("url.full", format!("https://{host}{path}?p={text}")),
            _ => ("url.path", format!("{path}{text}")),
        };
        self.w.attribute(9, "http.request.method", method);
        self.w.attribute_int(9, "http.response.status_code", if error { 504 } else { 200 });
        let at = self.w.attribute(9, key, &url);
        if let Some(id) = url.find("00000000") {
            self.patches.push((at + id, Patch::Hex(8)));
        }
        self.w.attribute_int(9, "thread.id", 40);
        self.w.attribute_int(9, "server.port", 8443);
        if richness == Richness::Full {
            let agent = self.rng.pick(&AGENTS);
            self.w.attribute(9, "server.address", host);
            self.w.attribute(9, "http.route", route);
            self.w.attribute(9, "user_agent.original", agent);
            self.w.attribute(9, "network.protocol.version", "1.1");
            self.uuid("request.id");
        }
    }

    fn database(&mut self, richness: Richness, table: &str, host: &str, text: &str) {
        self.w.attribute(9, "db.system.name", "postgresql");
        self.w.attribute(9, "db.operation.name", "SELECT");
        self.w.attribute(9, "db.collection.name", table);
        self.w.attribute(9, "db.query.text", &format!("SELECT * FROM {table}{text}"));
        self.w.attribute_int(9, "server.port", 5432);
        if richness == Richness::Full {
            let rows = self.rng.below(100);
            self.w.attribute(9, "server.address", host);
            self.w.attribute(9, "db.namespace", "shop");
            self.w.attribute(9, "network.peer.address", "10.0.17.5");
            self.w.attribute_int(9, "db.response.returned_rows", rows);
            self.uuid("request.id");
        }
    }

    fn events(&mut self, error: bool) {
        if error {
            self.event("exception", &[("exception.type", "TimeoutException"), ("exception.message", "timed out")]);
        } else {
            self.event("cache.lookup", &[("cache.hit", "false")]);
        }
        if self.rng.chance(500) {
            self.event("retry", &[("attempt", "1"), ("reason", "reset"), ("backoff", "25ms")]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message;

    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

    fn decode(bytes: &[u8]) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(bytes).unwrap()
    }

    fn spans(request: &ExportTraceServiceRequest) -> Vec<&Span> {
        request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect()
    }

    #[test]
    fn spans_are_as_large_as_the_shape_says() {
        let shapes = [
            (Shape::full(), 682),
            (Shape::small(), 260),
            (Shape::of(600), 600),
            (Shape::of(2_000), 2_000),
            (Shape::of(200), 200),
        ];
        for (shape, wanted) in shapes {
            let mut payload = Payload::new(1, shape);
            let bytes: usize = (0..8).map(|_| payload.request(512, NOW).len()).sum();
            let mean = bytes / (8 * 512);
            assert!(mean.abs_diff(wanted) * 100 <= wanted, "{mean} bytes a span instead of {wanted}");
        }
        let least = Payload::new(1, Shape::of(0)).request(512, NOW).len() / 512;
        assert!(least <= Shape::MIN_SPAN_BYTES + 8, "{least}");
    }

    #[test]
    fn a_full_request_has_the_reference_mix() {
        let request = decode(&Payload::new(7, Shape::full()).request(512, NOW));
        assert_eq!(request.resource_spans.len(), 10);
        for resource in &request.resource_spans {
            let attributes = resource.resource.as_ref().unwrap().attributes.len();
            assert!((10..=11).contains(&attributes));
            assert_eq!(resource.scope_spans.len(), 1);
            assert!(!resource.scope_spans[0].schema_url.is_empty());
            assert!((40..=64).contains(&resource.scope_spans[0].spans.len()));
        }
        let spans = spans(&request);
        assert_eq!(spans.len(), 512);
        assert!(spans.iter().all(|s| s.attributes.len() == 10 && (1..=2).contains(&s.events.len())));
        assert!(spans.iter().all(|s| s.events.iter().all(|e| (1..=3).contains(&e.attributes.len()))));
        let errors = spans.iter().filter(|s| s.status.as_ref().is_some_and(|s| s.code == 2)).count();
        assert!((3..=35).contains(&errors), "{errors} errors of 512");
    }

    #[test]
    fn a_trace_is_a_tree_whose_children_lie_within_their_parents() {
        let bytes = Payload::new(3, Shape::full().spans_per_trace(5)).request(103, NOW);
        let request = decode(&bytes);
        let all: BTreeMap<&[u8], &Span> = spans(&request).into_iter().map(|s| (s.span_id.as_slice(), s)).collect();
        assert_eq!(all.len(), 103, "span ids are unique");
        let roots = all.values().filter(|s| s.parent_span_id.is_empty()).count();
        assert_eq!(roots, 21, "20 traces of five spans and one of three");
        for span in all.values() {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            assert!(span.start_time_unix_nano < span.end_time_unix_nano && span.end_time_unix_nano <= NOW.0);
            for event in &span.events {
                assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano));
            }
            if !span.parent_span_id.is_empty() {
                let parent = all[span.parent_span_id.as_slice()];
                assert_eq!(parent.trace_id, span.trace_id);
                assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
                assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
            }
        }
    }

    #[test]
    fn equal_seeds_give_equal_requests_and_later_requests_new_ids() {
        let (mut a, mut b) = (Payload::new(9, Shape::small()), Payload::new(9, Shape::small()));
        let first = a.request(64, NOW);
        assert_eq!(first, b.request(64, NOW));
        assert_ne!(first, a.request(64, NOW));
        assert_ne!(first, Payload::new(10, Shape::small()).request(64, NOW));
        assert!(spans(&decode(&a.request(0, NOW))).is_empty());
    }

    #[test]
    fn it_compresses_about_as_well_as_real_traffic() {
        let bytes = Payload::new(1, Shape::full()).request(512, NOW);
        let ratio = bytes.len() as f64 / zstd::bulk::compress(&bytes, 1).unwrap().len() as f64;
        assert!((4.5..=7.0).contains(&ratio), "zstd -1 by a factor of {ratio:.2}");
    }
}
