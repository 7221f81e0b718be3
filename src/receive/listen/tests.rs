//! Real sockets, short deadlines: every wait in here ends by an event of the server.

use std::path::Path;

use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn hasty() -> Bounds {
    Bounds {
        max_connections: 100,
        header_timeout: Duration::from_millis(150),
        idle_timeout: Duration::from_millis(900),
    }
}

async fn hello(_: Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::from("hello"))
}

async fn greeter(bounds: Bounds) -> Server {
    Bound::bind(LOOPBACK, None).await.unwrap().serve(bounds, hello)
}

async fn connected(server: &Server) -> TcpStream {
    TcpStream::connect(server.addr()).await.unwrap()
}

/// All bytes until the server closes its side (a reset counts as that).
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = [0; 16 << 10];
    let reading = async {
        while let Ok(n @ 1..) = socket.read(&mut buf).await {
            all.extend_from_slice(&buf[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the server never closed the connection");
    all
}

async fn ask(socket: &mut TcpStream) -> String {
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"hello") {
        assert!(socket.read_buf(&mut all).await.unwrap() > 0, "closed early");
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_header_is_closed() {
    let server = greeter(hasty()).await;
    let mut silent = connected(&server).await;
    let mut half = connected(&server).await;
    half.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    let mut half_preface = connected(&server).await;
    half_preface.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert_eq!(rest(&mut silent).await, b"");
    assert_eq!(rest(&mut half).await, b"");
    assert_eq!(rest(&mut half_preface).await, b"");
    assert_eq!(server.status().accepted_total, 3);
}

#[tokio::test]
async fn a_kept_connection_outlives_the_header_timeout_but_not_the_idle_timeout() {
    let server = greeter(hasty()).await;
    let mut kept = connected(&server).await;
    ask(&mut kept).await;
    tokio::time::sleep(hasty().header_timeout * 3).await;
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut kept).await, b"");
}

#[tokio::test]
async fn a_second_request_that_stalls_in_its_header_is_closed() {
    let server = greeter(Bounds { idle_timeout: Duration::from_secs(100), ..hasty() }).await;
    let mut client = connected(&server).await;
    ask(&mut client).await;
    client.write_all(b"GET / HT").await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
}

#[tokio::test]
async fn huge_headers_and_too_many_headers_are_answered_431() {
    let server = greeter(Bounds::ingest()).await;
    let huge = format!("x: {}\r\n", "y".repeat(1 << 20));
    let many: String = (0..10_000).map(|i| format!("h{i}: 1\r\n")).collect();
    for headers in [huge, many] {
        let mut client = connected(&server).await;
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        // The server may answer and close before it has read all of it.
        let _ = client.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
}

type H2Client = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn http2(io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) -> H2Client {
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn both_versions_are_served_on_one_port_and_http2_refuses_huge_headers_too() {
    let server = greeter(Bounds::ingest()).await;
    assert!(ask(&mut connected(&server).await).await.starts_with("HTTP/1.1 200"));
    let mut client = http2(connected(&server).await).await;
    let request = || Request::get("http://x/");
    let answer = client.send_request(request().body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let huge = request().header("x", "y".repeat(200 << 10)).body(Empty::new()).unwrap();
    match client.send_request(huge).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(!error.is_timeout(), "{error}"),
    }
}

#[tokio::test]
async fn one_connection_over_the_cap_is_closed_at_once_and_the_next_after_a_leave_is_served() {
    let server = greeter(Bounds { max_connections: 2, ..Bounds::ingest() }).await;
    let mut first = connected(&server).await;
    let mut second = connected(&server).await;
    ask(&mut first).await;
    ask(&mut second).await;
    assert_eq!(rest(&mut connected(&server).await).await, b"");
    assert_eq!((server.status().open, server.status().over_cap_total), (2, 1));
    drop(first);
    while server.status().open > 1 {
        tokio::task::yield_now().await;
    }
    ask(&mut connected(&server).await).await;
}

#[tokio::test]
async fn a_stop_lets_the_request_in_flight_end_and_takes_no_more() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (begun.clone(), go_on.clone());
    let server = Bound::bind(LOOPBACK, None).await.unwrap().serve(Bounds::ingest(), move |request| {
        let (told, waits) = (told.clone(), waits.clone());
        async move {
            told.notify_one();
            waits.notified().await;
            hello(request).await
        }
    });
    let mut in_flight = connected(&server).await;
    let mut idle = connected(&server).await;
    in_flight.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    begun.notified().await;
    let addr = server.addr();
    let stopped = tokio::spawn(async move { server.stop(Duration::from_secs(20)).await });
    assert_eq!(rest(&mut idle).await, b"");
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go_on.notify_one();
    let answer = String::from_utf8(rest(&mut in_flight).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    assert!(stopped.await.unwrap());
}

#[tokio::test]
async fn a_stop_cuts_what_lasts_beyond_its_deadline() {
    let server = Bound::bind(LOOPBACK, None).await.unwrap().serve(Bounds::ingest(), |request| async {
        std::future::pending::<()>().await;
        hello(request).await
    });
    let mut client = connected(&server).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    while server.status().open == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!server.stop(Duration::from_millis(50)).await);
    assert_eq!(rest(&mut client).await, b"");
}

/// HEADERS that ask for `GET http://x/` on `stream`, and its RST_STREAM.
fn open_and_reset(stream: u32) -> Vec<u8> {
    let mut frames = vec![0, 0, 6, 1, 5];
    frames.extend(stream.to_be_bytes());
    frames.extend([0x82, 0x86, 0x84, 0x41, 0x01, b'x']);
    frames.extend([0, 0, 4, 3, 0]);
    frames.extend(stream.to_be_bytes());
    frames.extend([0, 0, 0, 8]);
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// Sends `flood` to a fresh HTTP/2 connection again and again, and returns the code of the GOAWAY that ends it.
async fn flooded(server: &Server, flood: impl Fn(u32) -> Vec<u8> + Send + 'static) -> u32 {
    let mut client = connected(server).await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut read, mut write) = client.into_split();
    let writing = tokio::spawn(async move {
        for batch in 0..2_000u32 {
            let frames: Vec<u8> = (0..100).flat_map(|i| flood(batch * 100 + i)).collect();
            if write.write_all(&frames).await.is_err() {
                break;
            }
        }
    });
    let mut all = Vec::new();
    while let Ok(1..) = read.read_buf(&mut all).await {}
    writing.abort();
    let mut at = 0;
    while let Some([a, b, c, kind, ..]) = all.get(at..) {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == 7 {
            let code = all.get(at + 13..at + 17).and_then(|code| code.first_chunk()).copied();
            return u32::from_be_bytes(code.unwrap());
        }
        at += 9 + len;
    }
    panic!("closed without GOAWAY after {} bytes", all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_resets_and_header_fragments_end_their_own_connection_only() {
    let server = greeter(Bounds::ingest()).await;
    let mut bystander = http2(connected(&server).await).await;
    const ENHANCE_YOUR_CALM: u32 = 11;
    assert_eq!(flooded(&server, |i| open_and_reset(2 * i + 1)).await, ENHANCE_YOUR_CALM);
    let continuation = |i: u32| match i {
        0 => frame(1, 0, 1, &[0x82, 0x86, 0x84]),
        _ => frame(9, 0, 1, &[b"\x00\x01a\x7f\x81\x01"[..].to_vec(), vec![b'x'; 256]].concat()),
    };
    assert_eq!(flooded(&server, continuation).await, ENHANCE_YOUR_CALM);
    let empty_data = |i: u32| match i {
        0 => frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x41, 0x01, b'x']),
        _ => frame(0, 0, 1, &[]),
    };
    assert_eq!(flooded(&server, empty_data).await, ENHANCE_YOUR_CALM);
    let answer = bystander.send_request(Request::get("http://x/").body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Runs [`run_out_of_descriptors`] in a process that has 40.
#[test]
fn without_descriptors_the_loop_rests_and_goes_on() {
    let child = "receive::listen::tests::run_out_of_descriptors";
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" --exact \"$1\" --ignored --test-threads=1"])
        .arg(std::env::current_exe().unwrap())
        .arg(child)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "needs a small limit of descriptors: run by the test above"]
async fn run_out_of_descriptors() {
    let server = greeter(Bounds::ingest()).await;
    let mut clients = Vec::new();
    // Client and server ends are of one process, so `accept` meets the limit, and so does `connect` at last.
    while let Ok(client) = TcpStream::connect(server.addr()).await {
        clients.push(client);
        tokio::task::yield_now().await;
    }
    while server.status().accept_errors_total == 0 {
        clients.pop();
        clients.extend(TcpStream::connect(server.addr()).await);
        tokio::task::yield_now().await;
    }
    clients.clear();
    ask(&mut connected(&server).await).await;
}

struct Certificates {
    directory: tempfile::TempDir,
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Certificates {
    fn new() -> Certificates {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        Certificates { directory, ca }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

async fn over_tls(
    server: &Server,
    certificates: &Certificates,
    client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates.ca.der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let socket = connected(server).await;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    let stream = stream.map_err(|e| e.to_string())?;
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).unwrap();
    let answer = client.send_request(request).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn tls_speaks_http2_and_asks_for_the_client_certificate_that_is_configured() {
    let certificates = Certificates::new();
    certificates.issue("server");
    let settings = |client_ca: Option<&str>| ServerTlsSettings {
        cert_file: certificates.path("server.pem"),
        key_file: certificates.path("server.key"),
        client_ca_file: client_ca.map(|name| certificates.path(name)),
    };
    let open = Bound::bind(LOOPBACK, Some(&settings(None))).await.unwrap().serve(Bounds::ingest(), hello);
    assert_eq!(over_tls(&open, &certificates, None).await.unwrap(), "hello");

    let closed = Bound::bind(LOOPBACK, Some(&settings(Some("ca.pem")))).await.unwrap().serve(Bounds::ingest(), hello);
    let known = certificates.issue("client");
    assert_eq!(over_tls(&closed, &certificates, Some(known)).await.unwrap(), "hello");
    assert!(over_tls(&closed, &certificates, None).await.is_err());
    let stranger = Certificates::new().issue("client");
    assert!(over_tls(&closed, &certificates, Some(stranger)).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_and_tls_files_that_are_not_there_are_named() {
    let server = greeter(hasty()).await;
    let taken = Bound::bind(server.addr(), None).await.err().unwrap().to_string();
    assert!(taken.contains(&server.addr().to_string()), "{taken}");
    let missing = Path::new("/nowhere/tls.crt").to_path_buf();
    let settings = ServerTlsSettings { cert_file: missing.clone(), key_file: missing, client_ca_file: None };
    let error = Bound::bind(LOOPBACK, Some(&settings)).await.err().unwrap().to_string();
    assert!(error.contains("/nowhere/tls.crt"), "{error}");
}
