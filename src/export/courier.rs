//! One request from its encoding to its fate, and the counts of all of them.
//!
//! The Collector retries inside its consumers, so ten stuck requests stall its queue. Here a request that waits for its
//! next try gives its turn back and queues for another: the turns are for sending, not for waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Backend, EncodeError, Outcome};
use crate::config::settings::{ComponentId, RetrySettings};
use crate::logic::backoff::Backoff;
use crate::model::{Batch, DropReason, Fate, Receipt, Spans, Tick};
use crate::runtime::clock::Clock;

/// Requests on the way at a time, the Collector's `num_consumers`.
pub const CONCURRENT_SENDS: usize = 10;

/// Requests above this are encoded on a thread that may block.
const ENCODE_INLINE_BYTES: usize = 1 << 20;

/// Between two log lines about dropped spans.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What one exporter has done, in spans unless said otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct ExporterStatus {
    pub id: ComponentId,
    /// The component type, `otlp_http`.
    pub kind: &'static str,
    pub sent_spans: u64,
    /// Given up after custody: permanent errors, retries exhausted, spans a backend rejected, what a stop cut short.
    pub send_failed_spans: u64,
    /// Refused because the queue was full or closed. A trace buffer asks again until they are taken, and counts each time.
    pub enqueue_failed_spans: u64,
    /// Rejected by the backend in a partial success; part of `send_failed_spans`.
    pub rejected_spans: u64,
    /// Sent again after a try whose end nobody knows: the backend may have these twice.
    pub possible_duplicate_spans: u64,
    /// Bytes not yet settled.
    pub queue_bytes: u64,
    pub queue_capacity_bytes: u64,
    pub in_flight_requests: u64,
    pub last_error: Option<String>,
}

/// The counts behind [`ExporterStatus`].
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    send_failed: AtomicU64,
    enqueue_failed: AtomicU64,
    rejected: AtomicU64,
    possible_duplicate: AtomicU64,
    in_flight_requests: AtomicU64,
    cut_short: AtomicU64,
    failing: AtomicBool,
    /// Dropped and not yet in a log line; when the last one was written.
    unlogged: AtomicU64,
    logged_at: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// Delivers one exporter's requests.
pub(super) struct Courier {
    id: ComponentId,
    backend: Arc<dyn Backend>,
    retry: RetrySettings,
    clock: Clock,
    turns: Arc<Semaphore>,
    /// Set when what is left must be given up.
    stop: CancellationToken,
    counts: Counts,
}

impl Courier {
    pub(super) fn new(id: ComponentId, backend: Arc<dyn Backend>, retry: RetrySettings, clock: Clock) -> Courier {
        let turns = Arc::new(Semaphore::new(CONCURRENT_SENDS));
        Courier { id, backend, retry, clock, turns, stop: CancellationToken::new(), counts: Counts::default() }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// The right to send, when it is one's turn. `None` is never seen: the semaphore is never closed.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// From now on everything is given up.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for [`Courier::stop`].
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// One request until it is settled. `turn` is the right to send, given back between tries.
    pub(super) async fn deliver(&self, batch: Batch, turn: OwnedSemaphorePermit) {
        let Batch { spans, receipt, mut held, .. } = batch;
        let payload = match self.encode(spans).await {
            Ok(payload) => payload,
            Err(error) => return self.give_up(receipt, DropReason::BackendRefused, &error.to_string()),
        };
        held.resize(payload.len());
        let first_try = self.clock.now();
        let mut backoff = Backoff::new(&self.retry);
        let mut turn = turn;
        loop {
            let outcome = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.cut_short(receipt),
                outcome = self.attempt(&payload, turn) => outcome,
            };
            let (at_least, unanswered, message) = match outcome {
                Outcome::Delivered => return self.delivered(receipt),
                Outcome::Partial { rejected, message } => return self.partly_delivered(receipt, rejected, &message),
                Outcome::Permanent { message } => return self.give_up(receipt, DropReason::BackendRefused, &message),
                Outcome::Retry { at_least, unanswered, message } => (at_least, unanswered, message),
            };
            let elapsed = self.clock.now().since(first_try);
            let Some(pause) = backoff.next(elapsed, at_least, rand::random()) else {
                return self.give_up(receipt, DropReason::RetriesExhausted, &message);
            };
            self.failed_for_now(&message, pause);
            let next_turn = async {
                tokio::time::sleep(pause).await;
                self.turn().await
            };
            turn = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.cut_short(receipt),
                next = next_turn => match next {
                    Some(next) => next,
                    None => return self.cut_short(receipt),
                },
            };
            if unanswered {
                self.counts.possible_duplicate.fetch_add(u64::from(receipt.spans()), Relaxed);
            }
        }
    }

    async fn encode(&self, spans: Spans) -> Result<Bytes, EncodeError> {
        if spans.bytes.len() <= ENCODE_INLINE_BYTES {
            return self.backend.encode(&spans);
        }
        let backend = self.backend.clone();
        match tokio::task::spawn_blocking(move || backend.encode(&spans)).await {
            Ok(encoded) => encoded,
            Err(error) => Err(EncodeError::Malformed(error.to_string())),
        }
    }

    async fn attempt(&self, payload: &Bytes, _turn: OwnedSemaphorePermit) -> Outcome {
        let _on_the_way = OnTheWay::new(&self.counts.in_flight_requests);
        self.backend.send(payload.clone()).await
    }

    fn delivered(&self, receipt: Receipt) {
        self.counts.sent.fetch_add(u64::from(receipt.spans()), Relaxed);
        if self.counts.failing.swap(false, Relaxed) {
            tracing::info!(exporter = %self.id, "the backend takes spans again");
        }
        receipt.resolve(Fate::Exported);
    }

    fn partly_delivered(&self, mut receipt: Receipt, rejected: u64, message: &str) {
        let rejected = u32::try_from(rejected).unwrap_or(u32::MAX).min(receipt.spans());
        self.counts.rejected.fetch_add(u64::from(rejected), Relaxed);
        let refused = receipt.split(rejected);
        self.give_up(refused, DropReason::BackendRefused, message);
        self.delivered(receipt);
    }

    fn give_up(&self, receipt: Receipt, reason: DropReason, message: &str) {
        let spans = receipt.spans();
        self.log_dropped(u64::from(spans), reason, message);
        self.counts.send_failed.fetch_add(u64::from(spans), Relaxed);
        *self.last_error() = Some(message.to_owned());
        receipt.resolve(Fate::Dropped(reason));
    }

    /// At most one line a second: a backend that refuses everything must not fill the disk with our log as well.
    fn log_dropped(&self, spans: u64, reason: DropReason, message: &str) {
        let counts = &self.counts;
        counts.unlogged.fetch_add(spans, Relaxed);
        let (last, now) = (counts.logged_at.load(Relaxed), self.clock.now());
        let due = last == 0 || now.since(Tick(last)) >= LOG_INTERVAL;
        // Whoever moves the mark writes the line.
        if due && counts.logged_at.compare_exchange(last, now.0.max(1), Relaxed, Relaxed).is_ok() {
            let spans = counts.unlogged.swap(0, Relaxed);
            tracing::warn!(exporter = %self.id, spans, reason = reason.label(), error = message, "spans are dropped");
        }
    }

    /// One line when a backend begins to fail, not one for each try.
    fn failed_for_now(&self, message: &str, pause: Duration) {
        *self.last_error() = Some(message.to_owned());
        if self.counts.failing.swap(true, Relaxed) {
            tracing::debug!(exporter = %self.id, error = message, ?pause, "a try failed");
        } else {
            tracing::warn!(exporter = %self.id, error = message, ?pause, "the backend fails, spans wait for it");
        }
    }

    /// Gives up what the end of the node leaves no time for.
    pub(super) fn cut_short(&self, receipt: Receipt) {
        let spans = u64::from(receipt.spans());
        self.counts.send_failed.fetch_add(spans, Relaxed);
        self.counts.cut_short.fetch_add(spans, Relaxed);
        receipt.resolve(Fate::Dropped(DropReason::Shutdown));
    }

    pub(super) fn cut_short_spans(&self) -> u64 {
        self.counts.cut_short.load(Relaxed)
    }

    pub(super) fn not_enqueued(&self, spans: u32) {
        self.counts.enqueue_failed.fetch_add(u64::from(spans), Relaxed);
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.counts.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self, queue_bytes: u64, queue_capacity_bytes: u64) -> ExporterStatus {
        let counts = &self.counts;
        ExporterStatus {
            id: self.id.clone(),
            kind: self.backend.kind(),
            sent_spans: counts.sent.load(Relaxed),
            send_failed_spans: counts.send_failed.load(Relaxed),
            enqueue_failed_spans: counts.enqueue_failed.load(Relaxed),
            rejected_spans: counts.rejected.load(Relaxed),
            possible_duplicate_spans: counts.possible_duplicate.load(Relaxed),
            queue_bytes,
            queue_capacity_bytes,
            in_flight_requests: counts.in_flight_requests.load(Relaxed),
            last_error: self.last_error().clone(),
        }
    }
}

/// Counts a request as long as it is on the way, also if its future is dropped.
struct OnTheWay<'a>(&'a AtomicU64);

impl<'a> OnTheWay<'a> {
    fn new(count: &'a AtomicU64) -> OnTheWay<'a> {
        count.fetch_add(1, Relaxed);
        OnTheWay(count)
    }
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
