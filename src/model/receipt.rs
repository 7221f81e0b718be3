//! The token that travels with spans and says, exactly once, what became of them.
//!
//! Two things are worth telling whoever handed spans over: that another stage has *accepted* them (the sender may be
//! answered, the peer may forget its copy once that is enough), and the *fate* they met at last (the ledger counts it;
//! the origin's journal will forget them). One token carries both, through every stage and over every fan-out, so
//! that no stage needs a protocol of its own:
//!
//! - [`Receipt::split`] when a batch is cut up (by owner, by duplicate or not): each part answers for its spans.
//! - [`Receipt::tee`] when the same spans go to several places: the worst fate counts.
//! - [`Receipt::watch`] when a stage wants to know the fate of what passed through it (dedup does).
//! - [`Receipt::merge`] when several batches become one.
//!
//! Counts stay exact over `watch` and `merge`: if some of the spans behind them were exported and some dropped, just as
//! many of the spans before them were. Only which of the merged batches lost them is not known. Where one part was not
//! taken at all, all of what was merged counts as not taken, since its senders will send all of it again.
//!
//! A receipt that is dropped without a fate resolves as [`Fate::Released`]: nothing hangs, the sender is asked to try
//! again, the ledger counts it, and a debug build fails, because some stage forgot it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::refusal::{Reason, Refusal};

/// What became of spans, from best to worst: where the same spans met several fates, the last in this order counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A true duplicate of a span in custody or already settled.
    Duplicate,
    /// Dropped by a sampling policy, as its verdict on the whole trace says.
    SampledOut,
    /// Delivered to every backend they were meant for.
    Exported,
    /// Accepted by the peer that owns them.
    Forwarded,
    /// Given up, by a rule that has a name.
    Dropped(DropReason),
    /// Not taken at all. Only possible before they were accepted.
    Refused(Refusal),
    /// A stage forgot them: a defect.
    Released,
}

/// The named rules by which accepted spans are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The backend said that it will never take them.
    BackendRefused,
    /// `retry_on_failure.max_elapsed_time` has passed.
    RetriesExhausted,
    /// The node stopped before they could be delivered.
    Shutdown,
}

impl DropReason {
    pub const ALL: [DropReason; 3] = [DropReason::BackendRefused, DropReason::RetriesExhausted, DropReason::Shutdown];

    /// The stable label, `snake_case`.
    pub fn label(self) -> &'static str {
        match self {
            DropReason::BackendRefused => "backend_refused",
            DropReason::RetriesExhausted => "retries_exhausted",
            DropReason::Shutdown => "shutdown",
        }
    }
}

impl Fate {
    fn badness(&self) -> u8 {
        match self {
            Fate::Duplicate => 0,
            Fate::SampledOut => 1,
            Fate::Exported => 2,
            Fate::Forwarded => 3,
            Fate::Dropped(_) => 4,
            Fate::Refused(Refusal::Permanent { .. }) => 5,
            Fate::Refused(Refusal::RetryAfter { .. }) => 6,
            Fate::Released => 7,
        }
    }

    /// The worse of two fates of the same spans.
    pub fn worst(self, other: Fate) -> Fate {
        if other.badness() > self.badness() { other } else { self }
    }

    /// Whether the spans need never be sent again: what a dedup filter may remember.
    pub fn is_settled(&self) -> bool {
        matches!(self, Fate::Duplicate | Fate::SampledOut | Fate::Exported | Fate::Forwarded)
    }
}

/// Who is told. Called from whichever thread resolves a share: must not block.
pub trait Holder: Send + Sync + 'static {
    /// Some stage has taken custody of `spans` spans of this receipt.
    fn accepted(&self, spans: u32) {
        let _ = spans;
    }

    /// `spans` spans have met `fate`. `accepted` tells whether [`Holder::accepted`] was called for them before.
    fn resolved(&self, spans: u32, fate: &Fate, accepted: bool) {
        let _ = (spans, fate, accepted);
    }

    /// Every span is either accepted or refused: the one who offered them can be answered. Called once.
    fn answered(&self, answer: Result<(), Refusal>) {
        let _ = answer;
    }

    /// Every span has met its fate. Called once, after everything else.
    fn finished(&self, worst: Fate) {
        let _ = worst;
    }
}

/// A share in the custody of some spans. See the module's head.
#[must_use = "a receipt that is dropped tells its sender to send again"]
pub struct Receipt {
    group: Arc<Group>,
    spans: u32,
    accepted: bool,
    resolved: bool,
}

struct Group {
    holder: Box<dyn Holder>,
    unanswered: AtomicU32,
    unresolved: AtomicU32,
    refusal: Mutex<Option<Refusal>>,
    worst: Mutex<Fate>,
}

impl Group {
    fn one_answered(&self, refusal: Option<&Refusal>) {
        if let Some(refusal) = refusal {
            let mut kept = lock(&self.refusal);
            let keep_first = matches!((&*kept, refusal), (Some(Refusal::RetryAfter { .. }), _));
            if !keep_first {
                *kept = Some(refusal.clone());
            }
        }
        if self.unanswered.fetch_sub(1, Ordering::AcqRel) == 1 {
            let answer = lock(&self.refusal).take().map_or(Ok(()), Err);
            self.holder.answered(answer);
        }
    }

    fn one_resolved(&self, fate: Fate) {
        {
            let mut worst = lock(&self.worst);
            let so_far = std::mem::replace(&mut *worst, Fate::Duplicate);
            *worst = so_far.worst(fate);
        }
        if self.unresolved.fetch_sub(1, Ordering::AcqRel) == 1 {
            let worst = std::mem::replace(&mut *lock(&self.worst), Fate::Duplicate);
            self.holder.finished(worst);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Receipt {
    /// About what stays in memory until the last share is resolved, whatever the number of shares: the group, its holder
    /// at the place of origin, and what the allocator adds.
    pub const BYTES: usize = size_of::<Group>() + size_of::<Relay>();

    /// A receipt for `spans` spans; `holder` is told what becomes of them.
    pub fn new(spans: u32, holder: impl Holder) -> Receipt {
        let group = Group {
            holder: Box::new(holder),
            unanswered: AtomicU32::new(1),
            unresolved: AtomicU32::new(1),
            refusal: Mutex::new(None),
            worst: Mutex::new(Fate::Duplicate),
        };
        Receipt { group: Arc::new(group), spans, accepted: false, resolved: false }
    }

    /// Spans that this share answers for.
    pub fn spans(&self) -> u32 {
        self.spans
    }

    /// Whether custody has been taken: from here on the spans can no longer be refused.
    pub fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Takes custody: whoever calls this keeps the spans until it resolves them. Further calls do nothing.
    pub fn accept(&mut self) {
        if !self.accepted {
            self.accepted = true;
            self.group.holder.accepted(self.spans);
            self.group.one_answered(None);
        }
    }

    /// Cuts off a share for `spans` of the spans (at most as many as there are).
    pub fn split(&mut self, spans: u32) -> Receipt {
        let spans = spans.min(self.spans);
        self.spans -= spans;
        if !self.accepted {
            self.group.unanswered.fetch_add(1, Ordering::AcqRel);
        }
        self.group.unresolved.fetch_add(1, Ordering::AcqRel);
        Receipt { group: self.group.clone(), spans, accepted: self.accepted, resolved: false }
    }

    /// Says what became of the spans.
    pub fn resolve(mut self, fate: Fate) {
        self.finish(fate);
    }

    fn finish(&mut self, fate: Fate) {
        self.resolved = true;
        self.group.holder.resolved(self.spans, &fate, self.accepted);
        if !self.accepted {
            match &fate {
                Fate::Refused(refusal) => self.group.one_answered(Some(refusal)),
                Fate::Released => self.group.one_answered(Some(&Refusal::passing(Reason::Internal))),
                Fate::Duplicate | Fate::SampledOut | Fate::Exported | Fate::Forwarded | Fate::Dropped(_) => {
                    self.group.one_answered(None);
                }
            }
        }
        self.group.one_resolved(fate);
    }

    /// Receipts for `copies` places that all get these same spans. They are accepted when all places have accepted
    /// (or refused if one refuses), and meet the worst fate of all.
    pub fn tee(self, copies: usize) -> Vec<Receipt> {
        let spans = self.spans;
        let mut first = Receipt::relay(vec![self], |_| (), Fates::Worst);
        let mut all: Vec<Receipt> = (1..copies)
            .map(|_| {
                let mut copy = first.split(0);
                copy.spans = spans;
                copy
            })
            .collect();
        all.push(first);
        all
    }

    /// A receipt in place of this one; `seen` learns the worst fate just before this one does.
    pub fn watch(self, seen: impl FnOnce(&Fate) + Send + 'static) -> Receipt {
        Receipt::relay(vec![self], seen, Fates::Counted(Mutex::default()))
    }

    /// One receipt for several batches that became one.
    pub fn merge(parts: Vec<Receipt>) -> Receipt {
        Receipt::relay(parts, |_| (), Fates::Counted(Mutex::default()))
    }

    fn relay(parts: Vec<Receipt>, seen: impl FnOnce(&Fate) + Send + 'static, fates: Fates) -> Receipt {
        let spans = parts.iter().map(|part| part.spans).sum();
        let accepted = !parts.is_empty() && parts.iter().all(|part| part.accepted);
        let relay = Relay { parts: Mutex::new(parts), seen: Mutex::new(Some(Box::new(seen))), fates };
        let mut receipt = Receipt::new(spans, relay);
        if accepted {
            receipt.accept();
        }
        receipt
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.resolved {
            self.finish(Fate::Released);
        }
    }
}

type Seen = Box<dyn FnOnce(&Fate) + Send>;

/// Passes what happens to one receipt on to those it stands for.
struct Relay {
    parts: Mutex<Vec<Receipt>>,
    seen: Mutex<Option<Seen>>,
    fates: Fates,
}

/// What the receipts that a relay stands for are told at the end.
enum Fates {
    /// The worst of all: the shares were the same spans in several places.
    Worst,
    /// As many spans of each fate as there were; the shares were different spans.
    Counted(Mutex<Vec<(u32, Fate)>>),
}

impl Holder for Relay {
    fn resolved(&self, spans: u32, fate: &Fate, _accepted: bool) {
        if let Fates::Counted(fates) = &self.fates {
            let mut fates = lock(fates);
            match fates.iter_mut().find(|(_, known)| known == fate) {
                Some((count, _)) => *count += spans,
                None => fates.push((spans, fate.clone())),
            }
        }
    }

    fn answered(&self, answer: Result<(), Refusal>) {
        // A refusal reaches the parts as their fate, in `finished`; only custody is news already now.
        if answer.is_ok() {
            lock(&self.parts).iter_mut().for_each(Receipt::accept);
        }
    }

    fn finished(&self, worst: Fate) {
        if let Some(seen) = lock(&self.seen).take() {
            seen(&worst);
        }
        let parts = std::mem::take(&mut *lock(&self.parts));
        match &self.fates {
            Fates::Counted(fates) if !matches!(worst, Fate::Refused(_) | Fate::Released) => {
                hand_out(parts, std::mem::take(&mut *lock(fates)), &worst);
            }
            Fates::Counted(_) | Fates::Worst => parts.into_iter().for_each(|part| part.resolve(worst.clone())),
        }
    }
}

/// Gives `parts` the fates, each as often as it is there; `rest` to spans beyond their sum.
fn hand_out(parts: Vec<Receipt>, fates: Vec<(u32, Fate)>, rest: &Fate) {
    let mut fates = fates.into_iter().chain(std::iter::once((u32::MAX, rest.clone())));
    let (mut count, mut fate) = fates.next().unwrap_or((u32::MAX, rest.clone()));
    for mut part in parts {
        while part.spans > count {
            if count > 0 {
                part.split(count).resolve(fate);
            }
            (count, fate) = fates.next().unwrap_or((u32::MAX, rest.clone()));
        }
        count -= part.spans;
        part.resolve(fate.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        accepted: u32,
        fates: Vec<(u32, Fate)>,
        answer: Option<Result<(), Refusal>>,
        finished: Option<Fate>,
    }

    #[derive(Clone, Default)]
    struct Spy(Arc<Mutex<Seen>>);

    impl Holder for Spy {
        fn accepted(&self, spans: u32) {
            lock(&self.0).accepted += spans;
        }

        fn resolved(&self, spans: u32, fate: &Fate, _accepted: bool) {
            lock(&self.0).fates.push((spans, fate.clone()));
        }

        fn answered(&self, answer: Result<(), Refusal>) {
            assert!(lock(&self.0).answer.replace(answer).is_none(), "answered twice");
        }

        fn finished(&self, worst: Fate) {
            assert!(lock(&self.0).finished.replace(worst).is_none(), "finished twice");
        }
    }

    fn spied(spans: u32) -> (Spy, Receipt) {
        let spy = Spy::default();
        (spy.clone(), Receipt::new(spans, spy))
    }

    #[test]
    fn the_sender_is_answered_when_the_last_part_is_accepted_and_not_before() {
        let (spy, mut whole) = spied(10);
        let mut part = whole.split(4);
        part.accept();
        assert_eq!(lock(&spy.0).answer, None);
        whole.accept();
        assert_eq!(lock(&spy.0).answer, Some(Ok(())));
        assert_eq!(lock(&spy.0).accepted, 10);
        part.resolve(Fate::Forwarded);
        assert_eq!(lock(&spy.0).finished, None);
        whole.resolve(Fate::Exported);
        assert_eq!(lock(&spy.0).finished, Some(Fate::Forwarded));
        assert_eq!(lock(&spy.0).fates, [(4, Fate::Forwarded), (6, Fate::Exported)]);
    }

    #[test]
    fn a_refused_part_refuses_the_answer_though_the_rest_was_accepted() {
        let (spy, mut whole) = spied(10);
        let mut part = whole.split(4);
        part.accept();
        whole.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull)));
        assert_eq!(lock(&spy.0).answer, Some(Err(Refusal::passing(Reason::QueueFull))));
        part.resolve(Fate::Exported);
        assert_eq!(lock(&spy.0).fates.len(), 2);
    }

    #[test]
    fn spans_sent_to_two_places_meet_the_worse_fate_once() {
        let (spy, whole) = spied(7);
        let mut copies = whole.tee(2);
        copies.iter_mut().for_each(Receipt::accept);
        assert_eq!(lock(&spy.0).accepted, 7);
        copies.pop().unwrap().resolve(Fate::Dropped(DropReason::RetriesExhausted));
        assert!(lock(&spy.0).fates.is_empty());
        copies.pop().unwrap().resolve(Fate::Exported);
        assert_eq!(lock(&spy.0).fates, [(7, Fate::Dropped(DropReason::RetriesExhausted))]);
    }

    #[test]
    fn merged_batches_hear_the_fate_of_the_one_they_became() {
        let (first_spy, first) = spied(3);
        let (second_spy, second) = spied(5);
        let mut merged = Receipt::merge(vec![first, second]);
        assert_eq!(merged.spans(), 8);
        merged.accept();
        assert_eq!(lock(&first_spy.0).answer, Some(Ok(())));
        merged.resolve(Fate::Exported);
        assert_eq!(lock(&first_spy.0).finished, Some(Fate::Exported));
        assert_eq!(lock(&second_spy.0).finished, Some(Fate::Exported));
    }

    #[test]
    fn merged_batches_meet_each_fate_as_often_as_the_one_they_became() {
        let (first_spy, first) = spied(3);
        let (second_spy, second) = spied(5);
        let worst = Arc::new(Mutex::new(None));
        let noted = worst.clone();
        let mut merged = Receipt::merge(vec![first, second]).watch(move |fate| *lock(&noted) = Some(fate.clone()));
        let dropped = Fate::Dropped(DropReason::RetriesExhausted);
        merged.split(1).resolve(Fate::Duplicate);
        merged.accept();
        merged.split(4).resolve(Fate::Exported);
        merged.split(1).resolve(dropped.clone());
        merged.resolve(Fate::Exported);
        assert_eq!(*lock(&worst), Some(dropped.clone()));
        assert_eq!(lock(&first_spy.0).fates, [(1, Fate::Duplicate), (2, Fate::Exported)]);
        assert_eq!(lock(&second_spy.0).fates, [(4, Fate::Exported), (1, dropped.clone())]);
        assert_eq!(lock(&second_spy.0).finished, Some(dropped));
    }

    #[test]
    fn merged_batches_of_which_a_part_was_refused_are_refused_as_a_whole() {
        let (first_spy, first) = spied(3);
        let (second_spy, second) = spied(5);
        let mut merged = Receipt::merge(vec![first, second]);
        let mut part = merged.split(4);
        part.accept();
        part.resolve(Fate::Exported);
        let refusal = Refusal::passing(Reason::QueueFull);
        merged.resolve(Fate::Refused(refusal.clone()));
        for (spy, spans) in [(first_spy, 3), (second_spy, 5)] {
            assert_eq!(lock(&spy.0).fates, [(spans, Fate::Refused(refusal.clone()))]);
            assert_eq!(lock(&spy.0).answer, Some(Err(refusal.clone())));
        }
    }

    #[test]
    fn a_watching_stage_learns_the_fate_and_a_refusal_passes_through() {
        let (spy, whole) = spied(2);
        let seen = Arc::new(Mutex::new(None));
        let noted = seen.clone();
        let watched = whole.watch(move |fate| *lock(&noted) = Some(fate.clone()));
        let refusal = Refusal::passing(Reason::MemoryLimit);
        watched.resolve(Fate::Refused(refusal.clone()));
        assert_eq!(*lock(&seen), Some(Fate::Refused(refusal.clone())));
        assert_eq!(lock(&spy.0).answer, Some(Err(refusal)));
    }

    #[test]
    fn a_forgotten_receipt_asks_the_sender_to_send_again() {
        let (spy, whole) = spied(2);
        drop(whole);
        assert_eq!(lock(&spy.0).answer, Some(Err(Refusal::passing(Reason::Internal))));
        assert_eq!(lock(&spy.0).finished, Some(Fate::Released));
    }
}
