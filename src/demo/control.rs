//! The running demo's own small HTTP interface: break it, mend it, ask it.
//!
//! It listens on loopback only, and a random token is part of its path: other users of the machine and web pages that guess
//! ports cannot kill anything. Where it is stands in a file of the user's, so that `spanmesh demo kill` finds it.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Demo;
use super::places::{CLUSTERS, node_number};

const MAX_ANSWER_BYTES: usize = 4 << 20;
/// A killed node is reaped within moments, a started one answers later.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked of a running demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Status,
    Kill(String),
    Restart(String),
    Partition(String, String),
    Heal,
}

impl Order {
    fn request(&self) -> Result<(Method, String), String> {
        let node = |name: &str| {
            let known = || format!("{name:?} is none of {}", CLUSTERS.join(", "));
            node_number(name).and_then(|number| CLUSTERS.get(number)).ok_or_else(known)
        };
        Ok(match self {
            Order::Status => (Method::GET, "status".to_owned()),
            Order::Kill(name) => (Method::POST, format!("kill/{}", node(name)?)),
            Order::Restart(name) => (Method::POST, format!("restart/{}", node(name)?)),
            Order::Partition(a, b) => (Method::POST, format!("partition/{}/{}", node(a)?, node(b)?)),
            Order::Heal => (Method::POST, "heal".to_owned()),
        })
    }

    /// Gives the order to the demo at `control`, or at the one that the user's file names. Answers with what it says.
    pub async fn send(&self, control: Option<&str>) -> Result<Value, String> {
        let (method, path) = self.request()?;
        let control = match control {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => fs::read_to_string(state_file())
                .map_err(|_| "no demo is running; start one with `spanmesh demo`".to_owned())?
                .trim()
                .to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{control}/{path}"))
            .body(Full::<Bytes>::default())
            .map_err(|error| format!("{control:?} is not the URL of a demo: {error}"))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = async {
            let answer =
                client.request(request).await.map_err(|_| "the demo does not answer; has it ended?".to_owned())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|_| "the demo's answer cannot be read".to_owned())?.to_bytes();
            let value: Value = serde_json::from_slice(&body).unwrap_or_default();
            let message = || value["message"].as_str().map_or_else(|| format!("HTTP {status}"), str::to_owned);
            if status.is_success() { Ok(value) } else { Err(message()) }
        };
        tokio::time::timeout(TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| Err("the demo does not answer in time".to_owned()))
    }
}

/// The user's file that says where the last demo's control is.
fn state_file() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("spanmesh-demo"),
        None => {
            let user = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_default();
            let user: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
            std::env::temp_dir().join(format!("spanmesh-demo-control-{user}"))
        }
    }
}

/// The listening control. Dropping it closes it and removes the file.
pub(super) struct Control {
    url: String,
    server: JoinHandle<io::Result<()>>,
}

impl Control {
    pub(super) async fn start(demo: Arc<Demo>) -> io::Result<Control> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let token = format!("{:032x}", rand::random::<u128>());
        let url = format!("http://{}/{token}", listener.local_addr()?);
        let orders = Router::new()
            .route("/status", get(status))
            .route("/kill/{node}", post(kill))
            .route("/restart/{node}", post(restart))
            .route("/partition/{a}/{b}", post(partition))
            .route("/heal", post(heal))
            .with_state(demo);
        let app = Router::new().nest(&format!("/{token}"), orders);
        let control = Control { url, server: tokio::spawn(axum::serve(listener, app).into_future()) };
        // Without the file the demo works, and `--control` still reaches it.
        if let Err(error) = control.write_file() {
            tracing::debug!(%error, "the demo's control file could not be written");
        }
        Ok(control)
    }

    /// What `--control` takes.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Replaces the file of an earlier demo. A new file is made, never an existing one followed.
    fn write_file(&self) -> io::Result<()> {
        let path = state_file();
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?.write_all(self.url.as_bytes())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.server.abort();
        // A later demo may have written its own.
        if fs::read_to_string(state_file()).is_ok_and(|url| url == self.url) {
            let _ = fs::remove_file(state_file());
        }
    }
}

type Answer = (StatusCode, Json<Value>);

fn done(message: String) -> Answer {
    (StatusCode::OK, Json(json!({ "message": message })))
}

fn failed(status: StatusCode, message: String) -> Answer {
    (status, Json(json!({ "message": message })))
}

fn number(name: &str) -> Result<usize, Answer> {
    node_number(name)
        .ok_or_else(|| failed(StatusCode::NOT_FOUND, format!("{name:?} is none of {}", CLUSTERS.join(", "))))
}

async fn status(State(demo): State<Arc<Demo>>) -> Answer {
    match serde_json::to_value(demo.ledger()) {
        Ok(ledger) => (StatusCode::OK, Json(ledger)),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn kill(State(demo): State<Arc<Demo>>, Path(name): Path<String>) -> Result<Answer, Answer> {
    let node = number(&name)?;
    if demo.nodes.kill(node).await {
        Ok(done(format!("{name} is dead; `spanmesh demo restart {name}` brings it back")))
    } else {
        Err(failed(StatusCode::CONFLICT, format!("{name} does not run")))
    }
}

async fn restart(State(demo): State<Arc<Demo>>, Path(name): Path<String>) -> Result<Answer, Answer> {
    let node = number(&name)?;
    demo.nodes.kill(node).await;
    match demo.nodes.start(node) {
        Ok(()) => Ok(done(format!("{name} is started"))),
        Err(error) => Err(failed(StatusCode::INTERNAL_SERVER_ERROR, format!("{name} cannot be started: {error}"))),
    }
}

async fn partition(State(demo): State<Arc<Demo>>, Path((a, b)): Path<(String, String)>) -> Result<Answer, Answer> {
    if demo.relay.partition(number(&a)?, number(&b)?) {
        Ok(done(format!("{a} and {b} no longer hear each other; `spanmesh demo heal` mends it")))
    } else {
        Err(failed(StatusCode::CONFLICT, "a node cannot be cut off from itself".to_owned()))
    }
}

async fn heal(State(demo): State<Arc<Demo>>) -> Answer {
    demo.relay.heal();
    done("all nodes hear each other".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_reach_the_demo_only_with_the_token() {
        let demo = Arc::new(Demo::idle().await);
        let control = Control::start(Arc::clone(&demo)).await.unwrap();
        let at = Some(control.url());
        let cut = Order::Partition("us-east-1".to_owned(), "eu-west-1/node-0".to_owned());
        assert!(cut.send(at).await.unwrap()["message"].as_str().unwrap().contains("no longer hear"));
        let status = Order::Status.send(at).await.unwrap();
        assert_eq!(status["partitions"], json!([["us-east-1", "eu-west-1"]]));
        Order::Heal.send(at).await.unwrap();
        assert!(demo.relay.partitions().is_empty());

        let wrong = format!("{}0", control.url());
        assert_eq!(Order::Heal.send(Some(&wrong)).await.unwrap_err(), "HTTP 404 Not Found");
        let dead = Order::Kill("us-west-2".to_owned()).send(at).await.unwrap_err();
        assert_eq!(dead, "us-west-2 does not run");
        let unknown = Order::Kill("mars".to_owned()).send(at).await.unwrap_err();
        assert!(unknown.contains("none of us-east-1, us-west-2, eu-west-1"));
        let itself = Order::Partition("us-east-1".to_owned(), "us-east-1".to_owned()).send(at).await.unwrap_err();
        assert_eq!(itself, "a node cannot be cut off from itself");
    }
}
