//! The trace page: a form, and its answer as sentences and tables.
//!
//! What `spanmesh trace` shows, for who has a browser and no shell. Each span is a row with its place in the tree as a
//! number, so that the order makes sense when it is read out; there is no picture that the table does not say.

use http::Uri;

use super::page::{Page, bytes, duration};
use super::trace::{State, TraceAnswer};
use crate::link::explain::KnownDetails;
use crate::logic::traces::{SpanLine, Wanted};
use crate::logic::waterfall::{Place, Row, rows};
use crate::model::TraceId;

/// Most spans on a page: beyond that the command and the API serve better.
const MAX_ROWS: usize = 2_000;

/// What the form was sent with.
pub(super) struct Asked {
    /// As it was typed, without blanks around it.
    text: String,
    pub(super) trace_id: Option<TraceId>,
    values: bool,
}

impl Asked {
    pub(super) fn of(uri: &Uri) -> Asked {
        let mut asked = Asked { text: String::new(), trace_id: None, values: false };
        for pair in uri.query().unwrap_or_default().split('&') {
            match pair.split_once('=') {
                // A copied id comes with blanks around it.
                Some(("id", text)) => {
                    asked.text = text.replace("%20", "+").trim_matches('+').chars().take(64).collect();
                }
                Some(("values", value)) => asked.values = value == "true",
                _ => {}
            }
        }
        asked.trace_id = asked.text.parse().ok();
        asked
    }

    /// Something was asked, and it is no trace id.
    pub(super) fn is_wrong(&self) -> bool {
        !self.text.is_empty() && self.trace_id.is_none()
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted { spans: true, values: self.values }
    }
}

pub(super) fn render(asked: &Asked, answer: Option<&TraceAnswer>) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">");
    page.raw("<link rel=\"stylesheet\" href=\"style.css\"><title>");
    page.text(format_args!("Trace {} - spanmesh", asked.text));
    page.raw("</title></head><body><main>\n<h1>What became of a trace</h1>\n<p><a href=\"./\">This node</a></p>\n");
    page.raw("<form method=\"get\" action=\"trace\"><p><label for=\"id\">Trace id, 32 hex digits</label> ");
    page.raw("<input id=\"id\" name=\"id\" size=\"34\" autocomplete=\"off\" spellcheck=\"false\" required value=\"");
    page.text(&asked.text);
    page.raw("\"> <label><input type=\"checkbox\" name=\"values\" value=\"true\"");
    page.raw(if asked.values { " checked" } else { "" });
    page.raw("> with attributes</label> <button type=\"submit\">Look up</button></p></form>\n");
    if asked.is_wrong() {
        page.raw("<p class=\"warning\" role=\"alert\"><strong>Not a trace id:</strong> it has 32 hex digits.</p>\n");
    }
    if let Some(answer) = answer {
        facts(&mut page, answer);
        for note in &answer.notes {
            page.raw("<p>Note: ");
            page.text(note);
            page.raw(".</p>\n");
        }
        if let Some(details) = &answer.details {
            clusters(&mut page, details);
            spans(&mut page, details);
        }
    }
    page.raw("</main></body></html>\n");
    page.0
}

fn state(answer: &TraceAnswer) -> String {
    match (answer.state, &answer.policy) {
        (State::Open, _) => "open: not decided yet".to_owned(),
        (State::Kept, Some(policy)) => format!("kept by {policy}"),
        (State::Kept, None) => "kept".to_owned(),
        (State::Dropped, Some(policy)) => format!("dropped by {policy}"),
        (State::Dropped, None) => "dropped: no policy kept it".to_owned(),
        (State::Unknown, _) => "unknown".to_owned(),
    }
}

fn facts(page: &mut Page, answer: &TraceAnswer) {
    let now = answer.answered_at.unwrap_or_default();
    let ago = |at: f64| format!("{} ago", duration((now - at).max(0.0)));
    let mut rows = vec![
        ["state".to_owned(), state(answer)],
        ["owner".to_owned(), answer.owner.clone().unwrap_or_else(|| "none".into())],
        ["slot, ring".to_owned(), format!("{}, {}", answer.slot, answer.ring_version)],
    ];
    let mut add = |fact: &str, value: Option<String>| rows.extend(value.map(|value| [fact.to_owned(), value]));
    add("answered by", answer.asked_of.clone());
    add("the owner did not answer", answer.why_not.clone());
    add("unknown there since", answer.unknown_since.map(ago));
    add("cause of the decision", answer.cause.clone());
    if let Some(details) = &answer.details {
        add("first span", Some(ago(details.first_seen_at)));
        add("decision in", details.decision_at.map(|at| duration((at - now).max(0.0))));
        add("decided", details.decided_at.map(ago));
        add("spans", Some(format!("{}, {}", details.spans, bytes(details.bytes))));
        add("duplicates", Some(details.duplicates.to_string()));
        add("late spans", Some(details.late.to_string()));
        add("missing parents", Some(details.missing_parents.to_string()));
        add("calls between clusters", Some(details.crossings.to_string()));
    }
    page.table("Facts", ["Fact", "Value"], rows);
}

fn clusters(page: &mut Page, details: &KnownDetails) {
    let rows = details.spans_by_cluster.iter().map(|(cluster, spans)| [or_dash(cluster), spans.to_string()]);
    page.table("Spans by cluster", ["Cluster", "Spans"], rows);
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn spans(page: &mut Page, details: &KnownDetails) {
    let Some(timeline) = &details.timeline else { return };
    // 0 is no time.
    let begin = timeline.iter().map(|span| span.start.0).filter(|start| *start > 0).min().unwrap_or_default();
    let row = |row: &Row| {
        let span = &timeline[row.span];
        [
            or_dash(&span.name),
            row.depth.to_string(),
            or_dash(&span.cluster),
            or_dash(span.service.as_deref().unwrap_or_default()),
            milliseconds(span.start.0, begin),
            milliseconds(span.end.0, span.start.0),
            remarks(row, span),
        ]
    };
    let all = rows(timeline);
    let shown = all.iter().take(MAX_ROWS).map(row);
    let head = ["Span", "Depth", "Cluster", "Service", "Starts after", "Takes", "Remarks"];
    page.table("Spans, each below its parent", head, shown);
    let left_out = details.left_out.saturating_add(all.len().saturating_sub(MAX_ROWS) as u64);
    if left_out > 0 {
        page.raw("<p>");
        page.text(left_out);
        page.raw(" more spans are not shown.</p>\n");
    }
}

fn milliseconds(at: u64, since: u64) -> String {
    if at == 0 || since == 0 { "-".to_owned() } else { format!("{:.3} ms", at.saturating_sub(since) as f64 / 1e6) }
}

fn remarks(row: &Row, span: &SpanLine) -> String {
    let mut remarks: Vec<String> = Vec::new();
    let mut remark = |is_so: bool, text: &str| {
        if is_so {
            remarks.push(text.to_owned());
        }
    };
    remark(span.status == 2, "error");
    remark(row.crosses, "called from another cluster");
    remark(row.place == Place::Orphan, "its parent is missing");
    remark(row.place == Place::Circle, "its parents form a circle");
    remark(row.before_parent, "starts before its parent");
    remarks.extend(span.attributes.iter().map(|(key, value)| format!("{key}={value}")));
    remarks.join(", ")
}
