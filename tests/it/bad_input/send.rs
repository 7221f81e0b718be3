//! Clients that send any bytes and read the answer without help of the code under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::row::{JSON, Row, Says};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status; over gRPC the grpc-status, if there is one.
    pub code: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    is_grpc: bool,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
}

/// Sends the bytes of one HTTP/1.1 request and reads one answer, whichever comes first.
pub async fn http1(to: SocketAddr, request: &[u8], end: bool) -> Answer {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = async {
        // The server may have answered and closed before it has read all.
        let sent = write.write_all(request).await;
        if end && sent.is_ok() {
            let _ = write.shutdown().await;
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            if let Some(answer) = parsed(&bytes) {
                return answer;
            }
            match read.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => panic!("no answer, but {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    };
    tokio::select! {
        answer = reading => answer,
        never = sending => match never {},
    }
}

/// The answer, once it is whole.
fn parsed(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let code = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let body = bytes[end + 4..].get(..length)?.to_vec();
    Some(Answer { code, headers, body, is_grpc: false })
}

pub async fn http2<B>(to: SocketAddr) -> SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(to).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn grpc(to: SocketAddr, path: &str, headers: &[(String, String)], framed: Vec<u8>) -> Answer {
    let mut request = http::Request::post(format!("http://{to}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = http2(to).await.send_request(request.body(Full::from(framed)).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let mut all = answer.headers().clone();
    let body = answer.into_body().collect().await.unwrap();
    all.extend(body.trailers().cloned().unwrap_or_default());
    let headers: BTreeMap<String, String> =
        all.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let code = headers.get("grpc-status").map_or(status, |code| code.parse().unwrap());
    Answer { code, headers, body: body.to_bytes().to_vec(), is_grpc: true }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Holds the answer against the row, in all that OTLP says of answers. `Err`: what is wrong.
    pub fn check(&self, row: &Row, content_type: &str) -> Result<(), String> {
        let expected = if self.is_grpc { row.says.grpc() } else { row.says.http() };
        let media_type = if self.is_grpc { "application/grpc" } else { content_type };
        let hold = |is_so: bool, what: &str| match is_so {
            true => Ok(()),
            false => Err(format!("{}: {what} in {self:?}, {:?}", row.name, String::from_utf8_lossy(&self.body))),
        };
        hold(self.code == expected, &format!("not {expected}"))?;
        if let Some((name, value)) = row.header {
            hold(self.header(name) == value, name)?;
        }
        // Answered by the HTTP layer itself, before there is a request.
        if self.code == 431 {
            return Ok(());
        }
        hold(self.header("content-type") == media_type, "another content-type")?;
        if row.says == Says::Success {
            let rejected = self.rejected(content_type);
            hold(rejected.as_ref().map(|(spans, _)| *spans) == row.case.rejected, "another partial success")?;
            return hold(rejected.is_none_or(|(_, message)| !message.is_empty()), "no reason");
        }
        let status = self.status(content_type);
        hold(!status.message.is_empty(), "no message")?;
        hold(!self.is_grpc || status.code == i32::from(self.code), "another code in the details")?;
        // Nothing in the table may be sent again.
        let retry = status.details.iter().any(|any| any.type_url.ends_with("google.rpc.RetryInfo"));
        hold(!retry && self.header("retry-after").is_empty(), "an invitation to send it again")
    }

    /// `rejected_spans` and `error_message`, if the answer has them.
    fn rejected(&self, content_type: &str) -> Option<(i64, String)> {
        if content_type == JSON {
            let answer: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
            let partial = answer.get("partialSuccess")?;
            // ProtoJSON leaves zero out.
            let spans = partial.get("rejectedSpans").map_or(0, |spans| spans.as_str().unwrap().parse().unwrap());
            return Some((spans, partial["errorMessage"].as_str().unwrap_or("").to_owned()));
        }
        let message = if self.is_grpc { &self.body[5..] } else { &self.body[..] };
        let partial = ExportTraceServiceResponse::decode(message).unwrap().partial_success?;
        Some((partial.rejected_spans, partial.error_message))
    }

    fn status(&self, content_type: &str) -> Status {
        if self.is_grpc {
            return Status::decode(&base64(self.header("grpc-status-details-bin"))[..]).unwrap();
        }
        if content_type == JSON {
            let status: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
            let message = status["message"].as_str().unwrap_or("").to_owned();
            return Status { message, ..Status::default() };
        }
        Status::decode(&self.body[..]).unwrap()
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text.chars().map(|digit| DIGITS.find(digit).unwrap() as u32).collect();
    let quads = digits.chunks(4).map(|quad| {
        let bits = quad.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - quad.len()));
        bits.to_be_bytes()[1..quad.len()].to_vec()
    });
    quads.flatten().collect()
}
