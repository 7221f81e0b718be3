//! What waits for one peer, bounded in bytes: parts not sent yet, and batches whose answer is still out.
//!
//! A part is in custody here from the moment it is queued until the peer answers for it, so the bound counts both
//! what waits and what is under way. Several parts make one batch: encoded requests written one behind the other are,
//! by protobuf's rule for repeated fields, one request with all their spans. A batch that comes back unanswered keeps its
//! number and its parts, so that the peer can tell that it has it already.
//!
//! When is a batch sent? At once while nothing is under way: waiting would only add latency. Otherwise when it is
//! full, or when its oldest part has waited for [`LINGER`]: small streams cost 13 % more CPU than full ones, and 5 ms is
//! little beside the round trip that the batch under way needs anyway.
//!
//! How many batches are under way? As many as fill the path, and not so many that they wait in line there until their
//! deadlines pass: on a path of 1 Mbit/s a window made for a fast one would take half a minute. So the window starts
//! small, grows while answers come quickly and shrinks when they do not. QUIC's own congestion control is below this and
//! guards the path; this guards the deadlines.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{Held, Receipt, Tick};

/// Bytes of spans for one peer, waiting and under way: one second of 100,000 spans/s. What a slow peer can cost this
/// node's memory, and how much a dead one's spans may grow until its traces move.
pub(super) const QUEUE_BYTES: usize = 64 << 20;
/// Bytes at which a batch is full. Streams of 64 KiB cost 5-15 % more CPU a byte, those of 1 MiB gain nothing.
pub(super) const BATCH_BYTES: usize = 256 << 10;
/// Counted for a part beside its bytes: a queue of tiny parts must not take many times its bound. Receipt, share of the
/// budget and places in collections.
const PART_OVERHEAD: usize = 256;
/// How long a part may wait for others while a batch is under way.
pub(super) const LINGER: Duration = Duration::from_millis(5);
/// Batches under way at once.
pub(super) const MAX_FLIGHTS: usize = 64;
/// Most bytes of spans under way at once: compressed about five times, they fill 200 Mbit/s at 100 ms round trip.
pub(super) const WINDOW_BYTES: usize = MAX_FLIGHTS * BATCH_BYTES;
const FIRST_WINDOW: usize = 4 * BATCH_BYTES;
/// Answers faster than this let the window grow: far above any round trip, so it is reached by standing in line only.
const QUICK: Duration = Duration::from_secs(1);
/// Answers slower than this make it shrink.
const SLOW: Duration = Duration::from_secs(3);

/// One encoded request in custody, its receipt accepted.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) spans: u32,
    pub(super) hops: u8,
    pub(super) receipt: Receipt,
    pub(super) held: Held,
}

/// What a part of so many bytes takes of a queue.
pub(super) fn cost(bytes: usize) -> usize {
    bytes + PART_OVERHEAD
}

/// Parts that travel as one batch.
pub(super) struct Sealed {
    pub(super) seq: u64,
    pub(super) hops: u8,
    pub(super) bytes: usize,
    pub(super) spans: u32,
    pub(super) parts: Vec<Part>,
}

impl Sealed {
    fn cost(&self) -> usize {
        self.bytes + self.parts.len() * PART_OVERHEAD
    }
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A local sender, which can be told to try again: may use three quarters of the queue.
    Local,
    /// Another node: its spans have been accepted somewhere already, so they go before new ones.
    Peer,
    /// Spans in custody of this node that find a new owner: never turned away, they were admitted once.
    Admitted,
}

/// What the sender does next.
pub(super) enum Next {
    Send(Sealed),
    /// Nothing before then.
    At(Tick),
    /// Nothing until something changes.
    Idle,
}

pub(super) struct Queue {
    capacity: usize,
    next_seq: u64,
    /// Waiting, under way and reserved, with overhead.
    occupied: usize,
    /// Of `parts`.
    waiting_bytes: usize,
    /// All that have room here, waiting or under way.
    spans: u64,
    parts: VecDeque<(Tick, Part)>,
    unanswered: VecDeque<Sealed>,
    flights: usize,
    flight_bytes: usize,
    window: usize,
    paused_until: Tick,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Queue {
        Queue {
            capacity,
            next_seq: 0,
            occupied: 0,
            waiting_bytes: 0,
            spans: 0,
            parts: VecDeque::new(),
            unanswered: VecDeque::new(),
            flights: 0,
            flight_bytes: 0,
            window: FIRST_WINDOW,
            paused_until: Tick::ZERO,
        }
    }

    /// Room for parts that together [`cost`] so many bytes, to be used by [`Queue::push`] or given back by
    /// [`Queue::release`]. An empty queue takes anything, so no request is too large for ever.
    pub(super) fn reserve(&mut self, bytes: usize, class: Class) -> bool {
        let limit = match class {
            Class::Local => self.capacity / 4 * 3,
            Class::Peer => self.capacity,
            Class::Admitted => usize::MAX,
        };
        let fits = self.occupied == 0 || self.occupied.saturating_add(bytes) <= limit;
        if fits {
            self.occupied += bytes;
        }
        fits
    }

    pub(super) fn release(&mut self, bytes: usize) {
        self.occupied = self.occupied.saturating_sub(bytes);
    }

    /// Queues a part for which room was reserved.
    pub(super) fn push(&mut self, part: Part, now: Tick) {
        self.waiting_bytes += part.bytes.len();
        self.spans += u64::from(part.spans);
        self.parts.push_back((now, part));
    }

    pub(super) fn next(&mut self, now: Tick) -> Next {
        if now < self.paused_until {
            return Next::At(self.paused_until);
        }
        if self.flights >= MAX_FLIGHTS || self.flight_bytes >= self.window {
            return Next::Idle;
        }
        let sealed = match self.unanswered.pop_front() {
            Some(sealed) => sealed,
            None => {
                let Some((since, _)) = self.parts.front() else { return Next::Idle };
                let ripe = *since + LINGER;
                if self.flights > 0 && self.waiting_bytes < BATCH_BYTES && now < ripe {
                    return Next::At(ripe);
                }
                self.seal()
            }
        };
        self.flights += 1;
        self.flight_bytes += sealed.bytes;
        Next::Send(sealed)
    }

    fn seal(&mut self) -> Sealed {
        let mut sealed = Sealed { seq: self.next_seq, hops: 0, bytes: 0, spans: 0, parts: Vec::new() };
        self.next_seq += 1;
        while let Some((_, part)) = self.parts.front() {
            let fits = part.hops == sealed.hops && sealed.bytes + part.bytes.len() <= BATCH_BYTES;
            if !sealed.parts.is_empty() && !fits {
                break;
            }
            let Some((_, part)) = self.parts.pop_front() else { break };
            sealed.hops = part.hops;
            sealed.bytes += part.bytes.len();
            sealed.spans = sealed.spans.saturating_add(part.spans);
            sealed.parts.push(part);
        }
        self.waiting_bytes -= sealed.bytes;
        sealed
    }

    /// How long an accepted batch took, from being sent to its answer.
    pub(super) fn took(&mut self, took: Duration) {
        if took < QUICK {
            self.window = (self.window + BATCH_BYTES).min(WINDOW_BYTES);
        } else if took > SLOW {
            self.window = (self.window / 4 * 3).max(BATCH_BYTES);
        }
    }

    /// A batch was answered for good: its room is free.
    pub(super) fn landed(&mut self, sealed: &Sealed) {
        self.flights -= 1;
        self.flight_bytes -= sealed.bytes;
        self.spans = self.spans.saturating_sub(u64::from(sealed.spans));
        self.occupied = self.occupied.saturating_sub(sealed.cost());
    }

    /// A batch came back unanswered or refused for now: it goes first, not before `not_before`.
    pub(super) fn returned(&mut self, sealed: Sealed, not_before: Tick) {
        self.flights -= 1;
        self.flight_bytes -= sealed.bytes;
        self.paused_until = self.paused_until.max(not_before);
        self.unanswered.push_back(sealed);
    }

    /// Takes a batch apart, so that its parts are sent each on their own: one of them cannot be taken by the peer.
    pub(super) fn scattered(&mut self, sealed: Sealed) {
        self.flights -= 1;
        self.flight_bytes -= sealed.bytes;
        for part in sealed.parts {
            let single = Sealed {
                seq: self.next_seq,
                hops: part.hops,
                bytes: part.bytes.len(),
                spans: part.spans,
                parts: vec![part],
            };
            self.next_seq += 1;
            self.unanswered.push_back(single);
        }
    }

    /// A new connection: what kept the last one waiting is over.
    pub(super) fn resume(&mut self) {
        self.paused_until = Tick::ZERO;
    }

    /// Takes out all that waits, for another owner. What is under way stays.
    pub(super) fn take_waiting(&mut self) -> Vec<Part> {
        let sealed = std::mem::take(&mut self.unanswered);
        let mut all: Vec<Part> = sealed.into_iter().flat_map(|sealed| sealed.parts).collect();
        all.extend(std::mem::take(&mut self.parts).into_iter().map(|(_, part)| part));
        self.waiting_bytes = 0;
        for part in &all {
            self.release(cost(part.bytes.len()));
            self.spans = self.spans.saturating_sub(u64::from(part.spans));
        }
        all
    }

    /// Bytes waiting, under way and reserved, with what their keeping takes.
    pub(super) fn occupied(&self) -> usize {
        self.occupied
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.parts.is_empty() || !self.unanswered.is_empty()
    }

    /// Spans waiting and under way.
    pub(super) fn spans(&self) -> u64 {
        self.spans
    }

    pub(super) fn flights(&self) -> (usize, usize) {
        (self.flights, self.flight_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Budget, Fate, Holder};

    struct Nobody;
    impl Holder for Nobody {}

    fn part(bytes: usize, hops: u8) -> Part {
        let mut receipt = Receipt::new(1, Nobody);
        receipt.accept();
        Part { bytes: vec![0; bytes].into(), spans: 1, hops, receipt, held: Budget::default().hold(bytes) }
    }

    fn push(queue: &mut Queue, bytes: usize, hops: u8, now: Tick) {
        assert!(queue.reserve(cost(bytes), Class::Peer));
        queue.push(part(bytes, hops), now);
    }

    fn send(queue: &mut Queue, now: Tick) -> Sealed {
        match queue.next(now) {
            Next::Send(sealed) => sealed,
            Next::At(at) => panic!("waits until {at:?}"),
            Next::Idle => panic!("idle"),
        }
    }

    fn settle(sealed: Sealed) {
        sealed.parts.into_iter().for_each(|part| part.receipt.resolve(Fate::Forwarded));
    }

    #[test]
    fn the_first_part_goes_at_once_and_the_next_ones_wait_for_each_other() {
        let (mut queue, now) = (Queue::new(QUEUE_BYTES), Tick(1_000));
        push(&mut queue, 100, 0, now);
        settle(send(&mut queue, now));
        push(&mut queue, 100, 0, now);
        push(&mut queue, 100, 0, now);
        assert!(matches!(queue.next(now), Next::At(at) if at == now + LINGER));
        let both = send(&mut queue, now + LINGER);
        assert_eq!((both.parts.len(), both.bytes, both.seq), (2, 200, 1));
        settle(both);
    }

    #[test]
    fn a_full_batch_does_not_linger_and_hops_are_not_mixed() {
        let (mut queue, now) = (Queue::new(QUEUE_BYTES), Tick(1_000));
        push(&mut queue, 1, 0, now);
        settle(send(&mut queue, now));
        push(&mut queue, BATCH_BYTES - 10, 1, now);
        push(&mut queue, 20, 1, now);
        push(&mut queue, 20, 2, now);
        let first = send(&mut queue, now);
        assert_eq!((first.parts.len(), first.hops), (1, 1));
        settle(first);
        let second = send(&mut queue, now + LINGER);
        assert_eq!((second.parts.len(), second.hops), (1, 1));
        settle(second);
        settle(send(&mut queue, now + LINGER));
    }

    #[test]
    fn local_senders_are_turned_away_first_and_what_was_admitted_never() {
        let mut queue = Queue::new(10_000);
        assert!(queue.reserve(7_000, Class::Local));
        assert!(!queue.reserve(1_000, Class::Local));
        assert!(queue.reserve(2_000, Class::Peer));
        assert!(!queue.reserve(1_500, Class::Peer));
        assert!(queue.reserve(5_000, Class::Admitted));
        [7_000, 2_000, 5_000].into_iter().for_each(|bytes| queue.release(bytes));
        assert!(queue.reserve(50_000, Class::Local), "an empty queue takes a request of any size");
    }

    #[test]
    fn an_unanswered_batch_goes_again_under_its_number_before_anything_else() {
        let (mut queue, now) = (Queue::new(QUEUE_BYTES), Tick(1_000));
        push(&mut queue, 100, 0, now);
        let lost = send(&mut queue, now);
        push(&mut queue, 100, 0, now);
        queue.returned(lost, now + LINGER);
        assert!(matches!(queue.next(now), Next::At(at) if at == now + LINGER));
        queue.resume();
        let again = send(&mut queue, now);
        assert_eq!((again.seq, queue.flights()), (0, (1, 100)));
        queue.landed(&again);
        settle(again);
        assert_eq!((queue.occupied(), queue.spans()), (cost(100), 1));
        queue.take_waiting().into_iter().for_each(|part| part.receipt.resolve(Fate::Forwarded));
        assert_eq!((queue.occupied(), queue.spans(), queue.has_waiting()), (0, 0, false));
    }

    fn under_way(queue: &mut Queue, now: Tick) -> usize {
        while queue.parts.len() < MAX_FLIGHTS {
            push(queue, BATCH_BYTES, 0, now);
        }
        let mut flying = Vec::new();
        while let Next::Send(sealed) = queue.next(now) {
            flying.push(sealed);
        }
        let flights = flying.len();
        for sealed in flying {
            queue.landed(&sealed);
            settle(sealed);
        }
        flights
    }

    #[test]
    fn quick_answers_open_the_window_and_slow_ones_close_it() {
        let (mut queue, now) = (Queue::new(usize::MAX), Tick(1_000));
        assert_eq!(under_way(&mut queue, now), FIRST_WINDOW / BATCH_BYTES);
        (0..100).for_each(|_| queue.took(Duration::from_millis(90)));
        assert_eq!(under_way(&mut queue, now), MAX_FLIGHTS);
        (0..100).for_each(|_| queue.took(Duration::from_secs(4)));
        assert_eq!(under_way(&mut queue, now), 1);
    }
}
