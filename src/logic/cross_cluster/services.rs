//! Which services are always called by others: a root there means that somebody lost the context on the way.
//!
//! Every healthy trace has a root, so roots in themselves tell nothing. What tells is a root where there never was one: a
//! SERVER or CONSUMER span without a parent, of a service whose such spans otherwise have parents. The rule must not
//! take a true entry service for such a service, or the alarm is worthless; and it must not get used to a fault, or
//! the alarm ends while the fault goes on. So it is slow to judge and slower to take back:
//!
//! - A service becomes an *inner* one after [`ENOUGH`] traces in which it was called, if it was the root of no more than
//!   one for each [`CALLED_PER_ROOT`] of them. It is traces that count and not spans: an entry service that calls itself a
//!   thousand times is still the root of every trace. One that is the root of one trace in fifty is mistaken with a
//!   chance of 1 in 24,000, and with more roots hardly ever; about one with fewer a mistake is lost in any sensible
//!   threshold.
//! - It stays one until it was root more often than called, ever. A fault that breaks a share of the calls is told for
//!   as long as it lasts; one that breaks all of them for as long as all was well before. A service that became
//!   an entry, or one that had only inner traffic at first (at night, say), is set right when it was root as often as had
//!   made the wrong impression, or at once by `entry_services`.
//!
//! It is learned by the name of the service alone, in all clusters together: when a region fails over, requests from
//! outside come in at another cluster, and that is no fault. Spans without a `service.name` tell nothing.
//!
//! Memory: [`MOST`] services under a hash of their names. A full table forgets those that are heard of rarely, at most once
//! for as many newcomers as it has places, so that made-up names can neither grow it nor make it busy.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// Traces in which a service was called, before anything is said of it.
const ENOUGH: u64 = 500;
const CALLED_PER_ROOT: u64 = 1_000;
const MOST: usize = 4_096;
/// A service known from fewer traces than this has to make room.
const RARE: u64 = 16;

pub(super) struct Services {
    entries: BTreeSet<Box<str>>,
    known: BTreeMap<u64, Habit>,
    turned_away: usize,
}

/// In how many traces a service was what.
#[derive(Clone, Copy, Default)]
struct Habit {
    called: u64,
    root: u64,
    inner: bool,
}

/// What one trace tells of its services: (hash of the name, whether it was the root).
#[derive(Default)]
pub(super) struct Lesson(SmallVec<[(u64, bool); 16]>);

impl Lesson {
    /// A SERVER or CONSUMER span: either a root, or its parent is there.
    pub(super) fn add(&mut self, service: &str, root: bool) {
        if !service.is_empty() {
            self.0.push((xxh3_64(service.as_bytes()), root));
        }
    }
}

impl Services {
    pub(super) fn new(entry_services: &[String]) -> Services {
        let entries = entry_services.iter().map(|name| name.as_str().into()).collect();
        Services { entries, known: BTreeMap::new(), turned_away: 0 }
    }

    /// Whether a SERVER or CONSUMER root of this service is a sign of a fault, as far as is known now.
    pub(super) fn is_inner(&self, service: &str) -> bool {
        let inner = self.known.get(&xxh3_64(service.as_bytes())).is_some_and(|habit| habit.inner);
        inner && !self.entries.contains(service)
    }

    pub(super) fn learn(&mut self, Lesson(mut spans): Lesson) {
        // Roots first: one is enough to make the trace one that the service is the root of.
        spans.sort_unstable_by_key(|(service, root)| (*service, !root));
        spans.dedup_by_key(|(service, _)| *service);
        for (service, root) in spans {
            if let Some(habit) = self.known.get_mut(&service) {
                habit.learn(root);
            } else if !root && self.has_room() {
                self.known.entry(service).or_default().learn(root);
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.known.len() < MOST {
            return true;
        }
        self.turned_away += 1;
        if self.turned_away >= MOST {
            self.turned_away = 0;
            self.known.retain(|_, habit| habit.called.saturating_add(habit.root) >= RARE);
        }
        self.known.len() < MOST
    }
}

impl Habit {
    fn learn(&mut self, root: bool) {
        let count = if root { &mut self.root } else { &mut self.called };
        *count = count.saturating_add(1);
        self.inner = match self.inner {
            true => self.root <= self.called,
            false => self.called >= ENOUGH && self.root.saturating_mul(CALLED_PER_ROOT) <= self.called,
        };
    }
}
