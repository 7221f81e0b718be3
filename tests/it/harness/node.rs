//! Nodes as real processes, and a mesh of them.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use spanmesh::model::{ClusterName, NodeId, NodeName};
use tempfile::TempDir;

use super::backend::{Backend, TraceId};
use super::certs::Certificates;
use super::eventually;
use super::sender::Sender;

/// One running `spanmesh run`. Killed when dropped.
pub struct NodeProcess {
    pub id: NodeId,
    child: Child,
    ready: Value,
    log: PathBuf,
}

/// How a node of a test differs from the usual one.
#[derive(Default)]
pub struct NodeSpec<'a> {
    pub cluster: &'a str,
    /// The `seeds:` list.
    pub seeds: Vec<String>,
    /// Further lines of the `mesh:` section.
    pub mesh_extra: String,
    /// The `tls:` value, in flow style.
    pub tls: String,
    pub exporter_url: String,
    /// Further lines of the `processors:` section.
    pub processors: String,
    /// Names of processors of the owned pipeline, behind `span_dedup`.
    pub owned: String,
}

impl NodeProcess {
    /// Starts a node and waits until it is ready.
    pub async fn start(directory: &Path, spec: &NodeSpec<'_>) -> NodeProcess {
        NodeProcess::start_with(directory, spec, &[]).await
    }

    /// The same, with further arguments of `run`.
    pub async fn start_with(directory: &Path, spec: &NodeSpec<'_>, arguments: &[&str]) -> NodeProcess {
        let id = node_id(spec.cluster);
        let config = NodeProcess::configured(directory, spec);
        let mut command = spanmesh();
        command.args(["run", "--config"]).arg(config).args(arguments).stdin(Stdio::null());
        NodeProcess::spawn(directory, id, command).await.unwrap_or_else(|log| panic!("a node did not start:\n{log}"))
    }

    /// Writes the node's configuration and answers its file.
    pub fn configured(directory: &Path, spec: &NodeSpec<'_>) -> PathBuf {
        let config = directory.join(format!("{}.yaml", spec.cluster));
        std::fs::write(&config, configuration(&node_id(spec.cluster), spec)).unwrap();
        config
    }

    /// Runs a node by this command and waits until it is ready. `Err`: it ended before, and this is its log.
    pub async fn spawn(directory: &Path, id: NodeId, mut command: Command) -> Result<NodeProcess, String> {
        let ready_file = directory.join(format!("{}.ready", id.cluster));
        let log = directory.join(format!("{}.log", id.cluster));
        let _ = std::fs::remove_file(&ready_file);
        command.arg("--ready-file").arg(&ready_file);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut node = NodeProcess { id, child: command.spawn().unwrap(), ready: Value::Null, log };
        let ready = eventually("a node to be ready", || {
            let ended = node.child.try_wait().unwrap();
            let read = std::fs::read(&ready_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
            std::future::ready(match ended {
                Some(status) => Some(Err(format!("it ended with {status}:\n{}", node.log()))),
                None => read.map(Ok),
            })
        })
        .await;
        node.ready = ready?;
        Ok(node)
    }

    /// A bound address by its name in the ready file: `otlp_http`, `otlp_grpc`, `mesh`, `admin`, `metrics`, `health`.
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready));
        text.parse().unwrap()
    }

    pub fn sender(&self) -> Sender {
        Sender::to(self.address("otlp_http"))
    }

    /// Answers a GET of the admin API.
    pub async fn api(&self, path: &str) -> Value {
        let text =
            get(&format!("http://{}/api/v1/{path}", self.address("admin"))).await.expect("the admin API answers");
        serde_json::from_slice(&text).expect("the admin API speaks JSON")
    }

    pub async fn ledger(&self) -> Value {
        self.api("ledger").await["ledger"].clone()
    }

    pub async fn owner_of(&self, trace: &TraceId) -> String {
        let id = spanmesh::model::TraceId(*trace);
        self.api(&format!("ring/owner/{id}")).await["owner"].as_str().expect("an owner").to_owned()
    }

    pub async fn active_members(&self) -> usize {
        let members = self.api("members").await;
        let all = members["members"].as_array().expect("a list of members");
        all.iter().filter(|member| member["state"] == "active").count()
    }

    /// SIGTERM, and wait.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        let status = self.ended().await;
        if !status.success() {
            println!("{} ended with {status}; its log:\n{}", self.id, self.log());
        }
        status
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the node to stop", || std::future::ready(child.try_wait().unwrap())).await
    }

    /// Closes the node's standard input, if the command gave it one.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, with nothing in its environment that changes a configuration.
pub fn spanmesh() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spanmesh"));
    for name in spanmesh::config::builtin::VARIABLES.into_iter().chain(["SPANMESH_ADMIN", "SPANMESH_LOG"]) {
        command.env_remove(name);
    }
    command
}

/// GET; `None` if nobody answers with a success.
pub async fn get(url: &str) -> Option<Bytes> {
    let (status, body) = ask(url).await?;
    status.is_success().then_some(body)
}

/// The status that a GET is answered with; `None` if nobody answers.
pub async fn status_of(url: &str) -> Option<u16> {
    Some(ask(url).await?.0.as_u16())
}

async fn ask(url: &str) -> Option<(StatusCode, Bytes)> {
    ask_with(url, &[]).await
}

/// The answer to a GET with these headers; `None` if nobody answers.
pub async fn ask_with(url: &str, headers: &[(&str, &str)]) -> Option<(StatusCode, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request = headers.iter().fold(Request::get(url), |request, (name, value)| request.header(*name, *value));
    let answer = client.request(request.body(Empty::new()).unwrap()).await.ok()?;
    let status = answer.status();
    Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
}

pub fn node_id(cluster: &str) -> NodeId {
    NodeId { cluster: ClusterName::new(cluster).unwrap(), node: NodeName::new("node-0").unwrap() }
}

fn configuration(id: &NodeId, spec: &NodeSpec<'_>) -> String {
    let NodeSpec { cluster, seeds, mesh_extra, tls, exporter_url, processors, owned } = spec;
    let owned = if owned.is_empty() { String::new() } else { format!(", {owned}") };
    let seeds = serde_json::to_string(seeds).unwrap();
    format!(
        r#"
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:0"}}, http: {{endpoint: "127.0.0.1:0"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 256, spike_limit_mib: 64}}
  span_dedup: {{}}
{processors}
exporters:
  otlp_http: {{endpoint: "{exporter_url}", compression: none, headers: {{x-node: {id}}}}}
extensions:
  health_check: {{endpoint: "127.0.0.1:0"}}
connectors:
  mesh:
    cluster: {cluster}
    node: node-0
    listen: 127.0.0.1:0
    seeds: {seeds}
    durability: memory
    tls: {tls}
{mesh_extra}
service:
  extensions: [health_check]
  telemetry: {{metrics: {{address: "127.0.0.1:0"}}}}
  admin: {{endpoint: "127.0.0.1:0"}}
  pipelines:
    traces/local: {{receivers: [otlp], processors: [memory_limiter], exporters: [mesh]}}
    traces/owned: {{receivers: [mesh], processors: [memory_limiter, span_dedup{owned}], exporters: [otlp_http]}}
"#
    )
}

/// Some nodes that have found each other.
pub struct Mesh {
    pub nodes: Vec<NodeProcess>,
    certificates: Certificates,
    directory: TempDir,
    backend_url: String,
    processors: String,
    owned: String,
}

impl Mesh {
    pub async fn of<const N: usize>(clusters: [&str; N], backend: &Backend) -> Mesh {
        Mesh::with_processors(clusters, backend, "", "").await
    }

    /// With these lines of the `processors:` section, and `owned` behind `span_dedup` in the owned pipeline.
    pub async fn with_processors<const N: usize>(
        clusters: [&str; N],
        backend: &Backend,
        processors: &str,
        owned: &str,
    ) -> Mesh {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::in_directory(directory.path());
        let mut mesh = Mesh {
            nodes: Vec::new(),
            certificates,
            directory,
            backend_url: backend.url(),
            processors: processors.to_owned(),
            owned: owned.to_owned(),
        };
        for cluster in clusters {
            mesh.join(cluster).await;
        }
        mesh
    }

    /// Adds a node, seeded with the first one, and waits until all agree on the members.
    pub async fn join(&mut self, cluster: &str) {
        self.join_with(cluster, "").await;
    }

    /// The same, with a further line of the `mesh:` section.
    pub async fn join_with(&mut self, cluster: &str, line: &str) {
        let seeds = self.nodes.first().map(|node| node.address("mesh").to_string()).into_iter().collect();
        let spec = NodeSpec {
            cluster,
            seeds,
            mesh_extra: format!("    failover_after: 2s\n    {line}"),
            tls: self.certificates.section(&node_id(cluster)),
            exporter_url: self.backend_url.clone(),
            processors: self.processors.clone(),
            owned: self.owned.clone(),
        };
        self.nodes.push(NodeProcess::start(self.directory.path(), &spec).await);
        self.sees_active(self.nodes.len()).await;
    }

    /// Waits until every node sees this many active members.
    pub async fn sees_active(&self, members: usize) {
        for node in &self.nodes {
            let what = format!("{} to see {members} active members", node.id);
            eventually(&what, || async { (node.active_members().await == members).then_some(()) }).await;
        }
    }

    /// Sum of one count over all nodes' ledgers.
    pub async fn sum_of_ledgers(&self, count: &str) -> u64 {
        let mut sum = 0;
        for node in &self.nodes {
            sum += node.ledger().await[count].as_u64().unwrap_or_else(|| panic!("no {count} in the ledger"));
        }
        sum
    }

    /// Waits until nothing is in flight and at least this many spans have been received from senders.
    pub async fn has_settled(&self, received: u64) {
        eventually("all spans to meet their fate", || async {
            let settled = self.sum_of_ledgers("in_flight").await == 0;
            (settled && self.sum_of_ledgers("received_local").await >= received).then_some(())
        })
        .await;
    }

    pub async fn stop(self) {
        for node in self.nodes {
            let id = node.id.clone();
            let status = node.stop().await;
            assert!(status.success(), "{id} ended with {status}");
        }
    }
}
