//! Everything that a sender can do wrong, as one table against one real node: how each request is answered, and that
//! the backend gets what is good of it, byte for byte, and nothing else.

mod json;
mod protobuf;
mod protocol;
mod row;
mod send;

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use self::row::{Request, Row, Table};
use crate::harness::backend::{Backend, TraceId};
use crate::harness::node::{Mesh, NodeProcess};
use crate::harness::traces::{request, span, trace_id};
use crate::harness::within;

/// Requests that announce 64 MiB each and then say nothing, for as long as the value lives (B19).
struct Stalled(Vec<tokio::task::JoinHandle<()>>);

/// Sends one frame and no end.
struct Silent(Option<Bytes>);

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(first) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(first)))),
            None => std::task::Poll::Pending,
        }
    }
}

impl Stalled {
    async fn at(node: &NodeProcess, streams: usize) -> Stalled {
        let to = node.address("otlp_grpc");
        let client = send::http2::<Silent>(to).await;
        let announced = Bytes::from([&[0][..], &(64u32 << 20).to_be_bytes()].concat());
        let tasks = (0..streams).map(|_| {
            let (mut client, announced) = (client.clone(), announced.clone());
            let request =
                http::Request::post(format!("http://{to}{}", row::EXPORT)).header("content-type", "application/grpc");
            tokio::spawn(async move {
                client.ready().await.unwrap();
                let _ = client.send_request(request.body(Silent(Some(announced))).unwrap()).await;
            })
        });
        Stalled(tasks.collect())
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn table() -> Vec<Row> {
    let mut table = Table::default();
    protocol::http(&mut table);
    protocol::grpc(&mut table);
    protocol::compressed(&mut table);
    protobuf::rows(&mut table);
    json::rows(&mut table);
    table.rows
}

/// `Err`: what is wrong with the answer.
async fn send(node: &NodeProcess, row: &Row) -> Result<(), String> {
    let what = format!("the answer to {}", row.name);
    match &row.request {
        Request::Http { bytes, content_type, end } => {
            let answer = within(&what, send::http1(node.address("otlp_http"), bytes, *end)).await;
            answer.check(row, content_type)
        }
        Request::Grpc { path, headers, framed } => {
            let sent = send::grpc(node.address("otlp_grpc"), path, headers, framed.clone());
            within(&what, sent).await.check(row, "")
        }
    }
}

/// What the row was to bring, and nothing else of its trace.
fn check_arrived(
    row: &Row,
    arrived: &BTreeMap<TraceId, Vec<Bytes>>,
    bodies: &[Bytes],
    is_kept: impl Fn(&[u8]) -> bool,
) {
    let mut here: Vec<Vec<u8>> = arrived.get(&row.trace).into_iter().flatten().map(|span| span.to_vec()).collect();
    if row.in_any_order {
        here = here.iter().map(|span| Span::decode(&span[..]).unwrap().encode_to_vec()).collect();
    }
    let mut expected = row.case.arrives.clone();
    here.sort();
    expected.sort();
    assert!(here == expected, "{}: expected {expected:02x?}, at the backend {here:02x?}", row.name);
    for mark in row.case.carries.iter().filter(|mark| is_kept(mark)) {
        let is_here = bodies.iter().any(|body| body.windows(mark.len()).any(|window| window == mark));
        assert!(is_here, "{}: {:?} is lost", row.name, String::from_utf8_lossy(mark));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_is_answered_as_the_specification_says_and_hurts_nobody_else() {
    let backend = Backend::start().await;
    let mesh = Mesh::of(["east"], &backend).await;
    send_all(&backend, mesh, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_passes_a_trace_buffer_as_it_passes_without_one() {
    const PROCESSORS: &str = r"
  cross_cluster: {}
  tail_sampling: {decision_wait: 1s, policies: [{name: all, type: always_sample}]}
";
    let backend = Backend::start().await;
    let mesh = Mesh::with_processors(["east"], &backend, PROCESSORS, "cross_cluster, tail_sampling").await;
    // What a request said beside its spans was about that request, and a trace is put together from many.
    send_all(&backend, mesh, |mark| !mark.windows(14).any(|window| window == b"in the request")).await;
}

async fn send_all(backend: &Backend, mesh: Mesh, is_kept: impl Fn(&[u8]) -> bool) {
    let node = &mesh.nodes[0];

    let stalled = Stalled::at(node, 200).await;
    let rows = table();
    let mut wrong = Vec::new();
    for row in &rows {
        wrong.extend(send(node, row).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(stalled);

    let fresh = trace_id(1 << 40);
    assert!(node.sender().deliver(request("fresh", vec![span(1 << 40, 0)])).await);
    let expected: usize = 1 + rows.iter().map(|row| row.case.arrives.len()).sum::<usize>();
    let duplicates: u64 = rows.iter().map(|row| row.case.duplicates).sum();
    mesh.has_settled(expected as u64 + duplicates).await;

    let arrived = backend.arrived();
    let encoded = arrived.encoded();
    for row in &rows {
        check_arrived(row, &encoded, &arrived.bodies, &is_kept);
    }
    assert!(encoded.contains_key(&fresh));
    assert_eq!(arrived.spans, expected);

    let status = node.api("status").await;
    let ledger = &status["ledger"];
    assert_eq!(ledger["balanced"], true, "{ledger}");
    assert_eq!((&ledger["exported"], &ledger["duplicate"]), (&expected.into(), &duplicates.into()), "{ledger}");
    assert_eq!((&ledger["refused"], &ledger["released"]), (&0.into(), &0.into()), "{ledger}");
    let rejected: i64 = rows.iter().filter_map(|row| row.case.rejected).sum();
    let transports = status["receivers"][0]["transports"].as_array().unwrap();
    let counted: i64 = transports.iter().map(|counts| counts["rejected_spans_total"].as_i64().unwrap()).sum();
    assert_eq!(counted, rejected);
    // A plain request of 64 MiB, or a bomb, and the little that others hold meanwhile.
    let peak = status["budget"]["peak_bytes"].as_u64().unwrap();
    assert!(peak < 2 * (64 << 20), "{peak} bytes were held");

    let log = node.log();
    assert!(!log.contains("panic"), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
    mesh.stop().await;
}
