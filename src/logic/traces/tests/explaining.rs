//! What is told of a trace.

use super::*;

const ALL: Wanted = Wanted { spans: true, values: true };

fn report(rig: &Rig, trace: u64, wanted: Wanted) -> TraceReport {
    rig.traces.report(&trace_id(trace), wanted, rig.now).unwrap()
}

#[test]
fn an_open_trace_tells_what_is_there_and_when_it_is_decided() {
    let mut rig = Rig::new(|_, _| ());
    rig.at(1.0).offer(&[root(1, 1), Sent { cluster: "west", parent: 1, ..span(1, 2) }, span(1, 3), span(1, 3)]);
    rig.at(4.0);
    let report = report(&rig, 1, Wanted::default());
    assert_eq!((report.state, report.policy, report.cause), (TraceState::Open, None, None));
    let details = report.details.unwrap();
    assert_eq!((details.first_seen_seconds_ago, details.decision_in_seconds), (3.0, Some(7.0)));
    assert_eq!((details.spans, details.duplicates, details.missing_parents, details.crossings), (3, 1, 1, 1));
    assert_eq!(details.spans_by_cluster, BTreeMap::from([("east".to_owned(), 2), ("west".to_owned(), 1)]));
    assert_eq!(details.timeline, None);
    assert_eq!(rig.traces.report(&trace_id(9), ALL, rig.now), None);
    rig.finish();
}

#[test]
fn a_decided_trace_tells_its_verdict_until_only_that_is_left() {
    let mut rig = Rig::sampling(|bounds, _| {
        bounds.recent_bytes = 1_000;
        bounds.recent_traces = 3;
    });
    rig.offer(&[error(1, 1), span(1, 2)]).at(10.0).advance();
    rig.at(11.0).offer(&[span(1, 3)]);
    let first = report(&rig, 1, ALL);
    assert_eq!(
        (first.state, first.policy.as_deref(), first.cause.as_deref()),
        (TraceState::Kept, Some("errors"), Some("waited"))
    );
    let details = first.details.unwrap();
    assert_eq!((details.decided_seconds_ago, details.decision_in_seconds, details.late), (Some(1.0), None, 1));
    assert_eq!(details.timeline.unwrap().len(), 2);

    // Its spans make room for others; their number stays.
    rig.offer(&[large(2, 1, 900)]).at(21.0).advance();
    let details = report(&rig, 1, ALL).details.unwrap();
    assert_eq!((details.spans, details.timeline), (2, None));
    assert_eq!(details.spans_by_cluster, BTreeMap::from([("east".to_owned(), 2)]));

    rig.offer(&[span(3, 1), span(4, 1), span(5, 1)]).at(31.0).advance();
    let last = report(&rig, 1, ALL);
    assert_eq!((last.state, last.policy.as_deref(), last.details), (TraceState::Kept, Some("errors"), None));
    assert_eq!(report(&rig, 2, ALL).state, TraceState::Dropped);
    rig.finish();
}

#[test]
fn values_are_told_only_to_those_who_may_see_them() {
    let mut rig = Rig::new(|_, _| ());
    let secret = Sent { values: vec![("user.mail", "a@b".to_owned())], ..root(1, 1) };
    rig.offer(&[secret]);
    let open = report(&rig, 1, ALL).details.unwrap().timeline.unwrap();
    assert_eq!(open[0].attributes, [("user.mail".to_owned(), "a@b".to_owned())]);
    assert_eq!((open[0].service.as_deref(), open[0].parent_span_id), (Some("shop"), None));
    let shut = report(&rig, 1, Wanted { spans: true, values: false }).details.unwrap().timeline.unwrap();
    assert_eq!((&shut[0].attributes, &shut[0].service, shut[0].name.as_str()), (&Vec::new(), &None, "GET /"));
    rig.finish();
}

#[test]
fn a_timeline_is_in_order_and_bounded_in_lines_and_texts() {
    let mut rig = Rig::new(|_, _| ());
    let long = |id: u64| Sent { start: 10_000 - id, name: "ä".repeat(400), ..span(1, id) };
    let values = (0..100).map(|_| ("key", "v".repeat(500))).collect();
    rig.offer(&(1..=2_500).map(long).collect::<Vec<_>>());
    rig.offer(&[Sent { values, start: 1, ..span(1, 9_000) }]);
    let details = report(&rig, 1, ALL).details.unwrap();
    let lines = details.timeline.unwrap();
    assert_eq!((lines.len(), details.left_out), (2_000, 501));
    assert!(lines.is_sorted_by_key(|line| line.start));
    assert_eq!((lines[0].attributes.len(), lines[0].attributes[0].1.len()), (64, 256));
    assert_eq!(lines[1].name, "ä".repeat(128));
    rig.finish();
}

#[test]
fn a_timeline_takes_little_memory_whatever_its_spans_carry() {
    for (keys, bytes) in [(64, 250), (64, 1), (1, 250)] {
        let mut rig = Rig::new(|bounds, _| bounds.max_trace_bytes = 64 << 20);
        let values: Vec<_> = (0..keys).map(|_| ("k", "v".repeat(bytes))).collect();
        rig.offer(&(1..=2_000).map(|id| Sent { values: values.clone(), ..span(1, id) }).collect::<Vec<_>>());
        let details = report(&rig, 1, ALL).details.unwrap();
        let lines = details.timeline.unwrap();
        assert_eq!(lines.len() as u64 + details.left_out, 2_000);
        let texts = lines.iter().flat_map(|line| &line.attributes).map(|(key, value)| 48 + key.len() + value.len());
        let total = texts.sum::<usize>();
        assert!(
            total < 2 << 20 && (lines.len() == 2_000 || total > 1 << 20),
            "{keys} {bytes}: {} {total}",
            lines.len()
        );
        rig.finish();
    }
}
