//! Consistent probability sampling: 56 bits of randomness against a threshold.

/// A rejection threshold of 56 bits: a trace is kept if its randomness is at least this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Threshold(pub u64);
