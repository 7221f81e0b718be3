//! What happens at each bound, and that nothing undecided is lost there.

use super::*;

#[test]
fn a_trace_of_too_many_spans_is_decided_at_once_and_the_others_are_unharmed() {
    let mut rig = Rig::new(|bounds, _| bounds.max_trace_spans = 100);
    let mut spans: Vec<Sent> = (1..=150).map(|id| span(1, id)).collect();
    spans.push(span(2, 1));
    rig.offer(&spans[..100]);
    assert_eq!(rig.decided(Cause::TooManySpans), 0, "as many as it may have");
    rig.offer(&spans[50..]);
    assert_eq!((rig.decided(Cause::TooManySpans), rig.status().open_traces), (1, 1));
    let out = rig.exported();
    assert_eq!((out.len(), rig.fate("Duplicate")), (150, 50));
    assert_eq!(out.iter().filter(|out| out.attribute("spanmesh.late").is_some()).count(), 50);
    assert_eq!(rig.status().late_kept_spans, 50);
    rig.finish();
}

#[test]
fn a_trace_of_too_many_bytes_is_decided_at_once() {
    let mut rig = Rig::new(|bounds, _| bounds.max_trace_bytes = 10_000);
    rig.offer(&[large(1, 1, 4_000), large(1, 2, 4_000), large(2, 1, 20_000), large(3, 1, 500)]);
    assert_eq!((rig.decided(Cause::TooManyBytes), rig.status().open_traces), (1, 2), "one span may be larger");
    rig.offer(&[large(1, 3, 4_000)]);
    assert_eq!((rig.decided(Cause::TooManyBytes), rig.status().open_traces), (2, 1));
    assert_eq!(rig.ids().len(), 4);
    rig.finish();
}

#[test]
fn more_traces_than_may_be_open_decide_the_oldest() {
    let mut rig = Rig::new(|bounds, _| bounds.max_traces = 3);
    rig.offer(&[span(1, 1), span(2, 1), span(3, 1)]).at(1.0).offer(&[span(1, 2), span(4, 1), span(5, 1)]);
    assert_eq!(rig.ids(), [(1, 1), (1, 2), (2, 1)]);
    assert_eq!((rig.decided(Cause::TooManyTraces), rig.status().open_traces), (2, 3));
    rig.finish();
}

#[test]
fn under_pressure_the_heaviest_and_oldest_are_decided_first_and_say_so() {
    let mut rig = Rig::new(|bounds, _| {
        bounds.max_bytes = 2 << 20;
        bounds.recent_traces = 0;
    });
    rig.at(0.0).offer(&[large(1, 1, 1_000)]);
    rig.at(1.0).offer(&[large(2, 1, 300_000), large(3, 1, 300_000)]);
    rig.at(2.0).offer(&[large(2, 2, 300_000), large(4, 1, 300_000)]);
    assert_eq!(rig.decided(Cause::Memory), 0);
    rig.at(3.0).offer(&[large(5, 1, 700_000)]);
    assert_eq!(rig.ids(), [(2, 1), (2, 2)]);
    assert_eq!((rig.decided(Cause::Memory), rig.status().open_traces), (1, 4));
    rig.finish();
}

#[test]
fn explanations_go_before_an_open_trace_is_decided_early() {
    let mut rig = Rig::new(|bounds, _| {
        bounds.max_bytes = 4 << 20;
        bounds.recent_bytes = 2 << 20;
    });
    rig.offer(&(0..20).map(|n| large(n, 1, 90_000)).collect::<Vec<_>>()).at(10.0).advance();
    assert!(rig.traces.report(&trace_id(0), Wanted::default(), rig.now).unwrap().details.is_some());
    rig.offer(&(20..55).map(|n| large(n, 1, 90_000)).collect::<Vec<_>>());
    assert_eq!(rig.decided(Cause::Memory), 0);
    assert!(rig.traces.report(&trace_id(0), Wanted::default(), rig.now).unwrap().details.is_none());
    rig.finish();
}

#[test]
fn memory_stays_within_its_bound_and_nothing_is_lost() {
    let mut rig = Rig::sampling(|bounds, _| bounds.max_bytes = 8 << 20);
    let mut most = 0;
    for round in 0..300_u32 {
        rig.at(f64::from(round) / 100.0);
        let of = |n: u64| if n.is_multiple_of(3) { error(n, n) } else { large(n % 5_000, n, (n % 7 * 300) as usize) };
        let spans: Vec<Sent> = (0..200).map(|n| of(u64::from(round) * 200 + n + 1)).collect();
        rig.offer(&spans);
        let scratch = rig.traces.held_bytes() - rig.traces.held();
        most = most.max(rig.traces.held_bytes() - scratch);
        for release in rig.out.drain(..) {
            rig.dedup.settle(&release.keys, &Fate::Exported, rig.now);
            release.receipts.into_iter().for_each(|receipt| receipt.resolve(Fate::Exported));
        }
    }
    assert!(most <= (8 << 20) + (1 << 19), "{most}");
    assert!(rig.decided(Cause::Memory) > 1_000);
    rig.finish();
}

#[test]
fn memory_of_single_span_traces_stays_flat_and_is_given_back() {
    let mut rig = Rig::sampling(|bounds, _| {
        bounds.wait = SECOND;
        bounds.max_bytes = 256 << 20;
    });
    let (mut early, mut late) = (0, 0);
    let template = request(&(0..1_000).map(|n| span(0, n + 1)).collect::<Vec<_>>());
    let all: Vec<u32> = (0..1_000).collect();
    for batch in 0..1_000_u64 {
        rig.at(batch as f64 / 20.0);
        let mut spans = template.clone();
        (batch * 1_000..).zip(&mut spans.spans).for_each(|(n, span)| span.trace_id = trace_id(n));
        rig.offer_some(&spans, &all);
        rig.advance();
        let held = rig.traces.held_bytes();
        if batch < 500 { early = early.max(held) } else { late = late.max(held) }
    }
    assert!(late < early + early / 4, "{early} {late}");
    rig.at(9_999.0).advance();
    assert_eq!(rig.status().open_traces, 0);
    rig.finish();
}

#[test]
fn an_idle_shard_holds_next_to_nothing() {
    let mut rig = Rig::sampling(|bounds, _| bounds.recent_traces = 0);
    assert!(rig.traces.held_bytes() < 16 << 10, "{}", rig.traces.held_bytes());
    rig.offer(&(0..5_000).map(|n| span(n, 1)).collect::<Vec<_>>());
    assert!(rig.traces.held_bytes() > 500_000);
    rig.at(10.0).advance();
    rig.at(2_000.0).advance();
    assert!(rig.traces.held_bytes() < 256 << 10, "{}", rig.traces.held_bytes());
    rig.finish();
}

#[test]
fn a_trace_of_a_million_spans_is_as_cheap_per_span_as_others() {
    let mut rig = Rig::new(|bounds, _| {
        bounds.max_trace_spans = u32::MAX;
        bounds.max_trace_bytes = u64::MAX;
        bounds.max_bytes = 1 << 30;
    });
    let batch = request(&(1..=1_000).map(|id| span(1, id)).collect::<Vec<_>>());
    let all: Vec<u32> = (0..1_000).collect();
    for n in 0..1_000_u64 {
        let mut spans = batch.clone();
        spans.spans.iter_mut().enumerate().for_each(|(i, span)| {
            span.span_id.0 = (n * 1_000 + i as u64 + 1).to_be_bytes();
        });
        rig.offer_some(&spans, &all);
        // Repeated at once: were each of them compared with all that are there, this test would not end.
        rig.offer_some(&spans, &all);
    }
    assert_eq!((rig.status().open_spans, rig.fate("Duplicate")), (1_000_000, 1_000_000));
    rig.at(10.0).advance();
    assert!(rig.out.iter().all(|release| release.spans.bytes.len() < 1 << 20), "cut into requests");
    for release in rig.out.drain(..) {
        rig.dedup.settle(&release.keys, &Fate::Exported, rig.now);
        release.receipts.into_iter().for_each(|receipt| receipt.resolve(Fate::Exported));
    }
    assert_eq!(rig.fate("Exported"), 1_000_000);
    rig.finish();
}

/// A request of one resource, with a scope and a span for each id.
fn scopes_below(resource: &str, ids: std::ops::Range<u64>, trace: impl Fn(u64) -> u64) -> Spans {
    let (mut attributes, mut entry, mut out) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut attributes, 1, &pair("service.name", "shop"));
    put_bytes(&mut attributes, 1, &pair("pad", resource));
    put_bytes(&mut entry, 1, &attributes);
    for n in ids {
        let (mut scope, mut name) = (Vec::new(), Vec::new());
        put_bytes(&mut name, 1, n.to_string().as_bytes());
        put_bytes(&mut scope, 1, &name);
        put_bytes(&mut scope, 2, &span(trace(n), n + 1).encode());
        put_bytes(&mut entry, 2, &scope);
    }
    put_bytes(&mut out, 1, &entry);
    walk(Bytes::from(out), &Limits::default()).unwrap().spans
}

#[test]
fn one_resource_with_thousands_of_scopes_is_held_and_sent_once() {
    for traces in [1, 50] {
        let mut rig = Rig::new(|_, _| ());
        let spans = scopes_below(&"x".repeat(200 << 10), 0..2_000, |n| n % traces);
        let sent = spans.bytes.len() as u64;
        let before = rig.traces.held_bytes();
        let all: Vec<u32> = (0..2_000).collect();
        // They are all there at once before the bound can be seen to.
        rig.traces.take(&spans, &all, &mut rig.out);
        let held = rig.traces.held_bytes() - before;
        assert!(held < 4 * sent, "{held} of {sent}");
        let now = Tick(10_000_000_000);
        assert!(!rig.traces.advance(now, 100, &mut rig.out));
        let out: u64 = rig.out.drain(..).map(|release| release.spans.bytes.len() as u64).sum();
        assert!(out < 2 * sent, "{out} of {sent}");
    }
}

#[test]
fn what_stands_above_its_spans_counts_towards_a_traces_cap() {
    let mut rig = Rig::new(|bounds, _| bounds.max_trace_bytes = 1 << 20);
    for n in 0..12_u64 {
        rig.offer_some(&scopes_below(&n.to_string().repeat(100 << 10), n..n + 1, |_| 1), &[0]);
    }
    assert!(rig.decided(Cause::TooManyBytes) == 1, "{:?}", rig.status());
    assert_eq!(rig.exported().len(), 12);
    rig.finish();
}

#[test]
fn spans_that_come_one_by_one_count_with_the_receipts_that_wait_for_them() {
    let held = |at_once: usize| {
        let mut rig = Rig::new(|_, _| ());
        let all: Vec<Sent> = (0..4_096).map(|n| span(n, 1)).collect();
        all.chunks(at_once).for_each(|batch| _ = rig.offer(batch));
        let held = rig.traces.held();
        rig.at(10.0).advance();
        assert_eq!(rig.ids().len(), 4_096);
        rig.finish();
        held
    };
    assert!(held(1) >= held(4_096) + 4_000 * Receipt::BYTES as u64);
}
