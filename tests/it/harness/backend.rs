//! An OTLP/HTTP backend that remembers which node sent it which span.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

/// What has arrived so far.
#[derive(Default, Clone)]
pub struct Arrived {
    /// For each trace: each span's id, and the nodes that sent it, once per time they did.
    pub traces: BTreeMap<TraceId, BTreeMap<SpanId, Vec<String>>>,
    pub spans: usize,
    /// Every request's body, in the order of arrival.
    pub bodies: Vec<Bytes>,
}

/// A request as far as a backend must understand it. Spans stay bytes, so that they can be held against those sent.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    spans: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanIds {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

/// Every span of a request: its ids and its bytes.
fn spans_of(body: Bytes) -> impl Iterator<Item = (TraceId, SpanId, Bytes)> {
    let request = Request::decode(body).expect("an exporter sends OTLP");
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| {
        let ids = SpanIds::decode(span.clone()).expect("a span");
        (ids.trace_id.try_into().expect("16 bytes"), ids.span_id.try_into().expect("8 bytes"), span)
    })
}

impl Arrived {
    /// Nodes that exported any span of the trace.
    pub fn exporters_of(&self, trace: &TraceId) -> BTreeSet<&str> {
        self.traces.get(trace).into_iter().flat_map(BTreeMap::values).flatten().map(String::as_str).collect()
    }

    /// Distinct spans that arrived.
    pub fn distinct(&self) -> usize {
        self.traces.values().map(BTreeMap::len).sum()
    }

    /// Spans that arrived more than once.
    pub fn twice(&self) -> usize {
        self.traces.values().flat_map(BTreeMap::values).filter(|senders| senders.len() > 1).count()
    }

    /// Each trace's spans as they were encoded, once per time they arrived.
    pub fn encoded(&self) -> BTreeMap<TraceId, Vec<Bytes>> {
        let mut encoded: BTreeMap<TraceId, Vec<Bytes>> = BTreeMap::new();
        for (trace, _, span) in self.bodies.iter().cloned().flat_map(spans_of) {
            encoded.entry(trace).or_default().push(span);
        }
        encoded
    }

    /// Each trace's spans, once per time they arrived.
    pub fn decoded(&self) -> BTreeMap<TraceId, Vec<Span>> {
        let span = |bytes: Bytes| Span::decode(bytes).expect("a span");
        self.encoded().into_iter().map(|(trace, spans)| (trace, spans.into_iter().map(span).collect())).collect()
    }

    /// Traces that more than one node exported.
    pub fn split(&self) -> usize {
        self.traces.keys().filter(|trace| self.exporters_of(trace).len() > 1).count()
    }
}

#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    arrived: Arc<Mutex<Arrived>>,
    count: watch::Receiver<usize>,
    /// Whether requests are answered, and their spans counted.
    answering: Arc<watch::Sender<bool>>,
}

impl Backend {
    pub async fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let (counted, count) = watch::channel(0);
        let (counted, taken) = (Arc::new(counted), arrived.clone());
        let answering = Arc::new(watch::Sender::new(true));
        let answers = answering.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (taken, counted, answers) = (taken.clone(), counted.clone(), answers.clone());
                let service = service_fn(move |request| {
                    let (taken, counted, mut answers) = (taken.clone(), counted.clone(), answers.subscribe());
                    async move {
                        let _ = answers.wait_for(|answering| *answering).await;
                        take(request, taken, counted).await
                    }
                });
                tokio::spawn(async move {
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Backend { address, arrived, count, answering }
    }

    /// From now on requests are left waiting.
    pub fn hold(&self) {
        self.answering.send_replace(false);
    }

    /// Answers those that wait, and all others.
    pub fn release(&self) {
        self.answering.send_replace(true);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn arrived(&self) -> Arrived {
        self.arrived.lock().unwrap().clone()
    }

    /// Waits until `spans` different spans are here.
    pub async fn has_distinct(&self, spans: usize) -> Arrived {
        let mut count = self.count.clone();
        let what = format!("{spans} distinct spans at the backend");
        let enough = async {
            loop {
                let arrived = self.arrived.lock().unwrap().distinct();
                if arrived >= spans {
                    return;
                }
                count.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(super::PATIENCE, enough).await.is_err() {
            panic!("gave up waiting for {what}: {} are here", self.arrived().distinct());
        }
        self.arrived()
    }
}

async fn take(
    request: http::Request<Incoming>,
    arrived: Arc<Mutex<Arrived>>,
    counted: Arc<watch::Sender<usize>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let node = request.headers().get("x-node").and_then(|node| node.to_str().ok()).unwrap_or("?").to_owned();
    let is_packed = request.headers().get("content-encoding").is_some_and(|coding| coding == "gzip");
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        // The node was killed while it sent: nothing arrived.
        Err(_) => return Ok(Response::new(Full::default())),
    };
    let body = if is_packed { unpacked(&body) } else { body };
    let spans: Vec<_> = spans_of(body.clone()).collect();
    let total = {
        let mut arrived = arrived.lock().unwrap();
        for (trace, id, _) in spans {
            arrived.spans += 1;
            arrived.traces.entry(trace).or_default().entry(id).or_default().push(node.clone());
        }
        arrived.bodies.push(body);
        arrived.spans
    };
    counted.send_replace(total);
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::default()).unwrap())
}

fn unpacked(body: &[u8]) -> Bytes {
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut unpacked).expect("gzip");
    unpacked.into()
}
