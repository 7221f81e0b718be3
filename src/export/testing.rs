//! For tests: requests made and read with prost, and a backend on loopback that answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::config::settings::{
    ClientTlsSettings, ExportCompression, ExportEncoding, OtlpExporterSettings, RetrySettings, Secret,
};
use crate::model::{Batch, Spans};
use crate::pipeline::testing::Watched;
use crate::wire::{Limits, walk};

/// An encoded request with a span for each name; equal names make equal spans.
pub(crate) fn request(names: &[&str]) -> Vec<u8> {
    request_of(names.iter().map(|name| (*name).to_owned()))
}

pub(crate) fn request_of(names: impl Iterator<Item = String>) -> Vec<u8> {
    let span = |name: String| Span {
        trace_id: xxh3_128(name.as_bytes()).to_be_bytes().to_vec(),
        span_id: xxh3_64(name.as_bytes()).to_be_bytes().to_vec(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_005_000_000,
        name,
        ..Span::default()
    };
    let scope = ScopeSpans { spans: names.map(span).collect(), ..ScopeSpans::default() };
    let resource = Some(Resource::default());
    let resource = ResourceSpans { resource, scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

/// The names of all spans of a request.
pub(crate) fn names(request: &[u8]) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(request).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
}

pub(crate) fn spans(names: &[&str]) -> Spans {
    walk(request(names).into(), &Limits::default()).unwrap().spans
}

/// A batch of a local sender.
pub(crate) fn batch(request: &[u8], sender: &Watched) -> Batch {
    let spans = walk(Bytes::copy_from_slice(request), &Limits::default()).unwrap().spans;
    let receipt = sender.receipt(spans.len() as u32);
    Batch { held: sender.budget().hold(spans.bytes.len()), spans, receipt, hops: 0 }
}

/// Retries without a wait.
pub(crate) fn quick_retry() -> RetrySettings {
    RetrySettings {
        enabled: true,
        initial_interval: Duration::from_millis(1),
        randomization_factor: 0.5,
        multiplier: 1.0,
        max_interval: Duration::from_millis(1),
        max_elapsed_time: Duration::from_secs(60),
    }
}

pub(crate) fn otlp(url: String) -> OtlpExporterSettings {
    OtlpExporterSettings {
        url,
        headers: vec![("X-Tenant".to_owned(), Secret::new("secret".to_owned()))],
        compression: ExportCompression::None,
        timeout: Duration::from_secs(20),
        retry: quick_retry(),
        tls: ClientTlsSettings::default(),
        encoding: ExportEncoding::Proto,
    }
}

/// What the backend does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Reply {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
        trailers: Vec<(&'static str, String)>,
    },
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and closes the connection (in HTTP/2: the stream).
    Reset,
}

impl Answer {
    pub(crate) fn http(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Answer::Reply { status, headers, body: body.to_vec(), trailers: Vec::new() }
    }

    /// A gRPC answer with a message and a status in the trailers.
    pub(crate) fn grpc(message: &[u8], trailers: &[(&'static str, &str)]) -> Answer {
        let mut body = vec![0];
        body.extend_from_slice(&(message.len() as u32).to_be_bytes());
        body.extend_from_slice(message);
        let trailers = trailers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Answer::Reply { status: 200, headers: vec![("content-type", "application/grpc".to_owned())], body, trailers }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A backend on loopback: answers from its script, and with `otherwise` once that is used up.
pub(crate) struct TestBackend {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Mutex<VecDeque<Answer>>,
    otherwise: Answer,
    seen: watch::Sender<Vec<Seen>>,
    connections: watch::Sender<usize>,
}

impl TestBackend {
    pub(crate) async fn start(otherwise: Answer, script: impl IntoIterator<Item = Answer>) -> TestBackend {
        TestBackend::serve(otherwise, script, None).await
    }

    pub(crate) async fn serve(
        otherwise: Answer,
        script: impl IntoIterator<Item = Answer>,
        tls: Option<rustls::ServerConfig>,
    ) -> TestBackend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(script.into_iter().collect()),
            otherwise,
            seen: watch::Sender::default(),
            connections: watch::Sender::default(),
        });
        let tls = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.send_modify(|count| *count += 1);
                let state = serving.clone();
                match tls.clone() {
                    None => drop(tokio::spawn(connection(stream, state))),
                    Some(tls) => drop(tokio::spawn(async move {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(stream, state).await;
                        }
                    })),
                }
            }
        });
        TestBackend { address, state }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

async fn connection<S>(stream: S, state: Arc<State>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(request, state.clone()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// An error closes the connection without an answer.
async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let seen = Seen { path: head.uri.path().to_owned(), version: head.version, headers: head.headers, body };
    state.seen.send_modify(|all| all.push(seen));
    let next = state.script.lock().unwrap().pop_front();
    match next.unwrap_or_else(|| state.otherwise.clone()) {
        Answer::Hang => std::future::pending().await,
        Answer::Reset => Err(std::io::Error::other("reset")),
        Answer::Reply { status, headers, body, trailers } => {
            let trailers: HeaderMap = trailers
                .into_iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap()))
                .collect();
            let data = Full::new(Bytes::from(body));
            let body = if trailers.is_empty() {
                data.boxed()
            } else {
                data.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()
            };
            let mut response = Response::new(body);
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().append(name, value.parse().unwrap());
            }
            Ok(response)
        }
    }
}

/// A CA, a server certificate for `localhost`, a client certificate; and a server that asks for the latter.
pub(crate) struct Pki {
    directory: tempfile::TempDir,
    server: (rcgen::Certificate, rcgen::KeyPair),
    ca: rcgen::Certificate,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let issue = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, client) = (issue("localhost"), issue("client"));
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(directory.path().join("client.pem"), client.0.pem()).unwrap();
        std::fs::write(directory.path().join("client.key"), client.1.serialize_pem()).unwrap();
        Pki { directory, server, ca }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.path().join(name))
    }

    /// For a client that does everything right.
    pub(crate) fn client(&self) -> ClientTlsSettings {
        ClientTlsSettings {
            ca_file: self.file("ca.pem"),
            cert_file: self.file("client.pem"),
            key_file: self.file("client.key"),
            ..ClientTlsSettings::default()
        }
    }

    pub(crate) fn server(&self, alpn: &[&[u8]]) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = rustls_pki_types::PrivateKeyDer::try_from(self.server.1.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(vec![self.server.0.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// A body larger than what is read of an answer.
pub(crate) fn oversized() -> Vec<u8> {
    vec![b' '; 5 << 20]
}
