//! The receiver on real sockets, row by row: R1-R21 of OTLP's rules, and hostile input.

mod grpc;
mod http;

use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::net::TcpStream;

use super::*;
use crate::model::{Batch, Fate, Refusal};

pub(super) const MAX: usize = 1 << 20;

/// What the sink does with batches.
#[derive(Clone, Debug)]
pub(super) enum Does {
    Accept,
    Refuse(Refusal),
    /// Keeps them unanswered.
    Keep,
}

/// The end of the pipeline.
pub(super) struct Sink {
    does: Does,
    pub spans: Mutex<Vec<u32>>,
    pub kept: Mutex<Vec<Batch>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Consume for Sink {
    fn consume(&self, mut batch: Batch) {
        lock(&self.spans).push(batch.spans.len() as u32);
        assert!(batch.held.bytes() >= batch.spans.bytes.len() as u64, "bytes are held that nobody counts");
        match &self.does {
            Does::Accept => {
                batch.receipt.accept();
                batch.receipt.resolve(Fate::Exported);
            }
            Does::Refuse(refusal) => batch.receipt.resolve(Fate::Refused(refusal.clone())),
            Does::Keep => lock(&self.kept).push(batch),
        }
    }
}

pub(super) struct World {
    pub sink: Arc<Sink>,
    pub budget: Budget,
    pub ledger: Arc<Ledger>,
    pub receiver: OtlpReceiver,
}

pub(super) struct Given {
    pub does: Does,
    pub patience: Patience,
    pub admit_bytes: u64,
    pub max_request_bytes: usize,
}

impl Default for Given {
    fn default() -> Self {
        Given { does: Does::Accept, patience: Patience::default(), admit_bytes: u64::MAX, max_request_bytes: MAX }
    }
}

impl Given {
    pub(super) async fn start(self) -> World {
        let sink = Arc::new(Sink { does: self.does, spans: Mutex::default(), kept: Mutex::default() });
        let (budget, ledger) = (Budget::default(), Arc::<Ledger>::default());
        let intake = Intake {
            next: sink.clone(),
            ledger: ledger.clone(),
            limits: Limits::default(),
            admission: Admission::new(budget.clone(), self.admit_bytes),
            patience: self.patience,
            grpc: Arc::default(),
            http: Arc::default(),
        };
        let server = ServerSettings {
            endpoint: "127.0.0.1:0".parse().unwrap(),
            max_request_bytes: self.max_request_bytes,
            traces_path: "/v1/traces".into(),
            tls: None,
        };
        let settings = OtlpReceiverSettings { grpc: Some(server.clone()), http: Some(server) };
        let receiver = OtlpReceiver::with("otlp", &settings, Bounds::ingest(), intake).await.unwrap();
        World { sink, budget, ledger, receiver }
    }
}

impl World {
    pub(super) fn grpc(&self) -> SocketAddr {
        self.receiver.grpc_addr().unwrap()
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.receiver.http_addr().unwrap()
    }

    pub(super) fn spans(&self) -> u32 {
        lock(&self.sink.spans).iter().sum()
    }

    pub(super) fn failed(&self, transport: usize, label: &str) -> u64 {
        self.receiver.status().transports[transport].failed_requests_total.get(label).copied().unwrap_or(0)
    }
}

pub(super) fn span(n: u8) -> Span {
    Span {
        trace_id: vec![n.max(1); 16],
        span_id: vec![n.max(1); 8],
        name: "work".into(),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        ..Span::default()
    }
}

pub(super) fn request_of(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// An encoded request of `n` spans.
pub(super) fn request(n: u8) -> Vec<u8> {
    request_of((1..=n).map(span).collect())
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(super) fn hasty() -> Patience {
    Patience { progress: Duration::from_millis(100), total: Duration::from_millis(400) }
}

/// A body that begins and then says nothing more, for ever.
pub(super) struct Stalled(pub Option<Bytes>);

impl Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Poll::Pending,
        }
    }
}

pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header or trailer as text; empty if absent.
    pub(super) fn says(&self, name: &str) -> &str {
        let value = self.headers.get(name).or(self.trailers.get(name));
        value.map_or("", |value| value.to_str().unwrap())
    }
}

async fn collect(answer: ::http::Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
}

/// Without Nagle's algorithm, as every sender of small requests has it.
pub(super) async fn connect(addr: SocketAddr) -> TokioIo<TcpStream> {
    let socket = TcpStream::connect(addr).await.unwrap();
    socket.set_nodelay(true).unwrap();
    TokioIo::new(socket)
}

pub(super) async fn http1<B>(addr: SocketAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut client, connection) = hyper::client::conn::http1::handshake(connect(addr).await).await.unwrap();
    tokio::spawn(connection);
    collect(client.send_request(request).await.unwrap()).await
}

pub(super) type H2<B> = hyper::client::conn::http2::SendRequest<B>;

pub(super) async fn http2<B>(addr: SocketAddr) -> H2<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), connect(addr).await).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Full<Bytes> {
    Full::new(bytes.into())
}
