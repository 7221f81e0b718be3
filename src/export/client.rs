//! The HTTP client under both OTLP exporters.
//!
//! A unary gRPC call is one HTTP/2 POST with a five-byte frame in front of its body and a status in its trailers, so
//! one client serves both protocols: one TLS configuration, one pool, one set of limits. `tonic::client` was weighed
//! and left out for three reasons. It compresses with gzip at level 6, on every try anew, which alone is twice an
//! owner's budget for a span. Its own response limit is reported as OUT_OF_RANGE, which OTLP calls retryable and a
//! server may also send. And it folds every transport error into a status code, so that "connection refused" and
//! "reset after the request was read" can no longer be told apart from what a backend said.
//!
//! A connection on which a try timed out is not used again: behind a dead route an HTTP/2 connection looks healthy
//! until TCP gives up, many minutes later, and every further try would time out on it. Pings would find that too, but
//! gRPC servers close connections that ping more often than every five minutes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use thiserror::Error;

use super::{StartError, tls};
use crate::config::settings::{OtlpExporterSettings, Secret};

/// Most bytes read of an answer (OTLP 1.11 recommends 4 MiB).
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Dead connections that carry nothing are found by TCP's own probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// OTLP asks exporters to name themselves.
const USER_AGENT: &str = concat!("spanmesh/", env!("CARGO_PKG_VERSION"));

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// By ALPN over TLS, HTTP/1.1 without.
    Negotiated,
    /// HTTP/2 at once, with or without TLS: gRPC.
    OnlyHttp2,
}

/// No usable answer.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The request never left.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The request may have arrived.
    #[error("the connection ended without an answer: {0}")]
    Disconnected(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    AnswerTooLarge,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// One backend's connections. Dials when there is something to send.
pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl HttpClient {
    /// A client that posts to `uri` with `headers` on every request; headers of `settings` do not displace them.
    pub(super) fn new(
        settings: &OtlpExporterSettings,
        uri: Uri,
        versions: Versions,
        headers: HeaderMap,
    ) -> Result<HttpClient, StartError> {
        let is_tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let config = if is_tls { tls::client_config(&settings.tls)? } else { tls::unused()? };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        // Shared out among the addresses of a name; half, so that there is time left for the request.
        tcp.set_connect_timeout(Some(settings.timeout / 2));
        let schemes = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let schemes = match &settings.tls.server_name_override {
            Some(name) => {
                let name = ServerName::try_from(name.clone())
                    .map_err(|_| StartError::Tls(format!("server_name_override {name:?} is no DNS name or address")))?;
                schemes.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => schemes.with_server_name_resolver(DefaultServerNameResolver::default()),
        };
        let connector = match versions {
            Versions::Negotiated => schemes.enable_all_versions().wrap_connector(tcp),
            Versions::OnlyHttp2 => schemes.enable_http2().wrap_connector(tcp),
        };
        let client = Client::builder(TokioExecutor::new())
            .http2_only(versions == Versions::OnlyHttp2)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector);
        let mut all = configured(&settings.headers)?;
        all.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        all.extend(headers);
        Ok(HttpClient { client, uri, headers: all, timeout: settings.timeout })
    }

    /// One try, bounded in time and in the bytes of the answer.
    pub(super) async fn post(&self, body: Bytes) -> Result<Reply, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let connection = capture_connection(&mut request);
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => match connection.connection_metadata().as_ref() {
                Some(connected) => {
                    connected.poison();
                    Err(Failure::TimedOut(self.timeout))
                }
                None => Err(Failure::Connect(format!("no connection within {:?}", self.timeout))),
            },
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failure> {
        let response = self.client.request(request).await.map_err(|error| {
            let text = with_causes(&error);
            if error.is_connect() { Failure::Connect(text) } else { Failure::Disconnected(text) }
        })?;
        let (head, body) = response.into_parts();
        let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::AnswerTooLarge
            } else {
                Failure::Disconnected(with_causes(error.as_ref()))
            }
        })?;
        let trailers = collected.trailers().cloned();
        Ok(Reply { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

/// hyper's errors say what happened only in their causes.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn configured(headers: &[(String, Secret)]) -> Result<HeaderMap, StartError> {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        let refuse = |reason| StartError::Header { name: name.clone(), reason };
        let key = HeaderName::try_from(name.as_str()).map_err(|_| refuse("not a header name"))?;
        let mut value =
            HeaderValue::from_str(value.reveal()).map_err(|_| refuse("its value has control characters"))?;
        value.set_sensitive(true);
        all.append(key, value);
    }
    Ok(all)
}

/// `text` as an absolute http or https URI.
pub(super) fn parse_url(text: &str) -> Result<Uri, StartError> {
    let refuse = |reason: String| StartError::Url { url: text.to_owned(), reason };
    let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| refuse(error.to_string()))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(refuse("it needs http:// or https:// and a host".to_owned())),
    }
}
