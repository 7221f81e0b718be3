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
//! **Requests.** Those between tries are bounded too, by [`MAX_REQUESTS`]: beyond it nothing is taken from the queue,
//! where waiting spans cost nothing but their bytes. What becomes of a request is in [`super::courier`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::Backend;
use super::courier::{Courier, ExporterStatus};
use crate::config::settings::{ComponentId, RetrySettings};
use crate::model::{Batch, Fate, Reason, Refusal, Tick};
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

/// Requests being sent or between tries, the Collector's `queue_size`.
pub const MAX_REQUESTS: usize = 1000;

/// An exporter: takes batches, delivers them in the background. See the module's head.
pub struct ExportQueue(Arc<Shared>);

struct Shared {
    courier: Courier,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    requests: Arc<Semaphore>,
    tasks: TaskTracker,
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
            placed.into_iter().for_each(|(piece, _slot)| queue.courier.cut_short(piece.receipt));
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
            courier: Courier::new(id, backend, retry, clock),
            waiting: Mutex::new(Waiting { batches: VecDeque::new(), bytes: 0, open: true, given_up: false }),
            arrived: Notify::new(),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            tasks: TaskTracker::new(),
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
        drop(waiting);
        self.0.courier.not_enqueued(spans);
        Err(Refusal::passing(reason))
    }

    /// Takes nothing more, delivers what it has until `deadline`, and gives up the rest as
    /// [`crate::model::DropReason::Shutdown`]. Returns how many spans that were.
    pub async fn drain(&self, deadline: Tick) -> u64 {
        let shared = &self.0;
        shared.waiting().open = false;
        shared.arrived.notify_one();
        shared.tasks.close();
        if tokio::time::timeout_at(shared.courier.clock().instant(deadline), shared.tasks.wait()).await.is_err() {
            shared.courier.stop();
            shared.tasks.wait().await;
        }
        shared.courier.cut_short_spans()
    }

    pub fn status(&self) -> ExporterStatus {
        self.0.courier.status(self.0.waiting().bytes, CAPACITY_BYTES)
    }
}

/// Takes from the queue whenever a request may be sent. Ends when the queue is closed and all of it is settled.
async fn dispatch(shared: Arc<Shared>) {
    loop {
        let ready = async {
            let room = shared.requests.clone().acquire_owned().await.ok()?;
            let turn = shared.courier.turn().await?;
            Some((shared.next().await?, room, turn))
        };
        tokio::select! {
            biased;
            () = shared.courier.stopped() => {
                let left = shared.give_up_waiting();
                left.into_iter().for_each(|(batch, _slot)| shared.courier.cut_short(batch.receipt));
                return;
            }
            taken = ready => match taken {
                Some(((batch, slots), room, turn)) => {
                    let shared = shared.clone();
                    let tasks = shared.tasks.clone();
                    tasks.spawn(async move {
                        shared.courier.deliver(batch, turn).await;
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
}

#[cfg(test)]
mod tests;
