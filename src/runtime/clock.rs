//! The node's clock: the only place that asks the operating system for the time.
//!
//! Built on tokio's clock, so that a test with paused time sees paused time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::model::{Tick, UnixNanos};

/// Monotonic time since the node started, and the way back to tokio's instants for sleeping.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    pub fn now(&self) -> Tick {
        Tick(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When `tick` is, for `tokio::time::sleep_until`.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.started + Duration::from_nanos(tick.0)
    }
}

/// The wall clock, for certificates, logs and boot ids; never for waiting.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn unix_now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
