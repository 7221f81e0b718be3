//! Sampling by chance: consistent on all nodes, and told only where nothing else kept the trace.

use super::*;
use crate::logic::testing::span;

/// A trace whose id has this randomness.
fn random(randomness: u64) -> TraceId {
    TraceId(((1 << 100) | u128::from(randomness)).to_be_bytes())
}

fn decide_random(sampler: &Sampler, randomness: u64, spans: &[TestSpan]) -> Verdict {
    sampler.decide(&TestTrace::new(random(randomness), spans).view(), &Links::default(), Tick::ZERO)
}

fn threshold(percent: f64) -> Threshold {
    Threshold::from_percentage(percent, 4).unwrap()
}

#[test]
fn a_trace_is_kept_from_its_threshold_on() {
    for percent in [0.001, 1.0, 10.0, 50.0, 99.9] {
        let sampler = sampler([probabilistic(percent)]);
        let least = threshold(percent).0;
        let at = decide_random(&sampler, least, &[span(1)]);
        assert_eq!(at, Verdict { keep: true, policy: Some(0), threshold: Some(Threshold(least)) });
        let below = decide_random(&sampler, least - 1, &[span(1)]);
        assert_eq!(below, Verdict { keep: false, policy: None, threshold: None });
        assert_eq!(sampler.threshold(0), Some(Threshold(least)));
    }
    assert!(decide_random(&sampler([probabilistic(100.0)]), 0, &[span(1)]).keep);
    assert!(!decide_random(&sampler([probabilistic(0.0)]), (1 << 56) - 1, &[span(1)]).keep);
}

#[test]
fn explicit_randomness_goes_before_that_of_the_id() {
    let sampler = sampler([probabilistic(50.0)]);
    let with = |text| [span(1), span(2).trace_state(text)];
    assert!(decide_random(&sampler, 0, &with("ot=rv:ffffffffffffff")).keep);
    assert!(!decide_random(&sampler, (1 << 56) - 1, &with("a=b,ot=rv:00000000000000")).keep);
    assert!(!decide_random(&sampler, 0, &with("a=b,ot=rv:broken")).keep);
}

#[test]
fn explicit_randomness_is_found_where_no_question_is_open_any_more() {
    let sampler = sampler([and([string("k", &["x"]), probabilistic(50.0)])]);
    let spans = [span(1).attribute("k", "x"), span(2).trace_state("ot=rv:00000000000000")];
    assert!(!decide_random(&sampler, (1 << 56) - 1, &spans).keep);
}

#[test]
fn a_higher_share_keeps_what_a_lower_one_keeps() {
    let shares = [1.0, 10.0, 25.0, 60.0].map(|percent| sampler([probabilistic(percent)]));
    for n in 0..2_000_u64 {
        let randomness = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
        let kept = shares.each_ref().map(|sampler| decide_random(sampler, randomness, &[span(1)]).keep);
        assert!(kept.is_sorted(), "{kept:?}");
    }
}

#[test]
fn a_threshold_is_told_only_if_chance_alone_kept_the_trace() {
    let all = (1 << 56) - 1;
    let error = [span(1).status(2)];
    let plain = [span(1)];
    let sampler = sampler([probabilistic(10.0), errors()]);
    let verdict = decide_random(&sampler, all, &error);
    assert_eq!((verdict.policy, verdict.threshold), (Some(0), None), "it would have been kept anyway");
    assert_eq!(decide_random(&sampler, all, &plain).threshold, Some(threshold(10.0)));
    assert_eq!(decide_random(&sampler, 0, &error).threshold, None);
    assert_eq!(sampler.threshold(1), None);
    assert_eq!(sampler.threshold(9), None);
}

#[test]
fn of_several_thresholds_the_lowest_that_kept_it_is_told() {
    let sampler = sampler([probabilistic(10.0), probabilistic(50.0), and([errors(), probabilistic(80.0)])]);
    let both = decide_random(&sampler, (1 << 56) - 1, &[span(1)]);
    assert_eq!((both.policy, both.threshold), (Some(0), Some(threshold(50.0))));
    let second = decide_random(&sampler, threshold(50.0).0, &[span(1)]);
    assert_eq!((second.policy, second.threshold), (Some(1), Some(threshold(50.0))));
    let error = decide_random(&sampler, threshold(80.0).0, &[span(1).status(2)]);
    assert_eq!((error.policy, error.threshold), (Some(2), Some(threshold(80.0))));
    let any_error = decide_random(&sampler, (1 << 56) - 1, &[span(1).status(2)]);
    assert_eq!((any_error.policy, any_error.threshold), (Some(0), Some(threshold(80.0))));
    assert_eq!([0, 1, 2].map(|policy| sampler.threshold(policy)), [50.0, 50.0, 80.0].map(|p| Some(threshold(p))));
}

#[test]
fn chance_within_and_is_told_unless_it_is_mixed_with_a_rate() {
    let rate = PolicyKind::RateLimiting { spans_per_second: 100, burst_capacity: 100 };
    let composite = PolicyKind::Composite { max_total_spans_per_second: 100, parts: Vec::new() };
    let told = |kind: PolicyKind| {
        let sampler = sampler([kind]);
        let verdict = decide_random(&sampler, (1 << 56) - 1, &[span(1).status(2)]);
        assert_eq!(verdict.threshold, sampler.threshold(0));
        (verdict.keep, verdict.threshold)
    };
    assert_eq!(told(and([errors(), probabilistic(10.0)])), (true, Some(threshold(10.0))));
    assert_eq!(told(and([probabilistic(50.0), probabilistic(10.0)])), (true, Some(threshold(10.0))));
    assert_eq!(told(and([and([probabilistic(10.0)]), not(latency(1, None))])), (true, Some(threshold(10.0))));
    assert_eq!(told(and([rate, probabilistic(10.0)])), (true, None));
    assert_eq!(told(and([not(composite), probabilistic(10.0)])), (true, None));
    assert_eq!(told(and([salted(100.0, "s"), probabilistic(10.0)])), (true, None));
    assert_eq!(told(not(probabilistic(10.0))), (false, None));
    let verdict = decide_random(&sampler([not(probabilistic(10.0))]), 0, &[span(1)]);
    assert_eq!((verdict.keep, verdict.threshold), (true, None), "no threshold says that the others were kept");
}

#[test]
fn with_first_match_a_threshold_is_told_only_if_chance_stands_behind() {
    let all = (1 << 56) - 1;
    let hidden = first_match([probabilistic(10.0), errors()]);
    assert_eq!(decide_random(&hidden, all, &[span(1)]).threshold, None, "an error would have been kept anyway");
    assert_eq!(hidden.threshold(0), None);
    let last = first_match([errors(), probabilistic(10.0), probabilistic(50.0), drop_if([latency(1, None)])]);
    assert_eq!(decide_random(&last, all, &[span(1)]).threshold, Some(threshold(50.0)));
    assert_eq!(decide_random(&last, all, &[span(1).status(2)]).threshold, None);
}

#[test]
fn salted_chance_is_that_of_the_collector() {
    // FNV-1a of salt and trace id, reckoned apart from this code.
    let id = TraceId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    let share_of_id = FNV_OF_TEST_SALT_AND_ID as f64 / u64::MAX as f64 * 100.0;
    let trace = TestTrace::new(id, &[span(1)]);
    let kept = |percent| sampler([salted(percent, "test-salt")]).decide(&trace.view(), &Links::default(), Tick::ZERO);
    assert!(kept(share_of_id + 1e-9).keep);
    assert!(!kept(share_of_id - 1e-9).keep);
    assert!(kept(100.0).keep && !kept(0.0).keep);
    assert_eq!((kept(100.0).threshold, kept(100.0).policy), (None, Some(0)));
}

const FNV_OF_TEST_SALT_AND_ID: u64 = 0x08ee_52de_da92_3930;

#[test]
fn another_salt_is_other_randomness() {
    let samplers = ["one", "two"].map(|salt| sampler([salted(50.0, salt)]));
    let kept: Vec<[bool; 2]> = (0..4_000_u64)
        .map(|n| samplers.each_ref().map(|sampler| decide_random(sampler, n * 7_919, &[span(1)]).keep))
        .collect();
    for wanted in [[true, true], [true, false], [false, true], [false, false]] {
        let share = kept.iter().filter(|both| **both == wanted).count();
        assert!((800..1_200).contains(&share), "{wanted:?}: {share} of 4,000");
    }
}

#[test]
fn the_policy_and_the_processor_keep_the_same_traces_at_any_percentage() {
    use crate::config::settings::{ProbabilisticSamplerSettings, SamplerMode};
    let mut told_apart = 0;
    for step in 1..=10_000 {
        let percent = f64::from(step) / 100.0;
        let policy = sampler([probabilistic(percent)]).threshold(0).unwrap();
        let processor = crate::logic::sampler::Sampler::new(&ProbabilisticSamplerSettings {
            sampling_percentage: percent,
            mode: SamplerMode::Proportional,
            sampling_precision: 4,
            fail_closed: true,
        });
        let kept = |randomness| processor.decide(&random(randomness), &[]).keep;
        assert!(kept(policy.0) && (policy.0 == 0 || !kept(policy.0 - 1)), "{percent}");
        told_apart += u32::from(policy != threshold(percent));
    }
    assert!(told_apart > 0, "32-bit floats make no difference");
}
