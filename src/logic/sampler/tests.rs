use super::*;
use crate::config::settings::AttributeValue;
use crate::wire::SpanEdits;
use crate::wire::span_edit::write_span;

use SamplerMode::{Equalizing, Proportional};

/// Kept by 50 % and not by 49 %.
const HALF: &str = "fefefefefefefefefe80000000000000";
const MOST: &str = "111111111111111111ffffffffffffff";
const HASH: SamplerMode = SamplerMode::HashSeed { seed: 4312 };

fn settings(mode: SamplerMode, percent: f64) -> ProbabilisticSamplerSettings {
    ProbabilisticSamplerSettings { sampling_percentage: percent, mode, sampling_precision: 4, fail_closed: true }
}

fn sampler(mode: SamplerMode, percent: f64) -> Sampler {
    Sampler::new(&settings(mode, percent))
}

fn id(text: &str) -> TraceId {
    text.parse().unwrap()
}

fn span(trace_state: &str, priority: Option<AttributeValue>) -> Vec<u8> {
    let mut out = Vec::new();
    let attributes: Vec<_> = priority.into_iter().map(|value| (PRIORITY, value)).collect();
    let trace_state = (!trace_state.is_empty()).then_some(trace_state);
    write_span(&mut out, b"\x2a\x01n", &SpanEdits { trace_state, attributes: &attributes });
    out
}

/// The tracestate that a span goes on with; `None`: it is dropped.
fn outcome(sampler: &Sampler, trace: &str, trace_state: &str) -> Option<String> {
    let decision = sampler.decide(&id(trace), &span(trace_state, None));
    assert!(decision.keep || decision.trace_state.is_none());
    decision.keep.then(|| decision.trace_state.unwrap_or_else(|| trace_state.to_owned()))
}

/// Ids as random as SDKs make them.
fn ids() -> impl Iterator<Item = TraceId> {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
    let mut random = ChaCha8Rng::seed_from_u64(1);
    std::iter::repeat_with(move || {
        let mut id = [0; 16];
        random.fill_bytes(&mut id);
        TraceId(id)
    })
}

/// The cases of the Collector's test of the two modes that read the tracestate, with its results; precision 0 is all
/// digits.
#[test]
fn equalizing_and_proportional_decide_as_the_collector_does() {
    type Row<'a> = (f64, u8, &'a str, &'a str, Option<&'a str>, Option<&'a str>);
    let rv = "ot=rv:FD70A3D70A3D71";
    let table: &[Row<'_>] = &[
        // Percent, precision, trace, tracestate, what comes out: equalizing, proportional.
        (100.0, 0, HALF, "", Some("ot=th:0"), Some("ot=th:0")),
        (200.0, 0, HALF, "", Some("ot=th:0"), Some("ot=th:0")),
        (0.0, 0, MOST, "", None, None),
        (50.0, 0, HALF, "", Some("ot=th:8"), Some("ot=th:8")),
        (49.0, 0, HALF, "", None, None),
        (25.0, 0, "ddddddddddddddddddc0000000000000", "", Some("ot=th:c"), Some("ot=th:c")),
        (25.0, 0, "ddddddddddddddddddb0000000000000", "", None, None),
        (
            1.0,
            0,
            HALF,
            rv,
            Some("ot=rv:FD70A3D70A3D71;th:fd70a3d70a3d71"),
            Some("ot=rv:FD70A3D70A3D71;th:fd70a3d70a3d71"),
        ),
        (1.0, 4, HALF, rv, Some("ot=rv:FD70A3D70A3D71;th:fd70a"), Some("ot=rv:FD70A3D70A3D71;th:fd70a")),
        // Rounded up to more than the randomness, and one less than the threshold.
        (1.0, 3, HALF, rv, None, None),
        (1.0, 0, HALF, "ot=rv:FD70A3D70A3D70", None, None),
        (1.0, 4, "a0a0a0a0a0a0a0a0a0fe000000000000", "", Some("ot=th:fd70a"), Some("ot=th:fd70a")),
        // There the zeros are taken away; the meaning is the same.
        (50.0, 0, HALF, "ot=rv:90000000000000;th:80000000000000", Some("ot=rv:90000000000000;th:80000000000000"), None),
        (25.0, 0, HALF, "ot=th:8", None, None),
        (25.0, 0, MOST, "ot=th:8", Some("ot=th:c"), Some("ot=th:e")),
        (
            50.0,
            0,
            HALF,
            "ot=rv:c0000000000000;th:8",
            Some("ot=rv:c0000000000000;th:8"),
            Some("ot=rv:c0000000000000;th:c"),
        ),
        (
            40.0,
            3,
            HALF,
            "ot=rv:a0000000000000",
            Some("ot=rv:a0000000000000;th:99a"),
            Some("ot=rv:a0000000000000;th:99a"),
        ),
        (40.0, 6, "a0a0a0a0a0a0a0a0a0d0000000000000", "ot=th:8", Some("ot=th:99999a"), Some("ot=th:cccccd")),
        (40.0, 3, "a0a0a0a0a0a0a0a0a0b0000000000000", "ot=th:8", Some("ot=th:99a"), None),
        (40.0, 3, "a0a0a0a0a0a0a0a0a080000000000000", "ot=th:8", None, None),
        (100.0 / 16384.0, 0, MOST, "ot=th:fffc", Some("ot=th:fffc"), Some("ot=th:fffffff")),
        // The last there are in 32 bits: 8 digits, whatever was asked for.
        ((1.0 - 8e-7) * 100.0, 10, MOST, "", Some("ot=th:00000cccccccd"), Some("ot=th:00000cccccccd")),
        // The product is less than one of 2^56.
        (0.0625, 0, MOST, "ot=th:fffffffffffff8", Some("ot=th:fffffffffffff8"), None),
        // Other vendors' members stay.
        (50.0, 4, HALF, "zz=1,ot=a:b,yy=2", Some("ot=a:b;th:8,zz=1,yy=2"), Some("ot=a:b;th:8,zz=1,yy=2")),
    ];
    for (percent, digits, trace, trace_state, equalizing, proportional) in table {
        for (mode, expected) in [(Equalizing, equalizing), (Proportional, proportional)] {
            let mut settings = settings(mode, *percent);
            settings.sampling_precision = *digits;
            let out = outcome(&Sampler::new(&settings), trace, trace_state);
            assert_eq!(out.as_deref(), *expected, "{mode:?} {percent} % {digits} {trace_state:?}");
        }
    }
}

#[test]
fn a_span_at_odds_with_itself_goes_or_stays_as_fail_closed_says() {
    let full = vec!["x=y"; 33].join(",");
    let table = [
        // Tracestate, trace, and with which one it stays.
        ("ot=rv:40000000000000;th:8", HALF, "ot=rv:40000000000000;th:0"),
        ("ot=th:8;rv:70000000000000", HALF, "ot=th:0;rv:70000000000000"),
        ("ot=th:8", "ffffffffffffffffff70000000000000", "ot=th:0"),
        ("ot=rv:abababababababab", HALF, "ot=rv:abababababababab"),
        ("ot=th:abababababababab", HALF, "ot=th:abababababababab"),
        ("ot=th:-1", HALF, "ot=th:-1"),
        ("ot=th:8,ot=th:8", MOST, "ot=th:8,ot=th:8"),
        (&*full, HALF, &*full),
    ];
    for (trace_state, trace, stays) in table {
        for mode in [Equalizing, Proportional] {
            for percent in [1.0, 100.0] {
                let closed = Sampler::new(&settings(mode, percent));
                let open =
                    Sampler::new(&ProbabilisticSamplerSettings { fail_closed: false, ..settings(mode, percent) });
                assert_eq!(outcome(&closed, trace, trace_state), None, "{trace_state}");
                assert_eq!(outcome(&open, trace, trace_state).as_deref(), Some(stays), "{trace_state}");
                assert!(closed.decide(&id(trace), &span(trace_state, None)).error);
            }
        }
    }
    assert!(!sampler(Equalizing, 1.0).decide(&id(HALF), &span("ot=th:8", None)).error);
}

#[test]
fn hash_seed_has_no_say_over_spans_that_were_sampled_before() {
    for trace_state in ["ot=th:0", "ot=rv:ffffffffffffff", "ot=th:8;rv:40000000000000", "=", "ot=th:x"] {
        for (fail_closed, expected) in [(true, None), (false, Some(trace_state))] {
            let sampler = Sampler::new(&ProbabilisticSamplerSettings { fail_closed, ..settings(HASH, 100.0) });
            assert_eq!(outcome(&sampler, HALF, trace_state).as_deref(), expected, "{trace_state} {fail_closed}");
            assert!(sampler.decide(&id(HALF), &span(trace_state, None)).error);
        }
    }
    assert!(outcome(&sampler(HASH, 100.0), HALF, "zz=1,ot=a:b").is_some());
}

/// The first two hashes are in the Collector's own test; the others were worked out with its algorithm, written anew in
/// another language.
#[test]
fn hashes_are_those_of_the_collector() {
    assert_eq!(fnv1a([0; 4].into_iter()) % BUCKETS, 0x3515);
    assert_eq!(fnv1a([0; 20].into_iter()) % BUCKETS, 0x2455);
    let table = [
        (HALF, 0, 0xff_5035_0941_002b),
        (HALF, 22, 0xd1_081b_d3f5_4bbd),
        (HALF, 4312, 0xe9_700a_8ea3_05a3),
        (HALF, u32::MAX, 0xa1_c036_86a2_d78f),
        ("00000000000000000000000000000001", 0, 0x74_f42e_348f_e2c2),
        ("00000000000000000000000000000001", 4312, 0x66_d40a_a7a9_664a),
        ("4bf92f3577b34da6a3ce929d0e0e4736", 0, 0xfd_c80d_0b42_008d),
        ("4bf92f3577b34da6a3ce929d0e0e4736", 22, 0x3e_5015_8161_306b),
        ("4bf92f3577b34da6a3ce929d0e0e4736", 4312, 0x76_a81c_9624_6255),
        ("0af7651916cd43dd8448eb211c80319c", 0, 0x88_6c20_4b10_dde4),
        ("0af7651916cd43dd8448eb211c80319c", 22, 0xf9_8404_0d03_019e),
        ("ffffffffffffffffffffffffffffffff", u32::MAX, 0x54_7814_8823_6ae1),
    ];
    for (trace, seed, expected) in table {
        assert_eq!(hashed(&id(trace), seed), expected, "{trace} {seed}");
    }
}

#[test]
fn a_hash_below_the_scaled_percentage_is_kept_as_it_was_before_there_were_thresholds() {
    for percent in [0.01, 0.03, 1.0, 5.0, 10.0, 33.3, 50.0, 90.0, 99.99, 100.0] {
        let sampler = sampler(HASH, percent);
        let limit = (percent as f32 * 163.84_f32) as u32;
        for trace in ids().take(2_000) {
            let hash = fnv1a(4312_u32.to_le_bytes().into_iter().chain(trace.0));
            assert_eq!(sampler.decide(&trace, &[]).keep, hash % 0x4000 < limit, "{percent} {trace}");
        }
    }
}

#[test]
fn hash_seed_writes_its_threshold_and_its_randomness() {
    for (percent, th) in [(100.0, "0"), (75.0, "4"), (50.0, "8"), (25.0, "c"), (10.0, "e668"), (100.0 / 3.0, "aaac")] {
        let sampler = sampler(HASH, percent);
        let kept = ids().find(|trace| sampler.decide(trace, &[]).keep).unwrap();
        let written = sampler.decide(&kept, &[]).trace_state.unwrap();
        assert_eq!(written, format!("ot=rv:{:014x};th:{th}", hashed(&kept, 4312)));
        // A stage behind it that goes by randomness agrees, since 14 bits are cut off towards fewer traces.
        assert_eq!(outcome(&self::sampler(Equalizing, percent), &kept.to_string(), &written), Some(written));
    }
}

#[test]
fn a_percentage_that_is_less_than_a_bucket_keeps_nothing_in_hash_seed() {
    // Three quarters of a bucket.
    let percent = 100.0 * 3.0 / 65536.0;
    assert!(ids().take(100_000).all(|trace| !sampler(HASH, percent).decide(&trace, &[]).keep));
    for mode in [HASH, Equalizing, Proportional] {
        for percent in [0.0, -1.0, f64::NAN] {
            assert_eq!(outcome(&sampler(mode, percent), MOST, ""), None);
            assert!(!sampler(mode, percent).decide(&id(MOST), &span("", None)).error);
        }
    }
}

#[test]
fn sampling_priority_is_the_last_word() {
    use AttributeValue::{Bool, Double, Int, String as Text};
    let text = |text: &str| Text(text.to_owned());
    // `None`: it says nothing.
    let table = [
        (Int(0), Some(false)),
        (Int(1), Some(true)),
        (Int(2), Some(true)),
        (Int(-1), None),
        (Double(0.0), Some(false)),
        (Double(0.1), Some(true)),
        (Double(-1.0), None),
        (text("0.0"), Some(false)),
        (text("0"), Some(false)),
        (text("0.5"), Some(true)),
        (text("1"), Some(true)),
        (text("-0.5"), None),
        (text("NaN"), None),
        (text("yes"), None),
        (text(""), None),
        (Bool(true), None),
        (Bool(false), None),
    ];
    for (value, expected) in table {
        for mode in [HASH, Equalizing, Proportional] {
            for (percent, otherwise) in [(0.0, false), (100.0, true)] {
                let decision = sampler(mode, percent).decide(&id(HALF), &span("", Some(value.clone())));
                assert_eq!(decision.keep, expected.unwrap_or(otherwise), "{value:?} {mode:?} {percent}");
            }
        }
    }
}

#[test]
fn what_priority_keeps_counts_as_kept_for_certain_unless_a_stage_before_was_stricter() {
    let keep = |mode, percent, trace_state: &str| {
        let decision = sampler(mode, percent).decide(&id(MOST), &span(trace_state, Some(AttributeValue::Int(1))));
        assert!(decision.keep);
        decision.trace_state
    };
    for mode in [Equalizing, Proportional] {
        assert_eq!(keep(mode, 1.0, "").as_deref(), Some("ot=th:0"));
        assert_eq!(keep(mode, 0.0, "").as_deref(), Some("ot=th:0"));
        assert_eq!(keep(mode, 1.0, "ot=th:8"), None);
        assert_eq!(keep(mode, 1.0, "ot=rv:40000000000000;th:8").as_deref(), Some("ot=rv:40000000000000;th:0"));
        // Errors are no reason to drop it, and none to touch what was not understood.
        assert_eq!(keep(mode, 1.0, "="), None);
    }
    assert_eq!(keep(HASH, 1.0, "").as_deref(), Some(&*format!("ot=rv:{:014x};th:0", hashed(&id(MOST), 4312))));
    assert_eq!(keep(HASH, 1.0, "ot=th:8"), None);
}

#[test]
fn the_share_of_traces_is_what_was_asked_for() {
    let all: Vec<TraceId> = ids().take(100_000).collect();
    for mode in [HASH, SamplerMode::HashSeed { seed: 0 }, Equalizing, Proportional] {
        for percent in [0.1, 1.0, 10.0, 50.0, 90.0, 100.0] {
            let sampler = sampler(mode, percent);
            let kept = all.iter().filter(|trace| sampler.decide(trace, &[]).keep).count() as f64;
            let (share, total) = (percent / 100.0, all.len() as f64);
            // Five standard deviations, and what 14 bits round off.
            let bound = 5.0 * (total * share * (1.0 - share)).sqrt() + total / 16384.0;
            assert!((kept - total * share).abs() <= bound, "{mode:?} {percent}: {kept}");
        }
    }
}

#[test]
fn whoever_keeps_less_keeps_a_part_of_what_others_keep() {
    for mode in [HASH, Equalizing, Proportional] {
        let samplers = [1.0, 10.0, 33.3, 50.0, 99.0].map(|percent| sampler(mode, percent));
        for trace in ids().take(20_000) {
            let kept = samplers.each_ref().map(|sampler| sampler.decide(&trace, &[]).keep);
            assert!(kept.is_sorted(), "{mode:?} {trace} {kept:?}");
        }
    }
}

#[test]
fn stages_behind_each_other_multiply_or_agree() {
    let traces: Vec<TraceId> = ids().take(100_000).collect();
    for (mode, share) in [(Equalizing, 0.1), (Proportional, 0.05)] {
        let (first, second) = (sampler(mode, 50.0), sampler(mode, 10.0));
        let mut kept = 0.0;
        for trace in &traces {
            let trace = trace.to_string();
            let Some(between) = outcome(&first, &trace, "") else { continue };
            let Some(end) = outcome(&second, &trace, &between) else { continue };
            kept += 1.0;
            // A stage that keeps more changes nothing any more.
            assert_eq!(outcome(&sampler(Equalizing, 50.0), &trace, &end), Some(end));
        }
        let total = traces.len() as f64;
        assert!((kept - total * share).abs() < 5.0 * (total * share).sqrt(), "{mode:?} {kept}");
    }
}
