//! The bytes of spans that this node holds, counted where they are held.
//!
//! A memory limiter that polls the process's size overshoots and then refuses too long. Here whoever holds bytes of
//! spans carries a [`Held`] for them, so the sum is exact at every moment and admission needs no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How much one node holds. Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    peak_bytes: AtomicU64,
}

impl Budget {
    /// Counts `bytes` as held until the returned value is dropped.
    pub fn hold(&self, bytes: usize) -> Held {
        let bytes = bytes as u64;
        let now = self.0.bytes.fetch_add(bytes, Relaxed) + bytes;
        self.0.peak_bytes.fetch_max(now, Relaxed);
        Held { budget: self.clone(), bytes }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// The most bytes held at once so far.
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak_bytes.load(Relaxed)
    }
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: u64,
}

impl Held {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts `bytes` from now on in place of what was counted before.
    pub fn resize(&mut self, bytes: usize) {
        let (before, bytes) = (self.bytes, bytes as u64);
        self.bytes = bytes;
        let counts = &self.budget.0;
        if bytes < before {
            counts.bytes.fetch_sub(before - bytes, Relaxed);
        } else {
            let grown = bytes - before;
            let now = counts.bytes.fetch_add(grown, Relaxed) + grown;
            counts.peak_bytes.fetch_max(now, Relaxed);
        }
    }

    /// The budget this is a share of, to hold more of it.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back_and_the_peak_stays() {
        let budget = Budget::default();
        let mut first = budget.hold(100);
        let second = budget.hold(50);
        drop(second);
        first.resize(120);
        first.resize(30);
        assert_eq!(budget.bytes(), 30);
        drop(first);
        assert_eq!((budget.bytes(), budget.peak_bytes()), (0, 150));
    }
}
