//! Where spans go: to the owned pipeline, to the queues of their owners, or back to whoever offered them.
//!
//! The rule of custody: **a batch is offered to every queue before any part of it is taken.** If one owner's queue is full
//! the batch is refused as a whole, so the sender's retry is not a retry of what was taken. (The owned pipeline is the
//! exception, for it can refuse later; dedup then finds what comes again.) Peers' spans go before local ones: they
//! were accepted somewhere already, and a local sender can still hold its own.
//!
//! What is once in custody is never refused. When an owner goes, what waits for it is walked again and placed anew: the
//! index of a queued part is not kept, for it would cost an eighth of the part for as long as it waits, and is needed in
//! the rare case only. When nothing can take it (no owner at all, or this node's own pipeline is full), it is *parked*:
//! bounded by what was admitted before, tried again every second and whenever the ring moves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tracing::error;

use super::link::NoRoom;
use super::queue::{Class, Part, cost};
use super::shared::{Core, Table};
use crate::logic::ring::MemberIndex;
use crate::logic::route::{Route, route};
use crate::model::{Batch, DropReason, Fate, Holder, Reason, Receipt, Refusal, Spans, Tick};
use crate::wire::{self, ResourceEdits, Stamping};

/// Parts above this are cut, so that no local request makes a batch that takes long on a slow link.
const MAX_PART: usize = 1 << 20;
/// How often the ring may move while one batch is placed.
const TRIES: usize = 4;
/// What a small request may become for all its owners together; a larger one may grow fourfold.
const MAY_GROW_TO: u64 = 16 << 20;
/// When parked parts are tried again, if the ring does not move before.
pub(super) const PARKED_PAUSE: Duration = Duration::from_secs(1);

/// Spans in custody that have no place.
#[derive(Default)]
pub(super) struct Parked {
    parts: VecDeque<(Tick, Part)>,
    bytes: usize,
}

impl Parked {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn spans(&self) -> u64 {
        self.parts.iter().map(|(_, part)| u64::from(part.spans)).sum()
    }

    /// When the first one is to be tried again.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        self.parts.front().map(|(due, _)| *due)
    }

    fn push(&mut self, part: Part, due: Tick) {
        self.bytes += part.bytes.len();
        self.parts.push_back((due, part));
    }

    /// Those due by `now`, or all.
    fn take(&mut self, now: Option<Tick>) -> Vec<Part> {
        let due = match now {
            Some(now) => self.parts.iter().take_while(|(due, _)| *due <= now).count(),
            None => self.parts.len(),
        };
        let parts: Vec<Part> = self.parts.drain(..due).map(|(_, part)| part).collect();
        self.bytes -= parts.iter().map(|part| part.bytes.len()).sum::<usize>();
        parts
    }
}

impl Core {
    /// Places a batch. Never waits. A node that leaves takes no more into custody, from peers neither: what they still
    /// send stays theirs and goes to the new owner, so what is left here to hand over only shrinks.
    pub(super) fn place(self: &Arc<Self>, mut batch: Batch) {
        if self.stop.is_cancelled() || (self.is_leaving() && !batch.receipt.is_accepted()) {
            return self.not_now(batch, Reason::ShuttingDown);
        }
        // What peers send was stamped where it was taken in.
        let stamping = if batch.hops == 0 { self.stamp.look(&batch.spans) } else { Stamping::default() };
        if stamping.conflicting_spans > 0 {
            self.counts.add(|counts| &counts.cluster_conflict_spans, stamping.conflicting_spans);
        }
        let edits = stamping.needed.then(|| self.stamp.edits());
        for _ in 0..TRIES {
            let table = self.table.load();
            match self.place_by(&table, batch, edits) {
                Ok(()) => return,
                Err(again) => batch = again,
            }
        }
        self.not_now(batch, Reason::NoOwner);
    }

    /// `Err`: the table is out of date, nothing has been done.
    #[allow(clippy::result_large_err, reason = "the batch goes back by value to be placed again, which is rare")]
    fn place_by(self: &Arc<Self>, table: &Table, mut batch: Batch, edits: Option<&ResourceEdits>) -> Result<(), Batch> {
        let (route, over_the_limit) = route(&table.ring, table.me, &batch.spans, batch.hops);
        if over_the_limit {
            self.counts.add(|counts| &counts.hop_limit_spans, batch.spans.len() as u64);
        }
        let parts = match route {
            Route::Mine => {
                if let Some(edits) = edits {
                    batch.spans = wire::edit_resources(&batch.spans, edits);
                    batch.held.resize(batch.spans.bytes.len());
                }
                self.keep(batch);
                return Ok(());
            }
            Route::NoOwner => {
                self.not_now(batch, Reason::NoOwner);
                return Ok(());
            }
            Route::Whole(owner) => {
                let mut parts = SmallVec::<[(MemberIndex, Spans); 4]>::new();
                let spans = match edits {
                    Some(edits) => wire::edit_resources(&batch.spans, edits),
                    None => batch.spans.clone(),
                };
                cut(owner, spans, &mut parts);
                parts
            }
            Route::Split { owners, .. }
                if !batch.receipt.is_accepted() && grows_too_much(&batch.spans, owners.len()) =>
            {
                batch.receipt.resolve(Fate::Refused(Refusal::Permanent { reason: Reason::TooLarge }));
                return Ok(());
            }
            Route::Split { group_of, owners } => {
                let mut parts = SmallVec::new();
                for part in wire::regroup(&batch.spans, &group_of, owners.len() as u16, edits) {
                    if let Some(owner) = owners.get(usize::from(part.group)) {
                        if Some(*owner) == table.me {
                            parts.push((*owner, part.spans));
                        } else {
                            cut(*owner, part.spans, &mut parts);
                        }
                    }
                }
                parts
            }
        };
        self.hand_out(table, batch, parts)
    }

    #[allow(clippy::result_large_err, reason = "as above")]
    fn hand_out(
        self: &Arc<Self>,
        table: &Table,
        batch: Batch,
        parts: SmallVec<[(MemberIndex, Spans); 4]>,
    ) -> Result<(), Batch> {
        let class = match (batch.receipt.is_accepted(), batch.hops) {
            (true, _) => Class::Admitted,
            (false, 0) => Class::Local,
            (false, _) => Class::Peer,
        };
        let wanted = room_wanted(table, &parts);
        for (done, (owner, bytes)) in wanted.iter().enumerate() {
            let reserved = match table.link(*owner) {
                Some(link) => link.reserve(*bytes, class),
                None => Err(NoRoom::Full),
            };
            let Err(no_room) = reserved else { continue };
            for (owner, bytes) in wanted.iter().take(done) {
                if let Some(link) = table.link(*owner) {
                    link.release(*bytes);
                }
            }
            if no_room == NoRoom::NotOwner {
                return Err(batch);
            }
            self.not_now(batch, Reason::QueueFull);
            return Ok(());
        }

        let Batch { receipt, held, hops, .. } = batch;
        let budget = held.budget().clone();
        let mut receipt = Some(receipt);
        let mut left = parts.len();
        for (owner, spans) in parts {
            left -= 1;
            // The last part answers for all that is left, so that no span goes without an answer.
            let count = u32::try_from(spans.len()).unwrap_or(u32::MAX);
            let share = if left > 0 { receipt.as_mut().map(|all| all.split(count)) } else { receipt.take() };
            let Some(mut share) = share else { break };
            let held = budget.hold(spans.bytes.len());
            match table.link(owner) {
                None => self.keep(Batch { spans, receipt: share, held, hops }),
                Some(link) => {
                    share.accept();
                    link.push(Part { bytes: spans.bytes, spans: share.spans(), hops, receipt: share, held });
                }
            }
        }
        Ok(())
    }

    /// Hands a batch to the pipeline of what this node owns. One that is in custody already comes back if the
    /// pipeline refuses it, and is parked.
    fn keep(self: &Arc<Self>, batch: Batch) {
        if !batch.receipt.is_accepted() {
            return self.owned.consume(batch);
        }
        let Batch { spans, receipt, held, hops } = batch;
        let state = Insisting { receipt: Some(receipt), bytes: spans.bytes.clone(), fates: SmallVec::new() };
        let insist = Insist { core: self.clone(), hops, state: Mutex::new(state) };
        let receipt = Receipt::new(u32::try_from(spans.len()).unwrap_or(u32::MAX), insist);
        self.owned.consume(Batch { spans, receipt, held, hops });
    }

    /// Nothing can take the batch: it goes back to its sender, or is parked if it is in custody.
    fn not_now(&self, batch: Batch, reason: Reason) {
        let Batch { spans, receipt, held, hops } = batch;
        if receipt.is_accepted() {
            self.park(Part { bytes: spans.bytes, spans: receipt.spans(), hops, receipt, held });
        } else {
            receipt.resolve(Fate::Refused(Refusal::passing(reason)));
        }
    }

    fn park(&self, part: Part) {
        let due = self.clock.now() + PARKED_PAUSE;
        let mut parked = self.parked();
        // Asked under the lock: after the stop what is parked is given up, once.
        if self.stop.is_cancelled() {
            drop(parked);
            return part.receipt.resolve(Fate::Dropped(DropReason::Shutdown));
        }
        parked.push(part, due);
        drop(parked);
        self.stranded.notify_one();
    }

    pub(super) fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds another place for what waits for members that own nothing any more, and for what is parked: what is due,
    /// or all of it after the ring moved.
    pub(super) fn place_stranded(self: &Arc<Self>, all_parked: bool) {
        let now = (!all_parked).then(|| self.clock.now());
        let _moving = self.moving();
        let mut parts = self.parked().take(now);
        parts.extend(self.all_links().iter().flat_map(|link| link.take_stranded()));
        for part in parts {
            let Part { bytes, spans, hops, receipt, held } = part;
            match wire::walk(bytes, &self.limits) {
                Ok(walked) => {
                    self.counts.add(|counts| &counts.rerouted_spans, u64::from(spans));
                    self.place(Batch { spans: walked.spans, receipt, held, hops });
                }
                Err(error) => {
                    // These bytes were walked when they were taken.
                    error!(%error, spans, "spans in custody cannot be read any more");
                    receipt.resolve(Fate::Released);
                }
            }
        }
    }

    /// Held while spans are on their way from one queue to another, so that nobody finds all queues empty meanwhile.
    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in custody for peers or without a place.
    pub(super) fn outstanding(&self) -> usize {
        let _still = self.moving();
        let queued: usize = self.all_links().iter().map(|link| link.occupied()).sum();
        queued + self.parked().bytes()
    }

    /// Gives up what is left when the node stops; the spans given up.
    pub(super) fn give_up(&self) -> u64 {
        let mut parts = self.parked().take(None);
        parts.extend(self.all_links().iter().flat_map(|link| link.take_all()));
        let spans = parts.iter().map(|part| u64::from(part.spans)).sum();
        parts.into_iter().for_each(|part| part.receipt.resolve(Fate::Dropped(DropReason::Shutdown)));
        spans
    }
}

/// Whether cutting a batch up by owner would multiply it: a request that is nearly all resource attributes is repeated for
/// every owner, and a mesh has many.
fn grows_too_much(spans: &Spans, owners: usize) -> bool {
    wire::most_bytes(spans, owners) > (4 * spans.bytes.len() as u64).max(MAY_GROW_TO)
}

/// What parts for peers take of their queues; the parts of one owner stand together.
fn room_wanted(table: &Table, parts: &[(MemberIndex, Spans)]) -> SmallVec<[(MemberIndex, usize); 4]> {
    let mut wanted = SmallVec::<[(MemberIndex, usize); 4]>::new();
    for (owner, spans) in parts.iter().filter(|(owner, _)| Some(*owner) != table.me) {
        match wanted.last_mut() {
            Some((last, bytes)) if last == owner => *bytes += cost(spans.bytes.len()),
            _ => wanted.push((*owner, cost(spans.bytes.len()))),
        }
    }
    wanted
}

/// Cuts spans into parts of about [`MAX_PART`] bytes: by where they lie in the request and not by their number, since
/// one request may hold a thousand small ones and then the large. A part is larger by one span at most, and by the
/// resource and scope that it begins with; so it always fits into one batch.
fn cut(owner: MemberIndex, spans: Spans, parts: &mut SmallVec<[(MemberIndex, Spans); 4]>) {
    // The walker takes no request of 65,535 such parts.
    let pieces = u16::try_from(spans.bytes.len().div_ceil(MAX_PART)).unwrap_or(u16::MAX);
    if pieces < 2 || spans.len() < 2 {
        return parts.push((owner, spans));
    }
    let piece = |at: u32| (at as usize / MAX_PART).min(usize::from(pieces) - 1) as u16;
    let group_of: Vec<u16> = spans.spans.iter().map(|span| piece(span.field.start)).collect();
    parts.extend(wire::regroup(&spans, &group_of, pieces, None).into_iter().map(|part| (owner, part.spans)));
}

/// Stands between spans in custody and a pipeline that may refuse them.
struct Insist {
    core: Arc<Core>,
    hops: u8,
    state: Mutex<Insisting>,
}

#[derive(Default)]
struct Insisting {
    receipt: Option<Receipt>,
    /// To offer them again.
    bytes: Bytes,
    /// Those that they have met so far.
    fates: SmallVec<[(u32, Fate); 2]>,
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
            // The pipeline counts what it keeps; these would be held beside it, by nobody's count.
            self.state().bytes = Bytes::new();
        }
    }

    fn finished(&self, worst: Fate) {
        let Insisting { receipt, bytes, fates } = std::mem::take(&mut *self.state());
        let Some(mut receipt) = receipt else { return };
        if matches!(worst, Fate::Refused(Refusal::RetryAfter { .. })) && !bytes.is_empty() {
            // All of it again: dedup knows those that were taken.
            let held = self.core.budget.hold(bytes.len());
            let (spans, hops) = (receipt.spans(), self.hops);
            return self.core.park(Part { bytes, spans, hops, receipt, held });
        }
        let in_custody = |fate| match fate {
            Fate::Refused(Refusal::Permanent { .. }) => Fate::Dropped(DropReason::BackendRefused),
            // Only a stage that refuses what it had accepted comes here: it has lost them.
            Fate::Refused(Refusal::RetryAfter { .. }) => Fate::Released,
            fate => fate,
        };
        fates.into_iter().for_each(|(spans, fate)| receipt.split(spans).resolve(in_custody(fate)));
        receipt.resolve(in_custody(worst));
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::MAX_BATCH;
    use super::super::tests::request;
    use super::*;
    use crate::model::TraceId;

    #[test]
    fn a_request_of_small_spans_and_then_large_ones_is_cut_into_parts_that_fit_into_batches() {
        let mut bytes = request((0..20_000).map(|n| (TraceId([1; 16]), n)), 10);
        bytes.extend(request((20_000..20_080).map(|n| (TraceId([1; 16]), n)), 1_000_000));
        let spans = wire::walk(bytes.into(), &wire::Limits::default()).unwrap().spans;
        assert!(spans.bytes.len() > MAX_BATCH);
        let (count, mut parts) = (spans.len(), SmallVec::new());
        cut(0, spans, &mut parts);
        assert_eq!(parts.iter().map(|(_, part)| part.len()).sum::<usize>(), count);
        let largest = parts.iter().map(|(_, part)| part.bytes.len()).max();
        assert!(largest < Some(3 * MAX_PART), "{largest:?}");
    }
}
