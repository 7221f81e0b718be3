//! What comes after the verdict follows it.

use super::*;

/// Verdicts only: nothing is kept for explanations.
fn without_recent(bounds: &mut Bounds) {
    bounds.recent_traces = 0;
}

#[test]
fn a_late_span_follows_the_verdict() {
    for recent in [true, false] {
        let mut rig = Rig::sampling(|bounds, _| {
            if !recent {
                without_recent(bounds);
            }
        });
        rig.offer(&[span(1, 1), error(2, 1)]).at(10.0).advance();
        rig.exported();
        rig.at(20.0).offer(&[span(1, 2), span(2, 2)]);
        let late = rig.exported();
        assert_eq!(late.len(), 1);
        assert_eq!((number_of(late[0].trace), late[0].id), (2, 2));
        assert_eq!(late[0].attribute("spanmesh.late").as_deref(), Some("true"));
        let status = rig.status();
        assert_eq!((status.late_kept_spans, status.late_dropped_spans), (1, 1));
        assert_eq!((status.new_traces, rig.fate("SampledOut")), (2, 2));
        rig.finish();
    }
}

#[test]
fn a_late_span_bears_the_marks_of_its_trace() {
    let mut rig = Rig::sampling(|bounds, judges| {
        without_recent(bounds);
        judges.marks = SamplingMarks { policy: true, owner: true, reason: true };
    });
    rig.offer(&[error(2, 1)]).at(10.0).advance();
    rig.at(20.0).offer(&[span(2, 2)]);
    for out in rig.exported() {
        assert_eq!(out.attribute("tailsampling.policy").as_deref(), Some("errors"));
        assert_eq!(out.attribute("spanmesh.owner").as_deref(), Some("east/one"));
        assert_eq!(out.attribute("spanmesh.decision_cause").as_deref(), Some("waited"));
        assert_eq!(out.attribute("spanmesh.late").is_some(), out.id == 2);
    }
    rig.finish();
}

#[test]
fn a_late_span_that_was_exported_already_is_a_duplicate() {
    let mut rig = Rig::new(|_, _| ());
    rig.offer(&[span(1, 1)]).at(10.0).advance();
    rig.at(11.0).offer(&[span(1, 1), span(1, 2)]);
    assert_eq!(rig.fate("Duplicate"), 1, "still with the exporter");
    assert_eq!(rig.ids(), [(1, 1), (1, 2)]);
    rig.at(12.0).offer(&[span(1, 1), span(1, 2), span(1, 3)]);
    assert_eq!((rig.fate("Duplicate"), rig.ids()), (3, vec![(1, 3)]));
    rig.finish();
}

#[test]
fn a_span_that_was_given_up_may_come_again() {
    let mut rig = Rig::new(|_, _| ());
    rig.offer(&[span(1, 1)]).at(10.0).advance();
    rig.settled(&Fate::Dropped(crate::model::DropReason::RetriesExhausted));
    rig.at(11.0).offer(&[span(1, 1)]);
    assert_eq!((rig.fate("Duplicate"), rig.ids()), (0, vec![(1, 1)]));
    rig.finish();
}

#[test]
fn verdicts_are_remembered_for_ten_times_the_open_traces() {
    let mut rig = Rig::sampling(|bounds, _| without_recent(bounds));
    let open = 2_000;
    for round in 0..12_u32 {
        rig.at(f64::from(round) * 10.0);
        let traces = u64::from(round) * open..u64::from(round + 1) * open;
        rig.offer(&traces.map(|n| if n % 2 == 0 { error(n, 1) } else { span(n, 1) }).collect::<Vec<_>>());
        rig.at(f64::from(round) * 10.0 + 10.0).advance();
        rig.out.drain(..).for_each(|release| {
            rig.dedup.settle(&release.keys, &Fate::Exported, rig.now);
            release.receipts.into_iter().for_each(|receipt| receipt.resolve(Fate::Exported));
        });
    }
    let before = rig.status();
    rig.offer(&(2 * open..12 * open).map(|n| span(n, 2)).collect::<Vec<_>>());
    let after = rig.status();
    assert_eq!(after.new_traces, before.new_traces, "none is taken for a new trace");
    assert_eq!((after.late_kept_spans, after.late_dropped_spans), (5 * open, 5 * open));
    rig.finish();
}

#[test]
fn verdicts_are_forgotten_by_count_and_say_so() {
    let mut rig = Rig::new(|bounds, _| {
        without_recent(bounds);
        bounds.kept_verdicts = 100;
    });
    assert_eq!(rig.status().verdicts_seconds, 600.0);
    for n in 0..1_000 {
        rig.at(n as f64).offer(&[span(n, 1)]);
        rig.at(n as f64 + 10.0).advance();
        rig.exported();
    }
    let status = rig.status();
    assert!((100..=150).contains(&status.kept_verdicts), "{}", status.kept_verdicts);
    assert!((100.0..=150.0).contains(&status.verdicts_seconds), "{}", status.verdicts_seconds);
    rig.finish();
}

#[test]
fn verdicts_are_remembered_for_their_time_and_not_for_ever() {
    let mut rig = Rig::new(|bounds, _| without_recent(bounds));
    rig.offer(&[span(1, 1)]).at(10.0).advance();
    rig.exported();
    rig.at(609.0).advance();
    rig.offer(&[span(1, 2)]);
    assert_eq!(rig.status().late_kept_spans, 1);
    rig.at(1_600.0).advance();
    assert_eq!(rig.status().kept_verdicts, 0);
    rig.offer(&[span(1, 3)]);
    assert_eq!((rig.status().late_kept_spans, rig.status().new_traces), (1, 2));
    rig.finish();
}

#[test]
fn a_settled_span_is_a_duplicate_though_its_verdict_is_forgotten() {
    let mut rig = Rig::new(|bounds, _| {
        without_recent(bounds);
        bounds.kept_verdicts = 10;
    });
    rig.offer(&[span(0, 1)]).at(10.0).advance();
    rig.exported();
    for n in 1..100 {
        rig.offer(&[span(n, 1)]);
        rig.at(rig.now.0 as f64 / 1e9 + 1.0).advance();
    }
    rig.at(200.0).advance();
    rig.exported();
    let before = rig.status();
    rig.offer(&[span(0, 1), span(0, 2)]);
    assert_eq!((rig.status().duplicates, before.duplicates), (1, 0));
    assert_eq!(rig.status().new_traces, before.new_traces + 1);
    rig.at(211.0).advance();
    assert_eq!(rig.ids(), [(0, 2)]);
    rig.finish();
}

#[test]
fn a_settled_span_is_a_duplicate_though_another_one_has_begun_its_trace_anew() {
    let mut rig = Rig::new(|bounds, _| {
        without_recent(bounds);
        bounds.kept_verdicts = 10;
    });
    rig.offer(&[span(0, 1)]).at(10.0).advance();
    for n in 1..100 {
        rig.offer(&[span(n, 1)]);
        rig.at(rig.now.0 as f64 / 1e9 + 1.0).advance();
    }
    rig.at(200.0).advance();
    rig.exported();
    rig.offer(&[span(0, 2)]).offer(&[span(0, 1), span(0, 3)]);
    rig.at(211.0).advance();
    assert_eq!((rig.fate("Duplicate"), rig.ids()), (1, vec![(0, 2), (0, 3)]));
    rig.finish();
}

#[test]
fn a_span_that_an_exporter_holds_longer_than_its_verdict_is_remembered_goes_out_once() {
    let mut rig = Rig::new(|bounds, _| {
        without_recent(bounds);
        bounds.verdict_time = 400 * SECOND;
    });
    rig.offer(&[span(1, 1)]).at(10.0).advance();
    rig.at(2_000.0).advance();
    rig.offer(&[span(1, 1), span(1, 2)]);
    rig.at(2_010.0).advance();
    assert_eq!(rig.fate("Duplicate"), 1);
    assert_eq!(rig.ids(), [(1, 1), (1, 2)]);
    rig.finish();
}

#[test]
fn a_dry_run_keeps_everything_and_marks_what_would_have_gone() {
    let mut rig = Rig::sampling(|bounds, judges| {
        without_recent(bounds);
        judges.dry_run = true;
    });
    rig.offer(&[span(1, 1), error(2, 1)]).at(10.0).advance();
    rig.offer(&[span(1, 2)]);
    let out = rig.exported();
    assert_eq!(out.len(), 3);
    for out in out {
        let would_go = number_of(out.trace) == 1;
        assert_eq!(out.attribute("spanmesh.dry_run").as_deref(), would_go.then_some("drop"));
    }
    let status = rig.status();
    assert_eq!((status.would_drop_traces, status.would_drop_spans, status.dropped_traces), (1, 1, 0));
    let would_go = |trace: u64| rig.traces.report(&trace_id(trace), Wanted::default(), rig.now).unwrap().would_drop;
    assert_eq!((would_go(1), would_go(2)), (true, false));
    rig.finish();
}

#[test]
fn a_late_span_has_the_threshold_of_its_trace_only_if_chance_alone_kept_it() {
    let errors = PolicyKind::StatusCode { status_codes: vec![StatusCode::Error] };
    let half = || PolicyKind::Probabilistic { sampling_percentage: 50.0, hash_salt: String::new() };
    for recent in [0, 100] {
        let mut rig = Rig::new(|bounds, judges| {
            bounds.recent_traces = recent;
            judges.sampler = Some(sampler([("half", half()), ("errors", errors.clone())]));
        });
        // Both have the luck; the second would have been kept without it.
        let lucky: Vec<u64> = (1..100).filter(|n| trace_id(*n).0[9] & 0x80 != 0).take(2).collect();
        rig.offer(&[span(lucky[0], 1), error(lucky[1], 1)]).at(10.0).advance();
        rig.at(20.0).offer(&[span(lucky[0], 2), span(lucky[1], 2)]);
        let out = rig.exported();
        assert_eq!(out.len(), 4);
        for out in out {
            let told = crate::wire::attributes::trace_state(&out.body);
            let by_chance = number_of(out.trace) == lucky[0];
            assert_eq!(told, if by_chance { "ot=th:8" } else { "" }, "{} {recent}", out.id);
        }
        rig.finish();
    }
}
