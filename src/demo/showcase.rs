//! The first trace that was put together from several clusters, drawn for people.
//!
//! Spans of the first traces are kept until one of them is whole; from then on nothing is kept any more.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::model::TraceId;

/// Traces looked at before giving up.
const MAX_TRACES: usize = 1_000;
/// Spans of one trace that are drawn.
const MAX_SPANS: usize = 64;

/// What is drawn of a span.
#[derive(Clone, Debug)]
struct Seen {
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    service: String,
    cluster: String,
    kind: i32,
    nanos: u64,
}

/// Collects until [`Showcase::take`] is called.
#[derive(Default)]
pub struct Showcase {
    traces: BTreeMap<TraceId, Vec<Seen>>,
    done: bool,
}

impl Showcase {
    pub fn add(&mut self, trace: TraceId, span: &Span, service: &str, cluster: &str) {
        if self.done || (self.traces.len() >= MAX_TRACES && !self.traces.contains_key(&trace)) {
            return;
        }
        let spans = self.traces.entry(trace).or_default();
        if spans.len() < MAX_SPANS {
            spans.push(Seen {
                id: span.span_id.clone(),
                parent: span.parent_span_id.clone(),
                name: span.name.clone(),
                service: service.to_owned(),
                cluster: cluster.to_owned(),
                kind: span.kind,
                nanos: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
            });
        }
    }

    /// The drawing of `trace`, if it is the first one that is taken and spans more than one cluster.
    pub fn take(&mut self, trace: &TraceId) -> Option<Vec<String>> {
        if self.done {
            return None;
        }
        let spans = self.traces.get(trace)?;
        if spans.iter().all(|span| spans.first().is_some_and(|first| first.cluster == span.cluster)) {
            return None;
        }
        let lines = draw(spans);
        self.done = true;
        self.traces.clear();
        Some(lines)
    }
}

/// SERVER spans as a tree, each with its cluster and duration; CLIENT spans only lead from one to the next.
fn draw(spans: &[Seen]) -> Vec<String> {
    let mut lines = Vec::new();
    // Depth first, without recursion: (place, depth). A span is visited once, so a loop of parents ends too.
    let mut visited = vec![false; spans.len()];
    let has_parent = |span: &Seen| spans.iter().any(|other| other.id == span.parent);
    let roots = spans.iter().enumerate().rev().filter(|(_, span)| !has_parent(span));
    let mut to_visit: Vec<(usize, usize)> = roots.map(|(i, _)| (i, 0)).collect();
    while let Some((i, depth)) = to_visit.pop() {
        let (Some(span), Some(seen)) = (spans.get(i), visited.get_mut(i)) else { continue };
        if std::mem::replace(seen, true) {
            continue;
        }
        let shown = span.kind == SpanKind::Server as i32;
        if shown {
            let what = format!("{}{} {}", "  ".repeat(depth), span.service, span.name);
            lines.push(format!("{what:<42} {:<10} {:>7.1} ms", span.cluster, span.nanos as f64 / 1e6));
        }
        let children = spans.iter().enumerate().filter(|(_, child)| child.parent == span.id);
        to_visit.extend(children.map(|(c, _)| (c, depth + usize::from(shown))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, kind: SpanKind) -> Span {
        Span {
            span_id: vec![id],
            parent_span_id: if parent == 0 { Vec::new() } else { vec![parent] },
            name: format!("op{id}"),
            kind: kind as i32,
            end_time_unix_nano: 1_500_000,
            ..Span::default()
        }
    }

    #[test]
    fn the_first_trace_of_two_clusters_is_drawn_and_no_other() {
        let mut showcase = Showcase::default();
        let (one, two) = (TraceId([1; 16]), TraceId([2; 16]));
        showcase.add(one, &span(1, 0, SpanKind::Server), "api", "us-east-1");
        assert!(showcase.take(&one).is_none(), "one cluster is nothing to show");
        for (id, parent, kind, service, cluster) in [
            (3, 2, SpanKind::Server, "order", "us-west-2"),
            (1, 0, SpanKind::Server, "user", "us-east-1"),
            (2, 1, SpanKind::Client, "user", "us-east-1"),
        ] {
            showcase.add(two, &span(id, parent, kind), service, cluster);
        }
        let lines = showcase.take(&two).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("user op1") && lines[0].contains("us-east-1"));
        assert!(lines[1].starts_with("  order op3") && lines[1].ends_with("1.5 ms"));
        assert!(showcase.take(&two).is_none());
    }

    #[test]
    fn parents_in_a_circle_end_the_drawing_too() {
        let circle = [
            Seen { id: vec![1], parent: vec![2], ..seen() },
            Seen { id: vec![2], parent: vec![1], ..seen() },
            Seen { id: vec![3], parent: vec![3], ..seen() },
        ];
        assert!(draw(&circle).is_empty());
    }

    fn seen() -> Seen {
        let (name, service, cluster) = (String::new(), String::new(), String::new());
        Seen { id: vec![], parent: vec![], name, service, cluster, kind: SpanKind::Server as i32, nanos: 0 }
    }
}
