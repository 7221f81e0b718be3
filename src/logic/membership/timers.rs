//! Deadlines in order. Bounded: one entry per member to be forgotten or judged, and a handful for the probe cycle.

use std::collections::BTreeMap;

use super::node::Node;
use crate::model::{NodeId, Tick};

#[derive(Debug)]
pub(super) enum Timer {
    Foca(foca::Timer<Node>),
    /// Declare a member dead unless it has contradicted since.
    Judge(NodeId),
}

type Key = (Tick, u64);

#[derive(Default)]
pub(super) struct Timers {
    due: BTreeMap<Key, Timer>,
    /// Makes keys unique, and equal deadlines fire in the order they were set.
    next: u64,
    /// When a dead member is to be forgotten; a later death replaces the deadline.
    forget: BTreeMap<NodeId, Key>,
    judge: BTreeMap<NodeId, Key>,
}

impl Timers {
    pub(super) fn set(&mut self, at: Tick, timer: Timer) {
        let key = (at, self.next);
        self.next += 1;
        let replaced = match &timer {
            Timer::Foca(foca::Timer::RemoveDown(node)) => self.forget.insert(node.id().clone(), key),
            Timer::Judge(id) => self.judge.insert(id.clone(), key),
            Timer::Foca(_) => None,
        };
        if let Some(replaced) = replaced {
            self.due.remove(&replaced);
        }
        self.due.insert(key, timer);
    }

    pub(super) fn is_to_be_judged(&self, id: &NodeId) -> bool {
        self.judge.contains_key(id)
    }

    pub(super) fn first(&self) -> Option<Tick> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one that is due, and since when.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<(Tick, Timer)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), timer) = entry.remove_entry();
        match &timer {
            Timer::Foca(foca::Timer::RemoveDown(node)) => self.forget.remove(node.id()),
            Timer::Judge(id) => self.judge.remove(id),
            Timer::Foca(_) => None,
        };
        Some((at, timer))
    }

    /// Drops the probe cycle's timers: `foca` has begun a new one and would ignore them.
    pub(super) fn drop_cycle(&mut self) {
        self.due.retain(|_, timer| !matches!(timer, Timer::Foca(timer) if is_of_cycle(timer)));
    }
}

pub(super) fn is_of_cycle(timer: &foca::Timer<Node>) -> bool {
    !matches!(timer, foca::Timer::RemoveDown(_))
}
