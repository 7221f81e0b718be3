//! `batch`: puts small batches together, and lets errors through.
//!
//! The Collector's processor answers its senders at once and sends later; if that fails it logs a line, and the spans
//! are gone without a count. Here a sender is answered when the batch that its spans became was accepted or refused
//! further on ([`crate::model::Receipt::merge`]). A sender so waits up to `timeout` for its answer: that is what
//! "somebody has it" costs, and senders that want it cheaper send larger batches.
//!
//! A batch that is full goes out on the thread that filled it; a task only keeps the time. So nothing is queued: what
//! is held is less than one batch and what one sender adds, and it is also bounded in bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Consume;
use super::join::{cut, join};
use crate::config::settings::BatchSettings;
use crate::model::{Batch, Tick};
use crate::runtime::clock::Clock;

/// Spans of this size together go out whatever their number: exporters would cut more again.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// One `batch` stage of one pipeline.
pub struct Batcher {
    settings: BatchSettings,
    clock: Clock,
    next: Arc<dyn Consume>,
    waiting: Mutex<Waiting>,
    changed: Notify,
    sent_batches: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Batch>,
    spans: usize,
    bytes: usize,
    /// When the oldest has waited long enough; set exactly while something waits.
    due: Option<Tick>,
    /// Nothing waits any more.
    stopped: bool,
}

impl Batcher {
    /// Starts the stage's timer on the current runtime; it ends with [`Batcher::stop`].
    pub fn start(settings: BatchSettings, clock: Clock, next: Arc<dyn Consume>) -> Arc<Batcher> {
        let batcher = Arc::new(Batcher {
            settings,
            clock,
            next,
            waiting: Mutex::default(),
            changed: Notify::new(),
            sent_batches: AtomicU64::new(0),
        });
        tokio::spawn(keep_time(batcher.clone()));
        batcher
    }

    /// Sends what waits; what comes later passes at once.
    pub fn stop(&self) {
        self.waiting().stopped = true;
        self.send_while(|waiting| waiting.spans > 0);
        self.changed.notify_one();
    }

    /// Spans that wait for more.
    pub fn waiting_spans(&self) -> usize {
        self.waiting().spans
    }

    /// Batches sent on so far.
    pub fn sent_batches(&self) -> u64 {
        self.sent_batches.load(Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, waiting: &Waiting) -> bool {
        let at_once = waiting.stopped || self.settings.timeout.is_zero();
        waiting.spans > 0
            && (at_once || waiting.spans >= self.settings.send_batch_size || waiting.bytes >= MAX_WAITING_BYTES)
    }

    /// Sends batch after batch as long as `go` says so; never under the lock.
    fn send_while(&self, go: impl Fn(&Waiting) -> bool) {
        loop {
            let taken = {
                let mut waiting = self.waiting();
                if !go(&waiting) {
                    return;
                }
                let taken = waiting.take(self.settings.send_batch_max_size);
                waiting.due = (waiting.spans > 0).then(|| self.clock.now() + self.settings.timeout);
                taken
            };
            if let Some(batch) = join(taken) {
                self.sent_batches.fetch_add(1, Relaxed);
                self.next.consume(batch);
            }
        }
    }
}

impl Waiting {
    /// Whole batches of at most `max_spans` together, the last one cut; all of them if it is 0.
    fn take(&mut self, max_spans: usize) -> Vec<Batch> {
        let mut taken = Vec::new();
        let mut room = if max_spans == 0 { usize::MAX } else { max_spans };
        while room > 0 {
            let Some(batch) = self.batches.pop_front() else { break };
            self.spans -= batch.spans.len();
            self.bytes -= batch.spans.bytes.len();
            if batch.spans.len() <= room {
                room -= batch.spans.len();
                taken.push(batch);
            } else {
                let (first, rest) = cut(batch, room);
                taken.push(first);
                self.spans += rest.spans.len();
                self.bytes += rest.spans.bytes.len();
                self.batches.push_front(rest);
                room = 0;
            }
        }
        taken
    }
}

impl Consume for Batcher {
    fn consume(&self, batch: Batch) {
        if batch.spans.is_empty() {
            return self.next.consume(batch);
        }
        let first = {
            let mut waiting = self.waiting();
            waiting.spans += batch.spans.len();
            waiting.bytes += batch.spans.bytes.len();
            waiting.batches.push_back(batch);
            let first = waiting.due.is_none();
            if first {
                waiting.due = Some(self.clock.now() + self.settings.timeout);
            }
            first
        };
        self.send_while(|waiting| self.is_full(waiting));
        if first {
            self.changed.notify_one();
        }
    }
}

/// Sends what has waited for `timeout`.
async fn keep_time(batcher: Arc<Batcher>) {
    loop {
        let (due, stopped) = {
            let waiting = batcher.waiting();
            (waiting.due, waiting.stopped)
        };
        if stopped {
            return;
        }
        match due {
            None => batcher.changed.notified().await,
            Some(due) => {
                tokio::select! {
                    () = tokio::time::sleep_until(batcher.clock.instant(due)) => {
                        let now = batcher.clock.now();
                        batcher.send_while(|waiting| waiting.due.is_some_and(|due| due <= now));
                    }
                    () = batcher.changed.notified() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
