//! The way out of the trace buffer: kept spans go on to the next stage, and wait here while it cannot take them.
//!
//! A kept span's sender had its success long ago, so the next stage's "no" (an exporter's queue is full) has nobody to
//! go back to. Each release is therefore offered with a receipt that brings it back: it is *parked* and offered again
//! later, in the order of the releases, until it is taken. Only then does what it became of reach the receipts of
//! its spans and the dedup, once.
//!
//! Parked releases are kept as bytes and walked again when they are offered: their index would cost a tenth more for as
//! long as they wait. How much can be parked is bounded by admission: while it is more than a share of the buffer, no
//! new spans are let in ([`super::Assemble`]), and what is open already is bounded by itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::error;

use crate::logic::dedup::{Dedup, SpanKey};
use crate::logic::traces::Release;
use crate::model::{Batch, Budget, DropReason, Fate, Held, Holder, Receipt, Refusal, Spans};
use crate::pipeline::Consume;
use crate::runtime::clock::Clock;
use crate::wire;

/// What was taken in may have grown here by marks, and need not be checked again.
const NO_LIMITS: wire::Limits = wire::Limits {
    max_value_depth: u32::MAX,
    max_span_bytes: usize::MAX,
    max_attributes: usize::MAX,
    max_events: usize::MAX,
    max_links: usize::MAX,
    max_header_bytes: usize::MAX,
};

/// See the module's head.
pub(super) struct Exit {
    next: Arc<dyn Consume>,
    dedup: Option<Arc<Dedup>>,
    clock: Clock,
    budget: Budget,
    parked: Mutex<Parked>,
    /// Releases offered to the next stage that are neither taken nor parked again.
    unanswered: AtomicU64,
}

#[derive(Default)]
struct Parked {
    /// By their number, which is their order.
    parts: BTreeMap<u64, Part>,
    bytes: u64,
    last_number: u64,
    given_up: Option<GivenUp>,
}

/// The deadline of the stop has passed: what is parked is dropped, and what comes.
#[derive(Clone, Copy, Default)]
struct GivenUp {
    spans: u64,
}

struct Part {
    bytes: Bytes,
    custody: Custody,
    held: Held,
}

/// Who is to be told of the fate of some spans.
struct Custody {
    receipt: Receipt,
    keys: Vec<SpanKey>,
}

impl Exit {
    pub(super) fn new(next: Arc<dyn Consume>, dedup: Option<Arc<Dedup>>, clock: Clock, budget: Budget) -> Arc<Exit> {
        let parked = Mutex::default();
        Arc::new(Exit { next, dedup, clock, budget, parked, unanswered: AtomicU64::new(0) })
    }

    /// Bytes that wait for the next stage.
    pub(super) fn parked_bytes(&self) -> u64 {
        self.parked().bytes
    }

    /// Whether the next stage has taken all there was.
    pub(super) fn is_empty(&self) -> bool {
        // What comes back is parked before it stops being unanswered.
        self.unanswered.load(SeqCst) == 0 && self.parked().parts.is_empty()
    }

    /// Sends a release on, behind those that are parked.
    pub(super) fn send(self: &Arc<Self>, release: Release) {
        let Release { spans, mut receipts, keys } = release;
        let mut receipt = match receipts.len() {
            1 => receipts.remove(0),
            _ => Receipt::merge(receipts),
        };
        receipt.accept();
        let custody = Custody { receipt, keys };
        let mut parked = self.parked();
        parked.last_number += 1;
        let number = parked.last_number;
        if parked.parts.is_empty() && parked.given_up.is_none() {
            drop(parked);
            self.offer(number, spans, custody, Arc::default());
        } else {
            self.park(parked, number, spans.bytes, custody, &AtomicU64::default());
        }
    }

    /// Offers what is parked again, at most `most` releases, up to the first that is not taken. True: some are left
    /// that may be.
    pub(super) fn retry(self: &Arc<Self>, most: usize) -> bool {
        for _ in 0..most {
            let Some((number, part)) = self.parked().pop() else { return false };
            let Part { bytes, custody, held } = part;
            let counted = Arc::new(AtomicU64::new(bytes.len() as u64));
            match wire::walk(bytes, &NO_LIMITS) {
                Ok(walked) => self.offer(number, walked.spans, custody, counted.clone()),
                Err(error) => {
                    error!(%error, spans = custody.receipt.spans(), "kept spans cannot be read any more");
                    self.resolve(custody, SmallVec::new(), Fate::Released);
                }
            }
            self.uncount(&counted);
            drop(held);
            if self.parked().parts.contains_key(&number) {
                return false;
            }
        }
        true
    }

    /// Drops what is parked, and what would be from now on.
    pub(super) fn give_up(&self) {
        let parts = {
            let mut parked = self.parked();
            parked.bytes = 0;
            let parts = std::mem::take(&mut parked.parts);
            let given_up = parked.given_up.get_or_insert_default();
            given_up.spans += parts.values().map(|part| u64::from(part.custody.receipt.spans())).sum::<u64>();
            parts
        };
        parts.into_values().for_each(|part| self.drop_at_shutdown(part.custody));
    }

    /// Spans dropped by [`Exit::give_up`] and since.
    pub(super) fn given_up_spans(&self) -> u64 {
        self.parked().given_up.map_or(0, |given_up| given_up.spans)
    }

    /// `counted` of its bytes are among those that are parked, until the next stage has them: while it is asked again
    /// whether it takes them, there is no more room for others than before.
    fn offer(self: &Arc<Self>, number: u64, spans: Spans, custody: Custody, counted: Arc<AtomicU64>) {
        self.unanswered.fetch_add(1, SeqCst);
        let held = self.budget.hold(spans.bytes.len());
        let (custody, bytes) = (Some(custody), Some(spans.bytes.clone()));
        let state = Insisting { custody, bytes, fates: SmallVec::new() };
        let insist = Insist { exit: self.clone(), number, counted, state: Mutex::new(state) };
        let receipt = Receipt::new(u32::try_from(spans.len()).unwrap_or(u32::MAX), insist);
        self.next.consume(Batch { spans, receipt, held, hops: 0 });
    }

    fn park(
        &self,
        mut parked: MutexGuard<'_, Parked>,
        number: u64,
        bytes: Bytes,
        custody: Custody,
        counted: &AtomicU64,
    ) {
        parked.bytes = parked.bytes.saturating_sub(counted.swap(0, SeqCst));
        if let Some(given_up) = &mut parked.given_up {
            given_up.spans += u64::from(custody.receipt.spans());
            drop(parked);
            return self.drop_at_shutdown(custody);
        }
        let held = self.budget.hold(bytes.len() + size_of_val(&*custody.keys));
        parked.bytes += bytes.len() as u64;
        parked.parts.insert(number, Part { bytes, custody, held });
    }

    fn uncount(&self, counted: &AtomicU64) {
        let counted = counted.swap(0, SeqCst);
        if counted > 0 {
            let mut parked = self.parked();
            parked.bytes = parked.bytes.saturating_sub(counted);
        }
    }

    fn drop_at_shutdown(&self, custody: Custody) {
        self.resolve(custody, SmallVec::new(), Fate::Dropped(DropReason::Shutdown));
    }

    /// Tells all who are to know: the `fates`, each of so many spans, or `rest` if there are none.
    fn resolve(&self, custody: Custody, mut fates: Fates, rest: Fate) {
        let Custody { mut receipt, keys } = custody;
        if let Some(dedup) = &self.dedup
            && !keys.is_empty()
        {
            let worst = fates.iter().fold(rest.clone(), |worst, (_, fate)| worst.worst(fate.clone()));
            dedup.settle(&keys, &worst, self.clock.now());
        }
        // The last one answers for all that are left.
        let last = fates.pop().map_or(rest, |(_, fate)| fate);
        fates.into_iter().for_each(|(spans, fate)| receipt.split(spans).resolve(fate));
        receipt.resolve(last);
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    /// The first; its bytes still count.
    fn pop(&mut self) -> Option<(u64, Part)> {
        self.parts.pop_first()
    }
}

/// Fates met so far, each with how many spans met it.
type Fates = SmallVec<[(u32, Fate); 2]>;

/// Stands between kept spans and a stage that may refuse them.
struct Insist {
    exit: Arc<Exit>,
    number: u64,
    /// Bytes of it that count as parked.
    counted: Arc<AtomicU64>,
    state: Mutex<Insisting>,
}

#[derive(Default)]
struct Insisting {
    custody: Option<Custody>,
    /// To offer them again; gone once the next stage has taken them.
    bytes: Option<Bytes>,
    fates: Fates,
}

impl Insist {
    fn state(&self) -> MutexGuard<'_, Insisting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Insist {
    fn resolved(&self, spans: u32, fate: &Fate, _accepted: bool) {
        self.state().fates.push((spans, fate.clone()));
    }

    fn answered(&self, answer: Result<(), Refusal>) {
        if answer.is_ok() {
            self.exit.uncount(&self.counted);
            if self.state().bytes.take().is_some() {
                self.exit.unanswered.fetch_sub(1, SeqCst);
            }
        }
    }

    fn finished(&self, worst: Fate) {
        let Insisting { custody, bytes, fates } = std::mem::take(&mut *self.state());
        let Some(custody) = custody else { return };
        let unanswered = bytes.is_some();
        match (bytes, &worst) {
            (Some(bytes), Fate::Refused(Refusal::RetryAfter { .. })) => {
                self.exit.park(self.exit.parked(), self.number, bytes, custody, &self.counted);
            }
            _ => {
                let fates = fates.into_iter().map(|(spans, fate)| (spans, in_custody(fate))).collect();
                self.exit.resolve(custody, fates, in_custody(worst));
            }
        }
        if unanswered {
            self.exit.unanswered.fetch_sub(1, SeqCst);
        }
    }
}

/// What a refusal means for spans that have nowhere to go back to.
fn in_custody(fate: Fate) -> Fate {
    match fate {
        Fate::Refused(Refusal::Permanent { .. }) => Fate::Dropped(DropReason::BackendRefused),
        // Only a stage that refuses what it had accepted comes here: it has lost them.
        Fate::Refused(Refusal::RetryAfter { .. }) => Fate::Released,
        fate => fate,
    }
}

#[cfg(test)]
mod tests;
