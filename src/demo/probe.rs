//! What the nodes say of themselves, asked over their own health and admin ports as anybody would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};

use super::decisions::TracesView;

const TIMEOUT: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// A node's ledger as the admin API tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeLedger {
    pub received_local: u64,
    pub received_peer: u64,
    pub refused: u64,
    pub forwarded: u64,
    pub exported: u64,
    pub duplicate: u64,
    pub sampled_out: u64,
    pub dropped: BTreeMap<String, u64>,
    pub released: u64,
    pub in_flight: u64,
    pub balanced: bool,
}

/// What is read of `/api/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeView {
    pub ledger: NodeLedger,
    pub traces: Vec<TracesView>,
    pub mesh: Option<MeshView>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MeshView {
    pub members: Vec<MemberView>,
    pub ring: RingView,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MemberView {
    pub id: String,
    pub state: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RingView {
    pub version: String,
    pub members: Vec<MemberView>,
}

impl NodeView {
    /// Members that the node believes to be alive, itself included.
    pub fn active_members(&self) -> usize {
        self.mesh.as_ref().map_or(0, |mesh| mesh.members.iter().filter(|m| m.state == "active").count())
    }
}

/// All nodes own traces together, and agree on who owns which.
pub fn agree(views: &[Option<NodeView>]) -> bool {
    let rings: Vec<_> = views.iter().filter_map(|view| Some(&view.as_ref()?.mesh.as_ref()?.ring)).collect();
    let Some(first) = rings.first() else { return false };
    rings.len() == views.len()
        && rings.iter().all(|ring| ring.members.len() == views.len() && ring.version == first.version)
}

/// Asks nodes.
#[derive(Clone)]
pub struct Probe {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Probe {
    fn default() -> Probe {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Probe { client: Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector) }
    }
}

impl Probe {
    /// `/ready` answers 200.
    pub async fn ready(&self, health: SocketAddr) -> bool {
        self.get(&format!("http://{health}/ready")).await.is_some()
    }

    pub async fn view(&self, admin: SocketAddr) -> Option<NodeView> {
        serde_json::from_slice(&self.get(&format!("http://{admin}/api/v1/status")).await?).ok()
    }

    /// The body of a 200, within the limits of time and size.
    async fn get(&self, url: &str) -> Option<Bytes> {
        let answer = async {
            let answer = self.client.get(url.parse().ok()?).await.ok()?;
            let ok = answer.status() == StatusCode::OK;
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.ok()?;
            ok.then(|| body.to_bytes())
        };
        tokio::time::timeout(TIMEOUT, answer).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;

    fn view(members: usize, version: &str) -> Option<NodeView> {
        let member = MemberView { id: "c/n".to_owned(), state: "active".to_owned() };
        let ring = RingView { version: version.to_owned(), members: vec![member.clone(); members] };
        Some(NodeView { mesh: Some(MeshView { members: vec![member; members], ring }), ..NodeView::default() })
    }

    #[test]
    fn nodes_agree_when_all_have_the_same_ring_of_all() {
        assert!(agree(&[view(3, "a"), view(3, "a"), view(3, "a")]));
        assert!(!agree(&[view(3, "a"), view(3, "b"), view(3, "a")]));
        assert!(!agree(&[view(2, "a"), view(2, "a"), view(2, "a")]));
        assert!(!agree(&[view(3, "a"), None, view(3, "a")]));
        assert!(!agree(&[]) && !agree(&[Some(NodeView::default())]));
    }

    #[tokio::test]
    async fn a_status_is_read_and_what_is_not_known_is_passed_over() {
        let status = r#"{"schema": 1, "node": {}, "ledger": {"exported": 7, "dropped": {"policy": 1}, "balanced": true},
            "mesh": {"members": [{"id": "a/b", "state": "active", "weight": 100}, {"id": "a/c", "state": "dead"}],
            "ring": {"version": "00ff", "members": [{"id": "a/b", "slots": 65536}]}}}"#;
        let app = Router::new().route("/api/v1/status", get(move || async move { status }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let probe = Probe::default();
        let view = probe.view(addr).await.unwrap();
        assert_eq!((view.active_members(), view.ledger.exported, view.ledger.balanced), (1, 7, true));
        assert!(!probe.ready(addr).await, "404 is not ready");
    }
}
