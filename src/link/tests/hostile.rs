//! What peers must not do, and what becomes of them.

use quinn::{ConnectionError, VarInt};

use super::*;
use crate::link::frame::{BatchHead, Code, Kind, Reply};
use crate::link::stream::{read_head, read_kind};

fn closed_with(error: &ConnectionError) -> Option<VarInt> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}

/// Writes bytes on a stream, ends it or not, and gives the code that it was reset with.
async fn reset_code(quic: &quinn::Connection, bytes: &[u8], finish: bool) -> Option<VarInt> {
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    let _ = send.write_all(bytes).await;
    if finish {
        let _ = send.finish();
    }
    let read = tokio::time::timeout(PATIENCE, recv.read_to_end(1 << 10)).await.expect("the stream is answered");
    match read {
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => Some(code),
        _ => None,
    }
}

async fn send_batch(quic: &quinn::Connection, head: &BatchHead, body: &[u8]) -> Reply {
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    send.write_all(&head.encode()).await.unwrap();
    send.write_all(body).await.unwrap();
    send.finish().unwrap();
    assert_eq!(read_kind(&mut recv).await.unwrap(), Kind::Reply);
    Reply::decode(&read_head(&mut recv).await.unwrap()).unwrap()
}

fn head(raw: &Raw, seq: u64, body: &[u8]) -> BatchHead {
    BatchHead {
        boot: raw.hello.identity.boot,
        seq,
        hops: 0,
        compression: Compression::None,
        body_bytes: body.len(),
        raw_bytes: body.len(),
        spans: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_not_the_certificates_is_an_alarm() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let mut raw = Raw::new(&world, "raw");
    raw.hello.identity.id = id("victim");
    let error = raw.greet(&a).await.unwrap_err();
    assert_eq!(closed_with(&error), Some(Code::Identity.varint()));
    assert_eq!(a.status().identity_mismatches, 1);
    // To be this node itself is no better.
    raw.hello.identity.id = a.id.clone();
    assert_eq!(closed_with(&raw.greet(&a).await.unwrap_err()), Some(Code::Identity.varint()));
    assert_eq!((a.status().identity_mismatches, a.status().members.len(), a.status().links.len()), (2, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mesh_or_protocol_is_refused_with_a_reason() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let mut raw = Raw::new(&world, "raw");
    raw.hello.mesh = "other".into();
    let error = raw.greet(&a).await.unwrap_err();
    assert_eq!(closed_with(&error), Some(Code::OtherMesh.varint()));
    assert!(error.to_string().contains("\"default\""), "{error}");
    let mut raw = Raw::new(&world, "raw");
    (raw.hello.protocol_min, raw.hello.protocol_max) = (7, 9);
    let error = raw.greet(&a).await.unwrap_err();
    assert_eq!(closed_with(&error), Some(Code::Protocol.varint()), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_seed_is_itself_stays_alone_without_complaint() {
    let world = World::new();
    let port = free_port();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port.port()));
    let settings = MeshSettings { listen: everywhere, ..world.settings("a", &[port]) };
    let a = world.node_with(settings, Tuning::default()).await;
    until("it has dialled itself", || a.status().handshakes_failed > 0).await;
    let status = a.status();
    assert_eq!((status.dials_failed, status.links.len(), status.identity_mismatches), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_resets_its_own_stream_and_the_link_lives_on() {
    let world = World::new();
    let tuning = Tuning { read_deadline: Duration::from_millis(300), ..Tuning::default() };
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, tuning).await;
    let raw = Raw::new(&world, "raw");
    let quic = raw.greet(&a).await.unwrap();

    let unknown = Some(Code::UnknownKind.varint());
    let malformed = Some(Code::Malformed.varint());
    assert_eq!(reset_code(&quic, &[200; 50], true).await, unknown);
    assert_eq!(reset_code(&quic, &[Kind::Gossip as u8], true).await, unknown);
    assert_eq!(reset_code(&quic, &[], true).await, malformed, "nothing at all");
    assert_eq!(reset_code(&quic, &[Kind::Batch as u8, 99, 0], true).await, malformed, "a layout of the future");
    let endless = [Kind::Batch as u8, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(reset_code(&quic, &endless, true).await, Some(Code::TooLarge.varint()));
    until("the peer is in the ring", || a.owners().len() == 2).await;
    let body = request([(a.trace_of(&a.id, 0), 1)], 10);
    let good = head(&raw, 1, &body);
    let mut short = good.encode();
    short.extend_from_slice(&body[..body.len() / 2]);
    assert_eq!(reset_code(&quic, &short, true).await, malformed, "less than announced");
    let mut long = good.encode();
    long.extend_from_slice(&body);
    long.push(0);
    assert_eq!(reset_code(&quic, &long, true).await, Some(Code::TooLarge.varint()), "more than announced");
    assert_eq!(reset_code(&quic, &BatchHead { boot: BootId(1), ..good.clone() }.encode(), true).await, malformed);
    assert_eq!(reset_code(&quic, &BatchHead { hops: 9, ..good.clone() }.encode(), true).await, malformed);
    assert_eq!(reset_code(&quic, &good.encode()[..5], false).await, Some(Code::TooSlow.varint()), "stalls");

    // What is framed well and is not spans is answered: the sender would send it for ever.
    let junk = [0xff; 40];
    let permanent = Reply::Refused(Refusal::Permanent { reason: Reason::Malformed });
    assert_eq!(send_batch(&quic, &head(&raw, 2, &junk), &junk).await, permanent);
    let bomb = BatchHead { compression: Compression::Zstd, raw_bytes: 60 << 20, ..head(&raw, 3, &junk) };
    assert_eq!(send_batch(&quic, &bomb, &junk).await, permanent);

    // Gossip: junk in datagrams and streams.
    quic.send_datagram(vec![9; 100].into()).unwrap();
    quic.send_datagram(vec![Kind::Gossip as u8; 100].into()).unwrap();
    let mut uni = quic.open_uni().await.unwrap();
    let _ = uni.write_all(&vec![Kind::Gossip as u8; 1 << 20]).await;
    let _ = uni.finish();

    let reply = send_batch(&quic, &good, &body).await;
    assert_eq!(reply, Reply::Accepted { rejected: 0 });
    assert_eq!(quic.close_reason(), None);
    until("all of it is counted", || a.link_to(&id("raw")).unwrap().bad_streams >= 12).await;
    assert_eq!(a.budget.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_twice_is_taken_once() {
    let world = World::new();
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, Tuning::default()).await;
    let raw = Raw::new(&world, "raw");
    let quic = raw.greet(&a).await.unwrap();
    until("the peer is in the ring", || a.owners().len() == 2).await;
    let body = request([(a.trace_of(&a.id, 0), 1)], 10);
    // The head announces one span more than this node's walker lets pass.
    let head = BatchHead { spans: 2, ..head(&raw, 5, &body) };
    for _ in 0..3 {
        assert_eq!(send_batch(&quic, &head, &body).await, Reply::Accepted { rejected: 1 });
    }
    assert!(a.sink.seen().values().eq([&1]));
    assert_eq!((a.link_to(&id("raw")).unwrap().replayed, a.ledger.status().received_peer), (2, 1));
    a.sink.refusals.store(1, SeqCst);
    let again = BatchHead { seq: 6, ..head };
    assert!(matches!(send_batch(&quic, &again, &body).await, Reply::Refused(Refusal::RetryAfter { .. })));
    assert_eq!(send_batch(&quic, &again, &body).await, Reply::Accepted { rejected: 1 }, "a refused one is not known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stalled_streams_hold_no_more_than_the_peers_budget() {
    let world = World::new();
    let tuning = Tuning { inbound_bytes: 1 << 20, read_deadline: Duration::from_secs(2), ..Tuning::default() };
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, tuning).await;
    let raw = Raw::new(&world, "raw");
    let quic = raw.greet(&a).await.unwrap();
    let large = BatchHead { body_bytes: 400_000, raw_bytes: 400_000, ..head(&raw, 0, &[]) };
    let mut stalled = Vec::new();
    for seq in 0..50 {
        let (mut send, recv) = quic.open_bi().await.unwrap();
        send.write_all(&BatchHead { seq, ..large.clone() }.encode()).await.unwrap();
        send.write_all(b"x").await.unwrap();
        stalled.push((send, recv));
    }
    until("some are being read", || a.budget.bytes() > 0).await;
    until("all are reset in the end", || a.link_to(&id("raw")).unwrap().bad_streams == 50).await;
    assert!(a.budget.peak_bytes() <= 1 << 20, "{}", a.budget.peak_bytes());
    let body = request([(trace(1), 1)], 10);
    assert!(matches!(send_batch(&quic, &head(&raw, 99, &body), &body).await, Reply::Accepted { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_run_of_a_connected_peer_is_turned_away() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let mut raw = Raw::new(&world, "raw");
    let _quic = raw.greet(&a).await.unwrap();
    until("the link is up", || a.link_to(&id("raw")).is_some_and(|link| link.connected)).await;
    raw.hello.identity.boot = BootId(5);
    let error = match raw.greet(&a).await {
        Ok(quic) => quic.closed().await,
        Err(error) => error,
    };
    assert_eq!(closed_with(&error), Some(Code::OlderRun.varint()), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_another_owner_are_sent_on_while_they_have_hops_left() {
    let world = World::new();
    let patient = |name, seeds: &[SocketAddr]| MeshSettings {
        failover_after: Duration::from_secs(300),
        ..world.settings(name, seeds)
    };
    let a = world.node_with(patient("a", &[]), Tuning::default()).await;
    let b = world.node_with(patient("b", &[a.address()]), Tuning::default()).await;
    converged(&[&a, &b]).await;
    let raw = Raw::new(&world, "raw");
    let quic = raw.greet(&a).await.unwrap();
    until("all agree on three owners", || a.owners().len() == 3 && b.owners().len() == 3).await;
    let body = request([(a.trace_of(&b.id, 0), 1)], 10);
    for (seq, hops) in [(1, 0), (2, 1)] {
        let head = BatchHead { hops, ..head(&raw, seq, &body) };
        assert_eq!(send_batch(&quic, &head, &body).await, Reply::Accepted { rejected: 0 });
    }
    until("the owner has it", || b.sink.seen().values().eq([&2])).await;
    let head = BatchHead { hops: 2, ..head(&raw, 3, &body) };
    assert_eq!(send_batch(&quic, &head, &body).await, Reply::Accepted { rejected: 0 });
    assert_eq!((a.sink.spans(), a.status().hop_limit_spans), (1, 1));
}
