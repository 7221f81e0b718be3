//! Nodes as processes for the benchmarks, and what they cost: shared by all benchmarks of whole nodes.

#![allow(dead_code, reason = "each benchmark uses what it needs")]

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_spanmesh");
const PATIENCE_STEPS: u32 = 2_400;
const ROUNDS: usize = 3;

pub(crate) fn measured(mut round: impl FnMut() -> f64) -> Vec<f64> {
    // The first one warms up: connections, congestion windows, allocator.
    round();
    (0..ROUNDS).map(|_| round()).collect()
}

pub(crate) fn report(what: &str, rounds: &[f64]) {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let all: Vec<String> = rounds.iter().map(|value| format!("{value:.2}")).collect();
    println!("{what:<58} {:>12.2} {:>12}", sorted[sorted.len() / 2], all.join(" "));
}

pub(crate) struct Bench {
    _directory: tempfile::TempDir,
    directory: PathBuf,
    backend: SocketAddr,
}

impl Bench {
    /// With certificates for these clusters, and a backend.
    pub(crate) fn start(clusters: &[&str]) -> Bench {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bench = Bench { directory: directory.path().to_owned(), _directory: directory, backend: start_backend() };
        bench.certificates(clusters);
        bench
    }

    fn certificates(&self, clusters: &[&str]) {
        let directory = self.directory.join("certs");
        let certs = |arguments: &[&str]| {
            let status = Command::new(BINARY)
                .arg("certs")
                .args(arguments)
                .arg("--dir")
                .arg(&directory)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("the binary runs");
            assert!(status.success());
        };
        certs(&["init"]);
        for cluster in clusters {
            certs(&["issue", "--cluster", cluster, "--node", "node-0"]);
        }
    }

    pub(crate) fn node(&self, cluster: &str, weight: u16, seeds: &[String], compression: &str) -> Node {
        self.node_with(cluster, weight, seeds, compression, ("", ""))
    }

    /// With lines of the `processors:` section, and names of processors behind `span_dedup` in the owned pipeline.
    pub(crate) fn node_with(
        &self,
        cluster: &str,
        weight: u16,
        seeds: &[String],
        compression: &str,
        (processors, owned): (&str, &str),
    ) -> Node {
        let certs = self.directory.join("certs/nodes").join(cluster).join("node-0");
        let certs = certs.display();
        let backend = self.backend;
        let text = format!(
            r#"
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:0"}}, http: {{endpoint: "127.0.0.1:0"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 8192, spike_limit_mib: 256}}
  resource:
    attributes:
      - {{key: k8s.cluster.name, value: {cluster}, action: upsert}}
      - {{key: cloud.region, value: {cluster}, action: upsert}}
      - {{key: deployment.environment.name, value: bench, action: upsert}}
  span_dedup: {{}}
{processors}
exporters:
  otlp_http: {{endpoint: "http://{backend}", compression: none}}
connectors:
  mesh:
    cluster: {cluster}
    node: node-0
    listen: 127.0.0.1:0
    weight: {weight}
    seeds: {seeds:?}
    compression: {compression}
    durability: memory
    tls: {{ca_file: {certs}/ca.pem, cert_file: {certs}/cert.pem, key_file: {certs}/key.pem}}
service:
  telemetry: {{metrics: {{level: none}}}}
  admin: {{endpoint: "127.0.0.1:0"}}
  pipelines:
    traces/local: {{receivers: [otlp], processors: [memory_limiter, resource], exporters: [mesh]}}
    traces/owned: {{receivers: [mesh], processors: [memory_limiter, span_dedup{owned}], exporters: [otlp_http]}}
"#
        );
        let config = self.directory.join(format!("{cluster}.yaml"));
        std::fs::write(&config, text).expect("the directory is writable");
        Node::start(&self.directory, cluster, &config)
    }
}

pub(crate) struct Node {
    child: Child,
    ready: Value,
}

impl Node {
    fn start(directory: &Path, name: &str, config: &Path) -> Node {
        let ready_file = directory.join(format!("{name}.ready"));
        let log = std::fs::File::create(directory.join(format!("{name}.log"))).expect("the directory is writable");
        let _ = std::fs::remove_file(&ready_file);
        let child = Command::new(BINARY)
            .args(["run", "--config"])
            .arg(config)
            .arg("--ready-file")
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let ready: Value = until("a node is ready", || {
            std::fs::read(&ready_file).ok().and_then(|text| serde_json::from_slice(&text).ok())
        });
        Node { child, ready }
    }

    pub(crate) fn address(&self, name: &str) -> String {
        self.ready[name].as_str().expect("an address").to_owned()
    }

    pub(crate) fn api(&self, path: &str) -> Value {
        let mut stream = std::net::TcpStream::connect(self.address("admin")).expect("the admin port answers");
        let request = format!("GET /api/v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("a request goes out");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer comes back");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let json = &body[body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)];
        serde_json::from_str(json).expect("the API speaks JSON")
    }

    pub(crate) fn ledger(&self, count: &str) -> u64 {
        self.api("ledger")["ledger"][count].as_u64().unwrap_or_default()
    }

    pub(crate) fn sees(&self, members: usize) {
        until("members are active", || {
            let list = self.api("members");
            let active =
                list["members"].as_array().map_or(0, |all| all.iter().filter(|m| m["state"] == "active").count());
            (active == members).then_some(())
        });
    }

    pub(crate) fn settles(&self) {
        until("nothing is in flight", || (self.ledger("in_flight") == 0).then_some(()));
    }

    pub(crate) fn load(&self, arguments: &[&str], protocol: &str) {
        let url = format!("http://{}", self.address(protocol));
        let kind = if protocol == "otlp_grpc" { "grpc" } else { "http" };
        let output = Command::new(BINARY)
            .args(["load", "--connections", "2", "--in-flight", "4", "--fail-on-error", "--to", &url])
            .args(["--protocol", kind])
            .args(arguments)
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sends whatever is taken, and answers what `spanmesh load` says of it in one line.
    pub(crate) fn try_load(&self, arguments: &[&str], protocol: &str) -> String {
        let url = format!("http://{}", self.address(protocol));
        let kind = if protocol == "otlp_grpc" { "grpc" } else { "http" };
        let output = Command::new(BINARY)
            .args(["load", "--connections", "2", "--in-flight", "4", "--to", &url, "--protocol", kind])
            .args(arguments)
            .output()
            .expect("the binary runs");
        String::from_utf8_lossy(&output.stdout).lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }

    /// Microseconds of CPU per span that this node took from `spanmesh load`.
    pub(crate) fn cpu_per_span(&self, arguments: &[&str], protocol: &str) -> f64 {
        let (before, taken) = (self.cpu(), self.ledger("received_local"));
        self.load(arguments, protocol);
        self.settles();
        (self.cpu() - before).as_secs_f64() * 1e6 / (self.ledger("received_local") - taken) as f64
    }

    /// User and system time of the process so far: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux");
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE_STEPS {
        if let Some(value) = probe() {
            return value;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("gave up waiting until {what}");
}

/// A backend that reads what it gets and says thanks, in a thread of its own.
fn start_backend() -> SocketAddr {
    async fn take(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        Ok(Response::builder().header("content-type", "application/x-protobuf").body(Full::default()).expect("legal"))
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    listener.set_nonblocking(true).expect("a socket");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(take)).await;
                });
            }
        });
    });
    address
}
