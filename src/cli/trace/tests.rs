use super::text::facts;
use super::waterfall::picture;
use super::*;
use crate::link::explain::example::{self, report};
use crate::link::explain::{Explanation, PeerAnswer, Silence};
use crate::logic::traces::{SpanLine, TraceState};
use crate::model::{SpanId, UnixNanos};

const NOW: UnixNanos = UnixNanos(2_000_000_000_000_000_000);

fn answer(change: impl FnOnce(&mut PeerAnswer)) -> TraceAnswer {
    let mut answer = PeerAnswer::new(NOW, 4_000.0, Some(3_600.0), Some(report(3)));
    answer.ring_version = "00ff".into();
    change(&mut answer);
    told(Ok(answer))
}

fn told(answer: Result<PeerAnswer, Silence>) -> TraceAnswer {
    let explanation = Explanation {
        slot: 77,
        ring_version: "00ff".into(),
        owner: Some("us/a".parse().unwrap()),
        others_asked: 2,
        ..Explanation::alone(answer)
    };
    TraceAnswer::new(TraceId([0xab; 16]), explanation, "eu/b")
}

#[test]
fn a_trace_that_was_decided_is_told_in_a_few_lines() {
    let wanted = "\
trace  abababababababababababababababab
state  kept by policy errors, 1s ago (decision_wait was over)
owner  us/a, by slot 77 of ring 00ff
seen   first span 30s ago, 2 calls between clusters
spans  3 in 300 bytes: eu 1, us 2
odd    3 duplicates dropped, 2 spans came after the verdict, 1 span without its parent
";
    assert_eq!(facts(&answer(|_| {})), wanted);
}

#[test]
fn every_state_has_its_sentence() {
    let state = |answer: &TraceAnswer| facts(answer).lines().nth(1).unwrap().to_owned();
    let open = answer(|answer| {
        let trace = answer.trace.as_mut().unwrap();
        (trace.state, trace.policy, trace.cause) = (TraceState::Open, None, None);
        let details = trace.details.as_mut().unwrap();
        (details.decided_at, details.decision_at) = (None, Some(answer.answered_at + 12.0));
    });
    assert_eq!(state(&open), "state  open, to be decided in 12s");
    let dropped = answer(|answer| {
        let trace = answer.trace.as_mut().unwrap();
        (trace.state, trace.policy, trace.cause) = (TraceState::Dropped, None, Some("memory".into()));
    });
    assert_eq!(state(&dropped), "state  dropped, as no policy kept it, 1s ago (early, the trace buffer was full)");
    let unknown = answer(|answer| answer.trace = None);
    assert_eq!(state(&unknown), "state  unknown at us/a, which remembers what it decided since 1h 0m ago");
    assert!(
        facts(&unknown).contains("note   the owner does not know it; asked 2 other members: nobody knows it"),
        "{}",
        facts(&unknown)
    );
    let silent = told(Err(Silence::TimedOut));
    assert_eq!(state(&silent), "state  unknown: there is no answer");
    assert!(facts(&silent).contains("ring 00ff; no answer from it: it did not answer in time\n"), "{}", facts(&silent));
}

#[test]
fn what_senders_and_peers_wrote_cannot_write_on_the_terminal() {
    let evil = "\u{1b}[2J\u{202e}evil\r\n";
    let forged = answer(|answer| {
        let trace = answer.trace.as_mut().unwrap();
        (trace.policy, trace.cause) = (Some(evil.into()), Some(evil.into()));
        trace.details.as_mut().unwrap().spans_by_cluster = [(evil.to_owned(), 1)].into();
        answer.ring_version = evil.into();
    });
    let span = SpanLine {
        name: evil.into(),
        cluster: evil.into(),
        service: Some(evil.into()),
        attributes: vec![(evil.into(), evil.into())],
        ..example::line(0)
    };
    for text in [facts(&forged), picture(&[span], 0, 100)] {
        assert!(text.contains("evil") && !text.contains(['\u{1b}', '\r', '\u{202e}']), "{text:?}");
    }
    assert_eq!(facts(&forged).lines().count(), 7);
}

/// A span: id, parent, start and end in milliseconds, cluster, name.
fn span(id: u64, parent: u64, (start, end): (u64, u64), cluster: &str, name: &str) -> SpanLine {
    SpanLine {
        span_id: SpanId(id.to_be_bytes()),
        parent_span_id: (parent > 0).then_some(SpanId(parent.to_be_bytes())),
        name: name.into(),
        cluster: cluster.into(),
        service: None,
        kind: 2,
        status: u8::from(id == 4) * 2,
        start: UnixNanos(NOW.0 + start * 1_000_000),
        end: UnixNanos(NOW.0 + end * 1_000_000),
        attributes: Vec::new(),
    }
}

#[test]
fn the_picture_shows_the_tree_the_times_and_the_marks() {
    let spans = [
        span(1, 0, (10, 110), "us-east-1", "GET /checkout"),
        span(2, 1, (20, 60), "us-east-1", "charge"),
        span(3, 2, (0, 30), "eu-west-1", "POST /charge"),
        span(4, 1, (70, 70), "us-east-1", "reserve"),
        span(6, 5, (90, 110), "us-west-2", "audit"),
        span(7, 7, (100, 101), "us-west-2", "loop"),
    ];
    let wanted = "\
\x20   CLUSTER    SPAN              KIND    TAKES     0                    110.0 ms
    us-east-1  GET /checkout     server  100.0 ms    ===========================
    us-east-1    charge          server  40.0 ms        ==========
!<  eu-west-1      POST /charge  server  30.0 ms   =======
E   us-east-1    reserve         server  0 ns                        =
?   us-west-2  audit             server  20.0 ms                          ======
@   us-west-2  loop              server  1.0 ms                              =
! called from another cluster
? its parent is missing
@ its parents form a circle
< starts before its parent
E error
9 more spans are not shown
";
    assert_eq!(picture(&spans, 9, 80), wanted, "\n{}", picture(&spans, 9, 80));
}

#[test]
fn a_span_without_times_leaves_the_picture_of_the_others_as_it_is() {
    let nameless = SpanLine { start: UnixNanos(0), end: UnixNanos(0), ..span(2, 1, (0, 0), "eu", "odd") };
    let spans = [span(1, 0, (10, 110), "us", "GET /"), nameless, span(3, 1, (60, 110), "us", "half")];
    let wanted = "\
\x20  CLUSTER  SPAN    KIND    TAKES     0             100.0 ms
   us       GET /   server  100.0 ms  ======================
!  eu         odd   server  -
   us         half  server  50.0 ms              ===========
! called from another cluster
";
    assert_eq!(picture(&spans, 0, 60), wanted, "\n{}", picture(&spans, 0, 60));
}

#[test]
fn services_and_attributes_are_there_if_they_were_told() {
    let spans = [example::line(0), example::line(1)];
    let text = picture(&spans, 0, 100);
    assert!(text.contains("CLUSTER  SERVICE  SPAN") && text.contains("us       shop     span 0"), "{text}");
    assert_eq!(text.matches("\n    http.route=/cart\n").count(), 2, "{text}");
}

#[test]
fn no_times_or_depths_break_the_picture() {
    let at = |start, end| SpanLine { start: UnixNanos(start), end: UnixNanos(end), ..example::line(0) };
    for spans in
        [vec![], vec![at(0, 0)], vec![at(u64::MAX, 0), at(0, u64::MAX)], vec![at(5, 1), at(u64::MAX, u64::MAX)]]
    {
        let text = picture(&spans, 0, 60);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let chain: Vec<_> = (1..500).map(|id| span(id, id - 1, (id, id + 1), "a", &"long name ".repeat(50))).collect();
    assert!(picture(&chain, 0, 100).lines().all(|line| line.chars().count() <= 100));
}
