//! Questions about traces and the time, and peers that answer them badly.

use std::sync::mpsc;

use quinn::{RecvStream, SendStream};

use super::*;
use crate::link::explain::example::report;
use crate::link::explain::{Explanation, PeerAnswer, Silence};
use crate::link::frame::{ClockReply, Code, Kind, MAX_REPORT, PROTOCOL_MAX, Query, ReportHead};
use crate::link::stream::{read_head, read_kind};
use crate::logic::traces::Wanted;
use crate::model::UnixNanos;

const ALL: Wanted = Wanted { spans: true, values: true };

fn patient(world: &World, name: &str, seeds: &[SocketAddr]) -> MeshSettings {
    MeshSettings { failover_after: Duration::from_secs(300), ..world.settings(name, seeds) }
}

/// A node that waits for the answer to a question so long, and no longer.
async fn asker(world: &World, deadline: Duration) -> Node {
    let tuning = Tuning { question_deadline: deadline, ..Tuning::default() };
    world.node_with(patient(world, "a", &[]), tuning).await
}

/// Has a node know every trace, with so many spans; `None`: no trace.
fn knows(node: &Node, spans: Option<u64>) {
    node.mesh.answer_with(Arc::new(move |_, _| PeerAnswer::new(unix_now(), 100.0, Some(60.0), spans.map(report))));
}

fn timeline_of(answer: &PeerAnswer) -> Option<usize> {
    Some(answer.trace.as_ref()?.details.as_ref()?.timeline.as_ref()?.len())
}

async fn explain(node: &Node, trace: TraceId, wanted: Wanted) -> Explanation {
    tokio::time::timeout(PATIENCE, node.mesh.explain(trace, wanted)).await.expect("an explanation has an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_what_the_owner_knows_and_gives_away_only_what_was_asked_for() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    knows(&a, None);
    knows(&b, Some(7));
    let of_b = a.trace_of(&b.id, 0);
    for node in [&a, &b] {
        let explained = explain(node, of_b, ALL).await;
        let answer = explained.answer.unwrap();
        assert_eq!((explained.owner.as_ref(), answer.spans(), timeline_of(&answer)), (Some(&b.id), 7, Some(7)));
        assert_eq!((&answer.ring_version, answer.owner), (&explained.ring_version, Some(b.id.to_string())));
        assert_eq!((explained.others_asked, explained.elsewhere.len()), (0, 0));
    }
    assert_eq!(timeline_of(&explain(&a, of_b, Wanted::default()).await.answer.unwrap()), None);
    let answer = explain(&a, of_b, Wanted { values: false, ..ALL }).await.answer.unwrap();
    let lines = answer.trace.unwrap().details.unwrap().timeline.unwrap();
    assert!(lines.iter().all(|line| line.service.is_none() && line.attributes.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_owner_does_not_know_a_trace_the_others_are_asked() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    let c = world.node("c", &[a.address(), b.address()]).await;
    converged(&[&a, &b, &c]).await;
    knows(&a, Some(2));
    knows(&b, None);
    knows(&c, Some(5));
    let explained = explain(&a, a.trace_of(&b.id, 0), ALL).await;
    assert_eq!(explained.answer.unwrap().trace, None);
    let elsewhere: Vec<_> = explained.elsewhere.iter().map(|(who, answer)| (who, answer.spans())).collect();
    assert_eq!(elsewhere, [(&c.id, 5), (&a.id, 2)]);
    assert_eq!((explained.others_asked, explained.others_silent), (1, 0));
    assert_eq!(timeline_of(&explained.elsewhere[0].1), Some(5), "spans of the one that knows most");
    assert_eq!(timeline_of(&explained.elsewhere[1].1), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_answers_for_itself_and_one_that_starts_says_so() {
    let world = World::new();
    let alone = MeshSettings { security: None, ..world.settings("a", &[]) };
    let a = world.node_with(alone, Tuning::default()).await;
    let starting = explain(&a, trace(1), ALL).await;
    assert!(matches!(&starting.answer, Err(Silence::Broken(why)) if why.contains("starting")), "{starting:?}");
    knows(&a, Some(1));
    let explained = explain(&a, trace(1), ALL).await;
    assert_eq!((explained.owner, explained.answer.unwrap().spans()), (Some(a.id.clone()), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_spokes_has_no_owner_and_whoever_knows_is_heard() {
    let world = World::new();
    let spoke = MeshSettings { weight: 0, ..world.settings("a", &[]) };
    let a = world.node_with(spoke, Tuning::default()).await;
    knows(&a, Some(1));
    let explained = explain(&a, trace(1), ALL).await;
    assert_eq!((explained.owner, explained.answer), (None, Err(Silence::NoOwner)));
    assert_eq!(explained.elsewhere[0].0, a.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_died_is_named_and_the_others_are_asked() {
    let world = Arc::new(World::new());
    let a = asker(&world, Duration::from_secs(1)).await;
    knows(&a, Some(3));
    let (its_runtime, w) = (runtime(), world.clone());
    let settings = patient(&world, "b", &[a.address()]);
    let b = its_runtime.spawn(async move { w.node_with(settings, Tuning::default()).await }).await.unwrap();
    converged(&[&a, &b]).await;
    let of_b = a.trace_of(&b.id, 0);
    kill(its_runtime).await;
    let explained = explain(&a, of_b, ALL).await;
    assert!(matches!(explained.answer, Err(Silence::TimedOut | Silence::NotLinked)), "{explained:?}");
    assert_eq!((explained.owner.as_ref(), &explained.elsewhere[0].0), (Some(&b.id), &a.id));
    drop(b);
}

/// A peer made by hand that owns traces of `a`'s ring, and one of those.
async fn by_hand(world: &World, a: &Node, protocol_max: u16) -> (Raw, quinn::Connection, TraceId) {
    let mut raw = Raw::new(world, "raw");
    raw.hello.protocol_max = protocol_max;
    let quic = raw.greet(a).await.unwrap();
    until("the peer is in the ring", || a.owners().len() == 2).await;
    let trace = a.trace_of(&id("raw"), 0);
    (raw, quic, trace)
}

/// The next stream that asks about a trace. Questions for the time are left without an answer.
async fn next_query(quic: &quinn::Connection) -> (Query, SendStream, RecvStream) {
    loop {
        let (send, mut recv) = quic.accept_bi().await.unwrap();
        if read_kind(&mut recv).await.unwrap() == Kind::Query {
            return (Query::decode(&read_head(&mut recv).await.unwrap()).unwrap(), send, recv);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_an_older_version_is_not_asked() {
    let world = World::new();
    let a = asker(&world, PATIENCE).await;
    let (_raw, quic, trace) = by_hand(&world, &a, PROTOCOL_MIN).await;
    assert_eq!(explain(&a, trace, ALL).await.answer, Err(Silence::Older));
    a.offer(spans([(trace, 1)])).await.unwrap();
    let (_send, mut recv) = quic.accept_bi().await.unwrap();
    assert_eq!(read_kind(&mut recv).await.unwrap(), Kind::Batch, "nothing but batches was ever sent to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_told_as_such_and_costs_the_peer_nothing_but_its_word() {
    let world = World::new();
    let a = asker(&world, PATIENCE).await;
    let (_raw, quic, trace) = by_hand(&world, &a, PROTOCOL_MAX).await;
    let good = serde_json::to_vec(&PeerAnswer::new(unix_now(), 1.0, None, Some(report(2)))).unwrap();
    let framed = |announced: usize, body: &[u8]| [&ReportHead { body_bytes: announced }.encode(), body].concat();
    let huge = framed(MAX_REPORT + 1, b"");
    let deep = format!("{}1", "[".repeat(100_000)).into_bytes();
    let answers: [(Vec<u8>, Option<&str>); 8] = [
        (framed(good.len(), &good), None),
        (huge, Some("longer than")),
        (framed(good.len() + 9, &good), Some("cut short")),
        (framed(good.len() - 9, &good), Some("longer than")),
        (framed(4, b"junk"), Some("report is missing or wrong")),
        (framed(deep.len(), &deep), Some("report is missing or wrong")),
        (vec![Kind::Reply as u8, 1, 0], Some("unknown kind")),
        (Vec::new(), Some("cut short")),
    ];
    for (bytes, wrong) in answers {
        let peer = async {
            let (query, mut send, _recv) = next_query(&quic).await;
            assert_eq!((query.trace_id, query.wanted), (trace, ALL));
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        };
        let (explained, ()) = tokio::join!(explain(&a, trace, ALL), peer);
        match (explained.answer, wrong) {
            (Ok(answer), None) => assert_eq!(answer.spans(), 2),
            (Err(Silence::Broken(why)), Some(wrong)) => assert!(why.contains(wrong), "{why:?} is not {wrong:?}"),
            (answer, wrong) => panic!("{answer:?} instead of {wrong:?}"),
        }
    }
    assert_eq!(quic.close_reason(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_says_nothing_is_waited_for_until_the_deadline_only() {
    let world = World::new();
    let a = asker(&world, Duration::from_millis(300)).await;
    let (_raw, quic, trace) = by_hand(&world, &a, PROTOCOL_MAX).await;
    let (explained, _held) = tokio::join!(explain(&a, trace, ALL), next_query(&quic));
    assert_eq!(explained.answer, Err(Silence::TimedOut));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_say_nothing_are_counted_and_hold_nobody_up() {
    let world = World::new();
    let a = asker(&world, Duration::from_millis(300)).await;
    knows(&a, None);
    let mut spoke = Raw::new(&world, "raw");
    (spoke.hello.protocol_max, spoke.hello.identity.weight) = (PROTOCOL_MAX, 0);
    let quic = spoke.greet(&a).await.unwrap();
    until("the link is up", || a.link_to(&id("raw")).is_some_and(|link| link.connected)).await;
    let (explained, (query, _send, _recv)) = tokio::join!(explain(&a, trace(1), ALL), next_query(&quic));
    assert_eq!((explained.others_asked, explained.others_silent), (1, 1));
    assert_eq!(explained.answer.unwrap().trace, None);
    assert_eq!(query.wanted, Wanted::default(), "many are asked, so none for spans");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_between_question_and_answer_ends_the_waiting() {
    let world = World::new();
    let a = asker(&world, PATIENCE * 10).await;
    let (_raw, quic, trace) = by_hand(&world, &a, PROTOCOL_MAX).await;
    let peer = async {
        let asked = next_query(&quic).await;
        quic.close(0u32.into(), b"gone");
        asked
    };
    let (explained, _) = tokio::join!(explain(&a, trace, ALL), peer);
    assert_eq!(explained.answer, Err(Silence::Broken("the link to it broke".into())));
}

/// Asks by hand; `Err`: the code that the stream was reset with.
async fn ask_by_hand(quic: &quinn::Connection, bytes: &[u8]) -> Result<PeerAnswer, quinn::VarInt> {
    let (mut send, mut recv) = quic.open_bi().await.unwrap();
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(2 * MAX_REPORT)).await.expect("it is answered");
    match answer {
        Ok(answer) => {
            let start = answer.iter().position(|byte| *byte == b'{').unwrap();
            Ok(serde_json::from_slice(&answer[start..]).unwrap())
        }
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => Err(code),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_questions_are_reset_and_too_many_are_turned_away_while_the_link_lives_on() {
    let world = World::new();
    let a = asker(&world, PATIENCE).await;
    let (raw, quic, trace) = by_hand(&world, &a, PROTOCOL_MAX).await;
    let query = Query { trace_id: trace, wanted: ALL }.encode();
    assert_eq!(ask_by_hand(&quic, &query).await, Err(Code::Busy.varint()), "the node is still starting");

    // Each look waits until the test lets it go.
    let (looking, looks) = mpsc::channel();
    let (let_go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    a.mesh.answer_with(Arc::new(move |_, _| {
        looking.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        PeerAnswer::new(unix_now(), 1.0, None, Some(report(20_000)))
    }));
    let malformed = Err(Code::Malformed.varint());
    assert_eq!(ask_by_hand(&quic, &[Kind::Query as u8, 1, 0]).await, malformed);
    let more = [&query[..], b"more"].concat();
    assert_eq!(ask_by_hand(&quic, &more).await, Err(Code::TooLarge.varint()));
    assert_eq!(ask_by_hand(&quic, &[Kind::Report as u8, 1, 0]).await, Err(Code::UnknownKind.varint()));
    assert_eq!(ask_by_hand(&quic, &[Kind::Query as u8, 1, 0x80, 0xff, 0xff, 0xff]).await, Err(Code::TooLarge.varint()));

    let mut waiting = tokio::task::JoinSet::new();
    let most = super::super::explain::ANSWERING_PEER;
    for _ in 0..most {
        let (quic, query) = (quic.clone(), query.clone());
        waiting.spawn(async move { ask_by_hand(&quic, &query).await });
    }
    let begun = tokio::task::spawn_blocking(move || {
        (0..most).for_each(|_| looks.recv_timeout(PATIENCE).unwrap());
        looks
    });
    let looks = begun.await.unwrap();
    assert_eq!(ask_by_hand(&quic, &query).await, Err(Code::Busy.varint()));
    assert!(looks.try_recv().is_err(), "nobody looked for it");
    (0..most).for_each(|_| let_go.send(()).unwrap());
    for answer in waiting.join_all().await {
        let answer = answer.unwrap();
        let left_out = answer.trace.as_ref().unwrap().details.as_ref().unwrap().left_out;
        assert_eq!((answer.spans(), timeline_of(&answer).unwrap() as u64 + left_out), (20_000, 20_000));
        assert!(left_out > 0, "a report is no longer than its bound");
    }
    let_go.send(()).unwrap();
    assert!(ask_by_hand(&quic, &query).await.is_ok(), "it may ask again");
    assert_eq!((quic.close_reason(), a.link_to(&raw.hello.identity.id).unwrap().bad_streams), (None, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_on_one_machine_find_that_their_clocks_agree() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    for (node, peer) in [(&a, &b), (&b, &a)] {
        let offset = || node.link_to(&peer.id)?.clock_offset_seconds;
        until("the clocks are compared", || offset().is_some()).await;
        let link = node.link_to(&peer.id).unwrap();
        let (offset, error) = (offset().unwrap(), link.clock_offset_error_seconds.unwrap());
        // Both read the one clock of this machine.
        assert!(offset.abs() <= error + 1e-6, "{offset} ± {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_measured_and_one_that_talks_nonsense_is_not() {
    let world = World::new();
    let tuning = Tuning { clock_interval: Duration::from_millis(20), ..Tuning::default() };
    let a = world.node_with(patient(&world, "a", &[]), tuning).await;
    let mut raw = Raw::new(&world, "raw");
    raw.hello.protocol_max = PROTOCOL_MAX;
    let quic = raw.greet(&a).await.unwrap();
    let answer = async |reply: &dyn Fn(u64) -> (u64, u64)| {
        let (mut send, mut recv) = quic.accept_bi().await.unwrap();
        assert_eq!(read_kind(&mut recv).await.unwrap(), Kind::Clock);
        let (heard, answered) = reply(unix_now().0);
        let reply = ClockReply { heard: UnixNanos(heard), answered: UnixNanos(answered) };
        send.write_all(&reply.encode()).await.unwrap();
        send.finish().unwrap();
        let _ = send.stopped().await;
    };
    for _ in 0..3 {
        answer(&|now| (now, u64::MAX)).await;
        answer(&|now| (now, now - 1)).await;
    }
    assert_eq!(a.link_to(&id("raw")).unwrap().clock_offset_seconds, None);
    answer(&|now| (now + 90_000_000_000, now + 90_000_000_000)).await;
    let offset = || a.link_to(&id("raw")).unwrap().clock_offset_seconds.unwrap_or_default();
    until("it is measured", || (89.0..91.0).contains(&offset())).await;
    answer(&|now| (now - 5_000_000_000, now - 5_000_000_000)).await;
    until("it was set, and that is believed", || (-6.0..-4.0).contains(&offset())).await;
}
