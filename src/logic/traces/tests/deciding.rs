//! When a trace is decided, and what is the same span.

use super::*;

#[test]
fn a_trace_waits_from_its_first_span_and_leaves_whole() {
    let mut rig = Rig::new(|_, _| ());
    rig.at(1.0).offer(&[root(1, 1), span(1, 2)]);
    rig.at(9.0).offer(&[span(1, 3), span(2, 4)]);
    assert_eq!(rig.traces.next_deadline(), Some(Tick(11_000_000_000)));
    rig.at(10.999).advance();
    assert_eq!(rig.ids(), []);
    rig.at(11.0).advance();
    assert_eq!(rig.ids(), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!((rig.decided(Cause::Waited), rig.status().open_traces), (1, 1));
    assert_eq!(rig.traces.next_deadline(), Some(Tick(19_000_000_000)));
    rig.finish();
}

#[test]
fn a_root_shortens_the_wait_and_never_lengthens_it() {
    let mut rig = Rig::new(|bounds, _| bounds.wait_after_root = 2 * SECOND);
    rig.at(0.0).offer(&[span(1, 1), span(2, 2), span(3, 3)]);
    rig.at(1.0).offer(&[root(1, 4)]);
    rig.at(2.0).offer(&[root(1, 5)]);
    rig.at(2.9).advance();
    assert_eq!(rig.ids(), []);
    rig.at(3.0).advance();
    assert_eq!(rig.ids(), [(1, 1), (1, 4), (1, 5)]);
    rig.at(9.0).offer(&[root(2, 6)]);
    rig.at(10.0).advance();
    assert_eq!(rig.ids(), [(2, 2), (2, 6), (3, 3)]);
    assert_eq!((rig.decided(Cause::RootReceived), rig.decided(Cause::Waited)), (1, 2));
    rig.finish();
}

#[test]
fn without_a_wait_after_the_root_the_root_changes_nothing() {
    let mut rig = Rig::new(|_, _| ());
    rig.offer(&[root(1, 1)]);
    assert_eq!(rig.traces.next_deadline(), Some(Tick(10_000_000_000)));
    rig.finish();
}

#[test]
fn a_wait_after_the_root_beyond_all_time_changes_nothing() {
    let mut rig = Rig::new(|bounds, _| bounds.wait_after_root = Duration::MAX);
    for round in 0..3 {
        rig.at(f64::from(round) * 10.0).offer(&[root(1, 1), root(2, 1)]).offer(&[root(3, 1)]);
        assert_eq!(rig.traces.rooted.len(), 0);
        rig.at(f64::from(round) * 10.0 + 10.0).advance();
    }
    rig.finish();
}

#[test]
fn one_call_decides_no_more_than_it_may() {
    let mut rig = Rig::new(|_, _| ());
    rig.offer(&(0..10).map(|n| span(n, 1)).collect::<Vec<_>>());
    rig.at(10.0);
    assert!(rig.traces.advance(rig.now, 4, &mut rig.out));
    assert_eq!((rig.status().open_traces, rig.ids().len()), (6, 4));
    assert!(!rig.traces.advance(rig.now, 6, &mut rig.out));
    assert_eq!(rig.status().open_traces, 0);
    rig.finish();
}

#[test]
fn one_call_decides_few_large_traces() {
    for stop in [false, true] {
        let mut rig = Rig::new(|_, _| ());
        for trace in 0..4 {
            rig.offer(&(0..3_000).map(|id| span(trace, id + 1)).collect::<Vec<_>>());
        }
        rig.at(10.0);
        for left in [2, 0] {
            let more = if stop {
                rig.traces.close(rig.now, 100, &mut rig.out)
            } else {
                rig.traces.advance(rig.now, 100, &mut rig.out)
            };
            assert_eq!((rig.status().open_traces, more), (left, left > 0));
        }
        rig.finish();
    }
}

#[test]
fn whoever_brings_spans_to_a_shard_that_is_behind_decides_as_many_traces() {
    let mut rig = Rig::new(|_, _| ());
    for n in 0..1_000_u32 {
        rig.at(f64::from(n) / 1_000.0).offer(&[span(n.into(), 1)]);
    }
    // Nobody calls `advance`.
    for n in 1_000..20_000_u32 {
        rig.at(f64::from(n) / 1_000.0).offer(&[span(n.into(), 1)]);
    }
    let status = rig.status();
    assert!(status.latest_decision_seconds < 0.2, "{}", status.latest_decision_seconds);
    assert!(status.open_traces < 10_200);
    rig.finish();
}

#[test]
fn a_repeated_span_is_a_duplicate_within_a_batch_and_over_batches() {
    let mut rig = Rig::new(|_, _| ());
    rig.offer(&[span(1, 1), span(1, 1), span(1, 2)]);
    rig.offer(&[span(1, 2), span(1, 3), span(2, 1)]);
    assert_eq!((rig.status().duplicates, rig.fate("Duplicate")), (2, 2));
    rig.at(10.0).advance();
    assert_eq!(rig.ids(), [(1, 1), (1, 2), (1, 3), (2, 1)]);
    rig.finish();
}

#[test]
fn halves_of_a_call_and_a_span_sent_again_at_its_end_are_not_duplicates() {
    let mut rig = Rig::new(|_, _| ());
    let client = span(1, 1);
    rig.offer(&[client.clone(), Sent { kind: 2, ..client.clone() }, Sent { end: 9_999, ..client }]);
    rig.at(10.0).advance();
    assert_eq!((rig.ids().len(), rig.fate("Duplicate")), (3, 0));
    rig.finish();
}

#[test]
fn duplicates_are_found_in_traces_of_any_size() {
    let mut rig = Rig::new(|_, _| ());
    let all: Vec<Sent> = (1..=6_000).map(|id| span(1, id)).collect();
    for (n, part) in all.chunks(25).enumerate() {
        rig.offer(part);
        let again = &all[n * 10..n * 10 + 25];
        rig.offer(again);
        assert_eq!(u64::from(rig.fate("Duplicate")), 25 * (n as u64 + 1));
    }
    rig.at(10.0).advance();
    assert_eq!(rig.ids().len(), 6_000);
    rig.finish();
}

#[test]
fn without_a_dedup_nothing_is_a_duplicate() {
    let mut rig = Rig::new(|_, _| ());
    rig.traces = Traces::new(bounds(), Arc::new(Judges::default()), None, 1);
    rig.offer(&[span(1, 1), span(1, 1)]).at(10.0).advance();
    let release = rig.out.pop().unwrap();
    assert_eq!((release.spans.len(), release.keys.len()), (2, 0));
    release.receipts.into_iter().for_each(|receipt| receipt.resolve(Fate::Exported));
    rig.finish();
}

#[test]
fn a_trace_that_no_policy_wants_is_dropped_whole() {
    let mut rig = Rig::sampling(|_, _| ());
    rig.offer(&[span(1, 1), error(2, 1), span(2, 2)]).offer(&[span(1, 2)]);
    rig.at(10.0).advance();
    assert_eq!(rig.ids(), [(2, 1), (2, 2)]);
    assert_eq!((rig.fate("SampledOut"), rig.fate("Exported")), (2, 2));
    let status = rig.status();
    assert_eq!((status.kept_traces, status.kept_spans), (1, 2));
    assert_eq!((status.dropped_traces, status.dropped_spans), (1, 2));
    rig.finish();
}

#[test]
fn what_is_released_does_not_depend_on_the_order_of_arrival() {
    let spans: Vec<Sent> = (0..40)
        .map(|n| Sent {
            status: if n == 17 { 2 } else { 0 },
            cluster: ["east", "west", "north"][n as usize % 3],
            ..span(n % 4, n + 1)
        })
        .collect();
    let mut seen = Vec::new();
    for step in [1, 3, 7, 11, 27] {
        let mut rig =
            Rig::sampling(|_, judges| judges.marks = SamplingMarks { policy: true, owner: true, reason: true });
        let order: Vec<Sent> = (0..40).map(|n| spans[n * step % 40].clone()).collect();
        order.chunks(step).for_each(|part| _ = rig.offer(part));
        rig.offer(&order[..5]);
        rig.at(10.0).advance();
        let mut out = rig.exported();
        assert_eq!(out.len(), 10);
        out.sort_by_key(|out| out.id);
        seen.push(out);
        rig.finish();
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_stop_decides_open_traces_oldest_first_or_drops_them_by_name() {
    let mut rig = Rig::new(|_, _| ());
    rig.at(0.0).offer(&[span(1, 1)]);
    rig.at(1.0).offer(&[span(2, 2)]);
    assert!(rig.traces.close(rig.now, 1, &mut rig.out));
    assert_eq!(rig.ids(), [(1, 1)]);
    assert!(!rig.traces.close(rig.now, 1, &mut rig.out));
    assert_eq!(rig.decided(Cause::Shutdown), 2);
    rig.finish();

    let mut rig = Rig::new(|_, judges| judges.drop_at_shutdown = true);
    rig.offer(&[span(1, 1)]);
    assert!(!rig.traces.close(rig.now, 9, &mut rig.out));
    assert_eq!((rig.fate("Dropped(Shutdown)"), rig.ids().len()), (1, 0));
    rig.finish();
}

#[test]
fn in_json_decided_traces_are_counted_by_the_name_of_their_cause() {
    let mut rig = Rig::new(|bounds, _| bounds.max_trace_spans = 1);
    rig.offer(&[span(1, 1), span(1, 2), span(2, 1)]).at(10.0).advance();
    let status = serde_json::to_value(rig.status()).unwrap();
    let decided = &status["decided"];
    assert_eq!((&decided["waited"], &decided["too_many_spans"], &decided["memory"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(decided.as_object().map(serde_json::Map::len), Some(Cause::ALL.len()));
    rig.exported();
    rig.finish();
}
