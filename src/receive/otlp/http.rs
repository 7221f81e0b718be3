//! OTLP/HTTP: POST of protobuf or JSON to the traces path.

use http::header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use std::sync::atomic::Ordering::Relaxed;

use super::super::refusal::No;
use super::Door;
use super::body;
use super::compression::{self, Compression};
use super::counts::Transport;
use super::intake::Encoding;
use super::reply::Reply;
use crate::wire::reply::{self, PartialSuccess};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) async fn answer(door: &Door, request: Request<Incoming>) -> Response<Reply> {
    let encoding = encoding(request.headers());
    let version = request.version();
    let counts = door.intake.counts(Transport::Http);
    counts.requests.fetch_add(1, Relaxed);
    let (head, mut body) = request.into_parts();
    match export(door, encoding, &head, &mut body).await {
        Ok(partial) => yes(encoding.unwrap_or(Encoding::Protobuf), partial.as_ref()),
        Err(no) => {
            counts.failed(&no);
            if version < Version::HTTP_2 && !body.is_end_stream() && no != No::TooSlow {
                tokio::spawn(body::discard(body));
            }
            // A request whose encoding is unknown is answered in what a person can read.
            refused(encoding.unwrap_or(Encoding::Json), &no, version)
        }
    }
}

async fn export(
    door: &Door,
    encoding: Option<Encoding>,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Option<PartialSuccess>, No> {
    let path = head.uri.path();
    if path != door.traces_path {
        return Err(No::NotFound(match path {
            "/v1/metrics" | "/v1/logs" | "/v1development/profiles" => {
                "spanmesh takes traces only; send this signal to another collector"
            }
            _ => "no such path; traces are posted to the configured traces path, /v1/traces by default",
        }));
    }
    if head.method != Method::POST {
        return Err(No::Method);
    }
    if !door.takes_http {
        return Err(No::MediaType("this port takes OTLP/gRPC; OTLP/HTTP has its own port, 4318 by default"));
    }
    let encoding = encoding.ok_or(No::MediaType("Content-Type must be application/x-protobuf or application/json"))?;
    let headers = &head.headers;
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let coding = codings.next().map_or(Some(Compression::None), |name| Compression::named(name.as_bytes()));
    let compression = coding
        .filter(|_| codings.next().is_none())
        .ok_or(No::MediaType("Content-Encoding must be one of gzip, zstd, identity"))?;
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let declared = declared.unwrap_or(0);
    if declared > door.max_request_bytes {
        return Err(No::TooLarge { limit: door.max_request_bytes });
    }
    let intake = &door.intake;
    let (bytes, held) =
        body::read(body, door.max_request_bytes, intake.patience, &intake.admission, |_, _| Ok(declared)).await?;
    intake.http.bytes.fetch_add(bytes.len() as u64, Relaxed);
    let (bytes, held) = compression::open(compression, bytes, held, door.max_request_bytes, &intake.admission).await?;
    intake.take(Transport::Http, encoding, bytes, held, None).await
}

/// What the Content-Type says; its case and parameters do not matter.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let media_type = value.split(|&b| b == b';').next()?.trim_ascii();
    if media_type.eq_ignore_ascii_case(PROTOBUF.as_bytes()) {
        Some(Encoding::Protobuf)
    } else if media_type.eq_ignore_ascii_case(JSON.as_bytes()) {
        Some(Encoding::Json)
    } else {
        None
    }
}

fn respond(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(body));
    *response.status_mut() = status;
    let content_type = match encoding {
        Encoding::Protobuf => PROTOBUF,
        Encoding::Json => JSON,
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn yes(encoding: Encoding, partial: Option<&PartialSuccess>) -> Response<Reply> {
    let body = match encoding {
        Encoding::Protobuf => reply::encode_response(partial),
        Encoding::Json => reply::encode_response_json(partial),
    };
    respond(StatusCode::OK, encoding, body)
}

fn refused(encoding: Encoding, no: &No, version: Version) -> Response<Reply> {
    let body = match encoding {
        Encoding::Protobuf => reply::encode_status(&no.status()),
        Encoding::Json => reply::encode_status_json(&no.status()),
    };
    let mut response = respond(no.codes().1, encoding, body);
    let mut say = |name: HeaderName, value: HeaderValue| response.headers_mut().insert(name, value);
    if let Some(seconds) = no.retry_after_seconds() {
        say(RETRY_AFTER, seconds.into());
    }
    match no {
        No::Method => {
            say(ALLOW, HeaderValue::from_static("POST"));
        }
        No::MediaType(_) => {
            say(ACCEPT_ENCODING, HeaderValue::from_static(Compression::ACCEPTED));
        }
        // The rest of the body is not worth reading.
        No::TooSlow | No::TooLarge { .. } if version < Version::HTTP_2 => {
            say(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}
