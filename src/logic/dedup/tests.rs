use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::model::{DropReason, Reason, Refusal, SpanId, TraceId, UnixNanos};

const WINDOW: Duration = Duration::from_secs(300);

fn dedup(max_memory_bytes: usize) -> Dedup {
    Dedup::new(&DedupSettings { wait_duration: WINDOW, max_memory_bytes }, 42)
}

fn at(seconds: f64) -> Tick {
    Tick((seconds * 1e9) as u64)
}

fn span(n: u64) -> SpanEntry {
    let mut trace = [7; 16];
    trace[8..].copy_from_slice(&(n / 8).to_be_bytes());
    SpanEntry {
        trace_id: TraceId(trace),
        span_id: SpanId((n + 1).to_be_bytes()),
        parent_span_id: SpanId::NONE,
        start: UnixNanos(1),
        end: UnixNanos(2),
        scope: 0,
        field: Default::default(),
        head: 0,
        kind: 2,
        status: 0,
    }
}

fn batch(spans: impl IntoIterator<Item = u64>) -> Spans {
    Spans { spans: spans.into_iter().map(span).collect(), ..Spans::default() }
}

/// Admits and exports; returns how many were taken for duplicates.
fn pass(dedup: &Dedup, spans: &Spans, now: Tick) -> usize {
    let admitted = dedup.admit(spans, now);
    assert_eq!(admitted.keys.len() + admitted.duplicates.len(), spans.len());
    dedup.settle(&admitted.keys, &Fate::Exported, now);
    admitted.duplicates.len()
}

#[test]
fn a_span_in_custody_is_matched_exactly_and_one_that_was_let_go_may_come_again() {
    let dedup = dedup(1 << 20);
    let spans = batch(0..100);
    let released = [
        Fate::Refused(Refusal::passing(Reason::QueueFull)),
        Fate::Released,
        Fate::Dropped(DropReason::RetriesExhausted),
    ];
    for fate in released {
        let first = dedup.admit(&spans, at(1.0));
        assert_eq!((first.duplicates.len(), first.keys.len()), (0, 100));
        assert_eq!(dedup.admit(&spans, at(1.0)).duplicates, (0..100).collect::<Vec<u32>>());
        dedup.settle(&first.keys, &fate, at(2.0));
    }
    assert_eq!(pass(&dedup, &spans, at(3.0)), 0);
    assert_eq!(pass(&dedup, &spans, at(4.0)), 100);
}

#[test]
fn settled_spans_are_known_for_one_window_and_forgotten_after_two() {
    for gap in [0.5, 149.0, 299.0] {
        let dedup = dedup(1 << 20);
        assert_eq!(pass(&dedup, &batch(0..1000), at(10.0)), 0);
        // Others come meanwhile, or filters would have no reason to follow each other.
        for second in 0..gap as u64 {
            pass(&dedup, &batch([1_000_000 + second]), at(10.0 + second as f64));
        }
        assert_eq!(dedup.admit(&batch(0..1000), at(10.0 + gap)).duplicates.len(), 1000, "{gap}");
        for second in gap as u64..601 {
            pass(&dedup, &batch([2_000_000 + second]), at(10.0 + second as f64));
        }
        assert_eq!(pass(&dedup, &batch(0..1000), at(611.0)), 0);
    }
}

#[test]
fn repetition_within_one_batch_leaves_the_first() {
    let dedup = dedup(1 << 20);
    let admitted = dedup.admit(&batch([5, 6, 5, 7, 6, 5]), at(1.0));
    assert_eq!(admitted.duplicates, [2, 4, 5]);
    let alone: Vec<SpanKey> = [5, 6, 7].map(|n| dedup.key(&span(n))).to_vec();
    assert_eq!(admitted.keys, alone, "in the order of the spans");
}

#[test]
fn the_same_ids_with_another_kind_or_end_are_another_span() {
    let dedup = dedup(1 << 20);
    let (mut server, mut later) = (span(1), span(1));
    server.kind = 3;
    later.end = UnixNanos(3);
    let mut again = span(1);
    again.status = 2;
    let spans = Spans { spans: vec![span(1), server, later, again], ..Spans::default() };
    assert_eq!(dedup.admit(&spans, at(1.0)).duplicates, [3]);
}

#[test]
fn settling_twice_or_what_was_never_admitted_does_no_harm() {
    let dedup = dedup(1 << 20);
    let admitted = dedup.admit(&batch(0..10), at(1.0));
    for _ in 0..3 {
        dedup.settle(&admitted.keys, &Fate::Exported, at(1.0));
    }
    dedup.settle(&[SpanKey(99)], &Fate::Exported, at(1.0));
    assert_eq!((dedup.status(at(1.0)).remembered, dedup.status(at(1.0)).in_custody), (10, 0));
}

#[test]
fn millions_of_fresh_spans_pass_with_filters_full_of_others() {
    let dedup = dedup(64 << 20);
    let mut mistaken = 0;
    for n in 0..4000 {
        mistaken += pass(&dedup, &batch(n * 512..(n + 1) * 512), at(n as f64 * 0.05));
    }
    assert_eq!(mistaken, 0);
    assert!(dedup.status(at(200.0)).error_ratio < 1e-9);
}

#[test]
fn under_four_times_the_load_the_window_shrinks_and_the_error_does_not_grow() {
    const MEMORY: usize = 1 << 20;
    let dedup = dedup(MEMORY);
    // 140,000 keys fit. 600,000 within one window are more than four times that.
    let mut mistaken = 0;
    for n in 0..1200 {
        let now = at(n as f64 * 0.25);
        mistaken += pass(&dedup, &batch(n * 500..(n + 1) * 500), now);
        let status = dedup.status(now);
        assert!(
            status.filter_bytes <= MEMORY as u64 && status.error_ratio < 1e-9 && status.load_ratio <= 1.0,
            "{status:?}"
        );
    }
    assert_eq!(mistaken, 0);
    let status = dedup.status(at(300.0));
    assert!((20.0..100.0).contains(&status.window_seconds), "{status:?}");
    // What the shrunken window covers is known.
    let first = (1200.0 - (status.window_seconds - 1.0) / 0.25) as u64;
    assert_eq!(pass(&dedup, &batch(first * 500..1200 * 500), at(300.0)), (1200 - first as usize) * 500);
    // Once the load is gone the window is whole again.
    assert_eq!(dedup.status(at(900.0)).window_seconds, 300.0);
}

#[test]
fn an_idle_node_holds_nothing_and_a_passed_load_is_given_back() {
    let dedup = dedup(256 << 20);
    let status = dedup.status(at(1.0));
    assert_eq!(
        (status.filter_bytes, status.load_ratio, status.error_ratio, status.window_seconds),
        (0, 0.0, 0.0, 300.0)
    );
    for n in 0..200 {
        pass(&dedup, &batch(n * 500..(n + 1) * 500), at(n as f64));
    }
    assert!(dedup.status(at(200.0)).filter_bytes > 100_000 * 6);
    let status = dedup.status(at(1000.0));
    assert_eq!((status.filter_bytes, status.remembered), (0, 0));
}

#[test]
fn a_short_burst_does_not_claim_the_memory() {
    let dedup = dedup(256 << 20);
    for n in 0..20 {
        pass(&dedup, &batch(n * 512..(n + 1) * 512), at(1.0 + n as f64 * 1e-6));
    }
    assert!(dedup.status(at(1.0)).filter_bytes < 1 << 20);
}

#[test]
fn the_status_adds_up() {
    let dedup = dedup(1 << 20);
    let open = dedup.admit(&batch(0..100), at(1.0));
    pass(&dedup, &batch(100..150), at(1.0));
    pass(&dedup, &batch(120..160), at(2.0));
    dedup.settle(&open.keys[..40], &Fate::Forwarded, at(3.0));
    dedup.settle(&open.keys[40..50], &Fate::Released, at(3.0));
    let status = dedup.status(at(3.0));
    assert_eq!((status.admitted, status.duplicates, status.in_custody, status.remembered), (160, 30, 50, 100));
    assert!(status.load_ratio > 0.0 && status.error_ratio > 0.0);
}

#[test]
fn without_a_window_or_memory_it_still_matches_custody() {
    let dedup = Dedup::new(&DedupSettings { wait_duration: Duration::ZERO, max_memory_bytes: 0 }, 1);
    for n in 0..1000 {
        let spans = batch(n * 100..(n + 1) * 100);
        let held = dedup.admit(&spans, at(n as f64));
        assert_eq!(dedup.admit(&spans, at(n as f64)).duplicates.len(), 100);
        dedup.settle(&held.keys, &Fate::Exported, at(n as f64));
    }
    let status = dedup.status(at(1000.0));
    assert!(status.filter_bytes <= 1 << 20 && status.in_custody == 0, "{status:?}");
}

#[test]
fn keys_differ_between_nodes_and_spread_over_shards_though_ids_are_crafted() {
    let (here, there) = (Dedup::new(&DedupSettings { wait_duration: WINDOW, max_memory_bytes: 0 }, 1), dedup(0));
    assert_ne!(here.key(&span(1)), there.key(&span(1)));
    let mut shards = [0; SHARDS];
    let mut keys = BTreeSet::new();
    for n in 0..16_000 {
        let key = here.key(&span(n));
        shards[key.shard()] += 1;
        keys.insert(key);
    }
    assert_eq!(keys.len(), 16_000);
    assert!(shards.iter().all(|count| (850..1150).contains(count)), "{shards:?}");
}

#[test]
fn threads_that_send_the_same_spans_get_each_through_once() {
    let dedup = dedup(16 << 20);
    let fresh: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let pass_all = (0..100).map(|n| 256 - pass(&dedup, &batch(n * 256..(n + 1) * 256), at(1.0)));
                    pass_all.sum::<usize>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(fresh, 25_600);
}

#[test]
fn a_span_that_is_taken_is_known_until_it_is_let_go_and_for_the_window_if_it_settled() {
    let dedup = dedup(1 << 20);
    let keys: Vec<SpanKey> = batch(0..4).spans.iter().map(|span| dedup.key(span)).collect();
    assert!(dedup.take(keys[0]) && dedup.take(keys[1]) && dedup.take(keys[3]));
    assert!(!dedup.take(keys[1]), "in custody already");
    assert_eq!(dedup.known(&keys, at(0.0)), [0, 1, 3]);
    dedup.settle(&keys[..1], &Fate::Exported, at(0.0));
    dedup.settle(&keys[3..], &Fate::Dropped(DropReason::RetriesExhausted), at(0.0));
    assert_eq!(dedup.known(&keys, at(1.0)), [0, 1]);
    let admitted = dedup.admit_keys(keys.clone(), at(2.0));
    assert_eq!((admitted.duplicates, admitted.keys), (vec![0, 1], vec![keys[2], keys[3]]));
}
