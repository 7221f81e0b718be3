//! One QUIC connection to a peer that has shown who it is, and what is sent on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendDatagramError};
use tokio::sync::Semaphore;

use super::compress;
use super::frame::{
    BatchHead, Code, Compression, FrameError, Hello, Kind, MAX_GOSSIP, PROTOCOL_MAX, PROTOCOL_MIN, Reply,
};
use super::queue::Sealed;
use super::stream::{ReadError, read_head, read_kind};
use crate::config::settings::LinkCompression;
use crate::model::{BootId, Tick};

/// Gossip streams open at once; membership repeats what is lost, so more are not queued but dropped.
const GOSSIP_STREAMS: usize = 16;
/// How long a membership message may take to leave.
const GOSSIP_DEADLINE: Duration = Duration::from_secs(5);

/// Which side dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Dialled,
    Accepted,
}

impl Direction {
    pub(super) fn label(self) -> &'static str {
        match self {
            Direction::Dialled => "dialled",
            Direction::Accepted => "accepted",
        }
    }
}

/// A connection whose certificate and hello have been checked.
pub(super) struct Conn {
    pub(super) quic: Connection,
    /// What the peer said of itself.
    pub(super) peer: Hello,
    pub(super) direction: Direction,
    pub(super) since: Tick,
    /// The version that both sides speak.
    pub(super) protocol: u16,
    compression: Compression,
    gossip: Arc<Semaphore>,
}

impl Conn {
    pub(super) fn new(
        quic: Connection,
        peer: Hello,
        direction: Direction,
        since: Tick,
        wanted: LinkCompression,
    ) -> Conn {
        let wanted = match wanted {
            LinkCompression::Zstd => Compression::Zstd,
            LinkCompression::Lz4 => Compression::Lz4,
            LinkCompression::None => Compression::None,
        };
        let compression = if peer.decodes & wanted.bit() == 0 { Compression::None } else { wanted };
        // The greeting has let only peers pass with whom there is one.
        let protocol = peer.agree(PROTOCOL_MIN, PROTOCOL_MAX).unwrap_or(PROTOCOL_MIN);
        Conn { quic, peer, direction, since, protocol, compression, gossip: Arc::new(Semaphore::new(GOSSIP_STREAMS)) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        address_of(&self.quic)
    }

    pub(super) fn close(&self, code: Code, reason: &str) {
        self.quic.close(code.varint(), reason.as_bytes());
    }

    /// Sends a membership message: as a datagram while that fits the path, else as a stream of its own. Never waits;
    /// what cannot be sent now is dropped.
    pub(super) fn gossip(&self, message: &[u8]) {
        if message.len() > MAX_GOSSIP {
            return;
        }
        let mut framed = BytesMut::with_capacity(message.len() + 1);
        framed.extend_from_slice(&[Kind::Gossip as u8]);
        framed.extend_from_slice(message);
        let framed = framed.freeze();
        if self.quic.max_datagram_size().is_some_and(|max| framed.len() <= max) {
            match self.quic.send_datagram(framed.clone()) {
                Ok(()) | Err(SendDatagramError::ConnectionLost(_)) => return,
                // The path's limit can shrink at any time: that is what the stream is for.
                Err(_) => {}
            }
        }
        let Ok(permit) = self.gossip.clone().try_acquire_owned() else { return };
        let quic = self.quic.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let sent = async {
                let mut send = quic.open_uni().await.ok()?;
                send.write_chunk(framed).await.ok()?;
                send.finish().ok()?;
                send.stopped().await.ok()
            };
            let _ = tokio::time::timeout(GOSSIP_DEADLINE, sent).await;
        });
    }

    /// Sends a batch on a stream of its own and waits for the answer. Gives the bytes sent as well.
    pub(super) async fn deliver(&self, boot: BootId, sealed: &Sealed) -> Result<(Reply, usize), ReadError> {
        let parts: Vec<Bytes> = sealed.parts.iter().map(|part| part.bytes.clone()).collect();
        let (compression, mut body) = compress::compress(&parts, self.compression);
        let body_bytes = body.iter().map(Bytes::len).sum();
        let head = BatchHead {
            boot,
            seq: sealed.seq,
            hops: sealed.hops,
            compression,
            body_bytes,
            raw_bytes: sealed.bytes,
            spans: sealed.spans,
        };
        let (send, mut recv) = self.quic.open_bi().await.map_err(quinn::ReadError::ConnectionLost)?;
        let mut send = Unfinished(Some(send));
        let written = async {
            let stream = send.0.as_mut()?;
            stream.write_chunk(head.encode().into()).await.ok()?;
            stream.write_all_chunks(&mut body).await.ok()
        };
        if written.await.is_some() {
            send.finish();
        }
        // A peer that stopped the stream half-way may still have answered, with a refusal; else reading says why not.
        let kind = read_kind(&mut recv).await?;
        if kind != Kind::Reply {
            return Err(FrameError::UnknownKind(kind as u8).into());
        }
        Ok((Reply::decode(&read_head(&mut recv).await?)?, body_bytes))
    }
}

/// The peer's address. On a socket for both families IPv4 comes in IPv6 clothes.
pub(super) fn address_of(quic: &Connection) -> SocketAddr {
    let address = quic.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// quinn finishes a stream that is dropped. Half a batch must never look like a whole one, so this resets it instead.
struct Unfinished(Option<quinn::SendStream>);

impl Unfinished {
    fn finish(&mut self) {
        if let Some(mut send) = self.0.take() {
            let _ = send.finish();
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(mut send) = self.0.take() {
            let _ = send.reset(Code::TooSlow.varint());
        }
    }
}
