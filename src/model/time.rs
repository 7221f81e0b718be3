//! Time as a value. Logic receives it and never asks for it, so that a simulation can supply its own.
//!
//! Two kinds that must not be mixed: [`Tick`] orders what happens on this node and never jumps; [`UnixNanos`] is what
//! senders wrote into their spans and may say anything.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of the node's monotonic clock since the node started. Never compared between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub u64);

impl Tick {
    pub const ZERO: Tick = Tick(0);

    /// Time elapsed since `earlier`; zero if `earlier` is in the future.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;

    fn add(self, rhs: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Tick> for Tick {
    type Output = Duration;

    fn sub(self, rhs: Tick) -> Duration {
        self.since(rhs)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Nanoseconds since the Unix epoch as a span's sender wrote them (OTLP `fixed64 *_time_unix_nano`). Untrusted: may be
/// zero, `u64::MAX`, or end before it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct UnixNanos(pub u64);

/// As decimal digits in a string, as OTLP/JSON writes 64-bit numbers: a double would round them.
impl serde::Serialize for UnixNanos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for UnixNanos {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(UnixNanos).map_err(serde::de::Error::custom)
    }
}
