//! What comes in: connections, and on each connection batches, questions and membership messages.
//!
//! Nothing from a peer is believed before it is bounded. **Connections**: while many handshakes are pending, an address
//! that has not shown that it receives what is sent to it is asked to first (QUIC Retry), and beyond a cap nobody
//! is listened to. **Streams**: each is read against a deadline, so a peer that sends one byte a minute holds a stream for
//! seconds and not for ever; how many may be open at once QUIC itself enforces. **Bytes**: what a peer's batches take
//! before they are walked is counted against a budget of that peer, so a flood fills the flooder's own flow control and
//! nobody else's. A batch is taken only whole, when its stream has ended as announced; otherwise its stream alone is reset.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Incoming, RecvStream, SendStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{debug, info, warn};

use super::clock;
use super::compress;
use super::conn::{Conn, Direction};
use super::endpoint::{self, TurnedAway};
use super::explain;
use super::frame::{BatchHead, Code, FrameError, Kind, MAX_GOSSIP, PROTOCOL_QUESTIONS, Reply};
use super::greet::{GREETING_DEADLINE, greet, printable};
use super::link::Link;
use super::recent::Seen;
use super::shared::{Core, Event, at_slowest};
use super::stream::{ReadError, read_body, read_head, read_kind};
use crate::logic::route::MAX_HOPS;
use crate::model::{Batch, Reason, Refusal};
use crate::pipeline::Source;
use crate::wire;

/// Streams that a peer may have open at once, of each kind. Twice what a sender of this build has under way.
pub(super) const MAX_STREAMS: u32 = 128;
/// Streams of a connection being served at once. QUIC forgets a stream that the peer gives up, its task may not yet have.
const MAX_TASKS: usize = 4 * MAX_STREAMS as usize;
/// Batches above this are decompressed and walked where blocking is allowed: 1 MiB takes about 1.5 ms.
const INLINE_BYTES: usize = 1 << 20;
/// What a peer is asked to wait that sends a batch again while it is being taken.
const TAKING_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept_all(core: Arc<Core>, endpoint: quinn::Endpoint) {
    let mut pending: JoinSet<()> = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = pending.join_next() => continue,
            () = core.stop.cancelled() => return,
        };
        let Some(incoming) = incoming else { return };
        match endpoint::admit(incoming, pending.len()) {
            Ok(incoming) => {
                pending.spawn(accept(core.clone(), incoming));
            }
            Err(TurnedAway::Retry) => {}
            Err(TurnedAway::Refused) => core.counts.add(|counts| &counts.handshakes_turned_away, 1),
        }
    }
}

async fn accept(core: Arc<Core>, incoming: Incoming) {
    let address = incoming.remote_address();
    let greeted = async {
        let quic = incoming.accept().map_err(|error| error.to_string())?;
        let quic = timeout(GREETING_DEADLINE, quic).await.map_err(|_| "no handshake in time".to_owned())?;
        let quic = quic.map_err(|error| error.to_string())?;
        let hello = greet(&core, &quic, Direction::Accepted).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((quic, hello))
    };
    match greeted.await {
        Ok((quic, hello)) => core.link_up(quic, hello, Direction::Accepted).await,
        Err(error) => {
            core.counts.add(|counts| &counts.handshakes_failed, 1);
            if core.may_tell_of_strangers() {
                info!(%address, %error, "no link to who dialled");
            } else {
                debug!(%address, %error, "no link to who dialled");
            }
        }
    }
}

/// Takes what comes on a connection until it ends.
pub(super) async fn serve(core: Arc<Core>, link: Arc<Link>, conn: Arc<Conn>) {
    let quic = &conn.quic;
    let mut streams: JoinSet<()> = JoinSet::new();
    let mut clock_due = tokio::time::interval(core.tuning.clock_interval);
    clock_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let error = loop {
        tokio::select! {
            stream = quic.accept_bi(), if streams.len() < MAX_TASKS => match stream {
                Ok((send, recv)) => {
                    streams.spawn(stream_of_two(core.clone(), link.clone(), conn.clone(), send, recv));
                }
                Err(error) => break error,
            },
            _ = clock_due.tick(), if conn.protocol >= PROTOCOL_QUESTIONS => {
                streams.spawn(clock::ask_time(core.clone(), link.clone(), conn.clone()));
            }
            stream = quic.accept_uni(), if streams.len() < MAX_TASKS => match stream {
                Ok(recv) => {
                    streams.spawn(gossip_stream(core.clone(), link.clone(), recv));
                }
                Err(error) => break error,
            },
            datagram = quic.read_datagram() => match datagram {
                Ok(datagram) => gossip_datagram(&core, &link, &datagram),
                Err(error) => break error,
            },
            Some(_) = streams.join_next() => {}
        }
    };
    let error = printable(&error.to_string());
    link.detach(&conn, &error);
    if link.conn().is_some() {
        debug!(peer = %link.peer, address = %conn.address(), %error, "one of two connections has closed");
    } else {
        info!(peer = %link.peer, address = %conn.address(), %error, "link down");
    }
    core.tell(Event::Link(link.peer.clone())).await;
}

fn gossip_datagram(core: &Core, link: &Link, datagram: &Bytes) {
    match datagram.split_first() {
        Some((kind, _)) if *kind == Kind::Gossip as u8 && datagram.len() <= MAX_GOSSIP => {
            core.tell_gossip(&link.peer, datagram.slice(1..));
        }
        _ => {
            link.counts.bad_streams.fetch_add(1, Relaxed);
        }
    }
}

async fn gossip_stream(core: Arc<Core>, link: Arc<Link>, mut recv: RecvStream) {
    let message = async {
        let kind = read_kind(&mut recv).await?;
        if kind != Kind::Gossip {
            return Err(FrameError::UnknownKind(kind as u8).into());
        }
        recv.read_to_end(MAX_GOSSIP).await.map_err(|error| match error {
            quinn::ReadToEndError::TooLong => FrameError::TooLarge { what: "gossip", max: MAX_GOSSIP }.into(),
            quinn::ReadToEndError::Read(error) => ReadError::Ended(error),
        })
    };
    match timeout(core.tuning.read_deadline, message).await {
        Ok(Ok(message)) => core.tell_gossip(&link.peer, message.into()),
        Ok(Err(ReadError::Frame(error))) => {
            link.counts.bad_streams.fetch_add(1, Relaxed);
            debug!(peer = %link.peer, %error, "a stream is reset");
            let _ = recv.stop(error.code().varint());
        }
        Ok(Err(ReadError::Ended(_))) => {}
        Err(_) => {
            link.counts.bad_streams.fetch_add(1, Relaxed);
            let _ = recv.stop(Code::TooSlow.varint());
        }
    }
}

/// A batch or a question, from its first byte to its answer.
async fn stream_of_two(core: Arc<Core>, link: Arc<Link>, conn: Arc<Conn>, mut send: SendStream, mut recv: RecvStream) {
    let served = match timeout(core.tuning.read_deadline, read_kind(&mut recv)).await {
        Ok(Ok(Kind::Batch)) => batch(&core, &link, &conn, &mut send, &mut recv).await,
        Ok(Ok(Kind::Query)) => explain::answer_query(&core, &link, &mut send, &mut recv).await,
        Ok(Ok(Kind::Clock)) => clock::tell_time(&core, &mut send, &mut recv).await,
        Ok(Ok(kind)) => Err(reset_code(&link, FrameError::UnknownKind(kind as u8).into())),
        Ok(Err(error)) => Err(reset_code(&link, error)),
        Err(_) => Err(Code::TooSlow),
    };
    if let Err(code) = served {
        if code != Code::Busy {
            link.counts.bad_streams.fetch_add(1, Relaxed);
        }
        let _ = recv.stop(code.varint());
        let _ = send.reset(code.varint());
    }
}

/// What a stream that cannot be read is reset with.
fn reset_code(link: &Link, error: ReadError) -> Code {
    match error {
        ReadError::Frame(error) => {
            warn!(peer = %link.peer, %error, "a stream is reset");
            error.code()
        }
        ReadError::Ended(_) => Code::Malformed,
    }
}

/// One batch, from its head to its answer.
async fn batch(
    core: &Arc<Core>,
    link: &Arc<Link>,
    conn: &Conn,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), Code> {
    let read = read_batch(core, link, conn, recv).await.map_err(|_| Code::TooSlow)?;
    let arrived = read.map_err(|error| reset_code(link, error))?;
    let reply = take(core, link, arrived).await;
    if matches!(reply, Reply::Refused(_)) {
        link.counts.refused_here.fetch_add(1, Relaxed);
    }
    let answered = async {
        send.write_chunk(reply.encode().into()).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    // A peer that does not read its answers loses them; it will send again and be told then.
    let _ = timeout(core.tuning.read_deadline, answered).await;
    Ok(())
}

struct Arrived {
    head: BatchHead,
    body: Bytes,
    /// Counts body and batch against the peer until the batch is walked.
    room: tokio::sync::OwnedSemaphorePermit,
    held: crate::model::Held,
}

/// `Err`: too slow.
async fn read_batch(
    core: &Core,
    link: &Link,
    conn: &Conn,
    recv: &mut RecvStream,
) -> Result<Result<Arrived, ReadError>, Elapsed> {
    let deadline = core.tuning.read_deadline;
    let head = match timeout(deadline, read_batch_head(conn, recv)).await? {
        Ok(head) => head,
        Err(error) => return Ok(Err(error)),
    };
    timeout(deadline + at_slowest(head.body_bytes), read_batch_body(core, link, head, recv)).await
}

async fn read_batch_head(conn: &Conn, recv: &mut RecvStream) -> Result<BatchHead, ReadError> {
    let head = BatchHead::decode(&read_head(recv).await?)?;
    if head.boot != conn.peer.identity.boot || head.hops >= MAX_HOPS {
        return Err(FrameError::Field("batch id or hops").into());
    }
    Ok(head)
}

async fn read_batch_body(
    core: &Core,
    link: &Link,
    head: BatchHead,
    recv: &mut RecvStream,
) -> Result<Arrived, ReadError> {
    // A batch larger than the peer's whole budget comes alone. Waiting here leaves its bytes in the peer's own
    // flow control; the deadline that runs is the stream's.
    let wanted = (head.body_bytes + head.raw_bytes).min(core.tuning.inbound_bytes);
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let room = link.inbound.clone().acquire_many_owned(wanted).await.map_err(|_| quinn::ReadError::ClosedStream)?;
    let held = core.budget.hold(head.body_bytes + head.raw_bytes);
    let body = read_body(recv, head.body_bytes).await?;
    Ok(Arrived { head, body, room, held })
}

/// Hands a batch on, and says what became of it.
async fn take(core: &Arc<Core>, link: &Arc<Link>, arrived: Arrived) -> Reply {
    let Arrived { head, body, room, mut held } = arrived;
    let (boot, seq) = (head.boot, head.seq);
    let taking = match link.recent.begin(boot, seq) {
        Seen::Fresh(taking) => taking,
        Seen::Taken { rejected } => {
            link.counts.replayed.fetch_add(1, Relaxed);
            return Reply::Accepted { rejected };
        }
        Seen::BeingTaken => {
            link.counts.replayed.fetch_add(1, Relaxed);
            return Reply::Refused(Refusal::RetryAfter { after: TAKING_PAUSE, reason: Reason::QueueFull });
        }
    };
    let wire_bytes = body.len() as u64;
    let limits = core.limits.clone();
    let open = move || {
        let raw = compress::decompress(body, head.compression, head.raw_bytes).ok()?;
        wire::walk(raw, &limits).ok()
    };
    let walked =
        if head.raw_bytes > INLINE_BYTES { tokio::task::spawn_blocking(open).await.ok().flatten() } else { open() };
    drop(room);
    let Some(walked) = walked else {
        warn!(peer = %link.peer, seq, "a batch does not decompress or is not spans");
        return Reply::Refused(Refusal::Permanent { reason: Reason::Malformed });
    };
    let spans = walked.spans;
    // The sender counts indexed spans only, as this walker does: fewer means that limits differ.
    let taken = u32::try_from(spans.len()).unwrap_or(u32::MAX);
    let rejected = head.spans.saturating_sub(taken);
    link.counts.received_batches.fetch_add(1, Relaxed);
    link.counts.received_spans.fetch_add(u64::from(taken), Relaxed);
    link.counts.received_raw_bytes.fetch_add(head.raw_bytes as u64, Relaxed);
    link.counts.received_wire_bytes.fetch_add(wire_bytes, Relaxed);
    if spans.is_empty() {
        taking.ended(Some(rejected));
        return Reply::Accepted { rejected };
    }
    held.resize(spans.bytes.len());
    let (answer, answered) = oneshot::channel();
    let receipt = core.ledger.open(taken, Source::Peer, move |result: Result<(), Refusal>| {
        taking.ended(result.is_ok().then_some(rejected));
        let _ = answer.send(result);
    });
    core.place(Batch { spans, receipt, held, hops: head.hops + 1 });
    match answered.await {
        Ok(Ok(())) => Reply::Accepted { rejected },
        Ok(Err(refusal)) => Reply::Refused(refusal),
        Err(_) => Reply::Refused(Refusal::passing(Reason::Internal)),
    }
}
