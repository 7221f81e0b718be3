//! The other end of the admin API: what commands ask a running node with.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For one question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer: the status of a node in a mesh of thousands fits well.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    #[error("{url:?} is not an address of a node's admin API; it looks like http://127.0.0.1:4320")]
    Url { url: String },
    #[error("no node answers at {url} ({reason}); is one running there? The address is set with --admin {url}")]
    Unreachable { url: String, reason: String },
    #[error("the node answered {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("what answers at {url} is not a spanmesh node: {reason}")]
    NotANode { url: String, reason: String },
}

/// Asks the node at `base` (`http://host:port`) for `path` and reads its JSON.
pub async fn ask(base: &str, path: &str) -> Result<Value, AskError> {
    let wrong_url = || AskError::Url { url: base.to_owned() };
    let uri: Uri = base.parse().map_err(|_| wrong_url())?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong_url)?;
    let address = match authority.port_u16() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    let prefix = uri.path().trim_end_matches('/');
    let request = Request::get(format!("{prefix}{path}")).header("host", authority.as_str());
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| wrong_url())?;
    let unreachable = |reason: String| AskError::Unreachable { url: base.to_owned(), reason };

    let exchange = async {
        let socket = TcpStream::connect(&address).await.map_err(|e| unreachable(e.to_string()))?;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        // Ends with the client, which is dropped below.
        tokio::spawn(connection);
        let answer = client.send_request(request).await.map_err(|e| unreachable(e.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|e| unreachable(e.to_string()))?.to_bytes();
        let value: Value = serde_json::from_slice(&body)
            .map_err(|_| AskError::NotANode { url: base.to_owned(), reason: format!("{status}, and no JSON") })?;
        if !status.is_success() {
            let message = value["error"].as_str().unwrap_or("no reason given").to_owned();
            return Err(AskError::Refused { status: status.as_u16(), message });
        }
        Ok(value)
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(unreachable("it does not answer in time".to_owned())))
}
