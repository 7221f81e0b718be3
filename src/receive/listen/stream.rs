//! Telling HTTP/2 from HTTP/1 by a connection's first bytes, and giving those bytes back.
//!
//! hyper-util's `auto` builder does the same, but waits without a deadline and hides HTTP/1's header limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How an HTTP/2 client with prior knowledge, or with ALPN `h2`, begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the bytes differ from HTTP/2's preface or the preface is whole. `None`: the client left without a byte.
/// `bytes_read` counts these bytes and all that are read later.
pub(super) async fn sniff<I: AsyncRead + Unpin>(
    mut io: I,
    bytes_read: Arc<AtomicU64>,
) -> io::Result<Option<(bool, Replayed<I>)>> {
    let mut first = [0u8; PREFACE.len()];
    let mut len = 0;
    while len < first.len() && first[..len] == PREFACE[..len] {
        match io.read(&mut first[len..]).await? {
            0 if len == 0 => return Ok(None),
            0 => break,
            n => len += n,
        }
    }
    let is_http2 = len == PREFACE.len() && first == *PREFACE;
    bytes_read.fetch_add(len as u64, Relaxed);
    Ok(Some((is_http2, Replayed { first, next: 0, len, io, bytes_read })))
}

/// A stream whose first bytes were read already and are read again.
pub(super) struct Replayed<I> {
    first: [u8; PREFACE.len()],
    next: usize,
    len: usize,
    io: I,
    bytes_read: Arc<AtomicU64>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Replayed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.next < self.len {
            let n = buf.remaining().min(self.len - self.next);
            buf.put_slice(&self.first[self.next..self.next + n]);
            self.next += n;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let done = Pin::new(&mut self.io).poll_read(cx, buf);
        self.bytes_read.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        done
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Replayed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sniffed(bytes: &[u8]) -> (bool, Vec<u8>) {
        let (is_http2, mut again) = sniff(bytes, Arc::default()).await.unwrap().unwrap();
        let mut all = Vec::new();
        again.read_to_end(&mut all).await.unwrap();
        (is_http2, all)
    }

    #[tokio::test]
    async fn both_protocols_are_told_apart_and_no_byte_is_lost() {
        for http1 in ["GET / HTTP/1.1\r\n\r\n", "P", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM"] {
            assert_eq!(sniffed(http1.as_bytes()).await, (false, http1.as_bytes().to_vec()), "{http1:?}");
        }
        let http2 = [&PREFACE[..], b"frames"].concat();
        assert_eq!(sniffed(&http2).await, (true, http2));
        assert!(sniff(&b""[..], Arc::default()).await.unwrap().is_none());
    }
}
