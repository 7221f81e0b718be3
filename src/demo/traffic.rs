//! The traffic of a small shop in three places, without sockets or clocks: which spans, when, to which node.
//!
//! A request runs API→Auth→User ⇒ Order→Inventory→Shipping ⇒ Payment→Billing, where ⇒ crosses into another cluster;
//! two in five only look around and end at User. Each call is a CLIENT span in the caller and a SERVER span in the
//! callee, and each service sends to the node of its own cluster, as soon as its spans have ended. What makes a mesh
//! sweat is mixed in: failed and slow requests, spans that are sent again (half of them to another node), spans that
//! come seconds late, spans whose parent is never sent.
//!
//! Everything follows from the seed and the times that are handed in.

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::checker::SpanKey;
use super::places::{CLUSTERS, round_trip};
use crate::load::rng::Rng;
use crate::model::{SpanId, TraceId, UnixNanos};

/// A service and the cluster it runs in (index into [`CLUSTERS`]); each calls the next.
const SERVICES: [(&str, usize, &str); 8] = [
    ("api", 0, "GET /checkout"),
    ("auth", 0, "POST /token"),
    ("user", 0, "GET /users/{id}"),
    ("order", 1, "POST /orders"),
    ("inventory", 1, "PUT /stock/{sku}"),
    ("shipping", 1, "POST /shipments"),
    ("payment", 2, "POST /payments"),
    ("billing", 2, "POST /invoices"),
];

/// Services of a request that only looks around: those of the first cluster.
const LOOKING_AROUND: usize = 3;
/// Extra work of a slow request.
const SLOW: Duration = Duration::from_millis(1_200);

/// Shares in thousandths. Requests that look around, errors and slow ones are of traces, the others of spans.
const LOOKS_AROUND: u64 = 400;
const ERRORS: u64 = 20;
const SLOWNESS: u64 = 20;
const DUPLICATES: u64 = 20;
const LATE: u64 = 30;
const ORPHANS: u64 = 5;

/// How much longer a copy takes that goes to another cluster's node: what its own did not answer is tried there.
const ELSEWHERE: Duration = Duration::from_millis(350);

/// One way between services of the same cluster.
const LOCAL_HOP: Duration = Duration::from_micros(400);

/// What has been planned so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub traces: u64,
    /// Distinct spans that are to be sent.
    pub spans: u64,
    /// Spans sent once more.
    pub duplicates: u64,
    /// Of these, to a node of another cluster.
    pub duplicates_elsewhere: u64,
    pub late: u64,
    /// Spans whose parent is never sent.
    pub orphans: u64,
    /// Traces that failed.
    pub errors: u64,
    pub slow: u64,
}

/// One span on its way to one node.
#[derive(Clone, Debug)]
pub struct Shipment {
    /// When it is to be sent, counted from the trace's start.
    pub after: Duration,
    /// Index of the node's cluster.
    pub cluster: usize,
    /// Index of the service that sends it.
    pub service: usize,
    /// Sent again, for the owner to find out.
    pub copy: bool,
    /// It comes when its trace may be decided already.
    pub late: bool,
    pub span: Span,
}

impl Shipment {
    pub fn key(&self) -> SpanKey {
        let mut key = SpanKey { trace: TraceId::default(), span: SpanId::NONE };
        key.trace.0.copy_from_slice(self.span.trace_id.get(..16).unwrap_or(&[0; 16]));
        key.span.0.copy_from_slice(self.span.span_id.get(..8).unwrap_or(&[0; 8]));
        key
    }

    /// Index of the cluster that its service runs in, wherever it is sent.
    pub fn home(&self) -> usize {
        SERVICES.get(self.service).map_or(0, |(_, cluster, _)| *cluster)
    }
}

/// A fingerprint of everything in a span but what an owner writes on those it keeps: marks, and the share that a trace
/// stands for.
pub fn digest(span: &Span) -> u64 {
    let is_mark = |key: &str| MARKS.iter().any(|mark| key.starts_with(mark));
    if span.trace_state.is_empty() && !span.attributes.iter().any(|attribute| is_mark(&attribute.key)) {
        return xxh3_64(&span.encode_to_vec());
    }
    let mut sent = Span { trace_state: String::new(), ..span.clone() };
    sent.attributes.retain(|attribute| !is_mark(&attribute.key));
    xxh3_64(&sent.encode_to_vec())
}

/// How the keys of an owner's marks begin.
const MARKS: [&str; 2] = ["spanmesh.", "tailsampling."];

/// Writes one trace after the other.
pub struct Traffic {
    rng: Rng,
    run: [u8; 8],
    planned: Planned,
}

/// When a service was busy with a request and with its call to the next, counted from the trace's start.
#[derive(Clone, Copy, Default)]
struct Times {
    server: (Duration, Duration),
    client: (Duration, Duration),
}

impl Traffic {
    /// `run` begins every trace id, so that spans of another run are known as strangers.
    pub fn new(seed: u64, run: [u8; 8]) -> Traffic {
        Traffic { rng: Rng::new(seed), run, planned: Planned::default() }
    }

    pub fn planned(&self) -> &Planned {
        &self.planned
    }

    /// The shipments of a trace that starts at `start`; every distinct span comes before its copy.
    pub fn trace(&mut self, start: UnixNanos) -> Vec<Shipment> {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&self.run);
        trace_id[8..].copy_from_slice(&self.rng.next().to_be_bytes());
        let spans = self.spans(&trace_id, start);
        self.planned.traces += 1;

        let mut shipments = Vec::with_capacity(spans.len() + 1);
        // The root and the last have no parent, or no child, to be torn from.
        let last = spans.len() - 1;
        let torn: Vec<bool> = (0..spans.len()).map(|i| i != 0 && i != last && self.rng.chance(ORPHANS)).collect();
        for (i, (service, span)) in spans.into_iter().enumerate() {
            if torn.get(i).copied().unwrap_or(false) {
                continue;
            }
            // Spans are in the order of the call: the parent is the one before.
            if i > 0 && torn.get(i - 1).copied().unwrap_or(false) {
                self.planned.orphans += 1;
            }
            let (_, cluster, _) = SERVICES[service];
            let mut after = Duration::from_nanos(span.end_time_unix_nano.saturating_sub(start.0));
            let late = self.rng.chance(LATE);
            if late {
                self.planned.late += 1;
                after += Duration::from_millis(1_000 + self.rng.below(2_000));
            }
            self.planned.spans += 1;
            shipments.push(Shipment { after, cluster, service, copy: false, late, span });
        }
        for i in 0..shipments.len() {
            if self.rng.chance(DUPLICATES) {
                let mut copy = Shipment { copy: true, ..shipments[i].clone() };
                copy.after += Duration::from_millis(50 + self.rng.below(950));
                if self.rng.chance(500) {
                    self.planned.duplicates_elsewhere += 1;
                    copy.after += ELSEWHERE;
                    copy.cluster =
                        (copy.cluster + 1 + self.rng.below(CLUSTERS.len() as u64 - 1) as usize) % CLUSTERS.len();
                }
                self.planned.duplicates += 1;
                shipments.push(copy);
            }
        }
        shipments
    }

    /// SERVER and CLIENT spans of the whole call, in its order, with the service that each belongs to.
    fn spans(&mut self, trace_id: &[u8; 16], start: UnixNanos) -> Vec<(usize, Span)> {
        let services = if self.rng.chance(LOOKS_AROUND) { LOOKING_AROUND } else { SERVICES.len() };
        let slow = self.rng.chance(SLOWNESS).then(|| self.rng.below(services as u64) as usize);
        let times = self.times(services, slow);
        let failing = self.rng.chance(ERRORS).then(|| self.rng.below(services as u64) as usize);
        self.planned.slow += u64::from(slow.is_some());
        self.planned.errors += u64::from(failing.is_some());
        let mut parent = Vec::new();
        let mut spans = Vec::with_capacity(services * 2 - 1);
        for (i, (name, cluster, operation)) in SERVICES.iter().enumerate().take(services) {
            let at = times[i];
            let mut make = |kind: SpanKind, name: &str, (from, to): (Duration, Duration), peer: &str, failed: bool| {
                let id = (self.rng.next() | 1).to_be_bytes().to_vec();
                let nanos = |d: Duration| start.0.saturating_add(d.as_nanos() as u64);
                let span = Span {
                    trace_id: trace_id.to_vec(),
                    span_id: id.clone(),
                    parent_span_id: std::mem::replace(&mut parent, id),
                    name: name.to_owned(),
                    kind: kind as i32,
                    start_time_unix_nano: nanos(from),
                    end_time_unix_nano: nanos(to),
                    attributes: vec![
                        text("http.request.method", operation.split(' ').next().unwrap_or_default()),
                        number("http.response.status_code", if failed { 500 } else { 200 }),
                        text("server.address", peer),
                        text("url.path", operation.split(' ').nth(1).unwrap_or_default()),
                    ],
                    status: failed
                        .then(|| Status { code: StatusCode::Error as i32, message: "call failed".to_owned() }),
                    flags: 1,
                    ..Span::default()
                };
                spans.push((i, span));
            };
            make(SpanKind::Server, operation, at.server, name, failing.is_some_and(|f| i <= f));
            if let Some((callee, _, call)) = SERVICES[..services].get(i + 1) {
                let region = CLUSTERS[*cluster];
                make(SpanKind::Client, call, at.client, &format!("{callee}.{region}"), failing.is_some_and(|f| i < f));
            }
            if failing == Some(i) {
                let thrown = Event {
                    time_unix_nano: start.0.saturating_add(at.server.1.as_nanos() as u64),
                    name: "exception".to_owned(),
                    attributes: vec![text("exception.type", "Unavailable"), text("exception.message", "no stock")],
                    ..Event::default()
                };
                if let Some((_, span)) =
                    spans.iter_mut().rev().find(|(s, span)| *s == i && span.kind == SpanKind::Server as i32)
                {
                    span.events.push(thrown);
                }
            }
        }
        spans
    }

    /// From the outside in, and back: a caller waits for its callee and for the way there and back. `slow` works longer.
    fn times(&mut self, services: usize, slow: Option<usize>) -> Vec<Times> {
        let mut times = vec![Times::default(); services];
        let mut now = Duration::ZERO;
        let mut work = || Duration::from_micros(500 + self.rng.below(4_000));
        let hop = |i: usize| match (SERVICES[i].1, SERVICES[i + 1].1) {
            (a, b) if a == b => LOCAL_HOP,
            (a, b) => round_trip(a, b) / 2,
        };
        for (i, at) in times.iter_mut().enumerate() {
            at.server.0 = now;
            now += work();
            if slow == Some(i) {
                now += SLOW;
            }
            if i + 1 < services {
                at.client.0 = now;
                now += hop(i);
            }
        }
        for i in (0..services).rev() {
            if i + 1 < services {
                now += hop(i);
                times[i].client.1 = now;
            }
            now += work();
            times[i].server.1 = now;
        }
        times
    }
}

/// Spans of one service as its SDK would send them.
pub fn resource_spans(service: usize, spans: Vec<Span>) -> ResourceSpans {
    let (name, cluster, _) = SERVICES[service.min(SERVICES.len() - 1)];
    let resource = Resource {
        attributes: vec![
            text("service.name", name),
            text("service.version", "1.4.2"),
            text("service.instance.id", &format!("{name}-7d9f8c6b5-x2x{cluster}")),
            text("deployment.environment.name", "demo"),
            text("cloud.region", CLUSTERS[cluster]),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.language", "rust"),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "spanmesh.demo".to_owned(), ..InstrumentationScope::default() };
    ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const START: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

    #[test]
    fn a_trace_runs_through_all_services_and_crosses_clusters_twice() {
        let mut traffic = Traffic::new(1, *b"demo-run");
        let mut whole = || traffic.spans(&[1; 16], START);
        let spans = std::iter::from_fn(|| Some(whole())).find(|spans| spans.len() > 5).unwrap();
        assert_eq!(spans.len(), 15);
        let by_id: BTreeMap<_, _> =
            spans.iter().map(|(service, span)| (span.span_id.clone(), (*service, span))).collect();
        let mut crossings = Vec::new();
        for (service, span) in &spans {
            assert!(span.start_time_unix_nano < span.end_time_unix_nano);
            let Some((caller, parent)) = by_id.get(&span.parent_span_id) else {
                assert!(span.parent_span_id.is_empty() && *service == 0);
                continue;
            };
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
            assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
            if span.kind == SpanKind::Server as i32 {
                assert_eq!((*caller + 1, parent.kind), (*service, SpanKind::Client as i32));
                if SERVICES[*caller].1 != SERVICES[*service].1 {
                    let waited = (parent.end_time_unix_nano - parent.start_time_unix_nano)
                        - (span.end_time_unix_nano - span.start_time_unix_nano);
                    crossings.push((CLUSTERS[SERVICES[*caller].1], CLUSTERS[SERVICES[*service].1], waited / 1_000_000));
                }
            }
        }
        assert_eq!(crossings, [("us-east-1", "us-west-2", 60), ("us-west-2", "eu-west-1", 90)]);
    }

    #[test]
    fn the_trouble_has_the_shares_that_were_promised() {
        let mut traffic = Traffic::new(5, *b"demo-run");
        let all: Vec<_> = (0..4_000).flat_map(|_| traffic.trace(START)).collect();
        let p = traffic.planned().clone();
        let share = |part: u64, of: u64| part as f64 / of as f64;
        assert!((0.014..0.026).contains(&share(p.errors, p.traces)), "{p:?}");
        assert!((0.014..0.026).contains(&share(p.slow, p.traces)), "{p:?}");
        assert!((0.018..0.022).contains(&share(p.duplicates, p.spans)), "{p:?}");
        assert!((0.4..0.6).contains(&share(p.duplicates_elsewhere, p.duplicates)), "{p:?}");
        assert!((0.027..0.033).contains(&share(p.late, p.spans)), "{p:?}");
        assert!((0.0035..0.0065).contains(&share(p.orphans, p.spans)), "{p:?}");
        let distinct: BTreeSet<_> = all.iter().map(Shipment::key).collect();
        assert_eq!((distinct.len() as u64, all.len() as u64), (p.spans, p.spans + p.duplicates));
        assert!(distinct.iter().all(|key| key.trace.0.starts_with(b"demo-run")));
    }

    #[test]
    fn a_copy_comes_after_its_original_and_is_the_same_span() {
        let mut traffic = Traffic::new(5, *b"demo-run");
        let mut copies = 0;
        for _ in 0..200 {
            let mut first: BTreeMap<SpanKey, Shipment> = BTreeMap::new();
            for shipment in traffic.trace(START) {
                match first.get(&shipment.key()) {
                    Some(original) => {
                        copies += 1;
                        assert!(shipment.after > original.after);
                        assert_eq!(digest(&shipment.span), digest(&original.span));
                    }
                    None => {
                        first.insert(shipment.key(), shipment);
                    }
                }
            }
        }
        assert_eq!(copies, traffic.planned().duplicates);
    }

    #[test]
    fn equal_seeds_plan_equal_traffic() {
        let keys = |seed| {
            let mut traffic = Traffic::new(seed, *b"demo-run");
            (0..5).flat_map(|_| traffic.trace(START)).map(|s| (s.key(), s.after, s.cluster)).collect::<Vec<_>>()
        };
        assert_eq!(keys(3), keys(3));
        assert_ne!(keys(3), keys(4));
    }
}
