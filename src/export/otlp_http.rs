//! OTLP/HTTP: a POST of protobuf or JSON. Redirects are not followed: OTLP knows none, and spans (with their headers'
//! secrets) must not go where an answer points.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::client::{HttpClient, Versions, parse_url};
use super::{Backend, EncodeError, MAX_REQUEST_BYTES, Sending, StartError, compress, outcome};
use crate::config::settings::{ExportCompression, ExportEncoding, OtlpExporterSettings};
use crate::model::Spans;
use crate::runtime::clock::unix_now;
use crate::wire::json;

/// One HTTP backend.
pub struct OtlpHttp {
    client: HttpClient,
    compression: ExportCompression,
    encoding: ExportEncoding,
}

impl OtlpHttp {
    /// The URL is used as it is; that a base URL gets `/v1/traces` is the configuration's work.
    pub fn new(settings: &OtlpExporterSettings) -> Result<OtlpHttp, StartError> {
        let uri = parse_url(&settings.url)?;
        let content_type = match settings.encoding {
            ExportEncoding::Proto => "application/x-protobuf",
            ExportEncoding::Json => "application/json",
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(token) = compress::token(settings.compression) {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(token));
        }
        let client = HttpClient::new(settings, uri, Versions::Negotiated, headers)?;
        Ok(OtlpHttp { client, compression: settings.compression, encoding: settings.encoding })
    }
}

impl Backend for OtlpHttp {
    fn kind(&self) -> &'static str {
        "otlp_http"
    }

    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError> {
        let body = match self.encoding {
            ExportEncoding::Proto => spans.bytes.clone(),
            ExportEncoding::Json => {
                let mut text = Vec::new();
                json::encode(&spans.bytes, &mut text).map_err(|error| EncodeError::Malformed(error.to_string()))?;
                Bytes::from(text)
            }
        };
        if body.len() > MAX_REQUEST_BYTES {
            return Err(EncodeError::TooLarge { bytes: body.len() });
        }
        if self.compression == ExportCompression::None {
            return Ok(body);
        }
        let packed = compress::append(self.compression, &body, Vec::new());
        packed.map(Bytes::from).map_err(|error| EncodeError::Malformed(error.to_string()))
    }

    fn send(&self, payload: Bytes) -> Sending<'_> {
        Box::pin(async move {
            match self.client.post(payload).await {
                Ok(reply) => outcome::of_http(&reply, unix_now()),
                Err(failure) => outcome::of_failure(&failure),
            }
        })
    }
}

#[cfg(test)]
mod tests;
