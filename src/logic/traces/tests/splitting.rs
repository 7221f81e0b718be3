//! However the spans of some traces are cut up on their way to the owner, in whatever order they come and how often
//! each: the same verdicts, the same spans with the same marks, the same metrics.
//!
//! Through the buffer as it stands in a node, with all its judges. Few ids, kinds, clusters and times, so that
//! everything collides: ids shared by the halves of a call, parents that are not there, spans that are their own parent,
//! circles. Policies with a rate are not among these: theirs is the one verdict that depends on what came before.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::config::settings::CrossClusterSettings;
use crate::logic::cross_cluster::{CrossCluster, CrossClusterStatus};
use crate::logic::sampling::PolicyStatus;
use crate::logic::testing::{self, TestSpan};

const CLUSTERS: [&str; 3] = ["east", "west", "north"];

/// A span of the trace with this number.
#[derive(Clone, Debug)]
struct Piece {
    trace: u64,
    /// What makes it this span and no other: its id, kind and end.
    key: (u64, u8, u64),
    span: TestSpan,
}

fn piece() -> impl Strategy<Value = Piece> {
    let ids = (0..3_u64, 1..7_u64, 0..8_u64, 0..6_u8);
    let header = (select(CLUSTERS.to_vec()), select(vec!["shop", "stock"]));
    let time = (select(vec![0, 100, 200]), select(vec![150, 201, 700, 5_000]), 0..3_u8);
    let rest = (select(vec!["", "ot=rv:20000000000000", "ot=rv:f0000000000000;th:8"]), select(vec![0_i64, 7, 50]));
    (ids, header, time, rest).prop_map(|((trace, id, parent, kind), header, (start, end, status), (state, size))| {
        let span = testing::span(id).parent(parent).kind(kind).millis(start, end).status(status);
        let span = span.cluster(header.0).service(header.1).trace_state(state).attribute("size", size);
        Piece { trace, key: (id, kind, end), span }
    })
}

/// Spans that all differ, and few or many of one trace: above some number they are told apart in another way.
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    (prop::collection::vec(piece(), 1..30), prop::bool::weighted(0.2)).prop_map(|(mut pieces, many)| {
        if many {
            let more = |n: u64| testing::span(100 + n).parent(99 + n % 50).kind((n % 6) as u8).millis(n, n + 10);
            let more = (0..60).map(|n| (n, more(n).cluster(CLUSTERS[n as usize % 3]).service("shop")));
            pieces.extend(more.map(|(n, span)| Piece { trace: 0, key: (100 + n, 0, 0), span }));
        }
        let mut known = BTreeSet::new();
        pieces.retain(|piece| known.insert((piece.trace, piece.key)));
        pieces
    })
}

/// The same spans as they may arrive: some of them again, shuffled, in batches. Each with seconds to wait behind it.
fn deliveries() -> impl Strategy<Value = (Vec<Piece>, Vec<(Vec<Piece>, bool)>)> {
    let again = (pieces(), prop::collection::vec(any::<Index>(), 0..20));
    let shuffled = again.prop_flat_map(|(pieces, again)| {
        let repeated = again.iter().map(|index| index.get(&pieces).clone());
        let all: Vec<Piece> = pieces.iter().cloned().chain(repeated).collect();
        (Just(pieces), Just(all).prop_shuffle(), prop::collection::vec((1..9_usize, any::<bool>()), 80))
    });
    shuffled.prop_map(|(pieces, all, cuts)| {
        let (mut rest, mut batches) = (all.as_slice(), Vec::new());
        for (cut, later) in cuts {
            let (batch, left) = rest.split_at(cut.min(rest.len()));
            batches.push((batch.to_vec(), later));
            rest = left;
        }
        batches.push((rest.to_vec(), false));
        batches.retain(|(batch, _)| !batch.is_empty());
        (pieces, batches)
    })
}

fn policies() -> Vec<PolicySettings> {
    let named = |(name, kind): (&str, PolicyKind)| PolicySettings { name: name.to_owned(), kind };
    let text = |key: &str, value: &str, invert_match| PolicyKind::StringAttribute {
        key: key.to_owned(),
        values: vec![value.to_owned()],
        enabled_regex_matching: false,
        cache_max_size: 0,
        invert_match,
    };
    let errors = PolicyKind::StatusCode { status_codes: vec![StatusCode::Error] };
    let slow = PolicyKind::Latency { threshold: SECOND, upper_threshold: None };
    let chance = PolicyKind::Probabilistic { sampling_percentage: 50.0, hash_salt: String::new() };
    let salted = PolicyKind::Probabilistic { sampling_percentage: 20.0, hash_salt: "salt".to_owned() };
    let large =
        PolicyKind::NumericAttribute { key: "size".into(), min_value: Some(50), max_value: None, invert_match: false };
    let to_east = PolicyKind::CrossCluster { source_clusters: vec![], target_clusters: vec!["east".to_owned()] };
    let sizes = PolicyKind::SpanCount { min_spans: 3, max_spans: Some(5) };
    let no_stock =
        PolicyKind::Drop(vec![named(("a", text("service.name", "stock", true))), named(("b", slow.clone()))]);
    let both = PolicyKind::And(vec![named(("a", errors)), named(("b", slow))]);
    let written = PolicyKind::And(vec![
        named(("a", text("cross_cluster.source", "west", false))),
        named(("b", PolicyKind::Not(Box::new(named(("c", large.clone())))))),
    ]);
    let all = [
        ("no stock, slow", no_stock),
        ("slow errors", both),
        ("to east", to_east),
        ("from west, small", written),
        ("few", sizes),
        ("large", large),
        ("salted", salted),
        ("some", chance),
    ];
    all.map(named).to_vec()
}

struct Told {
    /// Of each trace: where it stands, by which policy, of how many spans, links that cross and that are missing.
    traces: Vec<(u64, TraceState, Option<String>, u64, u64, u64)>,
    /// What has come out, with its marks.
    spans: Vec<(u64, u64, String, Vec<u8>)>,
    policies: Vec<PolicyStatus>,
    metrics: CrossClusterStatus,
}

fn told(batches: &[(Vec<Piece>, bool)], first_match: bool) -> Told {
    let cross_cluster = Arc::new(CrossCluster::new(&CrossClusterSettings {
        wait_duration: SECOND,
        max_memory_bytes: 1 << 20,
        write_attributes: true,
        buckets: vec![0.1, 1.0],
        entry_services: Vec::new(),
        max_series: 100,
    }));
    let sampler = Arc::new(Sampler::new(&TailSamplingSettings {
        sample_on_first_match: first_match,
        policies: policies(),
        ..sampling_settings()
    }));
    let mut rig = Rig::new(|_, judges| {
        judges.cross_cluster = Some(cross_cluster.clone());
        judges.write_crossings = true;
        judges.sampler = Some(sampler.clone());
        judges.marks = SamplingMarks { policy: true, owner: true, reason: true };
    });
    let mut seconds = 0.0;
    let mut numbers = BTreeSet::new();
    for (batch, later) in batches {
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|piece| testing::request(trace_id(piece.trace), std::slice::from_ref(&piece.span)))
            .collect();
        let spans = walk(Bytes::from(bytes), &Limits::default()).unwrap().spans;
        let all: Vec<u32> = (0..spans.len() as u32).collect();
        numbers.extend(batch.iter().map(|piece| piece.trace));
        seconds += if *later { 0.1 } else { 0.0 };
        rig.at(seconds).offer_some(&spans, &all);
    }
    rig.at(seconds + 10.0).advance();
    let now = rig.now;
    let traces = numbers.iter().map(|number| {
        let report = rig.traces.report(&trace_id(*number), Wanted::default(), now).unwrap();
        let details = report.details.unwrap();
        (*number, report.state, report.policy, details.spans, details.crossings, details.missing_parents)
    });
    let traces = traces.collect();
    let mut spans: Vec<_> =
        rig.exported().into_iter().map(|out| (number_of(out.trace), out.id, out.cluster, out.body)).collect();
    spans.sort();
    rig.finish();
    let mut metrics = cross_cluster.status();
    // Of several traces the last one decided is the example, and which one that is follows from when they came.
    for edge in &mut metrics.edges {
        edge.request.exemplars.clear();
        edge.network.exemplars.clear();
    }
    Told { traces, spans, policies: sampler.status(), metrics }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn traces_cut_up_in_any_way_get_the_same_verdicts_and_the_same_metrics(
        (pieces, batches) in deliveries(), first_match: bool,
    ) {
        let at_once = told(&[(pieces.clone(), false)], first_match);
        prop_assert_eq!(at_once.traces.iter().map(|trace| trace.3).sum::<u64>(), pieces.len() as u64);
        let in_parts = told(&batches, first_match);
        prop_assert_eq!(at_once.traces, in_parts.traces);
        prop_assert_eq!(at_once.policies, in_parts.policies);
        prop_assert_eq!(at_once.metrics, in_parts.metrics);
        prop_assert_eq!(at_once.spans, in_parts.spans);
    }
}
