//! One connection: handshake, protocol, requests, and the ways it ends.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::stream::sniff;
use super::{Bounds, Share};

/// Longest header of a request, all lines together. SDKs send a few hundred bytes; tokens make it a few KiB.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Lines of a header.
const MAX_HEADERS: usize = 128;
/// Requests in flight on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;
/// Spans travel in requests of some hundred KiB: the 16 KiB frames of the protocol's default cost 60 % more CPU.
const FRAME_BYTES: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
/// What one connection may make us hold unread, whatever its streams' windows add up to.
const CONNECTION_WINDOW: u32 = 8 << 20;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After GOAWAY or `Connection: close` an idle client has this long to close its side.
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn run<S, F, B>(socket: TcpStream, tls: Option<TlsAcceptor>, bounds: &Bounds, serve: S, share: Share)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let over = share.over.clone();
    let whole = async {
        match tls {
            None => speak(socket, bounds, serve, &share).await,
            // A failed handshake is the client's to explain: it got the alert.
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(bounds.header_timeout, tls.accept(socket)).await {
                    speak(stream, bounds, serve, &share).await;
                }
            }
        }
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = whole => {}
    }
}

async fn speak<I, S, F, B>(io: I, bounds: &Bounds, serve: S, share: &Share)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let requests = Arc::new(Requests::default());
    let sniffed = tokio::select! {
        // Nothing was asked yet, so nothing is owed.
        () = share.leaving.cancelled() => return,
        sniffed = timeout(bounds.header_timeout, sniff(io, requests.bytes_read.clone())) => sniffed,
    };
    let Ok(Ok(Some((is_http2, io)))) = sniffed else { return };
    let service = service_fn(|request| {
        requests.begun.fetch_add(1, Relaxed);
        let ended = Ended(requests.clone());
        let answer = serve(request);
        async move {
            let _ended = ended;
            Ok::<_, Infallible>(answer.await)
        }
    });
    let io = TokioIo::new(io);
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1_024)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service);
        drive(connection, |_| false, &requests, bounds, share).await;
    } else {
        let connection = http1::Builder::new()
            // hyper's own limit also runs while a kept-alive connection is idle; `half_a_header` does not.
            .header_read_timeout(None)
            .max_header_size(MAX_HEADER_BYTES as usize)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service);
        drive(connection, Requests::half_a_header, &requests, bounds, share).await;
    }
}

/// Runs a connection to its end. Looks at it every `header_timeout`: a header begun before the last look and not
/// complete closes it, no request for `idle_timeout` asks it to end.
async fn drive<C: GracefulConnection>(
    connection: C,
    half_a_header: fn(&Requests) -> bool,
    requests: &Requests,
    bounds: &Bounds,
    share: &Share,
) {
    let mut connection = pin!(connection);
    let mut begun_before = 0;
    let mut was_half = false;
    let mut idle = Duration::ZERO;
    loop {
        tokio::select! {
            // An error of a connection concerns its client alone, and the client has seen it.
            _ = connection.as_mut() => return,
            () = share.leaving.cancelled() => {
                connection.as_mut().graceful_shutdown();
                // The server's own deadline ends this wait.
                let _ = connection.await;
                return;
            }
            () = sleep(bounds.header_timeout) => {}
        }
        let begun = requests.begun.load(Relaxed);
        let quiet = begun == begun_before && requests.ended.load(Relaxed) == begun;
        begun_before = begun;
        let is_half = half_a_header(requests);
        if quiet && was_half && is_half {
            return;
        }
        was_half = is_half;
        idle = if quiet { idle + bounds.header_timeout } else { Duration::ZERO };
        if idle >= bounds.idle_timeout {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LINGER, connection).await;
            return;
        }
    }
}

/// Requests and bytes of one connection, to know whether it is idle or stuck.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    bytes_read: Arc<AtomicU64>,
    /// `bytes_read` when the last request ended.
    bytes_read_at_end: AtomicU64,
}

impl Requests {
    /// HTTP/1 only: something was read that has not become a request.
    fn half_a_header(&self) -> bool {
        self.begun.load(Relaxed) == self.ended.load(Relaxed)
            && self.bytes_read.load(Relaxed) > self.bytes_read_at_end.load(Relaxed)
    }
}

/// Dropped when the request has its answer, or its client has gone.
struct Ended(Arc<Requests>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.bytes_read_at_end.store(self.0.bytes_read.load(Relaxed), Relaxed);
        self.0.ended.fetch_add(1, Relaxed);
    }
}
