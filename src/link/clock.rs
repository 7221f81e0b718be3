//! How far each peer's clock is away, asked again and again over the link: see [`crate::logic::clock_filter`].
//!
//! Each side asks for itself, so neither has to believe the other's sums. The question goes ahead of the batches that wait on
//! the same connection: a timestamp that queues behind them says more about the queue than about the clock.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::time::timeout;
use tracing::{info, warn};

use super::conn::Conn;
use super::frame::{ClockReply, Code, FrameError, Kind, clock_question};
use super::link::Link;
use super::shared::Core;
use super::stream::{ReadError, read_head, read_kind};
use crate::logic::clock_filter::{ClockFilter, ClockOffset, Exchange};
use crate::model::NodeId;
use crate::runtime::clock::unix_now;

/// How often a peer is asked: its last eight answers are little more than a minute.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Ahead of batches, which have 0.
const PRIORITY: i32 = 1;

/// Clocks that differ by more make nonsense of times across clusters: most calls take less.
const APART: Duration = Duration::from_millis(500);

/// What is known of a peer's clock.
#[derive(Default)]
pub(super) struct PeerClock {
    filter: ClockFilter,
    is_wrong: bool,
}

impl PeerClock {
    pub(super) fn offset(&self) -> Option<ClockOffset> {
        self.filter.best()
    }

    /// Counts an exchange in, and tells the log when the two clocks begin and cease to be far apart.
    pub(super) fn compared(&mut self, peer: &NodeId, exchange: Exchange) {
        self.filter.add(exchange);
        let Some(offset) = self.filter.best() else { return };
        let was_wrong = std::mem::replace(&mut self.is_wrong, offset.exceeds(APART));
        let (ahead, error) = (offset.seconds(), offset.error_seconds());
        match (was_wrong, self.is_wrong) {
            (false, true) => warn!(
                %peer, offset_seconds = ahead, error_seconds = error,
                "the peer's clock and this node's are far apart: times of spans cannot be compared between the clusters"
            ),
            (true, false) => info!(%peer, offset_seconds = ahead, "the peer's clock is close again"),
            _ => {}
        }
    }
}

/// One exchange, counted in if it succeeds; if not, the next one may.
pub(super) async fn ask_time(core: Arc<Core>, link: Arc<Link>, conn: Arc<Conn>) {
    let exchanged = async {
        let (asked, start) = (unix_now(), core.clock.now());
        let (mut send, mut recv) = conn.quic.open_bi().await.map_err(quinn::ReadError::ConnectionLost)?;
        let _ = send.set_priority(PRIORITY);
        if send.write_all(&clock_question()).await.is_ok() {
            let _ = send.finish();
        }
        let kind = read_kind(&mut recv).await?;
        if kind != Kind::Clock {
            return Err(FrameError::UnknownKind(kind as u8).into());
        }
        let ClockReply { heard, answered } = ClockReply::decode(&read_head(&mut recv).await?)?;
        Ok::<_, ReadError>(Exchange { asked, heard, answered, took: core.clock.now().since(start) })
    };
    if let Ok(Ok(exchange)) = timeout(core.tuning.question_deadline, exchanged).await {
        link.clocks_compared(exchange);
    }
}

/// Answers a question whose kind has been read; `Err`: the stream is to be reset with this code.
pub(super) async fn tell_time(core: &Core, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), Code> {
    let heard = unix_now();
    let answered = async {
        let _ = send.set_priority(PRIORITY);
        read_head(recv).await.map_err(|error| match error {
            ReadError::Frame(error) => error.code(),
            ReadError::Ended(_) => Code::Malformed,
        })?;
        let reply = ClockReply { heard, answered: unix_now() };
        if send.write_all(&reply.encode()).await.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
        Ok(())
    };
    timeout(core.tuning.read_deadline, answered).await.unwrap_or(Err(Code::TooSlow))
}
