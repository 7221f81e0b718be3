//! The place that all nodes export to: takes OTLP over HTTP, and holds what comes against what was sent.
//!
//! Each node's exporter sends the header [`NODE_HEADER`], so that the judge knows who exported what. A request from
//! nobody, or one that cannot be read, is refused and counted: a node would then be sending rubbish.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::checker::{Checker, SpanKey};
use super::places::{CLUSTERS, node_number};
use super::rules::Forecast;
use super::showcase::Showcase;
use super::traffic::{Shipment, digest};
use crate::model::{SpanId, TraceId};
use crate::runtime::clock::Clock;

/// Carries the id of the node that exports, `us-east-1/node-0`.
pub const NODE_HEADER: &str = "x-spanmesh-node";
/// The resource attribute that the node which took a span in stamps it with.
pub const CLUSTER_ATTRIBUTE: &str = "k8s.cluster.name";

const MAX_BODY_BYTES: usize = 64 << 20;

/// The first trace that came whole from several clusters.
#[derive(Clone, Debug)]
pub struct FirstTrace {
    pub trace: TraceId,
    /// Number of the node that exported it.
    pub owner: usize,
    /// Since the demo's start.
    pub after: Duration,
    pub drawing: Vec<String>,
}

/// Judge and counters, shared with the generator.
pub struct Judge {
    checker: Mutex<Checker>,
    forecast: Mutex<Forecast>,
    showcase: Mutex<Showcase>,
    first: watch::Sender<Option<FirstTrace>>,
    /// Requests from nobody known, or not readable.
    bad_requests: AtomicU64,
    /// Spans whose resource does not name the cluster they came in at.
    unstamped: AtomicU64,
    clock: Clock,
}

impl Judge {
    pub fn new(run: [u8; 8], clock: Clock) -> Arc<Judge> {
        Arc::new(Judge {
            checker: Mutex::new(Checker::new(run)),
            forecast: Mutex::default(),
            showcase: Mutex::default(),
            first: watch::Sender::new(None),
            bad_requests: AtomicU64::new(0),
            unstamped: AtomicU64::new(0),
            clock,
        })
    }

    pub fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A trace is about to be sent: its distinct spans with their digests, and what comes in time of them.
    pub fn expect(&self, trace: TraceId, digests: Vec<(SpanId, u64)>, spans: &[(&Shipment, bool)]) {
        let expected = self.forecast.lock().unwrap_or_else(PoisonError::into_inner).add(spans);
        self.checker().expect(trace, expected.outcome(), digests);
    }

    /// What the nodes must have counted of all traces so far.
    pub fn forecast(&self) -> Forecast {
        self.forecast.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn first_trace(&self) -> watch::Receiver<Option<FirstTrace>> {
        self.first.subscribe()
    }

    pub fn bad_requests(&self) -> u64 {
        self.bad_requests.load(Ordering::Relaxed)
    }

    pub fn unstamped(&self) -> u64 {
        self.unstamped.load(Ordering::Relaxed)
    }

    fn take(&self, node: usize, request: &ExportTraceServiceRequest) {
        for resource_spans in &request.resource_spans {
            let resource = resource_spans.resource.as_ref();
            let service = resource.and_then(|r| attribute(r, "service.name")).unwrap_or_default();
            let cluster = resource.and_then(|r| attribute(r, CLUSTER_ATTRIBUTE)).unwrap_or_default();
            for span in resource_spans.scope_spans.iter().flat_map(|s| &s.spans) {
                let (Ok(trace), Ok(id)) = (span.trace_id.as_slice().try_into(), span.span_id.as_slice().try_into())
                else {
                    self.bad_requests.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                if !CLUSTERS.contains(&cluster) {
                    self.unstamped.fetch_add(1, Ordering::Relaxed);
                }
                let key = SpanKey { trace: TraceId(trace), span: SpanId(id) };
                let mut showcase = self.showcase.lock().unwrap_or_else(PoisonError::into_inner);
                showcase.add(key.trace, span, service, cluster);
                let whole = self.checker().exported(node, &key, digest(span));
                if whole && let Some(drawing) = showcase.take(&key.trace) {
                    let after = Duration::from_nanos(self.clock.now().0);
                    self.first.send_replace(Some(FirstTrace { trace: key.trace, owner: node, after, drawing }));
                }
            }
        }
    }
}

fn attribute<'a>(resource: &'a Resource, key: &str) -> Option<&'a str> {
    let value = resource.attributes.iter().find(|a| a.key == key)?.value.as_ref()?;
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The listening backend. Dropping it closes it.
pub struct Backend {
    addr: SocketAddr,
    server: JoinHandle<io::Result<()>>,
}

impl Backend {
    /// Listens on a free loopback port.
    pub async fn start(judge: Arc<Judge>) -> io::Result<Backend> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let app = Router::new()
            .route("/v1/traces", post(traces))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(judge);
        Ok(Backend { addr, server: tokio::spawn(axum::serve(listener, app).into_future()) })
    }

    /// What exporters are given as their endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn traces(State(judge): State<Arc<Judge>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let node = header(NODE_HEADER).and_then(node_number);
    let protobuf = header(CONTENT_TYPE.as_str()) == Some("application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body);
    match (node, protobuf, request) {
        (Some(node), true, Ok(request)) => {
            judge.take(node, &request);
            StatusCode::OK
        }
        _ => {
            judge.bad_requests.fetch_add(1, Ordering::Relaxed);
            StatusCode::BAD_REQUEST
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checker::Outcome;
    use super::super::traffic::{Traffic, resource_spans};
    use super::*;
    use crate::model::UnixNanos;
    use http_body_util::Full;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

    async fn post_to(backend: &Backend, node: &str, body: Vec<u8>) -> StatusCode {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request = http::Request::post(format!("{}/v1/traces", backend.url()))
            .header(NODE_HEADER, node)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body.into()))
            .unwrap();
        client.request(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn a_whole_trace_is_recognised_with_its_owner_and_drawn() {
        let judge = Judge::new(*b"demo-run", Clock::start());
        let backend = Backend::start(Arc::clone(&judge)).await.unwrap();
        let mut traffic = Traffic::new(2, *b"demo-run");
        let mut trace = || traffic.trace(UnixNanos(1_790_000_000_000_000_000));
        let whole = std::iter::from_fn(|| Some(trace())).find(|shipments| shipments.len() >= 15).unwrap();
        let shipments: Vec<_> = whole.into_iter().filter(|shipment| !shipment.copy).collect();
        judge.checker().expect(
            shipments[0].key().trace,
            Outcome::Kept,
            shipments.iter().map(|s| (s.key().span, digest(&s.span))),
        );
        for shipment in &shipments {
            let mut spans = resource_spans(shipment.service, vec![shipment.span.clone()]);
            let cluster = Value::StringValue(CLUSTERS[shipment.cluster].to_owned());
            let value = Some(AnyValue { value: Some(cluster) });
            let stamp = KeyValue { key: CLUSTER_ATTRIBUTE.to_owned(), value, ..KeyValue::default() };
            spans.resource.as_mut().unwrap().attributes.push(stamp);
            let body = ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec();
            assert_eq!(post_to(&backend, "us-west-2/node-0", body).await, StatusCode::OK);
        }
        let first = judge.first_trace().borrow().clone().unwrap();
        assert_eq!((first.owner, first.trace, first.drawing.len()), (1, shipments[0].key().trace, 8));
        assert!(judge.checker().flawless());
        assert_eq!((judge.bad_requests(), judge.unstamped()), (0, 0));
    }

    #[tokio::test]
    async fn requests_from_nobody_and_rubbish_are_refused_and_counted() {
        let judge = Judge::new(*b"demo-run", Clock::start());
        let backend = Backend::start(Arc::clone(&judge)).await.unwrap();
        assert_eq!(post_to(&backend, "mars/node-0", Vec::new()).await, StatusCode::BAD_REQUEST);
        assert_eq!(post_to(&backend, "us-east-1/node-0", vec![0xff; 9]).await, StatusCode::BAD_REQUEST);
        assert_eq!(judge.bad_requests(), 2);
    }
}
