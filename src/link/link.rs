//! Everything between this node and one peer: the connections, the queue, and the task that empties the queue.
//!
//! A link exists for each member that owns traces or is connected, whether a connection is up or not: spans for an
//! owner that cannot be reached wait here. It belongs to a node id and not to an address or a run, so a peer
//! that restarts elsewhere gets what waited for it.
//!
//! **Two connections.** When both sides dial at once there are two. Agreeing on one through messages is where links of
//! other systems lose data; here nothing needs agreement: each side serves all connections of a pair and sends on its newest
//! one. After a while the side with the lower id closes all but its own newest. A batch whose answer was out on a
//! closed one comes back and goes again under its number, which the peer knows.
//!
//! **Backpressure.** One slow peer fills its own queue and nobody else's: whoever offers spans only ever locks the queue
//! for a push, and all waiting is done in this link's task.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::clock::PeerClock;
use super::conn::Conn;
use super::explain::ANSWERING_PEER;
use super::frame::{Code, Hello, Reply};
use super::queue::{Class, Next, Part, Queue, Sealed};
use super::recent::RecentIds;
use super::shared::at_slowest;
use crate::logic::clock_filter::{ClockOffset, Exchange};
use crate::model::{BootId, DropReason, Fate, NodeId, Refusal};
use crate::runtime::clock::Clock;

/// Connections of one pair of nodes. Two is usual for a moment, more is a peer that dials in circles.
const MAX_CONNS: usize = 4;
/// How long two connections of a pair live side by side, so that neither side is closed on while it still greets.
const DUPLICATE_GRACE: Duration = Duration::from_secs(2);
/// The first pause after a failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What all links of a node share.
pub(super) struct LinkContext {
    pub(super) boot: BootId,
    pub(super) clock: Clock,
    pub(super) queue_bytes: usize,
    /// How long a batch may stay unanswered. A peer that takes spans answers at once; one that is stuck holds up to
    /// [`super::queue::WINDOW_BYTES`] of ours for as long.
    pub(super) reply_deadline: Duration,
    /// Bytes that one peer may have this node hold before they are walked.
    pub(super) inbound_bytes: usize,
    /// Told when parts wait in a queue whose peer owns nothing any more.
    pub(super) stranded: Arc<Notify>,
    /// Told when a batch has met its fate.
    pub(super) settled: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

/// Counts of one link since the node's start.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) sent_batches: AtomicU64,
    pub(super) sent_spans: AtomicU64,
    pub(super) sent_raw_bytes: AtomicU64,
    pub(super) sent_wire_bytes: AtomicU64,
    pub(super) refused_by_peer: AtomicU64,
    pub(super) rejected_by_peer_spans: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) received_batches: AtomicU64,
    pub(super) received_spans: AtomicU64,
    pub(super) received_raw_bytes: AtomicU64,
    pub(super) received_wire_bytes: AtomicU64,
    pub(super) refused_here: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) bad_streams: AtomicU64,
}

pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) counts: Counts,
    pub(super) recent: RecentIds,
    /// In bytes: what the peer has this node hold before it is walked.
    pub(super) inbound: Arc<Semaphore>,
    /// Questions of the peer being answered.
    pub(super) answering: Arc<Semaphore>,
    state: Mutex<State>,
    wake: Notify,
    context: Arc<LinkContext>,
    stop: CancellationToken,
    /// Cancelled when the sending task is through and no batch is under way.
    finished: CancellationToken,
}

struct State {
    queue: Queue,
    /// Whether the peer is in the ring: then parts may wait here without a connection.
    owner: bool,
    /// Newest last.
    conns: Vec<Arc<Conn>>,
    newest_boot: Option<BootId>,
    last_hello: Option<Hello>,
    failures: u32,
    last_error: Option<String>,
    clock: PeerClock,
}

/// What a link says of itself; see [`super::status::LinkStatus`] for the meaning.
pub(super) struct Snapshot {
    pub(super) conn: Option<Arc<Conn>>,
    pub(super) queue_bytes: usize,
    pub(super) queue_spans: u64,
    pub(super) in_flight: (usize, usize),
    pub(super) last_error: Option<String>,
    pub(super) clock_offset: Option<ClockOffset>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    Full,
    /// The peer is no longer in the ring: ask the ring again.
    NotOwner,
}

/// A batch that was under way.
struct Flight {
    sealed: Sealed,
    /// The answer and the bytes it took on the wire, or why there is none.
    answer: Result<(Reply, usize), String>,
    took: Duration,
    /// Whether the connection is still up.
    alive: bool,
}

impl Link {
    /// A link, and the task that sends what is queued. It ends when the node stops or the link is [`Link::end`]ed.
    pub(super) fn start(peer: NodeId, context: Arc<LinkContext>) -> Arc<Link> {
        let state = State {
            queue: Queue::new(context.queue_bytes),
            owner: false,
            conns: Vec::new(),
            newest_boot: None,
            last_hello: None,
            failures: 0,
            last_error: None,
            clock: PeerClock::default(),
        };
        let link = Arc::new(Link {
            peer,
            counts: Counts::default(),
            recent: RecentIds::default(),
            inbound: Arc::new(Semaphore::new(context.inbound_bytes)),
            answering: Arc::new(Semaphore::new(ANSWERING_PEER)),
            state: Mutex::new(state),
            wake: Notify::new(),
            stop: context.stop.child_token(),
            finished: CancellationToken::new(),
            context,
        });
        tokio::spawn(link.clone().send_all());
        link
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room in the queue, if the peer is an owner.
    pub(super) fn reserve(&self, bytes: usize, class: Class) -> Result<(), NoRoom> {
        let mut state = self.state();
        if !state.owner {
            return Err(NoRoom::NotOwner);
        }
        if state.queue.reserve(bytes, class) { Ok(()) } else { Err(NoRoom::Full) }
    }

    /// Gives back room that was reserved and not used.
    pub(super) fn release(&self, bytes: usize) {
        self.state().queue.release(bytes);
    }

    /// Queues a part for which room was reserved. If the ring moved in between, the part is found and re-routed.
    pub(super) fn push(&self, part: Part) {
        let owner = {
            let mut state = self.state();
            state.queue.push(part, self.context.clock.now());
            state.owner
        };
        if owner {
            self.wake.notify_one();
        } else {
            self.context.stranded.notify_one();
        }
    }

    /// Tells whether the peer is in the ring.
    pub(super) fn set_owner(&self, owner: bool) {
        let stranded = {
            let mut state = self.state();
            state.owner = owner;
            !owner && state.queue.has_waiting()
        };
        if stranded {
            self.context.stranded.notify_one();
        }
    }

    /// What waits for a peer that owns nothing any more.
    pub(super) fn take_stranded(&self) -> Vec<Part> {
        let mut state = self.state();
        if state.owner { Vec::new() } else { state.queue.take_waiting() }
    }

    /// What waits, whatever the peer: the node stops.
    pub(super) fn take_all(&self) -> Vec<Part> {
        self.state().queue.take_waiting()
    }

    /// Takes a new connection into use. `Err`: a later run of the peer is connected. (If it is not, this may be the same
    /// node after its clock was set back.)
    pub(super) fn attach(self: &Arc<Self>, conn: Arc<Conn>, lower_id: bool) -> Result<(), Code> {
        let boot = conn.peer.identity.boot;
        let (stale, crowded, several) = {
            let mut state = self.state();
            if state.newest_boot.is_some_and(|newest| newest > boot) && !state.conns.is_empty() {
                return Err(Code::OlderRun);
            }
            let mut stale = Vec::new();
            if state.newest_boot != Some(boot) {
                stale = std::mem::take(&mut state.conns);
                state.newest_boot = Some(boot);
                // The peer may run on another machine now.
                state.clock = PeerClock::default();
            }
            state.last_hello = Some(conn.peer.clone());
            state.conns.push(conn);
            state.failures = 0;
            state.queue.resume();
            let crowded = (state.conns.len() > MAX_CONNS).then(|| state.conns.remove(0));
            (stale, crowded, state.conns.len() > 1)
        };
        self.counts.connections.fetch_add(1, Relaxed);
        stale.into_iter().for_each(|conn| conn.close(Code::OlderRun, "a later run of this node is linked"));
        crowded.into_iter().for_each(|conn| conn.close(Code::Duplicate, "too many connections"));
        if several && lower_id {
            tokio::spawn(self.clone().prune());
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Closes all connections but the newest, after a while.
    async fn prune(self: Arc<Self>) {
        tokio::select! {
            () = tokio::time::sleep(DUPLICATE_GRACE) => {}
            () = self.stop.cancelled() => return,
        }
        let older = {
            let mut state = self.state();
            let keep = state.conns.pop();
            std::mem::replace(&mut state.conns, keep.into_iter().collect())
        };
        older.into_iter().for_each(|conn| conn.close(Code::Duplicate, "a newer connection is in use"));
    }

    /// A connection has ended.
    pub(super) fn detach(&self, conn: &Conn, why: &str) {
        let mut state = self.state();
        state.conns.retain(|other| other.quic.stable_id() != conn.quic.stable_id());
        if state.conns.is_empty() {
            state.last_error = Some(why.to_owned());
        }
    }

    pub(super) fn close(&self, code: Code, reason: &str) {
        let conns = std::mem::take(&mut self.state().conns);
        conns.into_iter().for_each(|conn| conn.close(code, reason));
    }

    /// The connection in use.
    pub(super) fn conn(&self) -> Option<Arc<Conn>> {
        self.state().conns.last().cloned()
    }

    /// What the peer said of itself when it was last connected.
    pub(super) fn last_hello(&self) -> Option<Hello> {
        self.state().last_hello.clone()
    }

    /// Whether nothing needs this link: no connection, no ownership, nothing in custody.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.conns.is_empty() && !state.owner && state.queue.occupied() == 0
    }

    pub(super) fn occupied(&self) -> usize {
        self.state().queue.occupied()
    }

    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Resolves after the stop, when all that was under way is back in the queue or answered.
    pub(super) async fn finished(&self) {
        self.finished.cancelled().await;
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot {
            conn: state.conns.last().cloned(),
            queue_bytes: state.queue.occupied(),
            queue_spans: state.queue.spans(),
            in_flight: state.queue.flights(),
            last_error: state.last_error.clone(),
            clock_offset: state.clock.offset(),
        }
    }

    /// Counts an exchange of timestamps in.
    pub(super) fn clocks_compared(&self, exchange: Exchange) {
        self.state().clock.compared(&self.peer, exchange);
    }

    /// Sends what is queued, for ever.
    async fn send_all(self: Arc<Self>) {
        let mut flights: JoinSet<Flight> = JoinSet::new();
        loop {
            let (next, conn) = {
                let mut state = self.state();
                match state.conns.last().cloned() {
                    // A peer that lost its ownership answers what is under way; the rest goes elsewhere.
                    Some(conn) if state.owner => (state.queue.next(self.context.clock.now()), Some(conn)),
                    _ => (Next::Idle, None),
                }
            };
            let until = match (next, conn) {
                (Next::Send(sealed), Some(conn)) => {
                    let link = self.clone();
                    flights.spawn(async move { link.fly(conn, sealed).await });
                    continue;
                }
                (Next::At(tick), _) => Some(self.context.clock.instant(tick)),
                _ => None,
            };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.wake.notified() => {}
                Some(landed) = flights.join_next() => self.landed(landed),
                () = async { tokio::time::sleep_until(until.unwrap_or_else(tokio::time::Instant::now)).await },
                    if until.is_some() => {}
            }
        }
        while let Some(landed) = flights.join_next().await {
            self.landed(landed);
        }
        self.finished.cancel();
    }

    /// One batch, to its answer or until there can be none.
    async fn fly(&self, conn: Arc<Conn>, sealed: Sealed) -> Flight {
        let deadline = self.context.reply_deadline + at_slowest(sealed.bytes);
        let start = self.context.clock.now();
        let answer = tokio::select! {
            answer = tokio::time::timeout(deadline, conn.deliver(self.context.boot, &sealed)) => {
                match answer {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err("the peer did not answer in time".to_owned()),
                }
            }
            () = self.stop.cancelled() => Err("the node stops".to_owned()),
        };
        let took = self.context.clock.now().since(start);
        Flight { sealed, answer, took, alive: conn.quic.close_reason().is_none() }
    }

    fn landed(&self, landed: Result<Flight, tokio::task::JoinError>) {
        let Flight { sealed, answer, took, alive } = match landed {
            Ok(flight) => flight,
            Err(error) => return error!(peer = %self.peer, %error, "a task that sent a batch failed"),
        };
        match answer {
            Ok((Reply::Accepted { rejected }, wire_bytes)) => self.accepted(sealed, rejected, wire_bytes, took),
            Ok((Reply::Refused(Refusal::RetryAfter { after, reason }), _)) => {
                self.counts.refused_by_peer.fetch_add(1, Relaxed);
                self.give_back(sealed, after, &format!("refused for now: {}", reason.label()));
            }
            Ok((Reply::Refused(Refusal::Permanent { reason }), _)) => {
                self.counts.refused_by_peer.fetch_add(1, Relaxed);
                if sealed.parts.len() > 1 {
                    self.state().queue.scattered(sealed);
                } else {
                    error!(peer = %self.peer, reason = reason.label(), spans = sealed.spans, "the peer will never take these spans");
                    self.state().queue.landed(&sealed);
                    resolve(sealed, |_| Fate::Dropped(DropReason::BackendRefused));
                    self.context.settled.notify_waiters();
                }
            }
            Err(why) => {
                self.counts.unanswered.fetch_add(1, Relaxed);
                debug!(peer = %self.peer, seq = sealed.seq, %why, "a batch came back");
                // Without a connection there is nothing to pause for: the next one takes up what waits.
                let pause = if alive { FIRST_PAUSE } else { Duration::ZERO };
                self.give_back(sealed, pause, &why);
            }
        }
    }

    fn accepted(&self, sealed: Sealed, rejected: u32, wire_bytes: usize, took: Duration) {
        let counts = &self.counts;
        counts.sent_batches.fetch_add(1, Relaxed);
        counts.sent_spans.fetch_add(u64::from(sealed.spans), Relaxed);
        counts.sent_raw_bytes.fetch_add(sealed.bytes as u64, Relaxed);
        counts.sent_wire_bytes.fetch_add(wire_bytes as u64, Relaxed);
        {
            let mut state = self.state();
            state.failures = 0;
            state.queue.took(took);
            state.queue.landed(&sealed);
        }
        if rejected > 0 {
            counts.rejected_by_peer_spans.fetch_add(u64::from(rejected), Relaxed);
            warn!(peer = %self.peer, spans = rejected, "the peer's limits do not let these spans pass");
        }
        let mut rejected = rejected;
        resolve(sealed, |part| {
            // Which ones they were does not matter to the counts, only how many.
            let mine = rejected.min(part.spans);
            rejected -= mine;
            if mine > 0 {
                part.receipt.split(mine).resolve(Fate::Dropped(DropReason::BackendRefused));
            }
            Fate::Forwarded
        });
        self.context.settled.notify_waiters();
    }

    fn give_back(&self, sealed: Sealed, at_least: Duration, why: &str) {
        let stranded = {
            let mut state = self.state();
            let pause = if at_least.is_zero() {
                Duration::ZERO
            } else {
                let backoff = FIRST_PAUSE.saturating_mul(1 << state.failures.min(10)).min(LONGEST_PAUSE);
                state.failures = state.failures.saturating_add(1);
                // Jitter upwards only: a peer's wish is the least.
                at_least.max(backoff).mul_f64(1.0 + 0.25 * rand::random::<f64>())
            };
            state.last_error = Some(why.to_owned());
            state.queue.returned(sealed, self.context.clock.now() + pause);
            !state.owner
        };
        if stranded {
            self.context.stranded.notify_one();
        }
    }
}

fn resolve(sealed: Sealed, mut fate: impl FnMut(&mut Part) -> Fate) {
    for mut part in sealed.parts {
        let fate = fate(&mut part);
        part.receipt.resolve(fate);
    }
}
