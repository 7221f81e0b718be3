//! `cross_cluster.write_attributes`: the two spans of a call between clusters learn which clusters it joins.

use super::Edge;
use crate::logic::trace::{Crossing, TraceView};

/// Notes each call on both of its spans. A span that is a side of several calls bears the one that it answers; of calls
/// that it makes, the first by cluster names: the same for any order of the spans.
pub fn write_crossings(trace: &mut TraceView<'_>, calls: &[Edge]) {
    let mut named: Vec<(&str, &str, Edge)> = Vec::with_capacity(calls.len());
    for call in calls {
        let cluster = |index: u32| trace.spans.get(index as usize).map(|span| &*span.header.cluster);
        if let (Some(source), Some(target)) = (cluster(call.caller), cluster(call.callee)) {
            named.push((source, target, *call));
        }
    }
    named.sort_unstable();
    let sides = named.iter().map(|side| (side, side.2.callee)).chain(named.iter().map(|side| (side, side.2.caller)));
    for ((source, target, _), index) in sides {
        if let Some(span) = trace.spans.get_mut(index as usize) {
            span.crossing.get_or_insert(Crossing { source, target });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::trace::{Header, SpanView};
    use crate::model::{SpanId, TraceId, UnixNanos};

    fn header(cluster: &str) -> Header {
        let (none, nothing) = (std::sync::Arc::from([]), std::sync::Arc::from(""));
        Header {
            resource_fields: none,
            resource: None,
            scope_fields: Box::default(),
            cluster: cluster.into(),
            service: nothing,
        }
    }

    fn trace<'a>(headers: &[&'a Header]) -> TraceView<'a> {
        let span = |header: &&'a Header| SpanView {
            span_id: SpanId([1; 8]),
            parent_span_id: SpanId::NONE,
            start: UnixNanos(0),
            end: UnixNanos(0),
            kind: 0,
            status: 0,
            body: &[],
            header,
            crossing: None,
        };
        TraceView { id: TraceId([1; 16]), spans: headers.iter().map(span).collect() }
    }

    #[test]
    fn both_sides_bear_the_call_and_the_answered_one_stands_first() {
        let (a, b, c) = (header("a"), header("b"), header("c"));
        let mut view = trace(&[&a, &b, &c, &b]);
        // 1 answers 0 and calls 2; 3 has no part in it.
        write_crossings(&mut view, &[Edge { caller: 1, callee: 2 }, Edge { caller: 0, callee: 1 }]);
        let found: Vec<_> = view.spans.iter().map(|span| span.crossing.map(|c| (c.source, c.target))).collect();
        assert_eq!(found, [Some(("a", "b")), Some(("a", "b")), Some(("b", "c")), None]);
    }

    #[test]
    fn of_several_calls_that_a_span_makes_the_first_by_name_stands() {
        let (a, b, c) = (header("a"), header("b"), header("c"));
        for calls in [[(0, 1), (0, 2)], [(0, 2), (0, 1)]] {
            let mut view = trace(&[&a, &b, &c]);
            write_crossings(&mut view, &calls.map(|(caller, callee)| Edge { caller, callee }));
            assert_eq!(view.spans[0].crossing, Some(Crossing { source: "a", target: "b" }));
        }
    }
}
