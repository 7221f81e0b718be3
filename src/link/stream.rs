//! Frames read off QUIC streams, each length held against its bound before it is allocated.

use bytes::Bytes;
use quinn::{ReadError as QuicError, ReadExactError, RecvStream};
use thiserror::Error;

use super::frame::{FrameError, Kind, LAYOUT, MAX_HEAD, take_varint, varint_len};

/// Why nothing could be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// The peer sent what it must not: the stream is reset with the error's code.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream or the connection ended.
    #[error("{0}")]
    Ended(#[from] QuicError),
}

impl From<ReadExactError> for ReadError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => ReadError::Frame(FrameError::Truncated),
            ReadExactError::ReadError(error) => ReadError::Ended(error),
        }
    }
}

/// What the stream is: its first byte.
pub(super) async fn read_kind(recv: &mut RecvStream) -> Result<Kind, ReadError> {
    let mut first = [0];
    recv.read_exact(&mut first).await?;
    let [byte] = first;
    Ok(Kind::of(byte).ok_or(FrameError::UnknownKind(byte))?)
}

/// Layout byte, length and head.
pub(super) async fn read_head(recv: &mut RecvStream) -> Result<Vec<u8>, ReadError> {
    let mut start = [0; 2];
    recv.read_exact(&mut start).await?;
    let [layout, first] = start;
    if layout != LAYOUT {
        return Err(FrameError::UnknownLayout(layout).into());
    }
    let mut length = vec![0; varint_len(first)];
    if let [place, rest @ ..] = &mut length[..] {
        *place = first;
        recv.read_exact(rest).await?;
    }
    let length = take_varint(&mut &length[..]).ok_or(FrameError::Truncated)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_HEAD);
    let mut head = vec![0; length.ok_or(FrameError::TooLarge { what: "head", max: MAX_HEAD })?];
    recv.read_exact(&mut head).await?;
    Ok(head)
}

/// Exactly `length` bytes and then the stream's end; the caller has bounded `length`. Reserved bytes are not touched
/// before they arrive, so a peer that announces much and sends little costs address space only.
pub(super) async fn read_body(recv: &mut RecvStream, length: usize) -> Result<Bytes, ReadError> {
    let mut body = Vec::with_capacity(length);
    while let Some(chunk) = recv.read_chunk(length + 1 - body.len(), true).await? {
        body.extend_from_slice(&chunk.bytes);
        if body.len() > length {
            return Err(FrameError::TooLarge { what: "body", max: length }.into());
        }
    }
    if body.len() < length { Err(FrameError::Truncated.into()) } else { Ok(Bytes::from(body)) }
}
