//! Pauses between tries.
//!
//! The rules are the Collector's (`cenkalti/backoff` as its exporters use it), so that a configuration that was tuned
//! there means the same here: the interval grows by `multiplier` up to `max_interval`, each pause is drawn from
//! `interval ± randomization_factor`, a server's own wish is a lower bound, and a try that would begin after
//! `max_elapsed_time` is not made.
//!
//! It departs from them where they would spin or hang: a pause is never below 1 ms, a `multiplier` below 1 counts as
//! 1, and a server that asks for more than an hour is asked again after an hour.

use std::time::Duration;

use crate::config::settings::RetrySettings;

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// One request's retries (the Collector's `cenkalti/backoff` rules).
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Before randomization.
    interval_seconds: f64,
    settings: RetrySettings,
}

impl Backoff {
    pub fn new(settings: &RetrySettings) -> Backoff {
        Backoff { interval_seconds: settings.initial_interval.as_secs_f64(), settings: settings.clone() }
    }

    /// The pause before the next try, or `None` when `max_elapsed_time` would be passed or retries are off. `elapsed`
    /// is the time since the first try; `at_least` what the server asked for; `random` in 0.0..1.0.
    pub fn next(&mut self, elapsed: Duration, at_least: Option<Duration>, random: f64) -> Option<Duration> {
        if !self.settings.enabled {
            return None;
        }
        let spread = self.interval_seconds * self.settings.randomization_factor.clamp(0.0, 1.0);
        let drawn = self.interval_seconds - spread + 2.0 * spread * random.clamp(0.0, 1.0);
        let longest = self.settings.max_interval.as_secs_f64();
        // `max` also turns a NaN into 1.
        self.interval_seconds = (self.interval_seconds * self.settings.multiplier.max(1.0)).min(longest);

        let drawn = Duration::try_from_secs_f64(drawn).unwrap_or(self.settings.max_interval);
        let pause = drawn.max(at_least.unwrap_or_default().min(LONGEST_WISH)).max(SHORTEST);
        let limit = self.settings.max_elapsed_time;
        if !limit.is_zero() && elapsed.saturating_add(pause) > limit {
            return None;
        }
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn collector_defaults() -> RetrySettings {
        RetrySettings {
            enabled: true,
            initial_interval: seconds(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: seconds(30),
            max_elapsed_time: seconds(300),
        }
    }

    fn pauses(settings: &RetrySettings, random: f64) -> Vec<f64> {
        let mut backoff = Backoff::new(settings);
        (0..8).map(|_| backoff.next(Duration::ZERO, None, random).unwrap().as_secs_f64()).collect()
    }

    #[test]
    fn the_interval_grows_to_its_maximum_and_the_pause_is_drawn_around_it() {
        let settings = collector_defaults();
        let middle = [5.0, 7.5, 11.25, 16.875, 25.3125, 30.0, 30.0, 30.0];
        let of_middle = |factor: f64| middle.map(|pause| pause * factor).to_vec();
        assert_eq!(pauses(&settings, 0.5), middle);
        assert_eq!(pauses(&settings, 0.0), of_middle(0.5));
        assert_eq!(pauses(&settings, 1.0), of_middle(1.5));
        assert_eq!(pauses(&RetrySettings { randomization_factor: 0.0, ..settings }, 0.9), middle);
    }

    #[test]
    fn a_try_that_would_begin_too_late_is_not_made() {
        let mut backoff = Backoff::new(&collector_defaults());
        assert_eq!(backoff.next(seconds(295), None, 0.5), Some(seconds(5)));
        assert_eq!(backoff.next(seconds(295), None, 0.5), None);
        let mut asked_to_wait = Backoff::new(&collector_defaults());
        assert_eq!(asked_to_wait.next(seconds(1), Some(seconds(300)), 0.5), None);
    }

    #[test]
    fn without_a_time_limit_it_never_gives_up() {
        let settings = RetrySettings { max_elapsed_time: Duration::ZERO, ..collector_defaults() };
        let mut backoff = Backoff::new(&settings);
        assert_eq!(backoff.next(Duration::MAX, None, 0.5), Some(seconds(5)));
    }

    #[test]
    fn the_servers_wish_is_a_lower_bound_within_reason() {
        let settings = RetrySettings { max_elapsed_time: Duration::ZERO, ..collector_defaults() };
        let mut backoff = Backoff::new(&settings);
        assert_eq!(backoff.next(Duration::ZERO, Some(seconds(60)), 0.5), Some(seconds(60)));
        assert_eq!(backoff.next(Duration::ZERO, Some(seconds(1)), 0.5), Some(Duration::from_millis(7500)));
        assert_eq!(backoff.next(Duration::ZERO, Some(Duration::MAX), 0.5), Some(seconds(3600)));
    }

    #[test]
    fn switched_off_there_is_no_second_try() {
        let mut backoff = Backoff::new(&RetrySettings { enabled: false, ..collector_defaults() });
        assert_eq!(backoff.next(Duration::ZERO, None, 0.5), None);
    }

    #[test]
    fn senseless_settings_neither_panic_nor_spin() {
        for (multiplier, randomization_factor) in [(f64::NAN, f64::NAN), (-1.0, -1.0), (0.0, 2.0), (f64::INFINITY, 1.0)]
        {
            let zero = RetrySettings {
                multiplier,
                randomization_factor,
                initial_interval: Duration::ZERO,
                ..collector_defaults()
            };
            let huge = RetrySettings {
                initial_interval: Duration::MAX,
                max_interval: Duration::MAX,
                max_elapsed_time: Duration::ZERO,
                ..zero.clone()
            };
            for settings in [zero, huge] {
                let mut backoff = Backoff::new(&settings);
                for _ in 0..5 {
                    assert!(backoff.next(Duration::ZERO, None, 0.3).unwrap() >= SHORTEST);
                }
            }
        }
    }
}
