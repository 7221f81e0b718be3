//! Spans and their owners.

use super::*;
use crate::link::frame::{BatchHead, Kind, Reply};
use crate::link::stream::{read_head, read_kind};
use crate::logic::route::MAX_HOPS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_find_each_other_by_one_seed_and_every_span_reaches_its_owner_once() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    let c = world.node("c", &[a.address(), b.address()]).await;
    converged(&[&a, &b, &c]).await;
    let versions: Vec<String> = [&a, &b, &c].iter().map(|node| node.status().ring.version).collect();
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");

    // Each trace has a span at each node.
    for (span, node) in [&a, &b, &c].into_iter().enumerate() {
        for batch in 0..10 {
            let spans = spans((batch * 50..batch * 50 + 50).map(|n| (trace(n), span as u64)));
            node.offer(spans).await.unwrap();
        }
    }
    until("all spans arrive", || [&a, &b, &c].iter().map(|node| node.sink.spans()).sum::<usize>() == 1_500).await;
    for node in [&a, &b, &c] {
        for ((trace, _), times) in node.sink.seen() {
            assert_eq!((a.mesh.owner_of(&trace), times), (Some(node.id.clone()), 1));
        }
        until("nothing is in flight", || node.ledger.status().in_flight == 0 && node.budget.bytes() == 0).await;
        assert!(node.ledger.status().balanced);
        assert!(node.sink.spans() > 300);
    }
    let link = a.link_to(&b.id).unwrap();
    assert!(link.sent_spans > 0 && link.received_spans > 0 && link.sent_wire_bytes < link.sent_raw_bytes);
    let member = a.status().members.into_iter().find(|member| member.id == c.id.to_string()).unwrap();
    assert_eq!((member.region.as_str(), member.linked, member.state), ("r", true, "active"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_at_once_lose_nothing_and_keep_one_connection() {
    let world = World::new();
    let settings = |name: &str, listen, seed| MeshSettings { listen, ..world.settings(name, &[seed]) };
    // Known beforehand, so that each can be the other's seed before it runs.
    let (first, second) = (free_port(), free_port());
    let a = world.node_with(settings("a", first, second), Tuning::default()).await;
    let b = world.node_with(settings("b", second, first), Tuning::default()).await;
    converged(&[&a, &b]).await;
    for n in 0..100 {
        a.offer(spans([(trace(n), 1)])).await.unwrap();
        b.offer(spans([(trace(n), 2)])).await.unwrap();
    }
    until("all spans arrive", || a.sink.spans() + b.sink.spans() == 200).await;
    assert!(a.sink.seen().values().chain(b.sink.seen().values()).all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_for_a_dead_owner_wait_and_then_go_to_the_new_one() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let its_runtime = runtime();
    let (settings, seed) = (world.settings("b", &[a.address()]), Arc::new(world));
    let w = seed.clone();
    let b = its_runtime.spawn(async move { w.node_with(settings, Tuning::default()).await }).await.unwrap();
    converged(&[&a, &b]).await;
    let wanted: Vec<TraceId> = (0..20).map(|n| a.trace_of(&b.id, n * 1_000)).collect();
    kill(its_runtime).await;

    for (n, trace) in wanted.iter().enumerate() {
        a.offer(spans([(*trace, n as u64)])).await.unwrap();
    }
    assert_eq!(a.sink.spans(), 0);
    assert_eq!(a.ledger.status().in_flight, 20);
    until("the ring moves and the spans with it", || a.sink.spans() == 20).await;
    until("they have met their fate", || a.ledger.status().in_flight == 0).await;
    assert_eq!(a.ledger.status().exported, 20);
    assert_eq!(a.status().rerouted_spans, 20);
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_owner_refuses_for_now_is_sent_again() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    b.sink.refusals.store(3, SeqCst);
    a.offer(spans([(a.trace_of(&b.id, 0), 7)])).await.unwrap();
    until("the owner takes it in the end", || b.sink.spans() == 1).await;
    until("its fate is known", || a.ledger.status().forwarded == 1).await;
    assert_eq!(a.link_to(&b.id).unwrap().refused_by_peer, 3);
    assert!(a.ledger.status().balanced && b.ledger.status().balanced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_with_no_hops_left_are_kept_and_counted() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    a.offer_after(spans([(a.trace_of(&b.id, 0), 7)]), MAX_HOPS).await.unwrap();
    assert_eq!((a.sink.spans(), b.sink.spans(), a.status().hop_limit_spans), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_wait_for_a_restarting_peer_reach_its_next_run() {
    let world = Arc::new(World::new());
    let a = world.node_with(
        MeshSettings { failover_after: Duration::from_secs(60), ..world.settings("a", &[]) },
        Tuning { reply_deadline: Duration::from_millis(300), ..Tuning::default() },
    );
    let a = a.await;
    let its_runtime = runtime();
    let (w, seed) = (world.clone(), a.address());
    let b = its_runtime.spawn(async move { w.node("b", &[seed]).await }).await.unwrap();
    converged(&[&a, &b]).await;
    kill(its_runtime).await;
    a.offer(spans([(a.trace_of(&b.id, 0), 7)])).await.unwrap();
    let again = world.node("b", &[a.address()]).await;
    until("its next run gets the spans", || again.sink.spans() == 1).await;
    assert_eq!(a.ledger.status().dropped.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_in_its_place_is_dialled_anew_long_before_it_would_be_declared_dead() {
    let world = Arc::new(World::new());
    let place = MeshSettings { listen: free_port(), ..world.settings("b", &[]) };
    let its_runtime = runtime();
    let (w, settings) = (world.clone(), place.clone());
    let b = its_runtime.spawn(async move { w.node_with(settings, Tuning::default()).await }).await.unwrap();
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[b.address()]) };
    let a = world.node_with(patient, Tuning::default()).await;
    converged(&[&a, &b]).await;
    kill(its_runtime).await;
    drop(b);
    until("the port is free", || std::net::UdpSocket::bind(place.listen).is_ok()).await;
    let next_run = world.node_with(place, Tuning::default()).await;
    converged(&[&a, &next_run]).await;
    a.offer(spans([(a.trace_of(&next_run.id, 0), 7)])).await.unwrap();
    until("its next run gets the spans", || next_run.sink.spans() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_fills_its_own_queue_and_slows_nobody() {
    let world = World::new();
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, Tuning { queue_bytes: 4 << 20, ..Tuning::default() }).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    let stuck = Raw::new(&world, "stuck");
    let _quic = stuck.greet(&a).await.unwrap();
    until("the stuck node owns traces", || a.owners().len() == 3).await;

    let mine_of_stuck = a.trace_of(&id("stuck"), 0);
    let mut refused = None;
    for n in 0..1_000 {
        if let Err(refusal) = a.offer(padded([(mine_of_stuck, n)], 100_000)).await {
            refused = Some(refusal);
            break;
        }
    }
    assert_eq!(refused.map(|refusal| refusal.reason()), Some(Reason::QueueFull));
    // A batch with one span for the stuck node is refused whole: nothing of it is taken.
    let theirs = a.trace_of(&b.id, 0);
    let mixed = padded([(theirs, 1), (mine_of_stuck, 5_000)], 1_500_000 / 2);
    assert_eq!(a.offer(mixed).await.unwrap_err().reason(), Reason::QueueFull);
    for n in 0..200 {
        a.offer(padded([(theirs, 10_000 + n)], 10_000)).await.unwrap();
    }
    until("the other peer gets everything", || b.sink.spans() == 200).await;
    let queue = a.link_to(&id("stuck")).unwrap();
    assert!(queue.queue_bytes > 0 && queue.queue_bytes <= 4 << 20, "{}", queue.queue_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_not_answered_comes_again_under_its_number() {
    let world = World::new();
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, Tuning::default()).await;
    let raw = Raw::new(&world, "raw");
    let quic = raw.greet(&a).await.unwrap();
    until("the peer owns traces", || a.owners().len() == 2).await;
    a.offer(spans([(a.trace_of(&id("raw"), 0), 7)])).await.unwrap();

    let next_batch = async |quic: &quinn::Connection| {
        let (send, mut recv) = tokio::time::timeout(PATIENCE, quic.accept_bi()).await.unwrap().unwrap();
        assert_eq!(read_kind(&mut recv).await.unwrap(), Kind::Batch);
        let head = BatchHead::decode(&read_head(&mut recv).await.unwrap()).unwrap();
        recv.read_to_end(1 << 20).await.unwrap();
        (head, send)
    };
    let (first, _unanswered) = next_batch(&quic).await;
    quic.close(1u32.into(), b"gone before the answer");
    let quic = raw.greet(&a).await.unwrap();
    let (second, mut send) = next_batch(&quic).await;
    assert_eq!((first.seq, first.boot, second.spans), (second.seq, second.boot, 1));
    send.write_all(&Reply::Accepted { rejected: 0 }.encode()).await.unwrap();
    send.finish().unwrap();
    until("the spans are forwarded", || a.ledger.status().forwarded == 1).await;
    assert_eq!(a.link_to(&id("raw")).unwrap().unanswered, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_under_load_lose_no_span_and_double_none() {
    let world = World::new();
    let patient = |name, seeds: &[SocketAddr]| MeshSettings {
        failover_after: Duration::from_secs(300),
        ..world.settings(name, seeds)
    };
    let a = world.node_with(patient("a", &[]), Tuning::default()).await;
    let b = world.node_with(patient("b", &[a.address()]), Tuning::default()).await;
    converged(&[&a, &b]).await;
    let theirs = a.trace_of(&b.id, 0);
    for round in 0..10 {
        for n in 0..200 {
            a.offer(padded([(theirs, round * 200 + n)], 3_000)).await.unwrap();
        }
        a.mesh.break_connections();
        until("there is a new connection", || a.link_to(&b.id).unwrap().connected).await;
    }
    until("all spans arrive", || b.sink.spans() == 2_000).await;
    until("all are answered for", || a.ledger.status().forwarded == 2_000).await;
    assert!(b.sink.seen().values().all(|times| *times == 1));
    assert!(a.link_to(&b.id).unwrap().reconnects >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaving_node_hands_over_what_waits_and_takes_nothing_new() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    for n in 0..50 {
        b.offer(spans([(a.trace_of(&a.id, n), n)])).await.unwrap();
    }
    assert_eq!(b.mesh.leave(Duration::from_secs(10)).await, 0);
    assert_eq!(a.sink.spans(), 50);
    assert_eq!(b.offer(spans([(trace(1), 1)])).await.unwrap_err().reason(), Reason::ShuttingDown);
    let ledger = b.ledger.status();
    assert_eq!((ledger.in_flight, ledger.forwarded), (0, 50));
    until("the other node has the ring for itself", || a.owners() == [a.id.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_handed_over_at_shutdown_is_dropped_by_name() {
    let world = World::new();
    let patient = MeshSettings { failover_after: Duration::from_secs(300), ..world.settings("a", &[]) };
    let a = world.node_with(patient, Tuning::default()).await;
    let stuck = Raw::new(&world, "stuck");
    let _quic = stuck.greet(&a).await.unwrap();
    until("the stuck node owns traces", || a.owners().len() == 2).await;
    a.offer(spans([(a.trace_of(&id("stuck"), 0), 7)])).await.unwrap();
    assert_eq!(a.mesh.leave(Duration::from_millis(100)).await, 1);
    let ledger = a.ledger.status();
    assert_eq!((ledger.in_flight, ledger.dropped.get("shutdown"), ledger.balanced), (0, Some(&1), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_owns_everything_and_a_spoke_nothing() {
    let world = World::new();
    let alone = MeshSettings { security: None, weight: 0, ..world.settings("a", &[]) };
    let alone = world.node_with(alone, Tuning::default()).await;
    assert_eq!(alone.mesh.listen_addr(), None);
    alone.offer(spans((0..9).map(|n| (trace(n), n)))).await.unwrap();
    assert_eq!(alone.sink.spans(), 9);

    let hub = world.node("hub", &[]).await;
    let spoke = MeshSettings { weight: 0, ..world.settings("spoke", &[]) };
    let lonely = world.node_with(spoke.clone(), Tuning::default()).await;
    assert_eq!(lonely.offer(spans([(trace(1), 1)])).await.unwrap_err().reason(), Reason::NoOwner);
    lonely.mesh.leave(Duration::ZERO).await;
    let seeds = world.settings("spoke", &[hub.address()]).seeds;
    let spoke = world.node_with(MeshSettings { seeds, ..spoke }, Tuning::default()).await;
    until("the spoke knows the hub", || spoke.owners() == [hub.id.to_string()]).await;
    spoke.offer(spans((0..9).map(|n| (trace(n), n)))).await.unwrap();
    until("all spans reach the hub", || hub.sink.spans() == 9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_larger_than_a_batch_or_the_whole_queue_is_cut_and_arrives_whole() {
    let world = World::new();
    let a = world.node_with(world.settings("a", &[]), Tuning { queue_bytes: 4 << 20, ..Tuning::default() }).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    let theirs = a.trace_of(&b.id, 0);
    a.offer(padded((0..120).map(|n| (theirs, n)), 50_000)).await.unwrap();
    until("all spans arrive", || b.sink.spans() == 120).await;
    until("all are answered for", || a.ledger.status().forwarded == 120).await;
    assert!(a.link_to(&b.id).unwrap().sent_batches > 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_certificates_nodes_are_believed_and_the_status_says_so() {
    let world = World::new();
    let insecure = |name, seeds: &[SocketAddr]| MeshSettings {
        security: Some(MeshSecurity::InsecureDev),
        compression: LinkCompression::Lz4,
        ..world.settings(name, seeds)
    };
    let a = world.node_with(insecure("a", &[]), Tuning::default()).await;
    let b = world.node_with(insecure("b", &[a.address()]), Tuning::default()).await;
    converged(&[&a, &b]).await;
    a.offer(spans([(a.trace_of(&b.id, 0), 1)])).await.unwrap();
    until("the owner has it", || b.sink.spans() == 1).await;
    assert!(a.status().insecure);
    // One that asks for certificates and one that has none do not meet.
    let c = world.node("c", &[a.address()]).await;
    until("the dial fails", || c.status().dials_failed > 0).await;
    assert_eq!((c.owners().len(), a.owners().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_carry_the_name_of_the_cluster_that_took_them_in_whoever_owns_them() {
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    let (mine, theirs) = (a.trace_of(&a.id, 0), a.trace_of(&b.id, 0));
    // All for one node, all for the other, for both; with and without a forged name.
    let forged = wire::ClusterStamp::new("forged");
    for (n, traces) in [[mine, mine], [theirs, theirs], [mine, theirs]].into_iter().enumerate() {
        let batch = |from: u64| spans([(traces[0], from), (traces[1], from + 1)]);
        a.offer(batch(10 * n as u64)).await.unwrap();
        a.offer(wire::edit_resources(&batch(10 * n as u64 + 2), forged.edits())).await.unwrap();
    }
    // What peers send was stamped where it was taken in.
    a.offer_after(wire::edit_resources(&spans([(mine, 100)]), forged.edits()), 1).await.unwrap();
    until("both have theirs", || (a.sink.spans(), b.sink.spans()) == (7, 6)).await;
    let clusters = |node: &Node| node.sink.clusters.lock().unwrap().clone();
    assert_eq!(clusters(&a).remove(&100).as_deref(), Some("forged"));
    let others = clusters(&a).into_iter().chain(clusters(&b)).filter(|(span, _)| *span != 100);
    assert!(others.map(|(_, cluster)| cluster).all(|cluster| cluster == "a"));
    assert_eq!((a.status().cluster_conflict_spans, b.status().cluster_conflict_spans), (6, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_node_was_told_to_add_to_resources_is_not_rejected_by_the_owner() {
    use crate::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceAction, ResourceSettings};
    let world = World::new();
    let a = world.node("a", &[]).await;
    let b = world.node("b", &[a.address()]).await;
    converged(&[&a, &b]).await;
    let action = |n| {
        let value = AttributeValue::String("x".repeat(200));
        ResourceAction { key: format!("k{n}"), kind: ActionKind::Insert(AttributeSource::Value(value)) }
    };
    let edits = wire::ResourceEdits::compile(&ResourceSettings { actions: (0..1_900).map(action).collect() });
    a.offer(wire::edit_resources(&spans([(a.trace_of(&b.id, 0), 1)]), &edits)).await.unwrap();
    until("the owner has it", || b.sink.spans() == 1).await;
    assert_eq!((edits.left_out(), a.status().links[0].rejected_by_peer_spans), (0, 0));
}
