//! The ledger: every span's fate, counted where it is decided, so that the counts can be held against each other.
//!
//! The promise "every span's fate is counted, and the counts add up" is worth something only if it can fail. So
//! `in_flight` is a count of its own, moved by custody (up when a stage accepts, down when an accepted share meets
//! its fate), and not the difference of the others; [`LedgerStatus::balanced`] holds the two against each other.
//!
//! The counts stand behind one mutex rather than in an atomic each. A share changes two or three of them at once, and
//! a snapshot read between the two would look unbalanced on any busy node: an alert on it would be noise. The lock
//! is taken per share of a batch, never per span, for a few additions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::model::{DropReason, Fate, Holder, Receipt, Refusal};

/// Where spans came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A sender beside this node.
    Local,
    /// Another node.
    Peer,
}

/// The counts of one node since its start, in spans.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LedgerStatus {
    pub received_local: u64,
    pub received_peer: u64,
    pub refused: u64,
    pub forwarded: u64,
    pub exported: u64,
    pub duplicate: u64,
    /// Dropped by a sampling policy.
    pub sampled_out: u64,
    /// By [`crate::model::DropReason::label`].
    pub dropped: BTreeMap<&'static str, u64>,
    /// Accepted and then forgotten by a stage: a defect.
    pub released: u64,
    /// Accepted and not yet resolved, counted on its own and not computed from the others.
    pub in_flight: u64,
    /// `received_local + received_peer == forwarded + exported + duplicate + sampled_out + dropped + released + in_flight`
    pub balanced: bool,
}

/// One node's counts. Shared by all receivers.
#[derive(Default)]
pub struct Ledger {
    counts: Mutex<Counts>,
}

#[derive(Clone, Default)]
struct Counts {
    received_local: u64,
    received_peer: u64,
    refused: u64,
    forwarded: u64,
    exported: u64,
    duplicate: u64,
    sampled_out: u64,
    /// In the order of [`DropReason::ALL`].
    dropped: [u64; DropReason::ALL.len()],
    released: u64,
    /// Signed: a share resolved twice must show as an imbalance and not wrap.
    in_flight: i64,
}

impl Counts {
    fn received(&mut self, from: Source) -> &mut u64 {
        match from {
            Source::Local => &mut self.received_local,
            Source::Peer => &mut self.received_peer,
        }
    }

    /// Counts the fate of spans in custody.
    fn settle(&mut self, spans: u64, fate: &Fate) {
        let count = match fate {
            Fate::Duplicate => &mut self.duplicate,
            Fate::SampledOut => &mut self.sampled_out,
            Fate::Exported => &mut self.exported,
            Fate::Forwarded => &mut self.forwarded,
            Fate::Dropped(reason) => match reason {
                DropReason::BackendRefused => &mut self.dropped[0],
                DropReason::RetriesExhausted => &mut self.dropped[1],
                DropReason::Shutdown => &mut self.dropped[2],
            },
            Fate::Refused(_) | Fate::Released => &mut self.released,
        };
        *count += spans;
    }
}

impl Ledger {
    /// A receipt for spans that have just come in. `answered` is called once, when they are accepted or refused.
    pub fn open(
        self: &Arc<Self>,
        spans: u32,
        from: Source,
        answered: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) -> Receipt {
        Receipt::new(spans, Entry { ledger: self.clone(), from, answered: Mutex::new(Some(Box::new(answered))) })
    }

    /// All counts at one moment.
    pub fn status(&self) -> LedgerStatus {
        let counts = self.counts().clone();
        let gone = counts.forwarded + counts.exported + counts.duplicate + counts.sampled_out + counts.released;
        let gone = gone + counts.dropped.iter().sum::<u64>();
        let received = counts.received_local + counts.received_peer;
        LedgerStatus {
            received_local: counts.received_local,
            received_peer: counts.received_peer,
            refused: counts.refused,
            forwarded: counts.forwarded,
            exported: counts.exported,
            duplicate: counts.duplicate,
            sampled_out: counts.sampled_out,
            dropped: DropReason::ALL.iter().zip(counts.dropped).map(|(reason, n)| (reason.label(), n)).collect(),
            released: counts.released,
            in_flight: u64::try_from(counts.in_flight).unwrap_or(0),
            balanced: i128::from(received) == i128::from(gone) + i128::from(counts.in_flight),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// The spans of one receipt in the ledger.
struct Entry {
    ledger: Arc<Ledger>,
    from: Source,
    answered: Mutex<Option<Answer>>,
}

impl Holder for Entry {
    fn accepted(&self, spans: u32) {
        let mut counts = self.ledger.counts();
        *counts.received(self.from) += u64::from(spans);
        counts.in_flight += i64::from(spans);
    }

    fn resolved(&self, spans: u32, fate: &Fate, accepted: bool) {
        let never_taken = matches!(fate, Fate::Refused(_) | Fate::Released);
        let count = u64::from(spans);
        let mut counts = self.ledger.counts();
        match (accepted, never_taken) {
            (true, _) => {
                counts.in_flight -= i64::from(spans);
                counts.settle(count, fate);
            }
            (false, true) => counts.refused += count,
            // Settled at once, without a time in custody: a duplicate, say.
            (false, false) => {
                *counts.received(self.from) += count;
                counts.settle(count, fate);
            }
        }
        drop(counts);
        if accepted && never_taken {
            tracing::error!(spans, ?fate, "spans were accepted and then forgotten by a stage");
        }
    }

    fn answered(&self, answer: Result<(), Refusal>) {
        let waiting = self.answered.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = waiting {
            tell(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    type Told = Arc<Mutex<Option<Result<(), Refusal>>>>;

    fn open(ledger: &Arc<Ledger>, spans: u32, from: Source) -> (Receipt, Told) {
        let answer = Told::default();
        let told = answer.clone();
        let receipt = ledger.open(spans, from, move |said| {
            assert!(told.lock().unwrap().replace(said).is_none(), "answered twice");
        });
        (receipt, answer)
    }

    #[test]
    fn spans_in_custody_are_in_flight_until_their_fate_is_known() {
        let ledger = Arc::new(Ledger::default());
        let (mut receipt, answer) = open(&ledger, 10, Source::Local);
        let mut part = receipt.split(4);
        part.accept();
        assert_eq!((ledger.status().received_local, ledger.status().in_flight), (4, 4));
        assert_eq!(*answer.lock().unwrap(), None);
        receipt.accept();
        assert_eq!(*answer.lock().unwrap(), Some(Ok(())));
        part.resolve(Fate::Forwarded);
        let status = ledger.status();
        assert_eq!((status.received_local, status.in_flight, status.forwarded), (10, 6, 4));
        assert!(status.balanced);
        receipt.resolve(Fate::Dropped(DropReason::RetriesExhausted));
        let status = ledger.status();
        assert_eq!((status.in_flight, status.dropped["retries_exhausted"]), (0, 6));
        assert!(status.balanced);
    }

    #[test]
    fn refused_spans_were_never_received() {
        let ledger = Arc::new(Ledger::default());
        let (receipt, answer) = open(&ledger, 7, Source::Peer);
        let refusal = Refusal::passing(Reason::MemoryLimit);
        receipt.resolve(Fate::Refused(refusal.clone()));
        drop(open(&ledger, 2, Source::Local).0);
        let status = ledger.status();
        assert_eq!((status.received_peer, status.received_local, status.refused, status.in_flight), (0, 0, 9, 0));
        assert_eq!(*answer.lock().unwrap(), Some(Err(refusal)));
        assert!(status.balanced);
    }

    #[test]
    fn spans_settled_at_once_are_received_and_settled() {
        let ledger = Arc::new(Ledger::default());
        let (receipt, answer) = open(&ledger, 3, Source::Peer);
        receipt.resolve(Fate::Duplicate);
        let status = ledger.status();
        assert_eq!((status.received_peer, status.duplicate, status.in_flight), (3, 3, 0));
        assert_eq!(*answer.lock().unwrap(), Some(Ok(())));
        assert!(status.balanced);
    }

    #[test]
    fn accepted_spans_that_a_stage_forgot_are_counted_as_such() {
        let ledger = Arc::new(Ledger::default());
        let (mut receipt, _) = open(&ledger, 5, Source::Local);
        receipt.accept();
        drop(receipt);
        let status = ledger.status();
        assert_eq!((status.received_local, status.released, status.in_flight), (5, 5, 0));
        assert!(status.balanced);
    }

    #[test]
    fn every_drop_reason_has_its_own_count() {
        let ledger = Arc::new(Ledger::default());
        for (spans, reason) in (1..).zip(DropReason::ALL) {
            let (mut receipt, _) = open(&ledger, spans, Source::Local);
            receipt.accept();
            receipt.resolve(Fate::Dropped(reason));
        }
        let dropped = ledger.status().dropped;
        let expected = BTreeMap::from([("backend_refused", 1), ("retries_exhausted", 2), ("shutdown", 3)]);
        assert_eq!(dropped, expected);
    }
}
