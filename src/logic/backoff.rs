//! Pauses between tries.
use crate::config::settings::RetrySettings;
use std::time::Duration;

/// One request's retries (the Collector's `cenkalti/backoff` rules).
pub struct Backoff {}

impl Backoff {
    pub fn new(_settings: &RetrySettings) -> Backoff {
        todo!()
    }

    /// The pause before the next try, or `None` when `max_elapsed_time` would be passed. `elapsed` is the time since the first
    /// try; `at_least` what the server asked for; `random` in 0.0..1.0.
    pub fn next(&mut self, _elapsed: Duration, _at_least: Option<Duration>, _random: f64) -> Option<Duration> {
        todo!()
    }
}
