use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::config::settings::DedupSettings;
use crate::export::testing::{names, spans};
use crate::model::{Reason, Tick};
use crate::pipeline::testing::{End, Watched};

struct Way {
    end: Arc<End>,
    dedup: Arc<Dedup>,
    budget: Budget,
    exit: Arc<Exit>,
}

impl Way {
    fn new() -> Way {
        let settings = DedupSettings { wait_duration: Duration::from_secs(300), max_memory_bytes: 1 << 20 };
        let (end, dedup, budget) = (End::new(), Arc::new(Dedup::new(&settings, 1)), Budget::default());
        let exit = Exit::new(end.clone(), Some(dedup.clone()), Clock::start(), budget.clone());
        Way { end, dedup, budget, exit }
    }

    fn full(self) -> Way {
        self.refuse(true);
        self
    }

    fn refuse(&self, refuse: bool) {
        *self.end.refusing.lock().unwrap() = refuse.then(|| Refusal::passing(Reason::QueueFull));
    }

    /// Spans of these names, in custody.
    fn release(&self, spans_of: &[&str]) -> (Watched, Release) {
        let (sender, spans) = (Watched::default(), spans(spans_of));
        let mut receipt = sender.receipt(spans.len() as u32);
        receipt.accept();
        let keys = self.dedup.admit(&spans, Tick::ZERO).keys;
        (sender, Release { spans, receipts: vec![receipt], keys })
    }

    fn send(&self, spans_of: &[&str]) -> Watched {
        let (sender, release) = self.release(spans_of);
        self.exit.send(release);
        sender
    }

    fn arrived(&self) -> Vec<Batch> {
        self.end.take()
    }

    fn is_duplicate(&self, name: &str) -> bool {
        !self.dedup.admit(&spans(&[name]), Tick::ZERO).duplicates.is_empty()
    }
}

fn all_names(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(|batch| names(&batch.spans.bytes)).collect()
}

#[test]
fn the_fate_at_the_next_stage_reaches_all_receipts_and_the_dedup() {
    let way = Way::new();
    let (first, one) = way.release(&["a", "b"]);
    let (second, other) = way.release(&["c"]);
    let keys = one.keys.into_iter().chain(other.keys).collect();
    let receipts = one.receipts.into_iter().chain(other.receipts).collect();
    way.exit.send(Release { spans: spans(&["a", "b", "c"]), receipts, keys });
    assert!(!way.exit.is_empty());
    let mut batch = way.arrived().pop().unwrap();
    assert_eq!((batch.receipt.spans(), batch.hops, batch.receipt.is_accepted()), (3, 0, false));
    batch.receipt.accept();
    assert!(way.exit.is_empty());
    assert_eq!(way.dedup.status(Tick::ZERO).in_custody, 3);
    batch.receipt.resolve(Fate::Exported);
    assert_eq!((first.fates(), second.fates()), (vec![(2, Fate::Exported)], vec![(1, Fate::Exported)]));
    assert!(way.is_duplicate("a") && way.is_duplicate("c"));
    drop(batch.held);
    assert_eq!((way.dedup.status(Tick::ZERO).in_custody, way.budget.bytes()), (0, 0));
}

#[test]
fn what_the_next_stage_gives_up_may_come_again() {
    let way = Way::new();
    let sender = way.send(&["a"]);
    let dropped = Fate::Dropped(DropReason::RetriesExhausted);
    let mut batch = way.arrived().pop().unwrap();
    batch.receipt.accept();
    batch.receipt.resolve(dropped.clone());
    assert_eq!(sender.fates(), [(1, dropped)]);
    assert!(!way.is_duplicate("a"));
}

#[test]
fn spans_that_are_refused_wait_and_go_out_in_their_order() {
    let way = Way::new().full();
    let senders = [way.send(&["a", "b"]), way.send(&["c"])];
    way.refuse(false);
    // Behind those that wait, though it would be taken.
    let third = way.send(&["d"]);
    assert!(way.arrived().is_empty());
    assert!(senders.iter().chain([&third]).all(|sender| sender.finished().is_none()));
    let waiting = way.exit.parked_bytes();
    assert!(waiting > 0 && way.budget.bytes() >= waiting, "{waiting}");
    // Bounded work.
    assert!(way.exit.retry(2));
    assert!(!way.exit.retry(2));
    let batches = way.arrived();
    assert_eq!(all_names(&batches), ["a", "b", "c", "d"]);
    assert_eq!(way.exit.parked_bytes(), 0);
    batches.into_iter().for_each(|batch| batch.receipt.resolve(Fate::Exported));
    assert_eq!(senders[0].fates(), [(2, Fate::Exported)]);
    assert_eq!((senders[1].fates(), third.fates()), (vec![(1, Fate::Exported)], vec![(1, Fate::Exported)]));
    assert!(way.exit.is_empty());
    assert_eq!(way.budget.bytes(), 0);
}

#[test]
fn a_retry_ends_at_the_first_refusal_and_loses_nothing() {
    let way = Way::new().full();
    let senders = [way.send(&["a"]), way.send(&["b"])];
    let waiting = way.exit.parked_bytes();
    for _ in 0..3 {
        assert!(!way.exit.retry(64));
        assert_eq!(way.exit.parked_bytes(), waiting);
    }
    assert!(senders.iter().all(|sender| sender.fates().is_empty()));
    assert_eq!(way.dedup.status(Tick::ZERO).in_custody, 2);
    way.exit.give_up();
}

#[test]
fn a_stage_that_refuses_later_gives_the_spans_back() {
    let way = Way::new();
    let sender = way.send(&["a"]);
    let batch = way.arrived().pop().unwrap();
    assert!(!way.exit.is_empty());
    batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull)));
    assert!(!way.exit.is_empty() && way.exit.parked_bytes() > 0);
    assert!(way.exit.retry(1));
    let batch = way.arrived().pop().unwrap();
    batch.receipt.resolve(Fate::Exported);
    assert_eq!(sender.fates(), [(1, Fate::Exported)]);
}

#[test]
fn parts_that_meet_different_fates_are_counted_each() {
    let way = Way::new();
    let sender = way.send(&["a", "b", "c"]);
    let mut batch = way.arrived().pop().unwrap();
    batch.receipt.accept();
    let dropped = Fate::Dropped(DropReason::BackendRefused);
    batch.receipt.split(1).resolve(dropped.clone());
    batch.receipt.resolve(Fate::Exported);
    let counted = |wanted: &Fate| -> u32 {
        sender.fates().iter().filter(|(_, fate)| fate == wanted).map(|(spans, _)| spans).sum()
    };
    assert_eq!((counted(&dropped), counted(&Fate::Exported)), (1, 2));
    assert_eq!(sender.finished(), Some(dropped));
}

#[test]
fn what_is_refused_for_ever_is_dropped_by_name() {
    let way = Way::new();
    let sender = way.send(&["a"]);
    let refused = Fate::Refused(Refusal::Permanent { reason: Reason::TooLarge });
    way.arrived().pop().unwrap().receipt.resolve(refused);
    assert_eq!(sender.fates(), [(1, Fate::Dropped(DropReason::BackendRefused))]);
    assert!(way.exit.is_empty());
}

#[test]
fn after_the_deadline_what_waits_is_dropped_and_counted_and_so_is_what_comes() {
    let way = Way::new().full();
    let waiting = way.send(&["a", "b"]);
    way.exit.give_up();
    let later = way.send(&["c"]);
    let dropped = Fate::Dropped(DropReason::Shutdown);
    assert_eq!((waiting.fates(), later.fates()), (vec![(2, dropped.clone())], vec![(1, dropped)]));
    assert_eq!((way.exit.given_up_spans(), way.exit.parked_bytes(), way.budget.bytes()), (3, 0, 0));
    assert!(way.exit.is_empty() && !way.is_duplicate("a"));
}

#[test]
fn spans_that_grew_beyond_what_a_sender_may_send_are_still_read() {
    let way = Way::new().full();
    let name = "n".repeat(2 << 20);
    let mut release = way.release(&["a"]).1;
    release.receipts.clear();
    let sender = Watched::default();
    let bytes = crate::export::testing::request(&[name.as_str()]);
    release.spans = wire::walk(bytes.into(), &NO_LIMITS).unwrap().spans;
    release.receipts.push(sender.receipt(1));
    way.exit.send(release);
    way.refuse(false);
    way.exit.retry(1);
    let batch = way.arrived().pop().unwrap();
    assert_eq!(names(&batch.spans.bytes), [name]);
    batch.receipt.resolve(Fate::Exported);
    assert_eq!(sender.fates(), [(1, Fate::Exported)]);
}

#[test]
fn whatever_the_next_stage_does_each_receipt_resolves_once_and_for_all_of_its_spans() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (way, mut senders, mut sent) = (Way::new(), Vec::new(), 0);
    let act = |random: &mut ChaCha8Rng, batch: Batch| {
        let mut receipt = batch.receipt;
        match random.next_u32() % 5 {
            0 => receipt.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull))),
            1 => receipt.resolve(Fate::Refused(Refusal::Permanent { reason: Reason::TooLarge })),
            2 => {
                // Accepted in part only: all of it comes back.
                let mut part = receipt.split(1);
                part.accept();
                part.resolve(Fate::Exported);
                receipt.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull)));
            }
            3 => {
                receipt.accept();
                receipt.split(1).resolve(Fate::Dropped(DropReason::RetriesExhausted));
                receipt.resolve(Fate::Exported);
            }
            _ => receipt.resolve(Fate::Exported),
        }
    };
    for round in 0..400 {
        way.refuse(random.next_u32().is_multiple_of(3));
        if round < 200 {
            let names: Vec<String> = (0..=random.next_u32() % 4).map(|n| format!("{round} {n}")).collect();
            senders.push((names.len() as u32, way.send(&names.iter().map(String::as_str).collect::<Vec<_>>())));
            sent += names.len() as u64;
        }
        way.exit.retry(2);
        way.arrived().into_iter().for_each(|batch| act(&mut random, batch));
    }
    way.refuse(false);
    while !way.exit.is_empty() {
        way.exit.retry(64);
        way.arrived().into_iter().for_each(|batch| batch.receipt.resolve(Fate::Exported));
    }
    assert_eq!(sent, senders.iter().map(|(spans, _)| u64::from(*spans)).sum::<u64>());
    for (spans, sender) in senders {
        // A second end would panic in the sender.
        assert!(sender.finished().is_some());
        assert_eq!(sender.fates().iter().map(|(spans, _)| spans).sum::<u32>(), spans);
        assert!(sender.fates().iter().all(|(_, fate)| !matches!(fate, Fate::Refused(_) | Fate::Released)));
    }
    assert_eq!((way.budget.bytes(), way.dedup.status(Tick::ZERO).in_custody), (0, 0));
}
