//! A client that sends encoded OTLP requests and says what came of each: as an SDK would, but without building spans.
//!
//! gRPC goes through tonic's raw client with a codec that passes bytes through: the generated one would decode nothing
//! here either, but wants prost structs to encode. HTTP goes through hyper's pooled client, since connections that a
//! node closes while it restarts must be opened again without the caller's doing. Both dial when first used.

use std::io::Write;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::uri::{PathAndQuery, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

use crate::wire;
use crate::wire::reply::PartialSuccess;

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const TRACES_PATH: &str = "/v1/traces";
const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Grpc,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Proto,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Why a target cannot be sent to at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    #[error("{0:?} is not a URL like http://127.0.0.1:4317")]
    NotAUrl(String),
    #[error("{0:?}: only http:// is spoken; put a proxy in front of what wants TLS")]
    Scheme(String),
    #[error("OTLP/gRPC is always protobuf; JSON needs --protocol http")]
    JsonOverGrpc,
}

/// Where requests go and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    pub protocol: Protocol,
    pub encoding: Encoding,
    pub compression: Compression,
    timeout: Duration,
}

impl Target {
    /// `url` is `http://host[:port][/path]`. Without `protocol`, port 4317 means gRPC and every other one HTTP; without
    /// a port, the protocol's usual one is taken; without a path, HTTP posts to `/v1/traces`.
    pub fn new(
        url: &str,
        protocol: Option<Protocol>,
        encoding: Encoding,
        compression: Compression,
        timeout: Duration,
    ) -> Result<Target, TargetError> {
        let not_a_url = || TargetError::NotAUrl(url.chars().take(200).collect());
        let given: Uri = url.parse().map_err(|_| not_a_url())?;
        let host = given.host().filter(|host| !host.is_empty()).ok_or_else(not_a_url)?;
        match given.scheme_str() {
            Some("http") => {}
            Some(other) => return Err(TargetError::Scheme(other.to_owned())),
            None => return Err(not_a_url()),
        }
        let protocol = protocol.unwrap_or(match given.port_u16() {
            Some(4317) => Protocol::Grpc,
            _ => Protocol::Http,
        });
        if protocol == Protocol::Grpc && encoding == Encoding::Json {
            return Err(TargetError::JsonOverGrpc);
        }
        let port = given.port_u16().unwrap_or(if protocol == Protocol::Grpc { 4317 } else { 4318 });
        let path = match (protocol, given.path()) {
            (Protocol::Grpc, _) => EXPORT_PATH,
            (Protocol::Http, "" | "/") => TRACES_PATH,
            (Protocol::Http, path) => path,
        };
        let uri = format!("http://{host}:{port}{path}").parse().map_err(|_| not_a_url())?;
        Ok(Target { uri, protocol, encoding, compression, timeout })
    }

    /// The full address that requests go to.
    pub fn url(&self) -> String {
        self.uri.to_string()
    }
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken, but for the spans that the partial success names.
    Accepted(Option<PartialSuccess>),
    /// Answered with something else than success: `HTTP 503`, `gRPC UNAVAILABLE`.
    Refused(String),
    /// No answer: `connection refused`, `timeout`. The node may or may not have taken the request.
    NoAnswer(&'static str),
}

/// One connection, or one pool of them (HTTP/1.1 needs one for each request in flight). Clones share it.
#[derive(Clone)]
pub struct Sender {
    target: Target,
    transport: Transport,
}

#[derive(Clone)]
enum Transport {
    Grpc(Channel),
    Http(Box<Client<HttpConnector, Full<Bytes>>>),
}

impl Sender {
    /// Needs a tokio runtime; dials with the first request.
    pub fn new(target: Target) -> Sender {
        let transport = match target.protocol {
            Protocol::Grpc => {
                let endpoint = Endpoint::from(target.uri.clone()).connect_timeout(target.timeout).tcp_nodelay(true);
                Transport::Grpc(endpoint.connect_lazy())
            }
            Protocol::Http => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                connector.set_connect_timeout(Some(target.timeout));
                let mut builder = Client::builder(TokioExecutor::new());
                builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(30));
                Transport::Http(Box::new(builder.build(connector)))
            }
        };
        Sender { target, transport }
    }

    /// Sends one encoded `ExportTraceServiceRequest` and waits for the answer. The second value is the bytes that went
    /// into the body; gRPC compresses within tonic, so there it is the size before.
    pub async fn send(&self, request: Vec<u8>) -> (Outcome, usize) {
        match &self.transport {
            Transport::Grpc(channel) => {
                let size = request.len();
                let answer =
                    tokio::time::timeout(self.target.timeout, self.call(channel.clone(), request.into())).await;
                (answer.unwrap_or(Outcome::NoAnswer("timeout")), size)
            }
            Transport::Http(client) => {
                let Some(body) = self.body(request) else { return (Outcome::NoAnswer("not encoded"), 0) };
                let size = body.len();
                let answer = tokio::time::timeout(self.target.timeout, self.post(client, body)).await;
                (answer.unwrap_or(Outcome::NoAnswer("timeout")), size)
            }
        }
    }

    async fn call(&self, channel: Channel, request: Bytes) -> Outcome {
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc = match self.target.compression {
            Compression::None => grpc,
            Compression::Gzip => grpc.send_compressed(CompressionEncoding::Gzip),
            Compression::Zstd => grpc.send_compressed(CompressionEncoding::Zstd),
        };
        if grpc.ready().await.is_err() {
            return Outcome::NoAnswer("not connected");
        }
        let path = PathAndQuery::from_static(EXPORT_PATH);
        match grpc.unary(tonic::Request::new(request), path, RawCodec).await {
            Ok(answer) => accepted(wire::reply::decode_response, answer.get_ref()),
            // tonic turns a broken connection into a status too; a status of the node has no source.
            Err(status) if std::error::Error::source(&status).is_some() => Outcome::NoAnswer("connection broken"),
            Err(status) => Outcome::Refused(format!("gRPC {}", code_name(status.code()))),
        }
    }

    async fn post(&self, client: &Client<HttpConnector, Full<Bytes>>, body: Bytes) -> Outcome {
        let content_type = match self.target.encoding {
            Encoding::Proto => "application/x-protobuf",
            Encoding::Json => "application/json",
        };
        let mut request = http::Request::post(self.target.uri.clone()).header(CONTENT_TYPE, content_type);
        request = match self.target.compression {
            Compression::None => request,
            Compression::Gzip => request.header(CONTENT_ENCODING, "gzip"),
            Compression::Zstd => request.header(CONTENT_ENCODING, "zstd"),
        };
        let Ok(request) = request.body(Full::new(body)) else { return Outcome::NoAnswer("not encoded") };
        let answer = match client.request(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return Outcome::NoAnswer("not connected"),
            Err(_) => return Outcome::NoAnswer("connection broken"),
        };
        let status = answer.status();
        let Ok(body) = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await else {
            return Outcome::NoAnswer("answer not readable");
        };
        match (status.as_u16(), self.target.encoding) {
            (200, Encoding::Proto) => accepted(wire::reply::decode_response, &body.to_bytes()),
            (200, Encoding::Json) => accepted(wire::reply::decode_response_json, &body.to_bytes()),
            (code, _) => Outcome::Refused(format!("HTTP {code}")),
        }
    }

    /// The body in the target's encoding and compression, at the fastest level: a load tool should not wait for itself.
    fn body(&self, request: Vec<u8>) -> Option<Bytes> {
        let encoded = match self.target.encoding {
            Encoding::Proto => request,
            Encoding::Json => {
                let mut json = Vec::with_capacity(request.len() * 3);
                wire::json::encode(&request, &mut json).ok()?;
                json
            }
        };
        Some(match self.target.compression {
            Compression::None => encoded.into(),
            Compression::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(&encoded).ok()?;
                writer.finish().ok()?.into()
            }
            Compression::Zstd => zstd::bulk::compress(&encoded, 1).ok()?.into(),
        })
    }
}

fn accepted(decode: impl FnOnce(&[u8]) -> Option<Option<PartialSuccess>>, answer: &[u8]) -> Outcome {
    // The usual answer: an empty message is full success.
    if answer.is_empty() {
        return Outcome::Accepted(None);
    }
    match decode(answer) {
        Some(partial) => Outcome::Accepted(partial),
        None => Outcome::Refused("success with an unreadable body".to_owned()),
    }
}

/// The name that the gRPC specification gives a code.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code::*;
    match code {
        Ok => "OK",
        Cancelled => "CANCELLED",
        Unknown => "UNKNOWN",
        InvalidArgument => "INVALID_ARGUMENT",
        DeadlineExceeded => "DEADLINE_EXCEEDED",
        NotFound => "NOT_FOUND",
        AlreadyExists => "ALREADY_EXISTS",
        PermissionDenied => "PERMISSION_DENIED",
        ResourceExhausted => "RESOURCE_EXHAUSTED",
        FailedPrecondition => "FAILED_PRECONDITION",
        Aborted => "ABORTED",
        OutOfRange => "OUT_OF_RANGE",
        Unimplemented => "UNIMPLEMENTED",
        Internal => "INTERNAL",
        Unavailable => "UNAVAILABLE",
        DataLoss => "DATA_LOSS",
        Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Messages are the bytes that they are.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, protocol: Option<Protocol>) -> Result<Target, TargetError> {
        Target::new(url, protocol, Encoding::Proto, Compression::None, Duration::from_secs(1))
    }

    #[test]
    fn the_port_says_the_protocol_unless_the_user_does() {
        assert_eq!(target("http://h:4317", None).unwrap().protocol, Protocol::Grpc);
        assert_eq!(target("http://h:4318", None).unwrap().url(), "http://h:4318/v1/traces");
        assert_eq!(
            target("http://h:14317/", Some(Protocol::Grpc)).unwrap().url(),
            format!("http://h:14317{EXPORT_PATH}")
        );
        assert_eq!(
            target("http://[::1]", Some(Protocol::Grpc)).unwrap().url(),
            format!("http://[::1]:4317{EXPORT_PATH}")
        );
        assert_eq!(target("http://h/otlp/v1/traces", None).unwrap().url(), "http://h:4318/otlp/v1/traces");
    }

    #[test]
    fn what_cannot_be_sent_to_is_refused_by_name() {
        assert!(matches!(target("h:4317", None), Err(TargetError::NotAUrl(_) | TargetError::Scheme(_))));
        assert!(matches!(target("/v1/traces", None), Err(TargetError::NotAUrl(_))));
        assert!(matches!(target("https://h", None), Err(TargetError::Scheme(_))));
        let json = Target::new("http://h:4317", None, Encoding::Json, Compression::None, Duration::from_secs(1));
        assert_eq!(json, Err(TargetError::JsonOverGrpc));
    }
}
