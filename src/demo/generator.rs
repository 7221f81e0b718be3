//! Sends the planned traffic to the nodes over real OTLP, as the SDKs of eight services would.
//!
//! Every service sends to the node of its own cluster, what has ended in the last [`FLUSH`] in one request: over gRPC in
//! us-west-2, over HTTP elsewhere. A request that is refused for now, or not answered, is sent again with growing pauses
//! and then given up; the judge is told of every success, since only that is a promise. Requests in flight are bounded:
//! beyond that, spans are dropped as an SDK's full queue would drop them, and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::backend::Judge;
use super::checker::SpanKey;
use super::places::{NODES, Place};
use super::traffic::{Planned, Shipment, Traffic, digest, resource_spans};
use crate::load::sender::{Compression, Encoding, Outcome, Protocol, Sender, Target, TargetError};
use crate::model::Tick;
use crate::runtime::clock::{Clock, unix_now};

/// How often ended spans are sent.
const FLUSH: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_IN_FLIGHT: usize = 256;
/// Pauses before each further try.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1_500),
    Duration::from_millis(3_000),
    Duration::from_millis(5_000),
];
/// The cluster whose services speak gRPC.
const GRPC_CLUSTER: usize = 1;

/// What became of the sending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sent {
    #[serde(flatten)]
    pub planned: Planned,
    pub requests: u64,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// Spans that were given up, copies included: no node has promised anything for them.
    pub given_up: u64,
    /// Spans that a node rejected by partial success.
    pub rejected: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    retries: AtomicU64,
    given_up: AtomicU64,
    rejected: AtomicU64,
}

/// The generator's counts, readable while it runs.
#[derive(Clone, Default)]
pub struct SentSoFar {
    counters: Arc<Counters>,
    planned: watch::Sender<Planned>,
}

impl SentSoFar {
    pub fn get(&self) -> Sent {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sent {
            planned: self.planned.borrow().clone(),
            requests: read(&self.counters.requests),
            retries: read(&self.counters.retries),
            given_up: read(&self.counters.given_up),
            rejected: read(&self.counters.rejected),
        }
    }
}

/// What is to be sent later, by time, then by order of planning.
#[derive(Default)]
struct Outbox {
    waiting: BTreeMap<(Tick, u64), Shipment>,
    next: u64,
}

impl Outbox {
    fn put(&mut self, due: Tick, shipment: Shipment) {
        self.waiting.insert((due, self.next), shipment);
        self.next += 1;
    }

    /// What is due, by node and service. A span belongs to the cluster that took it in first. So a copy goes to another
    /// cluster only if its original was taken; else it could overtake it, and the trace would cross clusters by accident.
    fn take_due(&mut self, now: Tick, is_taken: impl Fn(&SpanKey) -> bool) -> BTreeMap<(usize, usize), Vec<Shipment>> {
        let later = self.waiting.split_off(&(now + Duration::from_nanos(1), 0));
        let mut batches: BTreeMap<_, Vec<Shipment>> = BTreeMap::new();
        for (_, mut shipment) in std::mem::replace(&mut self.waiting, later) {
            if shipment.cluster != shipment.home() && !is_taken(&shipment.key()) {
                shipment.cluster = shipment.home();
            }
            batches.entry((shipment.cluster, shipment.service)).or_default().push(shipment);
        }
        batches
    }
}

pub struct Generator {
    senders: Vec<Sender>,
    traffic: Traffic,
    outbox: Outbox,
    judge: Arc<Judge>,
    so_far: SentSoFar,
    /// Traces a second.
    rate: f64,
    clock: Clock,
    slots: Arc<Semaphore>,
    sending: JoinSet<()>,
}

impl Generator {
    pub fn new(
        places: &[Place],
        traffic: Traffic,
        judge: Arc<Judge>,
        rate: f64,
        clock: Clock,
    ) -> Result<Generator, TargetError> {
        let senders = places
            .iter()
            .enumerate()
            .map(|(number, place)| {
                let (protocol, addr) = match number {
                    GRPC_CLUSTER => (Protocol::Grpc, place.otlp_grpc),
                    _ => (Protocol::Http, place.otlp_http),
                };
                let url = format!("http://{addr}");
                Target::new(&url, Some(protocol), Encoding::Proto, Compression::None, TIMEOUT).map(Sender::new)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Generator {
            senders,
            traffic,
            outbox: Outbox::default(),
            judge,
            so_far: SentSoFar::default(),
            rate,
            clock,
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            sending: JoinSet::new(),
        })
    }

    pub fn so_far(&self) -> SentSoFar {
        self.so_far.clone()
    }

    /// Makes new traces until `stop` says true; then sends what is planned, and waits until all of it is answered or
    /// given up.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let start = self.clock.now();
        let mut made = 0u64;
        let mut flush = tokio::time::interval(FLUSH);
        let mut ending = false;
        while !ending || !self.outbox.waiting.is_empty() {
            tokio::select! {
                _ = flush.tick() => {}
                _ = stop.wait_for(|stop| *stop), if !ending => ending = true,
            }
            let now = self.clock.now();
            let wanted = (now.since(start).as_secs_f64() * self.rate) as u64;
            while !ending && made < wanted {
                self.make(now);
                made += 1;
            }
            let judge = Arc::clone(&self.judge);
            let is_taken = |key: &SpanKey| judge.checker().is_accepted(key);
            for ((cluster, service), shipments) in self.outbox.take_due(now, is_taken) {
                self.send(cluster, service, shipments);
            }
            while self.sending.try_join_next().is_some() {}
        }
        while self.sending.join_next().await.is_some() {}
    }

    fn make(&mut self, now: Tick) {
        let shipments = self.traffic.trace(unix_now());
        let spans: Vec<_> = shipments.iter().filter(|s| !s.copy).map(|s| (s, !s.late)).collect();
        if let Some(SpanKey { trace, .. }) = spans.first().map(|(shipment, _)| shipment.key()) {
            let digests: Vec<_> = spans.iter().map(|(s, _)| (s.key().span, digest(&s.span))).collect();
            self.judge.expect(trace, digests, &spans);
        }
        for shipment in shipments {
            self.outbox.put(now + shipment.after, shipment);
        }
        self.so_far.planned.send_replace(self.traffic.planned().clone());
    }

    fn send(&mut self, cluster: usize, service: usize, shipments: Vec<Shipment>) {
        let counters = Arc::clone(&self.so_far.counters);
        let keys: Vec<SpanKey> = shipments.iter().map(Shipment::key).collect();
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let (Ok(slot), Some(sender)) = (slot, self.senders.get(cluster % NODES).cloned()) else {
            counters.given_up.fetch_add(keys.len() as u64, Ordering::Relaxed);
            return;
        };
        let spans = shipments.into_iter().map(|s| s.span).collect();
        let request =
            ExportTraceServiceRequest { resource_spans: vec![resource_spans(service, spans)] }.encode_to_vec();
        let judge = Arc::clone(&self.judge);
        self.sending.spawn(async move {
            deliver(&sender, request, &keys, &judge, &counters).await;
            drop(slot);
        });
    }
}

/// Sends one request until it is taken, refused for good, or given up.
async fn deliver(sender: &Sender, request: Vec<u8>, keys: &[SpanKey], judge: &Judge, counters: &Counters) {
    let mut pauses = PAUSES.iter();
    loop {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let again = match sender.send(request.clone()).await.0 {
            Outcome::Accepted(None) => {
                let mut checker = judge.checker();
                keys.iter().for_each(|key| checker.accepted(key));
                return;
            }
            // It does not say which: nothing is promised for any of them.
            Outcome::Accepted(Some(partial)) => {
                let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                counters.rejected.fetch_add(rejected.max(1), Ordering::Relaxed);
                return;
            }
            Outcome::Refused(status) => is_retryable(&status),
            Outcome::NoAnswer(_) => true,
        };
        let Some(pause) = pauses.next().filter(|_| again) else {
            counters.given_up.fetch_add(keys.len() as u64, Ordering::Relaxed);
            return;
        };
        counters.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(*pause).await;
    }
}

/// The statuses after which OTLP lets a sender try again.
fn is_retryable(status: &str) -> bool {
    const RETRYABLE: [&str; 11] = [
        "HTTP 429",
        "HTTP 502",
        "HTTP 503",
        "HTTP 504",
        "gRPC CANCELLED",
        "gRPC DEADLINE_EXCEEDED",
        "gRPC ABORTED",
        "gRPC OUT_OF_RANGE",
        "gRPC UNAVAILABLE",
        "gRPC DATA_LOSS",
        "gRPC RESOURCE_EXHAUSTED",
    ];
    RETRYABLE.contains(&status)
}

#[cfg(test)]
mod tests {
    use super::super::checker::Outcome;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::body::Bytes;
    use axum::http::StatusCode;
    use axum::routing::post;
    use tokio::net::TcpListener;

    fn shipment(cluster: usize, service: usize) -> Shipment {
        Shipment { after: Duration::ZERO, cluster, service, copy: false, late: false, span: Default::default() }
    }

    #[test]
    fn the_outbox_gives_what_is_due_by_node_and_service() {
        let mut outbox = Outbox::default();
        for (due, cluster, service) in [(30, 0, 1), (10, 0, 1), (10, 1, 3), (31, 0, 1)] {
            outbox.put(Tick(due), shipment(cluster, service));
        }
        assert!(outbox.take_due(Tick(9), |_| true).is_empty());
        let due = outbox.take_due(Tick(30), |_| true);
        assert_eq!(due.iter().map(|(to, s)| (*to, s.len())).collect::<Vec<_>>(), [((0, 1), 2), ((1, 3), 1)]);
        assert_eq!(outbox.waiting.len(), 1);
    }

    #[test]
    fn a_copy_does_not_overtake_its_original_by_way_of_another_cluster() {
        let to = |is_taken: bool| {
            let mut outbox = Outbox::default();
            outbox.put(Tick(1), Shipment { copy: true, ..shipment(2, 0) });
            outbox.take_due(Tick(1), |_| is_taken).into_keys().collect::<Vec<_>>()
        };
        assert_eq!((to(true), to(false)), (vec![(2, 0)], vec![(0, 0)]));
    }

    #[tokio::test]
    async fn a_request_that_is_refused_for_now_is_sent_again_and_then_promised() {
        let tries = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&tries);
        let answer = move |_: Bytes| async move {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
        };
        let app = Router::new().route("/v1/traces", post(answer)).route("/no", post(async || StatusCode::BAD_REQUEST));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let sender = |path: &str| {
            let url = format!("http://{addr}{path}");
            Sender::new(Target::new(&url, None, Encoding::Proto, Compression::None, TIMEOUT).unwrap())
        };

        let judge = Judge::new(*b"demo-run", Clock::start());
        let mut traffic = Traffic::new(1, *b"demo-run");
        let key = traffic.trace(unix_now())[0].key();
        judge.checker().expect(key.trace, Outcome::Kept, [(key.span, 0)]);
        let counters = Counters::default();
        deliver(&sender("/no"), vec![], &[key], &judge, &counters).await;
        assert_eq!((counters.given_up.load(Ordering::Relaxed), judge.checker().counts().accepted), (1, 0));
        deliver(&sender(""), vec![], &[key], &judge, &counters).await;
        assert_eq!((tries.load(Ordering::Relaxed), counters.retries.load(Ordering::Relaxed)), (2, 1));
        assert_eq!(judge.checker().counts().accepted, 1);
    }
}
