//! What goes out: requests with each resource once, spans as they came but for what is to be written into them.

use super::*;

#[test]
fn spans_leave_with_the_bytes_that_they_came_with() {
    let mut rig = Rig::new(|_, _| ());
    let spans: Vec<Sent> = (1..20).map(|id| large(id % 3, id, id as usize * 10)).collect();
    rig.offer(&spans).at(10.0).advance();
    let mut out = rig.exported();
    out.sort_by_key(|out| out.id);
    for (sent, out) in spans.iter().zip(out) {
        assert_eq!(out.body, sent.encode());
    }
    rig.finish();
}

#[test]
fn resources_and_scopes_stand_once_in_a_request() {
    let mut rig = Rig::new(|_, _| ());
    for id in 1..50 {
        let cluster = ["east", "west"][id as usize % 2];
        let scope = ["http", "sql", "rpc"][id as usize % 3];
        rig.offer(&[Sent { cluster, scope, ..span(id % 5, id) }]);
    }
    rig.at(10.0);
    rig.traces.advance(rig.now, 100, &mut rig.out);
    assert_eq!(rig.out.len(), 1);
    assert_eq!((rig.out[0].spans.resources.len(), rig.out[0].spans.scopes.len()), (2, 6));
    let out = rig.exported();
    assert_eq!(out.len(), 49);
    assert!(out.iter().all(|out| out.cluster == ["east", "west"][out.id as usize % 2]));
    rig.finish();
}

#[test]
fn a_header_is_kept_as_long_as_a_span_stands_under_it() {
    let mut rig = Rig::new(|bounds, _| bounds.recent_traces = 0);
    rig.at(0.0).offer(&[Sent { cluster: "east", ..span(1, 1) }]);
    rig.at(1.0).offer(&[Sent { cluster: "west", ..span(2, 1) }, Sent { cluster: "east", ..span(2, 2) }]);
    rig.at(10.0).advance();
    rig.at(10.5).offer(&[Sent { cluster: "south", ..span(3, 1) }, Sent { cluster: "north", ..span(4, 1) }]);
    rig.at(30.0).advance();
    let mut clusters: Vec<(u64, String)> = rig.exported().into_iter().map(|out| (out.id, out.cluster)).collect();
    clusters.sort();
    let expected = [(1, "east"), (1, "north"), (1, "south"), (1, "west"), (2, "east")];
    assert_eq!(clusters, expected.map(|(id, cluster)| (id, cluster.to_owned())));
    rig.finish();
}

#[test]
fn marks_are_written_only_where_they_are_asked_for() {
    let mut rig = Rig::sampling(|_, judges| judges.marks = SamplingMarks { policy: true, owner: true, reason: true });
    rig.offer(&[error(1, 1), span(1, 2)]).at(10.0).advance();
    for out in rig.exported() {
        assert_eq!(out.attribute("tailsampling.policy").as_deref(), Some("errors"));
        assert_eq!(out.attribute("spanmesh.owner").as_deref(), Some("east/one"));
        assert_eq!(out.attribute("spanmesh.decision_cause").as_deref(), Some("waited"));
    }
    rig.finish();

    let mut rig = Rig::sampling(|_, _| ());
    rig.offer(&[error(1, 1)]).at(10.0).advance();
    assert_eq!(rig.exported()[0].body, error(1, 1).encode());
    rig.finish();
}

#[test]
fn spans_on_both_sides_of_a_crossing_bear_its_clusters() {
    let mut rig = Rig::new(|_, judges| judges.write_crossings = true);
    let client = Sent { cluster: "east", parent: 0, ..span(1, 1) };
    let server = Sent { cluster: "west", parent: 1, kind: 2, ..span(1, 2) };
    let inner = Sent { cluster: "west", parent: 2, kind: 1, ..span(1, 3) };
    rig.offer(&[server, inner, client]).at(10.0).advance();
    for out in rig.exported() {
        let crossing = (out.attribute("cross_cluster.source"), out.attribute("cross_cluster.target"));
        let expected = (out.id != 3).then(|| ("east".to_owned(), "west".to_owned()));
        assert_eq!(crossing, expected.unzip());
    }
    rig.finish();
}

#[test]
fn a_span_of_several_crossings_bears_the_same_in_any_order() {
    let caller = Sent { cluster: "east", parent: 0, ..span(1, 1) };
    let called = |cluster, id| Sent { cluster, parent: 1, kind: 2, ..span(1, id) };
    let all = [caller, called("west", 2), called("north", 3), Sent { cluster: "south", parent: 3, ..span(1, 4) }];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let mut rig = Rig::new(|_, judges| judges.write_crossings = true);
        rig.offer(&order.map(|n: usize| all[n].clone())).at(10.0).advance();
        for out in rig.exported() {
            let crossing = (out.attribute("cross_cluster.source"), out.attribute("cross_cluster.target"));
            let (source, target) =
                [("east", "north"), ("east", "west"), ("east", "north"), ("north", "south")][out.id as usize - 1];
            assert_eq!(crossing, (Some(source.to_owned()), Some(target.to_owned())), "{} {order:?}", out.id);
        }
        rig.finish();
    }
}

#[test]
fn a_large_trace_leaves_in_several_requests_and_each_has_its_receipts() {
    let mut rig = Rig::new(|_, _| ());
    for n in 0..40 {
        rig.offer(&(1..=10).map(|id| large(1, n * 10 + id, 8_000)).collect::<Vec<_>>());
    }
    rig.at(10.0).advance();
    assert!(rig.out.len() >= 5);
    assert!(rig.out.iter().all(|release| release.spans.bytes.len() < 600_000));
    assert_eq!(rig.ids().len(), 400);
    rig.finish();
}

#[test]
fn what_is_kept_by_chance_bears_the_threshold_and_so_does_what_comes_late() {
    use crate::wire::attributes::trace_state;
    for recent_traces in [0, 100] {
        let mut rig = Rig::new(|bounds, judges| {
            bounds.recent_traces = recent_traces;
            let half = PolicyKind::Probabilistic { sampling_percentage: 50.0, hash_salt: String::new() };
            judges.sampler = Some(sampler([("half", half)]));
        });
        rig.offer(&(0..100).map(|n| span(n, 1)).collect::<Vec<_>>()).at(10.0).advance();
        rig.offer(&(0..100).map(|n| span(n, 2)).collect::<Vec<_>>());
        let out = rig.exported();
        assert!(out.len() > 20 && out.len() < 180);
        assert!(out.iter().all(|out| trace_state(&out.body) == "ot=th:8"), "{}", trace_state(&out[0].body));
        assert_eq!(rig.status().kept_spans, rig.status().late_kept_spans);
        rig.finish();
    }
}
