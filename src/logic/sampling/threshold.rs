//! Consistent probability sampling: 56 bits of randomness against a threshold.
//!
//! Every stage that a span passes, SDKs included, compares the same 56 bits of its trace with a threshold of its own, so
//! whoever keeps less keeps a part of what others keep, and traces stay whole over stages that never talk to each other.
//! The threshold says how many of the 2^56 possible traces are rejected; it is written as hex digits without their
//! trailing zeros, which makes precision a matter of how many digits are there (OpenTelemetry specification,
//! "TraceState: Probability Sampling", and "TraceState Handling" for the text).
//!
//! Rounding is that of the Collector (`pkg/sampling`), because two stages configured alike must keep the same traces: a
//! percentage is rounded to so many *significant* digits, those behind the leading zeros or `f`s, so that 0.001 % keeps
//! as much relative precision as 10 %. The specification's own example does so for the `f`s only; the two differ from
//! 94 % upwards, in what is written and not in its order of magnitude.

use std::fmt;

/// A rejection threshold of 56 bits: a trace is kept if its randomness is at least this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Threshold(pub u64);

/// Hex digits of randomness and of thresholds.
pub(super) const DIGITS: u32 = 14;

/// How many values randomness can have.
const VALUES: u64 = 1 << 56;

impl Threshold {
    /// Nothing is rejected: 100 %.
    pub const ALWAYS: Threshold = Threshold(0);

    /// The smallest share of traces that a threshold can keep.
    pub const LEAST_PROBABILITY: f64 = 1.0 / VALUES as f64;

    /// The threshold that keeps this share of traces, 0 to 100, rounded to so many significant hex digits (1 to 14; 0:
    /// all 14). `None`: nothing is kept. What is above 100 counts as 100, and a share that is too small for 56 bits
    /// as the smallest there is.
    pub fn from_percentage(percent: f64, digits: u8) -> Option<Threshold> {
        if percent.is_nan() || percent <= 0.0 {
            return None;
        }
        Threshold::from_probability((percent / 100.0).max(Threshold::LEAST_PROBABILITY), digits)
    }

    /// The threshold that keeps this share of traces, 0 to 1. `None`: it is less than one trace of 2^56.
    pub fn from_probability(probability: f64, digits: u8) -> Option<Threshold> {
        if probability >= 1.0 {
            return Some(Threshold::ALWAYS);
        }
        if probability.is_nan() || probability < Threshold::LEAST_PROBABILITY {
            return None;
        }
        let wanted = if digits == 0 { DIGITS } else { u32::from(digits) };
        // Four halvings are a leading `f`, of the rest a leading zero.
        let leading = (halvings(probability) / 4).max(halvings(1.0 - probability) / 4);
        let digits = DIGITS.min(wanted + leading);
        let exact = VALUES - (probability * VALUES as f64).round() as u64;
        let cut = 4 * (DIGITS - digits);
        // Half of the last digit that stays. The digits that stay reach beyond the leading `f`s, so the sum stays below
        // 2^56.
        let half = (1_u64 << cut) / 2;
        Some(Threshold((exact + half) >> cut << cut))
    }

    /// Whether a trace with this randomness (56 bits) is kept.
    pub fn keeps(self, randomness: u64) -> bool {
        randomness >= self.0
    }

    /// Reads the `th` text: 1 to 14 hex digits, what is missing behind them is zeros.
    pub fn parse(text: &str) -> Option<Threshold> {
        let missing = DIGITS.checked_sub(u32::try_from(text.len()).ok()?)?;
        Some(Threshold(hex(text)? << (4 * missing)))
    }

    /// The share of traces that is kept, 2^-56 to 1.
    pub fn probability(self) -> f64 {
        VALUES.saturating_sub(self.0) as f64 / VALUES as f64
    }
}

/// The number that up to 14 hex digits of either case stand for; nothing else may be there.
pub(super) fn hex(text: &str) -> Option<u64> {
    // The parser by itself takes a sign.
    let digits = !text.is_empty() && text.len() <= DIGITS as usize && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

/// How often a number between 0 and 1, and not too small to be normal, can be doubled and stays below 1.
fn halvings(value: f64) -> u32 {
    let exponent = (value.to_bits() >> 52 & 0x7ff) as u32;
    1022_u32.saturating_sub(exponent)
}

/// The `th` text: hex digits without trailing zeros, `0` for nothing rejected.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = (self.0.trailing_zeros() / 4).min(DIGITS - 1);
        write!(f, "{:0width$x}", self.0 >> (4 * zeros), width = (DIGITS - zeros) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn th(probability: f64, digits: u8) -> String {
        Threshold::from_probability(probability, digits).map_or("never".to_owned(), |threshold| threshold.to_string())
    }

    #[test]
    fn one_in_n_has_the_texts_of_the_specifications_table() {
        let table = [
            (1.0, "0", "0", "0"),
            (2.0, "8", "8", "8"),
            (3.0, "aab", "aaab", "aaaab"),
            (4.0, "c", "c", "c"),
            (5.0, "ccd", "cccd", "ccccd"),
            (8.0, "e", "e", "e"),
            (10.0, "e66", "e666", "e6666"),
            (16.0, "f", "f", "f"),
            (100.0, "fd71", "fd70a", "fd70a4"),
            (1e3, "ffbe7", "ffbe77", "ffbe76d"),
            (1e4, "fff972", "fff9724", "fff97247"),
            (1e5, "ffff584", "ffff583a", "ffff583a5"),
            (1e6, "ffffef4", "ffffef39", "ffffef391"),
        ];
        for (n, three, four, five) in table {
            assert_eq!([th(1.0 / n, 3), th(1.0 / n, 4), th(1.0 / n, 5)], [three, four, five], "1 in {n}");
        }
    }

    #[test]
    fn probabilities_are_rounded_as_the_collector_rounds_them() {
        let two_to = |exponent: i32| 2_f64.powi(exponent);
        type Row = (f64, &'static str, &'static [(u8, &'static str)]);
        let table: &[Row] = &[
            (1.0 - 0x0456_789a as f64 * two_to(-28), "456789a", &[(6, "45678a"), (5, "45679"), (3, "456"), (1, "4")]),
            // Leading zeros are not counted.
            (1.0 - 0x0456_789a as f64 * two_to(-40), "000456789a", &[(6, "00045678a"), (4, "0004568"), (1, "0004")]),
            (
                1.0 - 0x0007_89ab_cdef_u64 as f64 * two_to(-40),
                "0789abcdef",
                &[(8, "0789abcdf"), (3, "078a"), (1, "08")],
            ),
            (1.0 - 0x1234_5678 as f64 * two_to(-32), "12345678", &[(7, "1234568"), (6, "123456"), (1, "1")]),
            (1.0 - 0x0008_0801 as f64 * two_to(-28), "0080801", &[(3, "00808"), (1, "008")]),
            (1.0 / 3.0, "aaaaaaaaaaaaac", &[(3, "aab")]),
            (two_to(-56), "ffffffffffffff", &[(3, "ffffffffffffff")]),
            (3.0 * two_to(-56), "fffffffffffffd", &[(3, "fffffffffffffd")]),
            (16.0 * two_to(-56), "fffffffffffff", &[(3, "fffffffffffff")]),
        ];
        for (probability, exact, rounded) in table {
            assert_eq!((th(*probability, 0), th(*probability, 14)), ((*exact).to_owned(), (*exact).to_owned()));
            for (digits, text) in *rounded {
                assert_eq!(th(*probability, *digits), *text, "{exact} with {digits} digits");
            }
        }
    }

    #[test]
    fn percentages_beyond_the_ends_are_everything_and_nothing() {
        for (percent, expected) in [
            (0.0, None),
            (-1.0, None),
            (f64::NAN, None),
            (f64::NEG_INFINITY, None),
            (100.0, Some(0)),
            (200.0, Some(0)),
            (f64::INFINITY, Some(0)),
            (50.0, Some(1 << 55)),
            // Smaller than any of 56 bits.
            (1e-30, Some((1 << 56) - 1)),
            (f64::MIN_POSITIVE / 2.0, Some((1 << 56) - 1)),
        ] {
            assert_eq!(Threshold::from_percentage(percent, 4), expected.map(Threshold), "{percent}");
        }
        assert_eq!(Threshold::from_percentage(99.9999, 255).map(Threshold::probability).map(f64::round), Some(1.0));
        assert_eq!((th(0.0, 4), th(1e-17, 4), th(f64::NAN, 4)), ("never".into(), "never".into(), "never".into()));
    }

    #[test]
    fn a_threshold_is_read_as_it_is_written_and_with_zeros_behind_it() {
        let table = [
            ("0", Some(0)),
            ("00000000000000", Some(0)),
            ("8", Some(1 << 55)),
            ("80000000000000", Some(1 << 55)),
            ("00000000000001", Some(1)),
            ("0a", Some(0x0a << 48)),
            ("FD70a", Some(0xfd70a << 36)),
            ("ffffffffffffff", Some((1 << 56) - 1)),
            ("", None),
            ("000000000000000", None),
            ("+8", None),
            ("-1", None),
            ("0x8", None),
            ("8.5", None),
            ("8 ", None),
            ("é", None),
        ];
        for (text, expected) in table {
            assert_eq!(Threshold::parse(text), expected.map(Threshold), "{text:?}");
        }
        let mut value = 1_u64;
        for _ in 0..10_000 {
            value = value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // Of every number of digits.
            let threshold = Threshold((value >> 8) & (u64::MAX << (4 * (value & 13))));
            let text = threshold.to_string();
            assert!(text == "0" || !text.ends_with('0'), "{text}");
            assert_eq!(Threshold::parse(&text), Some(threshold));
        }
    }

    #[test]
    fn a_trace_is_kept_from_the_threshold_upwards() {
        let half = Threshold(1 << 55);
        assert!(half.keeps(1 << 55) && half.keeps((1 << 56) - 1) && !half.keeps((1 << 55) - 1));
        assert!(Threshold::ALWAYS.keeps(0));
        assert_eq!((half.probability(), Threshold::ALWAYS.probability()), (0.5, 1.0));
        assert_eq!(Threshold((1 << 56) - 1).probability(), 2_f64.powi(-56));
        assert_eq!(Threshold(u64::MAX).probability(), 0.0);
    }

    #[test]
    fn who_keeps_fewer_traces_never_has_the_lower_threshold() {
        let mut last = Threshold(1 << 56);
        for step in 1..=100_000 {
            let threshold = Threshold::from_percentage(f64::from(step) / 1000.0, 4).unwrap();
            assert!(threshold <= last, "{step}");
            last = threshold;
        }
    }
}
