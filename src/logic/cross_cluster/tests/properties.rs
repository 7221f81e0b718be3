//! What must hold for any trace.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Few ids, kinds and times, so that everything collides with everything.
fn any_span() -> impl Strategy<Value = Made> {
    let ids = (1_u64..6, 0_u64..7);
    let names = (select(vec!["us", "eu", "ap", ""]), select(vec!["a", "b"]));
    let times = (select(vec![0, T0, T0 + MS, u64::MAX]), select(vec![0, T0, T0 + 3 * MS, T0 + 9 * MS, u64::MAX]));
    (ids, 0_u8..7, names, times, 0_u8..3).prop_map(|((id, parent), kind, (cluster, service), (start, end), status)| {
        let (cluster, service) = (cluster.into(), service.into());
        Made { id, parent, kind, cluster, service, start, end, status }
    })
}

/// Links by what the spans are, and not by where they stand.
fn named(spans: &[Made]) -> (Vec<(Made, Made)>, Vec<Made>, Vec<Made>) {
    let links = links_of(spans);
    let of = |at: &u32| spans[*at as usize].clone();
    let mut crossings: Vec<_> = links.crossings.iter().map(|edge| (of(&edge.caller), of(&edge.callee))).collect();
    let (mut missing, mut roots): (Vec<_>, Vec<_>) =
        (links.missing_parents.iter().map(of).collect(), links.roots.iter().map(of).collect());
    crossings.sort();
    missing.sort();
    roots.sort();
    (crossings, missing, roots)
}

/// The plain meaning, for spans whose ids are their own: everybody is asked for everybody.
fn by_the_book(spans: &[Made]) -> Links {
    let mut links = Links::default();
    for (at, span) in spans.iter().enumerate() {
        let parent = spans.iter().position(|other| other.id == span.parent && span.parent != span.id);
        match parent {
            _ if span.parent == 0 => links.roots.push(at as u32),
            None => links.missing_parents.push(at as u32),
            Some(parent) if spans[parent].cluster != span.cluster => {
                links.crossings.push(Edge { caller: parent as u32, callee: at as u32 });
            }
            Some(_) => {}
        }
    }
    links
}

fn any_trace() -> impl Strategy<Value = Vec<Made>> {
    proptest::collection::vec(any_span(), 0..14)
}

proptest! {
    #[test]
    fn the_order_of_arrival_changes_nothing(
        (spans, shuffled) in any_trace().prop_flat_map(|spans| (Just(spans.clone()), Just(spans).prop_shuffle()))
    ) {
        prop_assert_eq!(named(&spans), named(&shuffled));
        prop_assert_eq!(metrics_of(&spans), metrics_of(&shuffled));
    }

    #[test]
    fn with_ids_of_their_own_spans_link_as_the_book_says(spans in any_trace()) {
        let mut ids = BTreeSet::new();
        let spans: Vec<Made> = spans.into_iter().filter(|span| ids.insert(span.id)).collect();
        prop_assert_eq!(links_of(&spans), by_the_book(&spans));
    }

    #[test]
    fn a_span_that_came_twice_adds_no_link((spans, again) in any_trace().prop_flat_map(|spans| {
        let picks = proptest::collection::vec(any::<proptest::sample::Index>(), 0..4);
        (Just(spans), picks)
    })) {
        let mut repeated = spans.clone();
        if !spans.is_empty() {
            repeated.extend(again.iter().map(|at| at.get(&spans).clone()));
        }
        prop_assert_eq!(named(&spans), named(&repeated));
    }

    #[test]
    fn every_count_adds_up(spans in any_trace()) {
        let (links, status) = (links_of(&spans), metrics_of(&spans));
        let of = |count: fn(&EdgeStatus) -> u64| status.edges.iter().map(count).sum::<u64>();
        prop_assert_eq!(of(|edge| edge.request.count), links.crossings.len() as u64);
        prop_assert_eq!(of(|edge| edge.request.buckets.iter().map(|(_, n)| n).sum()), links.crossings.len() as u64);
        prop_assert!(status.edges.iter().all(|e| e.network.count <= e.request.count && e.clamped <= e.network.count));
        prop_assert!(status.edges.iter().all(|edge| edge.request.sum_seconds <= 86_400.0 * edge.request.count as f64));
        prop_assert_eq!(status.spans.values().sum::<u64>(), spans.len() as u64);
        prop_assert!(status.edges.iter().all(|edge| edge.source_cluster != edge.target_cluster));
        let without = status.without_parent.iter().map(|(.., spans)| spans).sum::<u64>();
        prop_assert_eq!(without, links.missing_parents.len() as u64);
    }
}
