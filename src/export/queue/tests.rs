use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::*;
use crate::export::courier::CONCURRENT_SENDS;
use crate::export::testing::{Answer, TestBackend, batch, names, otlp, quick_retry, request, request_of};
use crate::export::{EncodeError, Outcome, Sending};
use crate::model::{DropReason, Spans};
use crate::pipeline::ledger::{Ledger, Source};
use crate::pipeline::testing::Watched;

type Answers = Box<dyn Fn(usize, &[u8]) -> Outcome + Send + Sync>;

/// Answers from a function of (which try, payload), as soon as the gate is open.
struct Scripted {
    answer: Answers,
    tries: watch::Sender<Vec<Vec<String>>>,
    gate: watch::Sender<bool>,
    most_at_once: AtomicUsize,
    at_once: AtomicUsize,
}

impl Scripted {
    fn new(answer: impl Fn(usize, &[u8]) -> Outcome + Send + Sync + 'static) -> Arc<Scripted> {
        Arc::new(Scripted {
            answer: Box::new(answer),
            tries: watch::Sender::default(),
            gate: watch::Sender::new(true),
            most_at_once: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
        })
    }

    fn closed(answer: impl Fn(usize, &[u8]) -> Outcome + Send + Sync + 'static) -> Arc<Scripted> {
        let backend = Scripted::new(answer);
        backend.gate.send_replace(false);
        backend
    }

    fn tries(&self) -> Vec<Vec<String>> {
        self.tries.borrow().clone()
    }

    async fn wait_for(&self, tries: usize) {
        self.tries.subscribe().wait_for(|all| all.len() >= tries).await.unwrap();
    }
}

impl Backend for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError> {
        if names(&spans.bytes).iter().any(|name| name == "unspeakable") {
            return Err(EncodeError::TooLarge { bytes: spans.bytes.len() });
        }
        Ok(spans.bytes.clone())
    }

    fn send(&self, payload: Bytes) -> Sending<'_> {
        Box::pin(async move {
            let now = self.at_once.fetch_add(1, Relaxed) + 1;
            self.most_at_once.fetch_max(now, Relaxed);
            let mut number = 0;
            self.tries.send_modify(|all| {
                number = all.len();
                all.push(names(&payload));
            });
            self.gate.subscribe().wait_for(|open| *open).await.unwrap();
            self.at_once.fetch_sub(1, Relaxed);
            (self.answer)(number, &payload)
        })
    }
}

fn start(backend: Arc<dyn Backend>, retry: RetrySettings) -> Arc<ExportQueue> {
    ExportQueue::start("scripted/1".to_owned(), backend, retry, Clock::start())
}

fn failed(unanswered: bool) -> Outcome {
    Outcome::Retry { at_least: None, unanswered, message: "down".to_owned() }
}

/// A batch of one span that the ledger knows.
fn entered(ledger: &Arc<Ledger>, name: &str) -> Batch {
    let mut batch = batch(&request(&[name]), &Watched::default());
    let receipt = ledger.open(1, Source::Local, |answer| assert_eq!(answer, Ok(())));
    std::mem::replace(&mut batch.receipt, receipt).resolve(Fate::Exported);
    batch
}

#[tokio::test]
async fn senders_are_answered_when_the_queue_has_their_spans_and_the_fate_follows() {
    let backend = Scripted::closed(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    let sender = Watched::default();
    queue.consume(batch(&request(&["a", "b"]), &sender));
    assert_eq!((sender.answer(), sender.finished()), (Some(Ok(())), None));
    assert!(queue.status().queue_bytes > 0);
    backend.gate.send_replace(true);
    assert_eq!(sender.fate().await, Fate::Exported);
    assert_eq!(queue.drain(queue.0.courier.clock().now() + Duration::from_secs(20)).await, 0);
    let status = queue.status();
    assert_eq!((status.sent_spans, status.queue_bytes, status.in_flight_requests), (2, 0, 0));
    assert_eq!(sender.budget().bytes(), 0);
}

#[tokio::test]
async fn what_waits_is_coalesced_and_keeps_all_spans() {
    let backend = Scripted::closed(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    let senders: Vec<Watched> = (0..200).map(|_| Watched::default()).collect();
    for (index, sender) in senders.iter().enumerate() {
        queue.consume(batch(&request(&[&format!("{index}-a"), &format!("{index}-b")]), sender));
        // Lets the first ones go out alone.
        tokio::task::yield_now().await;
    }
    backend.wait_for(CONCURRENT_SENDS).await;
    backend.gate.send_replace(true);
    for sender in &senders {
        assert_eq!(sender.fate().await, Fate::Exported);
        assert_eq!(sender.fates(), [(2, Fate::Exported)]);
    }
    let tries = backend.tries();
    assert!(tries.len() <= CONCURRENT_SENDS + 1, "{} requests", tries.len());
    assert_eq!(backend.most_at_once.load(Relaxed), CONCURRENT_SENDS);
    let all: Vec<String> = tries.into_iter().flatten().collect();
    assert_eq!(all.len(), 400);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 400);
}

#[tokio::test]
async fn a_request_that_is_tried_again_holds_nobody_up() {
    let backend = Scripted::new(|_, payload| match names(payload)[0].as_str() {
        "stuck" => Outcome::Retry {
            at_least: Some(Duration::from_secs(3000)),
            unanswered: false,
            message: "not this one".to_owned(),
        },
        _ => Outcome::Delivered,
    });
    let retry = RetrySettings { max_elapsed_time: Duration::ZERO, ..quick_retry() };
    let queue = start(backend.clone(), retry);
    let stuck: Vec<Watched> = (0..2 * CONCURRENT_SENDS).map(|_| Watched::default()).collect();
    for (index, sender) in stuck.iter().enumerate() {
        queue.consume(batch(&request(&["stuck"]), sender));
        backend.wait_for(index + 1).await;
    }
    let healthy = Watched::default();
    queue.consume(batch(&request(&["healthy"]), &healthy));
    assert_eq!(healthy.fate().await, Fate::Exported);
    assert!(stuck.iter().all(|sender| sender.finished().is_none()));
    assert_eq!(queue.drain(queue.0.courier.clock().now()).await, stuck.len() as u64);
}

#[tokio::test]
async fn tries_go_on_until_the_backend_takes_the_spans_and_open_ends_are_counted() {
    let backend = Scripted::new(|number, _| match number {
        0 => failed(true),
        1 => failed(false),
        _ => Outcome::Delivered,
    });
    let queue = start(backend.clone(), quick_retry());
    let sender = Watched::default();
    queue.consume(batch(&request(&["a", "b", "c"]), &sender));
    assert_eq!(sender.fate().await, Fate::Exported);
    let status = queue.status();
    assert_eq!((status.sent_spans, status.send_failed_spans, status.possible_duplicate_spans), (3, 0, 3));
    assert_eq!((backend.tries().len(), status.last_error.as_deref()), (3, Some("down")));
}

#[tokio::test]
async fn without_retries_there_is_one_try() {
    let backend = Scripted::new(|_, _| failed(false));
    let queue = start(backend.clone(), RetrySettings { enabled: false, ..quick_retry() });
    let sender = Watched::default();
    queue.consume(batch(&request(&["a"]), &sender));
    assert_eq!(sender.fate().await, Fate::Dropped(DropReason::RetriesExhausted));
    assert_eq!((backend.tries().len(), queue.status().send_failed_spans), (1, 1));
}

#[tokio::test]
async fn retries_end_with_max_elapsed_time() {
    let backend = Scripted::new(|_, _| failed(false));
    let retry = RetrySettings {
        initial_interval: Duration::from_millis(10),
        max_interval: Duration::from_millis(40),
        multiplier: 1.5,
        max_elapsed_time: Duration::from_millis(400),
        ..quick_retry()
    };
    let queue = start(backend.clone(), retry);
    let sender = Watched::default();
    queue.consume(batch(&request(&["a"]), &sender));
    assert_eq!(sender.fate().await, Fate::Dropped(DropReason::RetriesExhausted));
    // No pause is longer than 60 ms, none shorter than 5 ms; a busy machine makes them fewer.
    assert!((2..=80).contains(&backend.tries().len()), "{}", backend.tries().len());
    assert_eq!(queue.status().send_failed_spans, 1);
}

#[tokio::test]
async fn what_is_refused_for_ever_is_dropped_at_once() {
    let backend = Scripted::new(|_, _| Outcome::Permanent { message: "HTTP 400".to_owned() });
    let queue = start(backend.clone(), quick_retry());
    let (refused, unspeakable) = (Watched::default(), Watched::default());
    queue.consume(batch(&request(&["a"]), &refused));
    assert_eq!(refused.fate().await, Fate::Dropped(DropReason::BackendRefused));
    queue.consume(batch(&request(&["unspeakable"]), &unspeakable));
    assert_eq!(unspeakable.fate().await, Fate::Dropped(DropReason::BackendRefused));
    assert_eq!((backend.tries().len(), queue.status().send_failed_spans), (1, 2));
}

#[tokio::test]
async fn a_partial_success_is_never_sent_again_and_its_rejected_spans_are_counted() {
    let backend = Scripted::new(|_, _| Outcome::Partial { rejected: 2, message: "too old".to_owned() });
    let queue = start(backend.clone(), quick_retry());
    let sender = Watched::default();
    queue.consume(batch(&request(&["a", "b", "c", "d", "e"]), &sender));
    sender.fate().await;
    assert_eq!(sender.fates(), [(2, Fate::Dropped(DropReason::BackendRefused)), (3, Fate::Exported)]);
    let status = queue.status();
    assert_eq!((status.sent_spans, status.send_failed_spans, status.rejected_spans), (3, 2, 2));
    assert_eq!(backend.tries().len(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_and_an_empty_one_takes_any_batch() {
    let backend = Scripted::closed(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    let whole = queue.reserve(CAPACITY_BYTES as usize + 1, 1).ok().unwrap();
    let sender = Watched::default();
    queue.consume(batch(&request(&["a", "b"]), &sender));
    assert_eq!(sender.answer(), Some(Err(Refusal::passing(Reason::QueueFull))));
    assert_eq!(queue.status().enqueue_failed_spans, 2);
    drop(whole);
    let sender = Watched::default();
    queue.consume(batch(&request(&["a", "b"]), &sender));
    assert_eq!(sender.answer(), Some(Ok(())));
    backend.gate.send_replace(true);
    assert_eq!(sender.fate().await, Fate::Exported);
}

#[tokio::test]
async fn a_batch_above_the_common_limit_of_grpc_servers_is_cut() {
    let backend = Scripted::new(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    let sender = Watched::default();
    let long = "x".repeat(10_000);
    let all = request_of((0..1000).map(|index| format!("{index} {long}")));
    assert!(all.len() > 2 * CUT_BYTES);
    queue.consume(batch(&all, &sender));
    assert_eq!(sender.fate().await, Fate::Exported);
    let tries = backend.tries();
    assert_eq!(tries.len(), 4);
    assert_eq!(tries.concat().into_iter().collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(sender.fates().iter().map(|(spans, _)| spans).sum::<u32>(), 1000);
    assert_eq!(queue.drain(queue.0.courier.clock().now() + Duration::from_secs(20)).await, 0);
    assert_eq!((queue.status().queue_bytes, sender.budget().bytes()), (0, 0));
}

#[tokio::test]
async fn a_drain_delivers_what_it_can_and_gives_up_the_rest_by_name() {
    let ledger = Arc::new(Ledger::default());
    let backend = Scripted::closed(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    for index in 0..30 {
        queue.consume(entered(&ledger, &format!("{index}")));
        if index < 5 {
            backend.wait_for(index + 1).await;
        }
    }
    assert_eq!(ledger.status().in_flight, 30);
    assert_eq!(queue.drain(queue.0.courier.clock().now()).await, 30);
    let status = ledger.status();
    assert_eq!((status.in_flight, status.dropped["shutdown"], status.released), (0, 30, 0));
    assert!(status.balanced);

    let late = Watched::default();
    queue.consume(batch(&request(&["late"]), &late));
    assert_eq!(late.answer(), Some(Err(Refusal::passing(Reason::ShuttingDown))));
}

#[tokio::test]
async fn room_reserved_before_a_drain_is_still_honoured() {
    let backend = Scripted::new(|_, _| Outcome::Delivered);
    let queue = start(backend.clone(), quick_retry());
    let slot = queue.reserve(1000, 1).ok().unwrap();
    let draining = queue.clone();
    let deadline = queue.0.courier.clock().now() + Duration::from_secs(20);
    let drained = tokio::spawn(async move { draining.drain(deadline).await });
    while queue.reserve(1, 1).is_ok() {
        tokio::task::yield_now().await;
    }
    let sender = Watched::default();
    slot.put(batch(&request(&["a"]), &sender));
    assert_eq!(sender.fate().await, Fate::Exported);
    assert_eq!(drained.await.unwrap(), 0);
}

#[tokio::test]
async fn one_batch_after_the_other_gets_through_a_backend_with_every_kind_of_trouble() {
    let ok = Answer::http(200, &[], b"");
    let trouble = [
        Answer::Reset,
        Answer::Hang,
        Answer::http(503, &[("retry-after", "0")], b""),
        Answer::http(429, &[], b"slow down"),
    ];
    let server = TestBackend::start(ok, trouble).await;
    let mut settings = otlp(format!("http://{}/v1/traces", server.address));
    settings.timeout = Duration::from_millis(200);
    let backend = Arc::new(crate::export::otlp_http::OtlpHttp::new(&settings).unwrap());
    let queue = start(backend, settings.retry.clone());
    let ledger = Arc::new(Ledger::default());
    for index in 0..20 {
        queue.consume(entered(&ledger, &format!("{index}")));
    }
    assert_eq!(queue.drain(queue.0.courier.clock().now() + Duration::from_secs(30)).await, 0);
    let status = ledger.status();
    assert_eq!((status.exported, status.in_flight, status.balanced), (20, 0, true));
    let delivered: BTreeSet<String> = server.seen().iter().flat_map(|seen| names(&seen.body)).collect();
    assert_eq!(delivered.len(), 20);
    assert!(queue.status().possible_duplicate_spans > 0);
    assert!(server.seen().len() >= 5);
}
