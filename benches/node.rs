//! CPU time per span of whole node processes, in the roles origin and owner, and of a node alone with small requests.
//!
//! Real processes of the binary that this benchmark was built with, real QUIC and mTLS between them, `spanmesh load` as
//! the sender. What counts is the CPU time (user and system) that the kernel books for the measured node's process,
//! divided by the spans it took: unlike a rate it does not depend on what else the machine is doing. Linux only: it
//! reads /proc.
//!
//!     cargo bench --bench node

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
const PATIENCE_STEPS: u32 = 1_200;
const ROUNDS: usize = 3;
/// Spans a second where nodes pass them on: what two cores carry for all processes together without refusing any.
const RATE: &str = "100000";

fn main() {
    // `cargo test --benches` builds and starts benchmarks too: only `cargo bench` passes --bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let backend = start_backend();
    let directory = tempfile::tempdir().expect("a temporary directory");
    println!("{:<58} {:>12} {:>12}", "CPU time of the measured node", "median", "all rounds");

    let bench = Bench { directory: directory.path().to_owned(), backend };
    bench.certificates();
    idle(&bench);
    origin(&bench, "zstd");
    origin(&bench, "lz4");
    origin(&bench, "none");
    owner(&bench, "zstd");
    alone(&bench);
    small_requests(&bench);
}

/// The resident size of a node that does nothing.
fn idle(bench: &Bench) {
    let node = bench.node("idle", 100, &[], "zstd");
    sleep(Duration::from_secs(2));
    println!("{:<58} {:>9.1} MiB", "idle node, resident", node.resident_mib());
}

/// A node that owns nothing sends everything on to three owners.
fn origin(bench: &Bench, compression: &str) {
    let owners: Vec<Node> = ["a", "b", "c"].iter().fold(Vec::new(), |mut nodes, name| {
        let seeds: Vec<String> = nodes.iter().map(|node: &Node| node.address("mesh")).collect();
        nodes.push(bench.node(name, 100, &seeds, compression));
        nodes
    });
    let origin = bench.node("origin", 0, &[owners[0].address("mesh")], compression);
    origin.sees(4);
    let rounds = measured(|| {
        origin.cpu_per_span(&["--rate", RATE, "--spans-per-request", "512", "--seconds", "5"], "otlp_grpc")
    });
    report(&format!("origin: gRPC in, three owners, {compression} links, us/span"), &rounds);
}

/// A node that owns everything gets it from a peer; nine of ten spans are duplicates, one is exported.
fn owner(bench: &Bench, compression: &str) {
    let owner = bench.node("owner", 100, &[], compression);
    let origin = bench.node("sender", 0, &[owner.address("mesh")], compression);
    origin.sees(2);
    let rounds = measured(|| {
        let before = owner.cpu();
        let taken_before = owner.ledger("received_peer");
        origin.load(&["--rate", RATE, "--spans-per-request", "512", "--seconds", "5", "--copies", "10"], "otlp_grpc");
        origin.settles();
        owner.settles();
        (owner.cpu() - before).as_secs_f64() * 1e6 / (owner.ledger("received_peer") - taken_before) as f64
    });
    report(&format!("owner: from a peer ({compression}), dedup, 10 % exported, us/span"), &rounds);
}

/// One node, no mesh: in, dedup, everything out.
fn alone(bench: &Bench) {
    let node = bench.node("alone", 100, &[], "zstd");
    for protocol in ["otlp_grpc", "otlp_http"] {
        let full = ["--rate", RATE, "--spans-per-request", "512", "--seconds", "4"];
        report(
            &format!("alone: {protocol} in, dedup, all exported, us/span"),
            &measured(|| node.cpu_per_span(&full, protocol)),
        );
        let copies = ["--rate", "0", "--spans-per-request", "512", "--seconds", "4", "--copies", "10"];
        report(
            &format!("alone: {protocol} in, dedup, 10 % exported, us/span"),
            &measured(|| node.cpu_per_span(&copies, protocol)),
        );
    }
}

/// One span in each request, nearly all of them duplicates: what a request costs by itself.
fn small_requests(bench: &Bench) {
    let node = bench.node("small", 100, &[], "zstd");
    for protocol in ["otlp_grpc", "otlp_http"] {
        let arguments = ["--rate", "0", "--spans-per-request", "1", "--seconds", "4", "--copies", "50"];
        let rounds = measured(|| node.cpu_per_span(&arguments, protocol));
        report(&format!("small requests: {protocol}, one span each, us/request"), &rounds);
    }
}

fn measured(mut round: impl FnMut() -> f64) -> Vec<f64> {
    // The first one warms up: connections, congestion windows, allocator.
    round();
    (0..ROUNDS).map(|_| round()).collect()
}

fn report(what: &str, rounds: &[f64]) {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let all: Vec<String> = rounds.iter().map(|value| format!("{value:.2}")).collect();
    println!("{what:<58} {:>12.2} {:>12}", sorted[sorted.len() / 2], all.join(" "));
}

struct Bench {
    directory: PathBuf,
    backend: SocketAddr,
}

impl Bench {
    fn certificates(&self) {
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
        for cluster in ["idle", "a", "b", "c", "origin", "owner", "sender", "alone", "small"] {
            certs(&["issue", "--cluster", cluster, "--node", "node-0"]);
        }
    }

    fn node(&self, cluster: &str, weight: u16, seeds: &[String], compression: &str) -> Node {
        let certs = self.directory.join("certs/nodes").join(cluster).join("node-0");
        let certs = certs.display();
        let backend = self.backend;
        let text = format!(
            r#"
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:0"}}, http: {{endpoint: "127.0.0.1:0"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 1024, spike_limit_mib: 256}}
  resource:
    attributes:
      - {{key: k8s.cluster.name, value: {cluster}, action: upsert}}
      - {{key: cloud.region, value: {cluster}, action: upsert}}
      - {{key: deployment.environment.name, value: bench, action: upsert}}
  span_dedup: {{}}
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
    traces/owned: {{receivers: [mesh], processors: [memory_limiter, span_dedup], exporters: [otlp_http]}}
"#
        );
        let config = self.directory.join(format!("{cluster}.yaml"));
        std::fs::write(&config, text).expect("the directory is writable");
        Node::start(&self.directory, cluster, &config)
    }
}

struct Node {
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

    fn address(&self, name: &str) -> String {
        self.ready[name].as_str().expect("an address").to_owned()
    }

    fn api(&self, path: &str) -> Value {
        let mut stream = std::net::TcpStream::connect(self.address("admin")).expect("the admin port answers");
        let request = format!("GET /api/v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("a request goes out");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer comes back");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let json = &body[body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)];
        serde_json::from_str(json).expect("the API speaks JSON")
    }

    fn ledger(&self, count: &str) -> u64 {
        self.api("ledger")["ledger"][count].as_u64().unwrap_or_default()
    }

    fn sees(&self, members: usize) {
        until("members are active", || {
            let list = self.api("members");
            let active =
                list["members"].as_array().map_or(0, |all| all.iter().filter(|m| m["state"] == "active").count());
            (active == members).then_some(())
        });
    }

    fn settles(&self) {
        until("nothing is in flight", || (self.ledger("in_flight") == 0).then_some(()));
    }

    fn load(&self, arguments: &[&str], protocol: &str) {
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

    /// Microseconds of CPU per span that this node took from `spanmesh load`.
    fn cpu_per_span(&self, arguments: &[&str], protocol: &str) -> f64 {
        let (before, taken) = (self.cpu(), self.ledger("received_local"));
        self.load(arguments, protocol);
        self.settles();
        (self.cpu() - before).as_secs_f64() * 1e6 / (self.ledger("received_local") - taken) as f64
    }

    /// User and system time of the process so far: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux");
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn resident_mib(&self) -> f64 {
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

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
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
