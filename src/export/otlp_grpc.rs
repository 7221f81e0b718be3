//! OTLP/gRPC: `TraceService.Export` as one HTTP/2 POST.
//!
//! The spans are an encoded `ExportTraceServiceRequest` already; what gRPC adds is a frame of five bytes and three
//! headers. Nothing is decoded to structs on the way.

use bytes::Bytes;
use http::uri::{Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::client::{HttpClient, Versions, parse_url};
use super::{Backend, EncodeError, MAX_REQUEST_BYTES, Sending, StartError, compress, outcome};
use crate::config::settings::{ExportCompression, OtlpExporterSettings};
use crate::model::Spans;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// One gRPC backend.
pub struct OtlpGrpc {
    client: HttpClient,
    compression: ExportCompression,
}

impl OtlpGrpc {
    pub fn new(settings: &OtlpExporterSettings) -> Result<OtlpGrpc, StartError> {
        let uri = method_uri(settings)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let timeout = HeaderValue::try_from(grpc_timeout(settings.timeout.as_millis()))
            .map_err(|_| StartError::Header { name: "grpc-timeout".to_owned(), reason: "not a header value" })?;
        headers.insert(HeaderName::from_static("grpc-timeout"), timeout);
        if let Some(token) = compress::token(settings.compression) {
            headers.insert(HeaderName::from_static("grpc-encoding"), HeaderValue::from_static(token));
        }
        let client = HttpClient::new(settings, uri, Versions::OnlyHttp2, headers)?;
        Ok(OtlpGrpc { client, compression: settings.compression })
    }
}

/// Where the method is: below the configured URL. `insecure` wins over an `https` in it, as in the Collector.
fn method_uri(settings: &OtlpExporterSettings) -> Result<Uri, StartError> {
    let base = parse_url(&settings.url)?;
    let path = format!("{}{METHOD}", base.path().trim_end_matches('/'));
    let refuse = |reason: String| StartError::Url { url: settings.url.clone(), reason };
    let mut parts: Parts = base.into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|error| refuse(error.to_string()))?);
    if settings.tls.insecure {
        parts.scheme = Some(Scheme::HTTP);
    }
    Uri::from_parts(parts).map_err(|error| refuse(error.to_string()))
}

/// At most eight digits and a unit.
fn grpc_timeout(millis: u128) -> String {
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", (millis / 1000).min(99_999_999)) }
}

impl Backend for OtlpGrpc {
    fn kind(&self) -> &'static str {
        "otlp_grpc"
    }

    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError> {
        if spans.bytes.len() > MAX_REQUEST_BYTES {
            return Err(EncodeError::TooLarge { bytes: spans.bytes.len() });
        }
        let compressed = self.compression != ExportCompression::None;
        let frame = compress::append(self.compression, &spans.bytes, vec![u8::from(compressed), 0, 0, 0, 0])
            .map_err(|error| EncodeError::Malformed(error.to_string()))?;
        sealed(frame)
    }

    fn send(&self, payload: Bytes) -> Sending<'_> {
        Box::pin(async move {
            match self.client.post(payload).await {
                Ok(reply) => outcome::of_grpc(&reply),
                Err(failure) => outcome::of_failure(&failure),
            }
        })
    }
}

/// Writes the message's length into the frame's head.
fn sealed(mut frame: Vec<u8>) -> Result<Bytes, EncodeError> {
    let bytes = frame.len();
    let length = u32::try_from(bytes.saturating_sub(5)).map_err(|_| EncodeError::TooLarge { bytes })?;
    if let Some((head, _)) = frame.split_first_chunk_mut::<5>() {
        head[1..].copy_from_slice(&length.to_be_bytes());
    }
    Ok(Bytes::from(frame))
}

#[cfg(test)]
mod tests;
