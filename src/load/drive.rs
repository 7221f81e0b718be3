//! Sends requests at a rate, or as fast as answers come, and measures what came of them.
//!
//! At a fixed rate every request has a moment at which it is due, whatever became of those before it, and its latency
//! counts from that moment. Counting from the moment of sending would leave out the waiting behind a slow answer, the very
//! thing that senders feel ("coordinated omission"); that other figure is reported too, as the service time.
//!
//! Requests in flight are bounded, and so is everything else: what was due and could not be sent before the end is
//! counted as unsent, an answer is waited for no longer than the timeout, and a node that cannot be reached is asked again
//! at a slow pace instead of in a busy loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::payload::{Payload, Shape};
use super::sender::{Compression, Encoding, Outcome, Protocol, Sender, Target};
use crate::model::Tick;
use crate::runtime::clock::{Clock, unix_now};

/// Pause of a worker whose connection failed.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);
/// Longest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    /// Spans a second; 0: as fast as possible.
    pub rate: u64,
    pub duration: Duration,
    pub shape: Shape,
    pub spans_per_request: usize,
    pub connections: usize,
    /// Requests in flight on each connection.
    pub in_flight: usize,
    /// How often each request is sent, one after the other: from the second on, its spans are duplicates.
    pub copies: u32,
    pub seed: u64,
}

/// Counts that may be read while the load runs.
#[derive(Default)]
pub struct Progress {
    pub accepted_spans: AtomicU64,
    pub failed_spans: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What came of the whole load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub target: String,
    pub protocol: Protocol,
    pub encoding: Encoding,
    pub compression: Compression,
    /// From the first request due to the last answer, or to the end of the time asked for if that is later.
    pub seconds: f64,
    pub requests: u64,
    /// Spans in requests that were sent.
    pub spans: u64,
    /// Spans that the target took.
    pub accepted_spans: u64,
    /// Spans that a partial success named as rejected.
    pub rejected_spans: u64,
    /// Spans in requests that were refused or not answered.
    pub failed_spans: u64,
    /// Spans that were due at the given rate and could not be sent in time.
    pub unsent_spans: u64,
    /// Requests that failed, by their status.
    pub errors: BTreeMap<String, u64>,
    pub accepted_spans_per_second: f64,
    /// Encoded requests, before compression.
    pub bytes: u64,
    /// Bodies as sent (HTTP); gRPC compresses below where this counts.
    pub body_bytes: u64,
    pub bytes_per_span: f64,
    /// From when a request was due to its answer; at rate 0 the same as `service_time`.
    pub latency: Latency,
    /// From when a request was sent to its answer.
    pub service_time: Latency,
}

impl Report {
    /// All spans that were due have been taken.
    pub fn flawless(&self) -> bool {
        self.errors.is_empty() && self.rejected_spans == 0 && self.unsent_spans == 0
    }
}

/// When requests are due. Workers take one number after the other.
struct Schedule {
    start: Tick,
    end: Tick,
    /// Spans a second and spans a request; a rate of 0 makes every request due at once.
    rate: u64,
    spans_per_request: u64,
    next: AtomicU64,
}

impl Schedule {
    /// When the request `number` is due.
    fn due(&self, number: u64) -> Option<Tick> {
        if self.rate == 0 {
            return None;
        }
        let nanos = u128::from(number) * u128::from(self.spans_per_request) * 1_000_000_000 / u128::from(self.rate);
        Some(self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The next request's moment, or `None` when all are given out.
    fn take(&self, now: Tick) -> Option<Tick> {
        let due = self.due(self.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(now);
        (due < self.end && now < self.end).then_some(due)
    }

    /// Requests that were due before `until`.
    fn due_before(&self, until: Tick) -> u64 {
        let nanos = until.min(self.end).since(self.start).as_nanos();
        let per_request = u128::from(self.spans_per_request) * 1_000_000_000;
        u64::try_from((nanos * u128::from(self.rate)).div_ceil(per_request)).unwrap_or(u64::MAX)
    }
}

/// What one worker has seen.
struct Tally {
    requests: u64,
    accepted: u64,
    rejected: u64,
    failed: u64,
    bytes: u64,
    body_bytes: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        let histogram = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("constant bounds are in range");
        Tally {
            requests: 0,
            accepted: 0,
            rejected: 0,
            failed: 0,
            bytes: 0,
            body_bytes: 0,
            errors: BTreeMap::new(),
            latency: histogram.clone(),
            service: histogram,
        }
    }

    fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.body_bytes += other.body_bytes;
        for (status, count) in other.errors {
            *self.errors.entry(status).or_default() += count;
        }
        self.latency += other.latency;
        self.service += other.service;
    }

    /// Counts one answer; true if the target could not be reached.
    fn note(&mut self, outcome: Outcome, spans: u64, progress: &Progress) -> bool {
        let (status, unreachable) = match outcome {
            Outcome::Accepted(partial) => {
                let rejected = partial.map_or(0, |p| u64::try_from(p.rejected_spans).unwrap_or(0)).min(spans);
                self.rejected += rejected;
                self.accepted += spans - rejected;
                progress.accepted_spans.fetch_add(spans - rejected, Ordering::Relaxed);
                return false;
            }
            Outcome::Refused(status) => (status, false),
            Outcome::NoAnswer(why) => (why.to_owned(), true),
        };
        *self.errors.entry(status).or_default() += 1;
        self.failed += spans;
        progress.failed_spans.fetch_add(spans, Ordering::Relaxed);
        unreachable
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let ms = |us: u64| us as f64 / 1_000.0;
    Latency {
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p90_ms: ms(histogram.value_at_quantile(0.9)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        max_ms: ms(histogram.max()),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).clamp(1, MAX_LATENCY_US)
}

struct Worker {
    sender: Sender,
    payload: Payload,
    spans: usize,
    copies: u32,
    schedule: Arc<Schedule>,
    progress: Arc<Progress>,
    clock: Clock,
    stop: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) -> Tally {
        let mut tally = Tally::new();
        let (mut last, mut copies_left) = (Vec::new(), 0);
        while !*self.stop.borrow() {
            let Some(due) = self.schedule.take(self.clock.now()) else { break };
            if due > self.clock.now() && !self.pause_until(due).await {
                break;
            }
            if copies_left == 0 {
                last = self.payload.request(self.spans, unix_now());
                copies_left = self.copies.max(1);
            }
            copies_left -= 1;
            let request = if copies_left == 0 { std::mem::take(&mut last) } else { last.clone() };
            tally.bytes += request.len() as u64;
            tally.requests += 1;
            let sent = self.clock.now();
            let (outcome, body_bytes) = self.sender.send(request).await;
            let answered = self.clock.now();
            tally.body_bytes += body_bytes as u64;
            tally.latency.saturating_record(micros(answered.since(due)));
            tally.service.saturating_record(micros(answered.since(sent)));
            if tally.note(outcome, self.spans as u64, &self.progress)
                && !self.pause_until(answered + UNREACHABLE_PAUSE).await
            {
                break;
            }
        }
        tally
    }

    /// False if the load was told to stop meanwhile.
    async fn pause_until(&mut self, tick: Tick) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(self.clock.instant(tick)) => true,
            _ = self.stop.wait_for(|stop| *stop) => false,
        }
    }
}

/// Runs the plan to its end, or until `stop` says true; requests in flight are waited for then.
pub async fn run(plan: Plan, progress: Arc<Progress>, clock: Clock, stop: watch::Receiver<bool>) -> Report {
    let start = clock.now();
    let spans_per_request = plan.spans_per_request.max(1);
    let schedule = Arc::new(Schedule {
        start,
        end: start + plan.duration,
        rate: plan.rate,
        spans_per_request: spans_per_request as u64,
        next: AtomicU64::new(0),
    });
    let payload = Payload::new(plan.seed, plan.shape.clone());
    let mut workers = JoinSet::new();
    for connection in 0..plan.connections.max(1) {
        let sender = Sender::new(plan.target.clone());
        for slot in 0..plan.in_flight.max(1) {
            let number = (connection * plan.in_flight.max(1) + slot) as u64;
            let worker = Worker {
                sender: sender.clone(),
                payload: payload.fork(plan.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                spans: spans_per_request,
                copies: plan.copies,
                schedule: Arc::clone(&schedule),
                progress: Arc::clone(&progress),
                clock,
                stop: stop.clone(),
            };
            workers.spawn(worker.run());
        }
    }
    let mut total = Tally::new();
    for tally in workers.join_all().await {
        total.add(tally);
    }
    let finished = clock.now();
    // At a fixed rate the last request stands for the time until the next would have been due.
    let full = plan.rate > 0 && !*stop.borrow();
    let seconds = if full { finished.max(schedule.end) } else { finished }.since(start).as_secs_f64();
    report(&plan, &schedule, total, finished, seconds)
}

fn report(plan: &Plan, schedule: &Schedule, total: Tally, finished: Tick, seconds: f64) -> Report {
    let spans = total.requests * schedule.spans_per_request;
    let due = schedule.due_before(finished).saturating_mul(schedule.spans_per_request);
    Report {
        target: plan.target.url(),
        protocol: plan.target.protocol,
        encoding: plan.target.encoding,
        compression: plan.target.compression,
        seconds,
        requests: total.requests,
        spans,
        accepted_spans: total.accepted,
        rejected_spans: total.rejected,
        failed_spans: total.failed,
        unsent_spans: due.saturating_sub(spans),
        errors: total.errors,
        accepted_spans_per_second: total.accepted as f64 / seconds.max(1e-9),
        bytes: total.bytes,
        body_bytes: total.body_bytes,
        bytes_per_span: total.bytes as f64 / spans.max(1) as f64,
        latency: latency(&total.latency),
        service_time: latency(&total.service),
    }
}

#[cfg(test)]
mod tests;
