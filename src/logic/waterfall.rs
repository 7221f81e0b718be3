//! The order in which people read a trace: each span under its parent, siblings by start.
//!
//! Spans are what senders say they are: parents that are missing, that are the span itself, that form a circle, that
//! start after their children because of another cluster's clock, several spans under one id (Zipkin's client and server halves share
//! it). So every span gets exactly one row whatever it claims, what is odd about it is marked, and times are shown as they
//! came: a view that silently corrects clocks hides the very thing people look for.

use std::collections::{BTreeMap, BTreeSet};

use super::traces::SpanLine;
use crate::model::SpanId;

/// Where a span stands under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It names no parent.
    Root,
    Child,
    /// It names a parent that is not there.
    Orphan,
    /// Its parents lead round in a circle, or to itself.
    Circle,
}

/// One line of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Of the span in the list that was given.
    pub span: usize,
    pub depth: usize,
    pub place: Place,
    /// Its parent ran in another cluster.
    pub crosses: bool,
    /// It starts before its parent.
    pub before_parent: bool,
}

/// All spans, each once, as rows from top to bottom.
pub fn rows(spans: &[SpanLine]) -> Vec<Row> {
    let mut by_id: BTreeMap<SpanId, usize> = BTreeMap::new();
    for (at, span) in spans.iter().enumerate() {
        // Of those that share an id the first to start is the parent that is meant: Zipkin's server half starts later.
        let first = by_id.entry(span.span_id).or_insert(at);
        if (spans[*first].start, spans[*first].end.0) > (span.start, span.end.0) {
            *first = at;
        }
    }
    let parent_of = |at: usize| spans[at].parent_span_id.map(|parent| by_id.get(&parent).copied());
    let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut tops: Vec<(usize, Place)> = Vec::new();
    for at in 0..spans.len() {
        match parent_of(at) {
            None => tops.push((at, Place::Root)),
            Some(None) => tops.push((at, Place::Orphan)),
            Some(Some(parent)) if parent == at => tops.push((at, Place::Circle)),
            Some(Some(parent)) => children.entry(parent).or_default().push(at),
        }
    }
    let by_start = |a: &usize, b: &usize| {
        let key = |at: usize| (spans[at].start, spans[at].span_id, at);
        key(*a).cmp(&key(*b))
    };
    children.values_mut().for_each(|list| list.sort_by(by_start));
    tops.sort_by(|(a, _), (b, _)| by_start(a, b));

    let mut shown = BTreeSet::new();
    let mut out = Vec::with_capacity(spans.len());
    let mut descend = |top: usize, place: Place, shown: &mut BTreeSet<usize>| {
        // A stack and no recursion: a chain may be as long as the trace.
        let mut waiting = vec![(top, 0, place)];
        while let Some((at, depth, place)) = waiting.pop() {
            if !shown.insert(at) {
                continue;
            }
            let parent = parent_of(at).flatten().filter(|parent| *parent != at);
            out.push(Row {
                span: at,
                depth,
                place,
                crosses: parent.is_some_and(|parent| spans[parent].cluster != spans[at].cluster),
                // 0 is no time.
                before_parent: parent.is_some_and(|parent| (1..spans[parent].start.0).contains(&spans[at].start.0)),
            });
            let below = children.get(&at).map(Vec::as_slice).unwrap_or_default();
            waiting.extend(below.iter().rev().map(|child| (*child, depth + 1, Place::Child)));
        }
    };
    for (top, place) in tops {
        descend(top, place, &mut shown);
    }
    // What no top leads to hangs in a circle: its earliest span is shown as the top of it.
    let mut rest: Vec<usize> = (0..spans.len()).filter(|at| !shown.contains(at)).collect();
    rest.sort_by(by_start);
    for at in rest {
        if !shown.contains(&at) {
            descend(at, Place::Circle, &mut shown);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::UnixNanos;

    fn span(id: u64, parent: u64, start: u64, cluster: &str) -> SpanLine {
        let parent = SpanId(parent.to_be_bytes());
        SpanLine {
            span_id: SpanId(id.to_be_bytes()),
            parent_span_id: (!parent.is_zero()).then_some(parent),
            name: String::new(),
            cluster: cluster.to_owned(),
            service: None,
            kind: 0,
            status: 0,
            start: UnixNanos(start),
            end: UnixNanos(start + 10),
            attributes: Vec::new(),
        }
    }

    fn picture(spans: &[SpanLine]) -> Vec<(u64, usize, Place)> {
        let id = |row: &Row| u64::from_be_bytes(spans[row.span].span_id.0);
        rows(spans).iter().map(|row| (id(row), row.depth, row.place)).collect()
    }

    #[test]
    fn children_stand_under_their_parent_by_start() {
        let spans = [span(3, 1, 30, "a"), span(4, 2, 25, "a"), span(2, 1, 20, "a"), span(1, 0, 10, "a")];
        let wanted = [(1, 0, Place::Root), (2, 1, Place::Child), (4, 2, Place::Child), (3, 1, Place::Child)];
        assert_eq!(picture(&spans), wanted);
    }

    #[test]
    fn a_span_whose_parent_is_missing_keeps_its_children() {
        let spans = [span(5, 99, 5, "a"), span(6, 5, 6, "a"), span(1, 0, 10, "a")];
        assert_eq!(picture(&spans), [(5, 0, Place::Orphan), (6, 1, Place::Child), (1, 0, Place::Root)]);
    }

    #[test]
    fn circles_and_spans_that_are_their_own_parent_are_shown_once() {
        let spans = [span(1, 1, 50, "a"), span(2, 3, 20, "a"), span(3, 2, 30, "a"), span(4, 3, 40, "a")];
        let wanted = [(1, 0, Place::Circle), (2, 0, Place::Circle), (3, 1, Place::Child), (4, 2, Place::Child)];
        assert_eq!(picture(&spans), wanted);
    }

    #[test]
    fn a_change_of_cluster_and_a_start_before_the_parent_are_marked() {
        let spans = [span(1, 0, 10, "a"), span(2, 1, 5, "b"), span(3, 1, 20, "a")];
        let rows = rows(&spans);
        assert_eq!((rows[1].crosses, rows[1].before_parent), (true, true));
        assert_eq!((rows[2].crosses, rows[2].before_parent), (false, false));
        assert!(
            !super::rows(&[span(1, 0, 10, "a"), span(2, 1, 0, "a")])[1].before_parent,
            "nobody knows when it began"
        );
    }

    #[test]
    fn both_halves_of_a_shared_span_are_there_and_children_hang_under_the_first_to_start() {
        let spans = [span(1, 0, 10, "a"), span(2, 1, 25, "b"), span(2, 1, 20, "a"), span(3, 2, 30, "b")];
        let rows: Vec<_> = rows(&spans).iter().map(|row| (row.span, row.depth)).collect();
        assert_eq!(rows, [(0, 0), (2, 1), (3, 2), (1, 1)]);
    }

    #[test]
    fn a_chain_as_long_as_the_trace_is_no_recursion() {
        let spans: Vec<_> = (1..=50_000).map(|id| span(id, id - 1, id, "a")).collect();
        assert_eq!(rows(&spans).last().unwrap().depth, 49_999);
    }

    proptest! {
        #[test]
        fn every_span_has_one_row_whatever_the_parents(
            links in proptest::collection::vec((0u64..12, 0u64..12, 0u64..5), 0..40),
        ) {
            let spans: Vec<_> = links.iter().map(|(id, parent, start)| span(*id, *parent, *start, "a")).collect();
            let mut seen: Vec<usize> = rows(&spans).iter().map(|row| row.span).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..spans.len()).collect::<Vec<_>>());
        }
    }
}
