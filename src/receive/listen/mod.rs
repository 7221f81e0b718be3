//! The accept loop that every HTTP server of a node runs on.
//!
//! The usual ready-made ones (`axum::serve`, tonic's server, hyper-util's `auto` builder) let a client hold a
//! connection for ever by sending nothing, or half a header; take as many connections as the process has
//! descriptors; and end when `accept` fails. This loop bounds each of these:
//!
//! | What a client may try | What bounds it |
//! |---|---|
//! | connect and stay silent, stall in the TLS handshake | [`Bounds::header_timeout`] for handshake and first bytes |
//! | send a header slowly | the same, by hyper (HTTP/1); ping and idle timeouts (HTTP/2) |
//! | send a huge header, or many | 64 KiB, 128 lines: answered 431 |
//! | open many connections | [`Bounds::max_connections`]; one more is closed at once and counted |
//! | keep idle connections | [`Bounds::idle_timeout`] |
//! | open, reset or flood HTTP/2 streams | 200 streams, 20 resets before they are accepted, 1,024 errors: GOAWAY |
//! | use up the node's descriptors | a failing `accept` pauses the loop for 100 ms, it never ends it |
//!
//! At the connection cap the choice is to close rather than to leave clients in the kernel's backlog: a closed
//! connection is a clear, retryable answer, a silent one costs the sender its whole timeout.

mod connection;
mod stream;
pub mod tls;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::settings::ServerTlsSettings;

/// What one listening port allows.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub max_connections: usize,
    /// For the TLS handshake, for the first bytes, and for each HTTP/1 header.
    pub header_timeout: Duration,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
}

impl Bounds {
    /// For ports that senders of spans connect to: many, and they stay.
    pub fn ingest() -> Bounds {
        Bounds {
            max_connections: 8_192,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
        }
    }

    /// For the admin, metrics and health ports: a few clients.
    pub fn operation() -> Bounds {
        Bounds { max_connections: 256, header_timeout: Duration::from_secs(5), idle_timeout: Duration::from_secs(60) }
    }
}

/// Connections of one port, for its status.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectionStatus {
    pub open: u64,
    pub accepted_total: u64,
    /// Closed at once because the port's cap was reached.
    pub over_cap_total: u64,
    /// `accept` failures, descriptors used up above all.
    pub accept_errors_total: u64,
}

#[derive(Default)]
struct Counts {
    open: AtomicU64,
    accepted: AtomicU64,
    over_cap: AtomicU64,
    accept_errors: AtomicU64,
}

/// A port that is ours but not served yet, so that all ports are known to be free before anything starts.
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Bound {
    /// Takes the port (0: a free one) and reads the TLS files.
    pub async fn bind(endpoint: SocketAddr, tls: Option<&ServerTlsSettings>) -> io::Result<Bound> {
        let tls = tls.map(tls::acceptor).transpose()?;
        let listener = TcpListener::bind(endpoint)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {endpoint}: {e}")))?;
        let addr = listener.local_addr()?;
        Ok(Bound { listener, addr, tls })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers every request with `serve` until [`Server::stop`].
    pub fn serve<S, F, B>(self, bounds: Bounds, serve: S) -> Server
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.serve_with_peer(bounds, move |_, request| serve(request))
    }

    /// The same, where the answer depends on the client's address.
    pub fn serve_with_peer<S, F, B>(self, bounds: Bounds, serve: S) -> Server
    where
        S: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let server = Server {
            addr: self.addr,
            counts: Arc::default(),
            leaving: CancellationToken::new(),
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        server.tasks.spawn(accept_loop(self, bounds, serve, server.share()));
        server
    }
}

/// A port that is being served. Dropping it closes everything at once.
pub struct Server {
    addr: SocketAddr,
    counts: Arc<Counts>,
    leaving: CancellationToken,
    over: CancellationToken,
    tasks: TaskTracker,
}

/// What the tasks of a server know of it.
#[derive(Clone)]
struct Share {
    counts: Arc<Counts>,
    /// No new connections or requests; those in flight go on.
    leaving: CancellationToken,
    /// Nothing goes on.
    over: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    fn share(&self) -> Share {
        Share {
            counts: self.counts.clone(),
            leaving: self.leaving.clone(),
            over: self.over.clone(),
            tasks: self.tasks.clone(),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn status(&self) -> ConnectionStatus {
        ConnectionStatus {
            open: self.counts.open.load(Relaxed),
            accepted_total: self.counts.accepted.load(Relaxed),
            over_cap_total: self.counts.over_cap.load(Relaxed),
            accept_errors_total: self.counts.accept_errors.load(Relaxed),
        }
    }

    /// Takes no more connections and requests, lets those in flight end until `deadline` has passed, then closes.
    /// Returns whether all of them ended by themselves.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.leaving.cancel();
        self.tasks.close();
        let by_themselves = tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok();
        self.over.cancel();
        self.tasks.wait().await;
        by_themselves
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// How long the loop rests when the system has no descriptors or memory for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept_loop<S, F, B>(bound: Bound, bounds: Bounds, serve: S, share: Share)
where
    S: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let Bound { listener, addr, tls } = bound;
    let permits = Arc::new(Semaphore::new(bounds.max_connections));
    let bounds = Arc::new(bounds);
    let mut was_failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = share.over.cancelled() => return,
            () = share.leaving.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client went away between its SYN and our accept.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => continue,
            Err(error) => {
                share.counts.accept_errors.fetch_add(1, Relaxed);
                if !was_failing {
                    tracing::warn!(%addr, %error, "cannot accept connections, trying again every 100 ms");
                }
                was_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        was_failing = false;
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            share.counts.over_cap.fetch_add(1, Relaxed);
            continue;
        };
        share.counts.accepted.fetch_add(1, Relaxed);
        // Answers are small and final: Nagle's algorithm would only hold them back.
        let _ = socket.set_nodelay(true);
        let (serve, tls, bounds, share_of_task) = (serve.clone(), tls.clone(), bounds.clone(), share.clone());
        share.tasks.spawn(async move {
            let _open = Open::count(share_of_task.counts.clone(), permit);
            connection::run(socket, tls, &bounds, |request| serve(peer, request), share_of_task).await;
        });
    }
}

/// An open connection: counted, and one of those that the cap allows.
struct Open {
    counts: Arc<Counts>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn count(counts: Arc<Counts>, permit: OwnedSemaphorePermit) -> Open {
        counts.open.fetch_add(1, Relaxed);
        Open { counts, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
