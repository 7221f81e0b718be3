use super::*;
use crate::config::settings::SamplerMode;
use crate::export::testing::{batch, names, request};
use crate::pipeline::stages::Stage;
use crate::pipeline::testing::Watched;
use crate::wire::attributes::trace_state;
use crate::wire::{Limits, walk};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn sampler(mode: SamplerMode, percent: f64) -> ProbabilisticSampler {
    let settings =
        ProbabilisticSamplerSettings { sampling_percentage: percent, mode, sampling_precision: 4, fail_closed: true };
    ProbabilisticSampler::new(&settings)
}

fn trace_states(batch: &Batch) -> Vec<&str> {
    batch.spans.spans.iter().map(|span| trace_state(span.body().of(&batch.spans.bytes))).collect()
}

#[test]
fn a_part_of_the_spans_goes_on_with_the_threshold_and_the_rest_is_sampled_out() {
    let sender = Watched::default();
    let stage = sampler(SamplerMode::Equalizing, 50.0);
    let passed = stage.apply(batch(&request(&NAMES), &sender)).unwrap();

    let kept = names(&passed.spans.bytes);
    let expected = NAMES.iter().filter(|name| xxhash_rust::xxh3::xxh3_128(name.as_bytes()) >> 55 & 1 == 1);
    assert_eq!(kept.iter().map(String::as_str).collect::<Vec<_>>(), expected.copied().collect::<Vec<_>>());
    assert!((1..8).contains(&kept.len()), "{kept:?}");
    assert_eq!(trace_states(&passed), vec!["ot=th:8"; kept.len()]);

    let dropped = 8 - kept.len() as u32;
    assert_eq!(passed.receipt.spans(), kept.len() as u32);
    assert_eq!(sender.fates(), [(dropped, Fate::SampledOut)]);
    assert_eq!((stage.dropped_spans(), stage.error_spans()), (u64::from(dropped), 0));
    assert_eq!(passed.held.bytes(), passed.spans.bytes.len() as u64);
    let again = walk(passed.spans.bytes.clone(), &Limits::default()).unwrap().spans;
    assert_eq!((again.spans, again.scopes), (passed.spans.spans.clone(), passed.spans.scopes.clone()));
    passed.receipt.resolve(Fate::Exported);
    drop(passed.held);
    assert_eq!(sender.budget().bytes(), 0);
}

#[test]
fn a_batch_of_which_nothing_is_kept_ends_here_and_its_sender_is_answered() {
    let sender = Watched::default();
    let stage = sampler(SamplerMode::HashSeed { seed: 22 }, 0.0);
    assert!(stage.apply(batch(&request(&NAMES), &sender)).is_none());
    assert_eq!((sender.answer(), sender.fates()), (Some(Ok(())), vec![(8, Fate::SampledOut)]));
    assert_eq!(sender.budget().bytes(), 0);
}

#[test]
fn a_second_stage_drops_more_and_a_weaker_one_changes_nothing() {
    let sender = Watched::default();
    let all = Stage::ProbabilisticSampler(sampler(SamplerMode::Proportional, 100.0).into());
    let passed = all.apply(batch(&request(&NAMES), &sender)).unwrap();
    assert_eq!(trace_states(&passed), ["ot=th:0"; 8]);
    let bytes = passed.spans.bytes.clone();
    let passed = all.apply(passed).unwrap();
    // Not even copied.
    assert_eq!((passed.spans.bytes.as_ptr(), passed.spans.bytes.len()), (bytes.as_ptr(), bytes.len()));

    let half = sampler(SamplerMode::Proportional, 50.0).apply(passed).unwrap();
    assert_eq!(trace_states(&half), vec!["ot=th:8"; half.spans.len()]);
    assert!(half.spans.len() < 8);
    half.receipt.resolve(Fate::Exported);
}

#[test]
fn spans_that_were_sampled_before_are_errors_to_hash_seed_and_are_counted() {
    let sender = Watched::default();
    let hash = sampler(SamplerMode::HashSeed { seed: 1 }, 100.0);
    let first = hash.apply(batch(&request(&NAMES), &sender)).unwrap();
    assert_eq!((first.spans.len(), hash.error_spans()), (8, 0));
    assert!(hash.apply(first).is_none());
    assert_eq!((hash.dropped_spans(), hash.error_spans()), (8, 8));
    assert_eq!(sender.fates(), [(8, Fate::SampledOut)]);
}
