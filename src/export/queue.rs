//! One exporter's queue: bounded in bytes, custody on entry, ten requests on the way at a time.
//!
//! **Bound.** [`CAPACITY_BYTES`] counts everything not yet settled: what waits, what is being sent and what is between
//! tries. Full means refused before custody, so senders (or the peer that forwarded) keep the spans and try again.
//!
//! **Coalescing.** Whatever waits when a sender is free goes into one request, up to [`COALESCE_BYTES`]; nothing waits
//! to be coalesced. An idle exporter adds no delay, and a busy one sends fewer and larger requests by itself, at no more
//! than one copy of the bytes. 512 KiB is about 750 spans: the fixed cost of a request is below 2 % of it, and a request
//! that must be tried again is a small one. A *single* batch is cut at [`CUT_BYTES`], since the common gRPC servers refuse
//! larger messages for ever by default, and what is refused for ever is lost.
//!
//! **Retries.** The Collector retries inside its consumers, so ten stuck requests stall its queue. Here a request that
//! waits for its next try gives its turn back and queues for another. Requests between tries are bounded too, by
//! [`MAX_REQUESTS`]: beyond it nothing is taken from the queue, where waiting spans cost nothing but their bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Backend, EncodeError, Outcome};
use crate::config::settings::{ComponentId, RetrySettings};
use crate::logic::backoff::Backoff;
use crate::model::{Batch, DropReason, Fate, Reason, Receipt, Refusal, Spans, Tick};
use crate::pipeline::Consume;
use crate::pipeline::join::{cut, join};
use crate::runtime::clock::Clock;

/// Most bytes of spans one exporter keeps: 100,000 spans of 0.7 kB, or a second of a busy owner's whole output, so that
/// a backend's pause is ridden out; and the largest request a receiver takes by default, so that any batch fits.
pub const CAPACITY_BYTES: u64 = 64 << 20;

/// Most bytes of a request put together from several batches.
pub const COALESCE_BYTES: usize = 512 << 10;

/// Batches larger than this are cut: the default limit of a message in grpc-go and tonic.
pub const CUT_BYTES: usize = 4 << 20;

/// Requests on the way at a time, the Collector's `num_consumers`.
pub const CONCURRENT_SENDS: usize = 10;

/// Requests being sent or between tries, the Collector's `queue_size`.
pub const MAX_REQUESTS: usize = 1000;

/// Requests above this are encoded on a thread that may block.
const ENCODE_INLINE_BYTES: usize = 1 << 20;

/// What one exporter has done, in spans unless said otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct ExporterStatus {
    pub id: ComponentId,
    /// The component type, `otlp_http`.
    pub kind: &'static str,
    pub sent_spans: u64,
    /// Given up after custody: permanent errors, retries exhausted, spans a backend rejected, what a stop cut short.
    pub send_failed_spans: u64,
    /// Refused because the queue was full or closed.
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
    last_error: Mutex<Option<String>>,
}

/// An exporter: takes batches, delivers them in the background. See the module's head.
pub struct ExportQueue(Arc<Shared>);

struct Shared {
    id: ComponentId,
    backend: Arc<dyn Backend>,
    retry: RetrySettings,
    clock: Clock,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    turns: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Set when what is left must be given up.
    stop: CancellationToken,
    tasks: TaskTracker,
    counts: Counts,
}

struct Waiting {
    batches: VecDeque<(Batch, Slot)>,
    /// Sum of all slots, reserved, waiting or on their way.
    bytes: u64,
    /// New slots are given.
    open: bool,
    /// Nobody takes from here any more.
    given_up: bool,
}

/// Room in a queue, reserved; given back when dropped.
pub struct Slot {
    queue: Arc<Shared>,
    bytes: u64,
}

impl Slot {
    /// Puts a batch into its reserved room and takes custody of it.
    pub fn put(self, mut batch: Batch) {
        if batch.spans.is_empty() {
            batch.receipt.resolve(Fate::Exported);
            return;
        }
        batch.receipt.accept();
        let queue = self.queue.clone();
        let mut slot = self;
        let mut placed = Vec::with_capacity(1);
        for piece in pieces(batch) {
            let part = slot.split(piece.spans.bytes.len());
            placed.push((piece, part));
        }
        let mut waiting = queue.waiting();
        if waiting.given_up {
            drop(waiting);
            placed.into_iter().for_each(|(piece, _slot)| queue.cut_short(piece.receipt));
        } else {
            waiting.batches.extend(placed);
            drop(waiting);
            queue.arrived.notify_one();
        }
    }

    fn split(&mut self, bytes: usize) -> Slot {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        Slot { queue: self.queue.clone(), bytes }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting();
        waiting.bytes -= self.bytes;
        // The end waits for the last slot.
        let last = !waiting.open && waiting.bytes == 0;
        drop(waiting);
        if last {
            self.queue.arrived.notify_one();
        }
    }
}

/// The batch in pieces of at most [`CUT_BYTES`], in order; a single span is never cut.
fn pieces(batch: Batch) -> Vec<Batch> {
    let mut done = Vec::with_capacity(1);
    let mut todo = vec![batch];
    while let Some(batch) = todo.pop() {
        if batch.spans.bytes.len() <= CUT_BYTES || batch.spans.len() < 2 {
            done.push(batch);
        } else {
            let half = batch.spans.len() / 2;
            let (first, rest) = cut(batch, half);
            todo.push(rest);
            todo.push(first);
        }
    }
    done
}

impl Consume for ExportQueue {
    fn consume(&self, batch: Batch) {
        match self.reserve(batch.spans.bytes.len(), batch.receipt.spans()) {
            Ok(slot) => slot.put(batch),
            Err(refusal) => batch.receipt.resolve(Fate::Refused(refusal)),
        }
    }
}

impl ExportQueue {
    /// Starts the queue's tasks on the current runtime; they end with [`ExportQueue::drain`].
    pub fn start(id: ComponentId, backend: Arc<dyn Backend>, retry: RetrySettings, clock: Clock) -> Arc<ExportQueue> {
        let shared = Arc::new(Shared {
            id,
            backend,
            retry,
            clock,
            waiting: Mutex::new(Waiting { batches: VecDeque::new(), bytes: 0, open: true, given_up: false }),
            arrived: Notify::new(),
            turns: Arc::new(Semaphore::new(CONCURRENT_SENDS)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counts: Counts::default(),
        });
        shared.tasks.spawn(dispatch(shared.clone()));
        Arc::new(ExportQueue(shared))
    }

    /// Room for a batch of `bytes`, so that a fan-out can ask all its queues before it gives anything to one of them.
    /// An empty queue takes a batch of any size: it would otherwise be refused for ever.
    pub fn reserve(&self, bytes: usize, spans: u32) -> Result<Slot, Refusal> {
        let bytes = bytes as u64;
        let mut waiting = self.0.waiting();
        let reason = if !waiting.open {
            Reason::ShuttingDown
        } else if waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > CAPACITY_BYTES {
            Reason::QueueFull
        } else {
            waiting.bytes += bytes;
            return Ok(Slot { queue: self.0.clone(), bytes });
        };
        self.0.counts.enqueue_failed.fetch_add(u64::from(spans), Relaxed);
        Err(Refusal::passing(reason))
    }

    /// Takes nothing more, delivers what it has until `deadline`, and gives up the rest as
    /// [`DropReason::Shutdown`]. Returns how many spans that were.
    pub async fn drain(&self, deadline: Tick) -> u64 {
        let shared = &self.0;
        shared.waiting().open = false;
        shared.arrived.notify_one();
        shared.tasks.close();
        if tokio::time::timeout_at(shared.clock.instant(deadline), shared.tasks.wait()).await.is_err() {
            shared.stop.cancel();
            shared.tasks.wait().await;
        }
        shared.counts.cut_short.load(Relaxed)
    }

    pub fn status(&self) -> ExporterStatus {
        let counts = &self.0.counts;
        ExporterStatus {
            id: self.0.id.clone(),
            kind: self.0.backend.kind(),
            sent_spans: counts.sent.load(Relaxed),
            send_failed_spans: counts.send_failed.load(Relaxed),
            enqueue_failed_spans: counts.enqueue_failed.load(Relaxed),
            rejected_spans: counts.rejected.load(Relaxed),
            possible_duplicate_spans: counts.possible_duplicate.load(Relaxed),
            queue_bytes: self.0.waiting().bytes,
            queue_capacity_bytes: CAPACITY_BYTES,
            in_flight_requests: counts.in_flight_requests.load(Relaxed),
            last_error: self.0.last_error().clone(),
        }
    }
}

/// Takes from the queue whenever a request may be sent. Ends when the queue is closed and all of it is settled.
async fn dispatch(shared: Arc<Shared>) {
    let permits = async |all: &Arc<Semaphore>| all.clone().acquire_owned().await.ok();
    loop {
        let ready = async {
            let room = permits(&shared.requests).await?;
            let turn = permits(&shared.turns).await?;
            Some((shared.next().await?, room, turn))
        };
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => {
                let left = shared.give_up_waiting();
                left.into_iter().for_each(|(batch, _slot)| shared.cut_short(batch.receipt));
                return;
            }
            taken = ready => match taken {
                Some(((batch, slots), room, turn)) => {
                    let shared = shared.clone();
                    let tasks = shared.tasks.clone();
                    tasks.spawn(async move {
                        shared.deliver(batch, turn).await;
                        drop((slots, room));
                    });
                }
                None => return,
            },
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.counts.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request, or `None` when there will be none.
    async fn next(&self) -> Option<(Batch, Vec<Slot>)> {
        loop {
            let (taken, over) = self.take();
            let (batches, slots): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
            if let Some(batch) = join(batches) {
                return Some((batch, slots));
            }
            if over {
                return None;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> (Vec<(Batch, Slot)>, bool) {
        let mut waiting = self.waiting();
        let mut bytes = 0;
        let mut count = 0;
        for (batch, _) in &waiting.batches {
            bytes += batch.spans.bytes.len();
            if count > 0 && bytes > COALESCE_BYTES {
                break;
            }
            count += 1;
        }
        let over = !waiting.open && waiting.bytes == 0;
        (waiting.batches.drain(..count).collect(), over)
    }

    fn give_up_waiting(&self) -> VecDeque<(Batch, Slot)> {
        let mut waiting = self.waiting();
        waiting.given_up = true;
        std::mem::take(&mut waiting.batches)
    }

    /// One request until it is settled. `turn` is the right to send, given back between tries.
    async fn deliver(self: &Arc<Self>, batch: Batch, turn: OwnedSemaphorePermit) {
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
                self.turns.clone().acquire_owned().await.ok()
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
        tracing::warn!(exporter = %self.id, spans, reason = reason.label(), error = message, "spans are dropped");
        self.counts.send_failed.fetch_add(u64::from(spans), Relaxed);
        *self.last_error() = Some(message.to_owned());
        receipt.resolve(Fate::Dropped(reason));
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

    fn cut_short(&self, receipt: Receipt) {
        let spans = u64::from(receipt.spans());
        self.counts.send_failed.fetch_add(spans, Relaxed);
        self.counts.cut_short.fetch_add(spans, Relaxed);
        receipt.resolve(Fate::Dropped(DropReason::Shutdown));
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

#[cfg(test)]
mod tests;
