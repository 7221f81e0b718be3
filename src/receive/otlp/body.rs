//! A request's body, read into one contiguous buffer that the budget knows of, within bounds of size and time.
//!
//! Declared lengths are promises of strangers: they are refused when too large, before a byte is read, and otherwise
//! only bound how far the buffer grows ahead of what has come. So a client that declares 4 GiB and falls silent costs
//! nothing, and an honest one of some hundred KiB costs one or two copies of its first bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::refusal::No;
use crate::model::{Budget, Held, Reason, Refusal};

/// How slow a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest silence.
    pub progress: Duration,
    /// Longest time for the whole body. Senders themselves give up after 10 s by default.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { progress: Duration::from_secs(10), total: Duration::from_secs(30) }
    }
}

/// What a receiver's requests may use of the node together.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub budget: Budget,
    /// Bytes held from which on local senders are refused.
    limit: u64,
    /// Requests that are decompressed or read from JSON at a time. That is pure CPU, so more than a few at once only
    /// use more memory: a zstd window may take 8 MiB that no budget counts.
    pub workers: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new(budget: Budget, limit: u64) -> Admission {
        Admission { budget, limit, workers: Arc::new(Semaphore::new(WORKERS)) }
    }

    pub(super) fn check(&self) -> Result<(), No> {
        if self.budget.bytes() > self.limit {
            return Err(Refusal::passing(Reason::MemoryLimit).into());
        }
        Ok(())
    }
}

const WORKERS: usize = 8;
/// How long the rest of a refused body is read and thrown away.
const DISCARD: Duration = Duration::from_secs(5);
/// Below this a body is copied out of the transport's read buffer: keeping a slice would pin the whole buffer (8 to
/// 400 KiB) for as long as the spans live, and the budget would not know.
const WORTH_PINNING: usize = 32 << 10;
const FIRST_GROWTH: usize = 64 << 10;

/// Bytes that came so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// The only chunk so far, still where the transport put it.
    first: Bytes,
    /// All chunks, once there are two.
    rest: Vec<u8>,
}

impl Gathered {
    pub(super) fn len(&self) -> usize {
        self.first.len().max(self.rest.len())
    }

    /// The first `N` bytes, if so many have come.
    pub(super) fn prefix<const N: usize>(&self) -> Option<[u8; N]> {
        let bytes = if self.rest.is_empty() { &self.first[..] } else { &self.rest };
        bytes.first_chunk().copied()
    }

    /// `expected`: the body's length as far as it is declared.
    fn push(&mut self, chunk: Bytes, expected: usize) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        let need = self.len() + chunk.len();
        if need > self.rest.capacity() {
            let ahead = if expected > need { (need * 8).max(FIRST_GROWTH).min(expected) } else { need * 2 };
            self.rest.reserve_exact(ahead.max(need) - self.rest.len());
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.rest.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        match self.rest.is_empty() {
            true if self.first.len() < WORTH_PINNING => Bytes::copy_from_slice(&self.first),
            true => self.first,
            false => Bytes::from(self.rest),
        }
    }
}

/// Reads the whole body. `expect` is called with what has come, after each chunk and at the end, and answers how many
/// bytes the body will have (0: not known), or ends the reading.
pub(super) async fn read(
    body: &mut Incoming,
    max_bytes: usize,
    patience: Patience,
    admission: &Admission,
    mut expect: impl FnMut(&Gathered, bool) -> Result<usize, No>,
) -> Result<(Bytes, Held), No> {
    let mut held = admission.budget.hold(0);
    let mut gathered = Gathered::default();
    let mut expected = 0;
    let end = Instant::now() + patience.total;
    loop {
        admission.check()?;
        let next_deadline = (Instant::now() + patience.progress).min(end);
        let frame = timeout_at(next_deadline, body.frame()).await.map_err(|_| No::TooSlow)?;
        let chunk = match frame {
            None => break,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            // The client reset its request or left: hardly anyone hears this.
            Some(Err(_)) => return Err(No::Malformed("the request's body ended early".into())),
        };
        if chunk.is_empty() {
            continue;
        }
        if gathered.len() + chunk.len() > max_bytes {
            return Err(No::TooLarge { limit: max_bytes });
        }
        held.resize(gathered.len() + chunk.len());
        gathered.push(chunk, expected);
        expected = expect(&gathered, false)?;
    }
    expect(&gathered, true)?;
    Ok((gathered.into_bytes(), held))
}

/// Throws the rest of a body away, for a while. An HTTP/1 client that is still sending when its connection is closed
/// finds a reset where the answer was, and a reset means "send it again": so the answer, 413 above all, has to be out
/// and its reader still be listened to.
pub(super) async fn discard(mut body: Incoming) {
    let _ = timeout(DISCARD, async { while let Some(Ok(_)) = body.frame().await {} }).await;
}
