//! Orders among traces, as lists that run through them: entering and leaving is a few stores.
//!
//! Every deadline is a moment plus one of two constants: the first span's arrival plus `wait`, or the root's arrival plus
//! `wait_after_root`. In the order of those moments two plain queues *are* the order of deadlines: exact, and without the
//! slots, the rounds and the rescans of a timer wheel, which is for deadlines of many lengths.
//!
//! Under pressure the heaviest and oldest go first. An exact order by weight times age changes with every moment; a queue for
//! each power of two of the weight has its oldest at its head, and comparing some forty heads comes within a factor of two.

use super::open::Trace;
use super::slab::{NONE, Slab};
use crate::model::Tick;

/// Which of a trace's links a queue uses. What is decided waits in other queues with the same links.
#[derive(Clone, Copy)]
pub(super) enum By {
    Age,
    Root,
    Weight,
}

#[derive(Clone, Copy)]
pub(super) struct Link {
    before: u32,
    after: u32,
}

impl Link {
    pub(super) const NONE: Link = Link { before: NONE, after: NONE };
}

#[derive(Clone, Copy)]
pub(super) struct Queue {
    by: By,
    first: u32,
    last: u32,
    len: usize,
}

impl Queue {
    pub(super) fn new(by: By) -> Queue {
        Queue { by, first: NONE, last: NONE, len: 0 }
    }

    pub(super) fn push(&mut self, traces: &mut Slab<Trace>, number: u32) {
        let link = Link { before: self.last, after: NONE };
        match traces.get_mut(self.last) {
            Some(last) => last.links[self.by as usize].after = number,
            None => self.first = number,
        }
        if let Some(trace) = traces.get_mut(number) {
            trace.links[self.by as usize] = link;
        }
        self.last = number;
        self.len += 1;
    }

    /// The trace is in the queue.
    pub(super) fn remove(&mut self, traces: &mut Slab<Trace>, number: u32) {
        let by = self.by as usize;
        let Some(trace) = traces.get_mut(number) else { return };
        let Link { before, after } = std::mem::replace(&mut trace.links[by], Link::NONE);
        match traces.get_mut(before) {
            Some(trace) => trace.links[by].after = after,
            None => self.first = after,
        }
        match traces.get_mut(after) {
            Some(trace) => trace.links[by].before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Powers of two.
const CLASSES: usize = 64;

fn class(weight: u64) -> usize {
    weight.max(1).ilog2() as usize
}

/// Open traces by weight.
pub(super) struct ByWeight {
    queues: [Queue; CLASSES],
    /// Queues that are not empty.
    used: u64,
}

impl ByWeight {
    pub(super) fn new() -> ByWeight {
        ByWeight { queues: [Queue::new(By::Weight); CLASSES], used: 0 }
    }

    pub(super) fn push(&mut self, traces: &mut Slab<Trace>, number: u32, weight: u64) {
        self.queues[class(weight)].push(traces, number);
        self.used |= 1 << class(weight);
    }

    pub(super) fn remove(&mut self, traces: &mut Slab<Trace>, number: u32, weight: u64) {
        let queue = &mut self.queues[class(weight)];
        queue.remove(traces, number);
        if queue.len() == 0 {
            self.used &= !(1 << class(weight));
        }
    }

    /// The weight of a trace in here has changed.
    pub(super) fn reweigh(&mut self, traces: &mut Slab<Trace>, number: u32, before: u64, after: u64) {
        if class(before) != class(after) {
            self.remove(traces, number, before);
            self.push(traces, number, after);
        }
    }

    /// The trace with the most weight times age, nearly.
    pub(super) fn heaviest(&self, traces: &Slab<Trace>, now: Tick) -> Option<u32> {
        let mut used = self.used;
        let mut best: Option<(u128, u32)> = None;
        while used != 0 {
            let queue = &self.queues[used.trailing_zeros() as usize];
            used &= used - 1;
            if let Some(number) = queue.first()
                && let Some(trace) = traces.get(number)
            {
                let score = u128::from(trace.weight) * (now.since(trace.first_seen).as_nanos() + 1);
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, number));
                }
            }
        }
        best.map(|(_, number)| number)
    }
}
