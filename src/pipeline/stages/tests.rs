use super::*;
use crate::config::settings::{
    ActionKind, AttributeSource, AttributeValue, DedupSettings, ResourceAction, ResourceSettings,
};
use crate::export::testing::{batch, names, request};
use crate::model::DropReason;
use crate::pipeline::testing::Watched;

#[test]
fn local_senders_are_refused_at_the_soft_limit_and_peers_at_the_hard_one() {
    let limiter = MemoryLimiter::new(MemoryLimiterSettings { limit_bytes: 2000, soft_limit_bytes: 1000 });
    let sender = Watched::default();
    let offer = |held_elsewhere: usize, hops: u8| {
        let offered = Watched::default();
        let mut batch = batch(&request(&["a"]), &offered);
        let others = sender.budget().hold(held_elsewhere - batch.spans.bytes.len());
        batch.held = sender.budget().hold(batch.spans.bytes.len());
        batch.hops = hops;
        let passed = limiter.apply(batch);
        drop(others);
        assert_eq!(passed.is_none(), offered.answer().is_some());
        if let Some(answer) = offered.answer() {
            assert_eq!(answer, Err(Refusal::passing(Reason::MemoryLimit)));
        }
        passed.map(|batch| batch.receipt.resolve(Fate::Exported)).is_some()
    };
    assert!(offer(1000, 0));
    assert!(!offer(1001, 0));
    assert!(offer(2000, 1));
    assert!(!offer(2001, 1));
    assert_eq!(limiter.refused_spans(), 2);
    assert_eq!(sender.budget().bytes(), 0);
}

#[test]
fn an_edited_batch_is_held_with_its_new_size() {
    let kind = ActionKind::Upsert(AttributeSource::Value(AttributeValue::String("eu-west-1".to_owned())));
    let action = ResourceAction { key: "k8s.cluster.name".to_owned(), kind };
    let stage = Stage::Resource(ResourceEdits::compile(&ResourceSettings { actions: vec![action] }));
    let sender = Watched::default();
    let before = request(&["a", "b"]);
    let edited = stage.apply(batch(&before, &sender)).unwrap();
    assert!(edited.spans.bytes.len() > before.len());
    assert_eq!(edited.held.bytes(), edited.spans.bytes.len() as u64);
    assert_eq!(names(&edited.spans.bytes), ["a", "b"]);
    edited.receipt.resolve(Fate::Exported);
}

fn dedup() -> SpanDedup {
    let settings = DedupSettings { wait_duration: std::time::Duration::from_secs(300), max_memory_bytes: 16 << 20 };
    SpanDedup { dedup: Arc::new(Dedup::new(&settings, 7)), clock: Clock::start() }
}

#[tokio::test]
async fn duplicates_end_here_and_the_others_go_on() {
    let stage = dedup();
    let (first, second, third) = (Watched::default(), Watched::default(), Watched::default());
    let in_flight = stage.apply(batch(&request(&["a", "b"]), &first)).unwrap();

    // While the first is in custody.
    let mut rest = stage.apply(batch(&request(&["b", "c", "a"]), &second)).unwrap();
    assert_eq!((names(&rest.spans.bytes), rest.receipt.spans()), (vec!["c".to_owned()], 1));
    assert_eq!(rest.held.bytes(), rest.spans.bytes.len() as u64);
    rest.receipt.accept();
    assert_eq!(second.answer(), Some(Ok(())));
    rest.receipt.resolve(Fate::Exported);
    assert_eq!(second.fates(), [(2, Fate::Duplicate), (1, Fate::Exported)]);

    // And after all of it is settled.
    in_flight.receipt.resolve(Fate::Exported);
    assert!(stage.apply(batch(&request(&["a", "b", "c"]), &third)).is_none());
    assert_eq!((third.answer(), third.fates()), (Some(Ok(())), vec![(3, Fate::Duplicate)]));
}

#[tokio::test]
async fn spans_that_were_not_delivered_may_come_again() {
    let stage = dedup();
    for fate in [
        Fate::Refused(Refusal::passing(Reason::QueueFull)),
        Fate::Dropped(DropReason::RetriesExhausted),
        Fate::Released,
    ] {
        let passed = stage.apply(batch(&request(&["a"]), &Watched::default())).unwrap();
        assert_eq!(names(&passed.spans.bytes), ["a"]);
        passed.receipt.resolve(fate);
    }
}
