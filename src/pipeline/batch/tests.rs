use std::time::Duration;

use super::*;
use crate::export::testing::{batch, names, request};
use crate::model::{Fate, Reason, Refusal};
use crate::pipeline::testing::{End, Watched};

const NEVER: Duration = Duration::from_secs(3600);

fn start(timeout: Duration, size: usize, max_size: usize) -> (Arc<Batcher>, Arc<End>) {
    let end = End::new();
    let settings = BatchSettings { timeout, send_batch_size: size, send_batch_max_size: max_size };
    (Batcher::start(settings, Clock::start(), end.clone()), end)
}

fn offer(batcher: &Batcher, names: &[&str]) -> Watched {
    let sender = Watched::default();
    batcher.consume(batch(&request(names), &sender));
    sender
}

fn names_of(batches: &[Batch]) -> Vec<Vec<String>> {
    batches.iter().map(|batch| names(&batch.spans.bytes)).collect()
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_answers_all_its_senders() {
    let (batcher, end) = start(NEVER, 3, 0);
    let first = offer(&batcher, &["a", "b"]);
    assert_eq!((end.take().len(), batcher.waiting_spans(), first.answer()), (0, 2, None));
    let second = offer(&batcher, &["c", "d"]);
    let mut sent = end.take();
    assert_eq!(names_of(&sent), [["a", "b", "c", "d"]]);
    assert_eq!((first.answer(), second.answer()), (None, None));
    let mut sent = sent.pop().unwrap();
    sent.receipt.accept();
    assert_eq!((first.answer(), second.answer()), (Some(Ok(())), Some(Ok(()))));
    sent.receipt.resolve(Fate::Exported);
    assert_eq!((first.finished(), second.finished()), (Some(Fate::Exported), Some(Fate::Exported)));
    assert_eq!((batcher.waiting_spans(), batcher.sent_batches()), (0, 1));
    batcher.stop();
}

#[tokio::test]
async fn a_refusal_reaches_every_sender() {
    let (batcher, end) = start(NEVER, 2, 0);
    let refusal = Refusal::passing(Reason::QueueFull);
    *end.refusing.lock().unwrap() = Some(refusal.clone());
    let (first, second) = (offer(&batcher, &["a"]), offer(&batcher, &["b"]));
    assert_eq!((first.answer(), second.answer()), (Some(Err(refusal.clone())), Some(Err(refusal))));
    batcher.stop();
}

#[tokio::test]
async fn a_small_batch_goes_when_it_has_waited_long_enough() {
    let (batcher, end) = start(Duration::from_millis(20), 1000, 0);
    for round in 1..=3 {
        let sender = offer(&batcher, &["a"]);
        end.wait_for(round).await;
        let batch = end.take().pop().unwrap();
        batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::MemoryLimit)));
        assert_eq!(sender.answered().await, Err(Refusal::passing(Reason::MemoryLimit)));
    }
    batcher.stop();
}

#[tokio::test]
async fn no_batch_is_larger_than_send_batch_max_size() {
    let (batcher, end) = start(NEVER, 3, 3);
    let first = offer(&batcher, &["a", "b"]);
    let second = offer(&batcher, &["c", "d", "e", "f", "g"]);
    let sent = end.take();
    assert_eq!(names_of(&sent), [["a", "b", "c"], ["d", "e", "f"]]);
    assert_eq!(batcher.waiting_spans(), 1);
    sent.into_iter().for_each(|batch| batch.receipt.resolve(Fate::Exported));
    assert_eq!((first.finished(), second.finished()), (Some(Fate::Exported), None));
    batcher.stop();
    let sent = end.take();
    assert_eq!(names_of(&sent), [["g"]]);
    sent.into_iter().for_each(|batch| batch.receipt.resolve(Fate::Exported));
    assert_eq!(second.finished(), Some(Fate::Exported));
}

#[tokio::test]
async fn with_no_timeout_and_after_a_stop_nothing_waits() {
    let (batcher, end) = start(Duration::ZERO, 1000, 0);
    offer(&batcher, &["a"]);
    assert_eq!(names_of(&end.take()), [["a"]]);
    batcher.stop();

    let (batcher, end) = start(NEVER, 1000, 0);
    offer(&batcher, &["a"]);
    batcher.stop();
    offer(&batcher, &["b"]);
    assert_eq!(names_of(&end.take()), [["a"], ["b"]]);
}

#[tokio::test]
async fn bytes_are_bounded_whatever_the_number_of_spans() {
    let (batcher, end) = start(NEVER, usize::MAX, 0);
    let name = "x".repeat(900_000);
    let senders: Vec<_> = (0..5).map(|_| offer(&batcher, &[&name])).collect();
    let sent = end.take();
    assert_eq!(sent.iter().map(|batch| batch.spans.len()).sum::<usize>(), 5);
    sent.into_iter().for_each(|batch| batch.receipt.resolve(Fate::Exported));
    assert!(senders.iter().all(|sender| sender.finished() == Some(Fate::Exported)));
    batcher.stop();
}
