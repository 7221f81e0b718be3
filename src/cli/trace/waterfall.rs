//! A trace's spans as a picture of text: the tree, and when each span ran, across clusters.
//!
//! Plain ASCII, so that it survives every terminal, log and chat. Times stand as their clusters' clocks wrote them: a
//! child that starts before its parent is marked and not moved.

use super::super::ask::printable;
use crate::logic::traces::SpanLine;
use crate::logic::waterfall::{Place, Row, rows};

/// Widest names; longer ones are cut.
const CLUSTER: usize = 16;
const SERVICE: usize = 20;
/// The tree of names takes at most one such part of the width.
const TREE_SHARE: usize = 3;
/// Narrowest bars.
const BAR: usize = 10;
const HEADINGS: [&str; 6] = ["", "CLUSTER", "SERVICE", "SPAN", "KIND", "TAKES"];
const SERVICE_COLUMN: usize = 2;
/// By OTLP's `SpanKind`.
const KINDS: [&str; 6] = ["-", "internal", "server", "client", "producer", "consumer"];
/// OTLP's `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// In front of a line, and what it means.
const MARKS: [(char, &str); 5] = [
    ('!', "called from another cluster"),
    ('?', "its parent is missing"),
    ('@', "its parents form a circle"),
    ('<', "starts before its parent"),
    ('E', "error"),
];

/// The picture, in lines of about `width` columns.
pub(super) fn picture(spans: &[SpanLine], left_out: u64, width: usize) -> String {
    let rows = rows(spans);
    let scale = Scale::of(spans);
    let lines: Vec<[String; 6]> = rows.iter().map(|row| cells(row, &spans[row.span], width / TREE_SHARE)).collect();
    let widths: [usize; 6] = std::array::from_fn(|at| {
        let widest = lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default();
        // Services are not there unless values were asked for.
        if at == SERVICE_COLUMN && widest == 0 { 0 } else { widest.max(HEADINGS[at].len()) }
    });
    let taken: usize = widths.iter().filter(|width| **width > 0).map(|width| width + 2).sum();
    let bar = width.saturating_sub(taken).max(BAR);
    let line = |cells: [&str; 6], rest: &str| {
        let cells = cells.iter().zip(widths).filter(|(_, width)| *width > 0);
        let text: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", format!("{text}{rest}").trim_end())
    };

    let total = nanos(scale.total);
    let mut text = line(HEADINGS, &format!("0{total:>rest$}", rest = bar - 1));
    for (row, cells) in rows.iter().zip(&lines) {
        let span = &spans[row.span];
        text.push_str(&line(cells.each_ref().map(String::as_str), &scale.bar(span, bar)));
        for (key, value) in &span.attributes {
            let attribute = format!("{}={}", printable(key), printable(value));
            text.push_str(&format!("    {}\n", cut(&attribute, width - 4)));
        }
    }
    for (mark, meaning) in MARKS {
        if lines.iter().any(|line| line[0].contains(mark)) {
            text.push_str(&format!("{mark} {meaning}\n"));
        }
    }
    if left_out > 0 {
        text.push_str(&format!("{left_out} more spans are not shown\n"));
    }
    text
}

/// What stands in front of a span's bar.
fn cells(row: &Row, span: &SpanLine, tree: usize) -> [String; 6] {
    let is =
        [row.crosses, row.place == Place::Orphan, row.place == Place::Circle, row.before_parent, span.status == ERROR];
    let marks = MARKS.iter().zip(is).filter(|(_, is)| *is).map(|((mark, _), _)| mark);
    // However deep, half of the column is the name's.
    let indent = " ".repeat((row.depth * 2).min(tree / 2));
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    [
        marks.collect(),
        cut(&or_dash(&span.cluster), CLUSTER),
        span.service.as_deref().map(|service| cut(&or_dash(service), SERVICE)).unwrap_or_default(),
        cut(&format!("{indent}{}", or_dash(&span.name)), tree),
        KINDS.get(usize::from(span.kind)).unwrap_or(&"-").to_string(),
        if span.start.0 == 0 { "-".to_owned() } else { nanos(span.end.0.saturating_sub(span.start.0)) },
    ]
}

/// At most so many characters; what is cut off is three dots.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(3)).chain("...".chars()).collect()
}

fn nanos(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} us", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        _ => format!("{:.2} s", nanos as f64 / 1e9),
    }
}

/// From the first start to the last end, of spans that tell their times: 0 is no time, and one such span would squash
/// all others to a line.
struct Scale {
    begin: u64,
    total: u64,
}

impl Scale {
    fn of(spans: &[SpanLine]) -> Scale {
        let timed = || spans.iter().filter(|span| span.start.0 > 0);
        let begin = timed().map(|span| span.start.0).min().unwrap_or_default();
        let end = timed().map(|span| span.end.0.max(span.start.0)).max().unwrap_or_default();
        Scale { begin, total: end - begin }
    }

    /// When the span ran, in `columns`; at least one of them is marked, unless it does not say when it began.
    fn bar(&self, span: &SpanLine, columns: usize) -> String {
        if span.start.0 == 0 {
            return String::new();
        }
        let at = |time: u64| {
            let since = u128::from(time.saturating_sub(self.begin).min(self.total));
            (since * columns as u128 / u128::from(self.total.max(1))) as usize
        };
        let from = at(span.start.0).min(columns - 1);
        let to = at(span.end.0).clamp(from + 1, columns);
        format!("{}{}", " ".repeat(from), "=".repeat(to - from))
    }
}
