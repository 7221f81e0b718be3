//! An OTLP/HTTP backend that remembers which node sent it which span.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
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
}

impl Backend {
    pub async fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(Mutex::new(Arrived::default()));
        let (counted, count) = watch::channel(0);
        let (counted, taken) = (Arc::new(counted), arrived.clone());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (taken, counted) = (taken.clone(), counted.clone());
                let service = service_fn(move |request| take(request, taken.clone(), counted.clone()));
                tokio::spawn(async move {
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Backend { address, arrived, count }
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
    request: Request<Incoming>,
    arrived: Arc<Mutex<Arrived>>,
    counted: Arc<watch::Sender<usize>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let node = request.headers().get("x-node").and_then(|node| node.to_str().ok()).unwrap_or("?").to_owned();
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        // The node was killed while it sent: nothing arrived.
        Err(_) => return Ok(Response::new(Full::default())),
    };
    let request = ExportTraceServiceRequest::decode(body).expect("an exporter sends OTLP");
    let total = {
        let mut arrived = arrived.lock().unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            arrived.spans += 1;
            let trace = span.trace_id.try_into().expect("16 bytes");
            let id = span.span_id.try_into().expect("8 bytes");
            arrived.traces.entry(trace).or_default().entry(id).or_default().push(node.clone());
        }
        arrived.spans
    };
    counted.send_replace(total);
    Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::default()).unwrap())
}
