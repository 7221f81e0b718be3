//! The facts of a trace, a line each. Senders and peers wrote parts of them, so nothing goes out as it came.

use serde_json::Value;

use super::super::ask::{duration, printable};
use crate::admin::trace::{State, TraceAnswer};
use crate::link::explain::KnownDetails;

pub(super) fn facts(answer: &TraceAnswer) -> String {
    let mut lines = vec![("trace", answer.trace_id.to_string()), ("state", state(answer)), ("owner", owner(answer))];
    if let Some(details) = &answer.details {
        lines.push(("seen", seen(answer, details)));
        lines.push(("spans", spans(details)));
        lines.extend(odd(details).map(|odd| ("odd", odd)));
    }
    lines.extend(answer.notes.iter().map(|note| ("note", printable(note))));
    lines.iter().map(|(name, text)| format!("{name:<6} {text}\n")).collect()
}

/// Seconds as people say them.
fn short(seconds: f64) -> String {
    duration(&Value::from(seconds.max(0.0)))
}

fn ago(answer: &TraceAnswer, at: f64) -> String {
    format!("{} ago", short(answer.answered_at.unwrap_or(at) - at))
}

fn state(answer: &TraceAnswer) -> String {
    let details = answer.details.as_ref();
    let decided = match details.and_then(|details| details.decided_at) {
        Some(at) => format!(", {}", ago(answer, at)),
        None => String::new(),
    };
    let cause = answer.cause.as_deref().map(|cause| format!(" ({})", reason(cause))).unwrap_or_default();
    let policy = answer.policy.as_deref().map(printable);
    match (answer.state, policy) {
        (State::Open, _) => match details.and_then(|details| details.decision_at) {
            Some(at) => {
                let left = at - answer.answered_at.unwrap_or(at);
                format!("open, to be decided in {}", short(left))
            }
            None => "open, not decided yet".to_owned(),
        },
        (State::Kept, Some(policy)) => format!("kept by policy {policy}{decided}{cause}"),
        (State::Kept, None) => format!("kept{decided}{cause}"),
        (State::Dropped, Some(policy)) => format!("dropped by policy {policy}{decided}{cause}"),
        (State::Dropped, None) => format!("dropped, as no policy kept it{decided}{cause}"),
        (State::Unknown, _) => unknown(answer),
    }
}

fn unknown(answer: &TraceAnswer) -> String {
    match (&answer.asked_of, answer.unknown_since) {
        (Some(who), Some(since)) => {
            format!("unknown at {}, which remembers what it decided since {}", printable(who), ago(answer, since))
        }
        (Some(who), None) => format!("unknown at {}", printable(who)),
        (None, _) => "unknown: there is no answer".to_owned(),
    }
}

/// Why a trace was decided when it was.
fn reason(cause: &str) -> String {
    match cause {
        "waited" => "decision_wait was over".to_owned(),
        "root_received" => "its root had come".to_owned(),
        "too_many_spans" => "early, it had more spans than a trace may have".to_owned(),
        "too_many_bytes" => "early, it had more bytes than a trace may have".to_owned(),
        "memory" => "early, the trace buffer was full".to_owned(),
        "too_many_traces" => "early, more than num_traces were open".to_owned(),
        "shutdown" => "early, the node was stopping".to_owned(),
        other => printable(other),
    }
}

fn owner(answer: &TraceAnswer) -> String {
    let Some(owner) = &answer.owner else {
        return match &answer.why_not {
            Some(why) => format!("none: {}", printable(why)),
            None => "none: the node is in no mesh".to_owned(),
        };
    };
    let mut text = format!("{}, by slot {} of ring {}", printable(owner), answer.slot, printable(&answer.ring_version));
    if let Some(why) = &answer.why_not {
        text.push_str(&format!("; no answer from it: {}", printable(why)));
    }
    match &answer.asked_of {
        Some(who) if who != owner => text.push_str(&format!("; all this is what {} says", printable(who))),
        _ => {}
    }
    text
}

fn seen(answer: &TraceAnswer, details: &KnownDetails) -> String {
    let crossings = match details.crossings {
        0 => "no call between clusters".to_owned(),
        1 => "1 call between clusters".to_owned(),
        calls => format!("{calls} calls between clusters"),
    };
    format!("first span {}, {crossings}", ago(answer, details.first_seen_at))
}

fn spans(details: &KnownDetails) -> String {
    let name = |cluster: &str| if cluster.is_empty() { "(no cluster)".to_owned() } else { printable(cluster) };
    let by_cluster: Vec<String> =
        details.spans_by_cluster.iter().map(|(cluster, spans)| format!("{} {spans}", name(cluster))).collect();
    format!("{} in {} bytes: {}", details.spans, details.bytes, by_cluster.join(", "))
}

/// What is not as it should be; `None`: nothing.
fn odd(details: &KnownDetails) -> Option<String> {
    let counted = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(one.to_owned()),
        count => Some(format!("{count} {many}")),
    };
    let all: Vec<String> = [
        counted(details.duplicates, "1 duplicate dropped", "duplicates dropped"),
        counted(details.late, "1 span came after the verdict", "spans came after the verdict"),
        counted(details.missing_parents, "1 span without its parent", "spans without their parent"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!all.is_empty()).then(|| all.join(", "))
}
