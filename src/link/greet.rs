//! The first exchange on a connection: who each side is, held against its certificate.
//!
//! The dialer opens the first stream and says hello; the acceptor checks and answers in kind. A side that does not like
//! what it hears closes the connection with a code and a sentence, so the other side's operator reads why. The order
//! of checks goes from what is a mistake of configuration to what is an attack: the mesh's name, then the identity.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use thiserror::Error;
use tracing::error;

use super::conn::{Direction, address_of};
use super::frame::{Code, Compression, FrameError, Hello, Kind, PROTOCOL_MAX, PROTOCOL_MIN};
use super::shared::Core;
use super::stream::{ReadError, read_head, read_kind};
use crate::model::NodeId;

/// For the QUIC handshake and the hellos together. Many round trips of any path on earth.
pub(super) const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no link.
#[derive(Debug, Error)]
pub(super) enum GreetError {
    /// This side closed, with this code and text.
    #[error("{1}")]
    Turned(Code, String),
    /// The address leads back to this node.
    #[error("the address is this node's own")]
    Myself,
    /// The other side closed.
    #[error("the peer refused: {0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

impl From<ConnectionError> for GreetError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) if Code::Myself.is(close.error_code) => GreetError::Myself,
            ConnectionError::ApplicationClosed(close) => {
                GreetError::Refused(printable(&String::from_utf8_lossy(&close.reason)))
            }
            other => GreetError::Failed(other.to_string()),
        }
    }
}

/// What a peer wrote, fit for logs and terminals.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

impl From<ReadError> for GreetError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Ended(quinn::ReadError::ConnectionLost(lost)) => lost.into(),
            ReadError::Ended(other) => GreetError::Failed(other.to_string()),
            ReadError::Frame(error) => GreetError::Turned(error.code(), format!("bad hello: {error}")),
        }
    }
}

impl From<quinn::WriteError> for GreetError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(lost) => lost.into(),
            other => GreetError::Failed(other.to_string()),
        }
    }
}

/// The hellos on a fresh connection. Closes it with a code if they do not lead to a link.
pub(super) async fn greet(core: &Core, quic: &Connection, direction: Direction) -> Result<Hello, GreetError> {
    let result = match tokio::time::timeout(GREETING_DEADLINE, exchange(core, quic, direction)).await {
        Ok(result) => result,
        Err(_) => Err(GreetError::Turned(Code::TooSlow, "no hello in time".to_owned())),
    };
    match &result {
        Err(GreetError::Turned(code, reason)) => quic.close(code.varint(), reason.as_bytes()),
        Err(GreetError::Myself) => quic.close(Code::Myself.varint(), b"this node dialled itself"),
        Err(error) => quic.close(Code::Malformed.varint(), error.to_string().as_bytes()),
        Ok(_) => {}
    }
    result
}

async fn exchange(core: &Core, quic: &Connection, direction: Direction) -> Result<Hello, GreetError> {
    // An acceptor may not have the dialer's certificate before the handshake is confirmed; a stream comes after that.
    let (mut send, mut recv) = match direction {
        Direction::Dialled => quic.open_bi().await?,
        Direction::Accepted => quic.accept_bi().await?,
    };
    let certified = core.certified(quic).map_err(|error| {
        core.counts.add(|counts| &counts.identity_mismatches, 1);
        error!(address = %address_of(quic), %error, "a certificate names no node of the mesh");
        GreetError::Turned(Code::Identity, error)
    })?;
    if direction == Direction::Dialled {
        send.write_all(&core.hello(address_of(quic)).encode()).await?;
        let _ = send.finish();
    }
    let kind = read_kind(&mut recv).await?;
    if kind != Kind::Hello {
        return Err(ReadError::Frame(FrameError::UnknownKind(kind as u8)).into());
    }
    let hello = Hello::decode(&read_head(&mut recv).await?).map_err(ReadError::Frame)?;
    check(core, address_of(quic), certified, &hello)?;
    if direction == Direction::Accepted {
        send.write_all(&core.hello(address_of(quic)).encode()).await?;
        let _ = send.finish();
    }
    Ok(hello)
}

fn check(core: &Core, address: SocketAddr, certified: Option<NodeId>, hello: &Hello) -> Result<(), GreetError> {
    let turned = |code, reason: String| Err(GreetError::Turned(code, reason));
    if hello.mesh != core.settings.name {
        return turned(
            Code::OtherMesh,
            format!("this node is in the mesh {:?}, not in {:?}", core.settings.name, hello.mesh),
        );
    }
    let id = &hello.identity.id;
    if let Some(certified) = certified.filter(|certified| certified != id) {
        core.counts.add(|counts| &counts.identity_mismatches, 1);
        error!(%address, %certified, claimed = %id, "a node claims to be another than its certificate says");
        return turned(Code::Identity, format!("the certificate is {certified}'s, the hello says {id}"));
    }
    if *id == core.me {
        if hello.identity.boot == core.boot {
            return Err(GreetError::Myself);
        }
        core.counts.add(|counts| &counts.identity_mismatches, 1);
        error!(%address, %id, "another running node has this node's id: node ids must differ");
        return turned(Code::Identity, format!("{id} is this node's id already"));
    }
    if hello.agree(PROTOCOL_MIN, PROTOCOL_MAX).is_none() {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let reason = format!("protocol {min} to {max} is not spoken here, only {PROTOCOL_MIN} to {PROTOCOL_MAX}");
        return turned(Code::Protocol, reason);
    }
    if hello.decodes & Compression::None.bit() == 0 {
        return turned(Code::Protocol, "a node must take uncompressed batches".to_owned());
    }
    Ok(())
}
