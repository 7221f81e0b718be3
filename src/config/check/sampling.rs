//! `probabilistic_sampler`: a share of the traces, decided span by span.

use super::Check;
use super::fields::{Choice, Fields, join};
use crate::config::problem::Problem;
use crate::config::scalar::Typed;
use crate::config::schema::traces::PROBABILISTIC_SAMPLER;
use crate::config::settings::{ProbabilisticSamplerSettings, SamplerMode};
use crate::config::tree::{Node, Place};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    HashSeed,
    Proportional,
    Equalizing,
}

const MODES: Choice<Mode> = Choice {
    values: &[("proportional", Mode::Proportional), ("equalizing", Mode::Equalizing), ("hash_seed", Mode::HashSeed)],
    not_yet: &[],
};

/// Thresholds have 56 bits: a smaller share than one of them cannot be told from none.
const SMALLEST: f64 = 100.0 / (1u64 << 56) as f64;

/// The mode that is not named is the one the Collector takes: `proportional`, or `hash_seed` if there is a seed.
pub(super) fn probabilistic(
    check: &mut Check<'_>,
    node: &Node,
    at: Place,
    path: Vec<String>,
) -> ProbabilisticSamplerSettings {
    let fields = Fields::open(check, node, at, path, &PROBABILISTIC_SAMPLER);
    let sampling_percentage = fields.percentage(check, "sampling_percentage");
    if let Some(Typed::Int(0) | Typed::Float(0.0)) = fields.typed("sampling_percentage").flatten() {
        let path = join(&fields.path_of("sampling_percentage"));
        let message = "0 percent: every span is dropped here";
        check.say(Problem::warning(fields.place("sampling_percentage"), &path, message));
    } else if sampling_percentage > 0.0 && sampling_percentage < SMALLEST {
        let allowed = format!("0, or at least {SMALLEST:e}");
        fields.wrong(check, "sampling_percentage", "too small a share to be written down", &allowed);
    }
    let seed = fields.count(check, "hash_seed", 0, (0, u64::from(u32::MAX)));
    let seed = u32::try_from(seed).unwrap_or(0);
    let mode = fields.choice(check, "mode", if seed == 0 { "proportional" } else { "hash_seed" }, &MODES);
    if seed != 0 && mode != Mode::HashSeed {
        fields.no_effect(check, "hash_seed", "the mode takes its chance from the trace id itself");
    }
    let precision = fields.count(check, "sampling_precision", 4, (1, 14));
    ProbabilisticSamplerSettings {
        sampling_percentage,
        mode: match mode {
            Mode::HashSeed => SamplerMode::HashSeed { seed },
            Mode::Proportional => SamplerMode::Proportional,
            Mode::Equalizing => SamplerMode::Equalizing,
        },
        sampling_precision: u8::try_from(precision).unwrap_or(4),
        fail_closed: fields.flag(check, "fail_closed", true),
    }
}
