//! Decisions in time, whatever else the node does: a thread of its own for each trace buffer.
//!
//! The Collector's tail sampling decides in the loop that also takes spans in, so a flood of spans keeps the decisions
//! from being made, and what is not decided fills the memory. A task of tokio's would be the same in another place: when
//! every worker is busy with requests, timers wait. A thread is scheduled by the system beside the workers, and has
//! nothing to do but this. While traces are open it looks every [`TICK`]. When none is it sleeps as long as a trace that
//! comes meanwhile waits at least, so that nobody needs to wake it for a new trace, and an idle node rests.
//!
//! It goes over the shards in rounds, one small step in each, and lets go of a shard's lock between steps: as many
//! traces as take about a millisecond, found by measuring, since one trace may have five spans or thirty thousand.
//!
//! **Panics.** A thread that nobody waits for can die unseen, and then the buffer only fills. Here a panic is caught, the
//! node is told that it has failed and stops in order, as it does for its other essential tasks; until then the thread
//! goes on with the shards that are whole. Rejected: going on as if nothing had been. What panicked once does so again, and
//! its shard's traces would be decided by nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::Assemble;
use super::shards::Shard;
use crate::logic::traces::Release;
use crate::model::Tick;

/// What the system calls the thread; more would be cut off.
const NAME: &str = "spanmesh-decide";
/// A due decision is found after this at the latest.
const TICK: Duration = Duration::from_millis(50);
/// The longest sleep while no trace is open: old verdicts are let go of in this step.
const IDLE: Duration = Duration::from_secs(1);
/// Nothing was due a moment ago.
const SHORTEST: Duration = Duration::from_millis(1);
/// How soon the next stage is asked again whether it takes what is parked.
const RETRY: Duration = Duration::from_millis(10);
/// Releases offered again before decisions have their turn.
const MOST_RETRIES: usize = 64;
/// What one step in a shard is to take.
const STEP: Duration = Duration::from_millis(1);
const MOST_TRACES: usize = 256;

/// Told when something panicked. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Failures(watch::Sender<bool>);

impl Failures {
    /// Waits until something panicked.
    pub async fn any(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|failed| *failed).await;
    }

    fn report(&self) {
        self.0.send_replace(true);
    }
}

/// The thread's handle.
pub(super) struct Decider {
    asked: Mutex<Asked>,
    changed: Condvar,
    ended: watch::Sender<bool>,
    failures: Failures,
}

/// What the thread is to do from now on.
#[derive(Clone, Copy, Default)]
struct Asked {
    /// Close the buffer, and deliver what is in it until then.
    stop_by: Option<Tick>,
    /// Nobody has the buffer any more.
    gone: bool,
}

impl Decider {
    pub(super) fn new(failures: Failures) -> Arc<Decider> {
        let ended = watch::Sender::new(false);
        Arc::new(Decider { asked: Mutex::default(), changed: Condvar::new(), ended, failures })
    }

    /// Starts the thread. It ends with [`Decider::stop`], or with the buffer.
    pub(super) fn start(decider: Arc<Decider>, assemble: Weak<Assemble>) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(NAME.to_owned());
        thread.spawn(move || decider.run(&assemble)).map(|_| ())
    }

    /// Has the buffer closed and waits for it, until some time after the deadline.
    pub(super) async fn stop(&self, until: Tick, patience: tokio::time::Instant) {
        self.asked().stop_by.get_or_insert(until);
        self.changed.notify_one();
        let mut ended = self.ended.subscribe();
        let _ = tokio::time::timeout_at(patience, ended.wait_for(|ended| *ended)).await;
    }

    /// Whether the thread has done all it can.
    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Ends the sleep, if there is one. Who comes just before it begins is overheard, and waits [`IDLE`] at most.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(super) fn leave(&self) {
        self.asked().gone = true;
        self.changed.notify_one();
    }

    #[cfg(test)]
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    fn run(&self, assemble: &Weak<Assemble>) {
        let mut steps = Steps::default();
        loop {
            // Held for one round, so that the buffer can go when nobody else has it.
            let Some(assemble) = assemble.upgrade() else { break };
            let stop_by = self.asked().stop_by;
            let round = catch_unwind(AssertUnwindSafe(|| match stop_by {
                Some(until) => assemble.closing_round(until, &mut steps),
                None => Some(assemble.round(&mut steps)),
            }));
            if round.is_err() || assemble.shards.is_broken() {
                self.failures.report();
            }
            let pause = match round {
                Ok(None) => break,
                Ok(Some(pause)) => pause,
                Err(_) if stop_by.is_some_and(|until| assemble.clock.now() >= until) => break,
                Err(_) => TICK,
            };
            drop(assemble);
            self.sleep(pause, stop_by);
        }
        self.ended.send_replace(true);
    }

    /// Until `pause` has passed or there is news.
    fn sleep(&self, pause: Duration, known: Option<Tick>) {
        let asked = self.asked();
        if !pause.is_zero() && !asked.gone && asked.stop_by == known {
            drop(self.changed.wait_timeout(asked, pause));
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many traces make a step.
struct Steps(usize);

impl Default for Steps {
    fn default() -> Self {
        Steps(MOST_TRACES / 16)
    }
}

impl Steps {
    /// The last step took so long.
    fn learn(&mut self, took: Duration) {
        if took > STEP {
            self.0 = (self.0 / 2).max(1);
        } else if took < STEP / 4 {
            self.0 = (self.0 * 2).min(MOST_TRACES);
        }
    }
}

/// How long the thread may sleep while no trace is open, if a decision follows a trace's first span after `soonest`.
pub(super) fn idle(soonest: Duration) -> Duration {
    soonest.clamp(TICK, IDLE)
}

impl Assemble {
    /// One step in every shard. Returns when the next round should be.
    fn round(&self, steps: &mut Steps) -> Duration {
        let retry = self.exit.retry(MOST_RETRIES);
        let (more, next) = self.each_shard(steps, |shard, now, most, out| shard.traces.advance(now, most, out));
        if more || retry {
            return Duration::ZERO;
        }
        if self.exit.parked_bytes() > 0 {
            return RETRY;
        }
        next.map_or(self.idle, |due| due.since(self.clock.now()).clamp(SHORTEST, TICK))
    }

    /// One step of closing in every shard. Returns when the next round should be; `None`: nothing is left to do.
    fn closing_round(&self, until: Tick, steps: &mut Steps) -> Option<Duration> {
        // Read first: whoever was inside before may have left something in a shard.
        let alone = self.inside.load(SeqCst) == 0;
        let over = self.clock.now() >= until;
        if over {
            self.exit.give_up();
        }
        let (more, _) = self.each_shard(steps, |shard, now, most, out| shard.traces.close(now, most, out));
        let retry = self.exit.retry(MOST_RETRIES);
        match more || retry {
            true => Some(Duration::ZERO),
            // After the deadline nothing is parked, and who has not answered till then need not be waited for.
            false if alone && (over || self.exit.is_empty()) => None,
            false => Some(RETRY),
        }
    }

    /// Takes a step in each shard that is whole, and sends on what comes of it. True if one has more to do; and when the
    /// next decision is due.
    fn each_shard(
        &self,
        steps: &mut Steps,
        mut step: impl FnMut(&mut Shard, Tick, usize, &mut Vec<Release>) -> bool,
    ) -> (bool, Option<Tick>) {
        let (mut any_more, mut next, mut out) = (false, None, Vec::new());
        for index in 0..self.shards.len() {
            let Some(mut shard) = self.shards.lock(index) else { continue };
            let begun = self.clock.now();
            let more = step(&mut shard, begun, steps.0, &mut out);
            shard.count();
            if let Some(due) = shard.traces.next_deadline() {
                next = Some(next.map_or(due, |next: Tick| next.min(due)));
            }
            drop(shard);
            if more {
                any_more = true;
                steps.learn(self.clock.now().since(begun));
            }
            out.drain(..).for_each(|release| self.exit.send(release));
        }
        (any_more, next)
    }
}
