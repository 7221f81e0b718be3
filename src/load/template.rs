//! The texts of a payload: spans and resources, written once and then copied.
//!
//! What differs from span to span is patched into the copy: eight bytes of time, some hex digits of an id. Ids of the span
//! itself come before the copy, since a root has no parent and is shorter.

use super::proto::ProtoWriter;
use super::rng::Rng;

/// How much a span can hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Richness {
    Full,
    Lean,
    Bare,
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

/// What is new in a copy.
pub(super) struct Instance {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// `None`: a root.
    pub(super) parent: Option<[u8; 8]>,
    /// Nanoseconds, as `end`.
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Instance {
    /// Bytes of the three ids with their keys and lengths.
    pub(super) fn ids_len(&self) -> usize {
        18 + 10 + if self.parent.is_some() { 10 } else { 0 }
    }
}

/// A span without its ids.
pub(super) struct Template {
    rest: Vec<u8>,
    patches: Vec<(usize, Patch)>,
}

/// A resource with its scope, as `ResourceSpans` and `ScopeSpans` fields.
pub(super) struct Resource {
    /// `ResourceSpans.resource`
    pub(super) resource: Vec<u8>,
    /// `ScopeSpans.scope`
    pub(super) scope: Vec<u8>,
    /// `ScopeSpans.schema_url`
    pub(super) schema_url: Vec<u8>,
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
    pub(super) fn write(rng: &mut Rng, index: usize) -> Resource {
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
    pub(super) fn overhead(&self) -> usize {
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
    pub(super) fn write(seed: u64, richness: Richness, pad: usize) -> Template {
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

    /// Bytes without the ids.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Appends the span's content.
    pub(super) fn copy(&self, span: &Instance, rng: &mut Rng, out: &mut Vec<u8>) {
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
