//! What the demo shows: on a terminal a block that is redrawn each second under the lines that stay, elsewhere plain lines.
//!
//! With `-o json` standard output belongs to the final document, and all of this goes to standard error.

use std::io::{self, IsTerminal, Write};

use super::ledger::{Ledger, Verdict};
use super::places::Place;

/// Where the lines go.
pub(super) struct Screen {
    to_stderr: bool,
    redraws: bool,
    /// Lines of the block that stand at the bottom now.
    drawn: usize,
}

impl Screen {
    pub(super) fn new(to_stderr: bool) -> Screen {
        let redraws = if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        Screen { to_stderr, redraws, drawn: 0 }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: impl AsRef<str>) {
        let text = format!("{}{}\n", self.erase(), line.as_ref());
        self.put(&text);
    }

    pub(super) fn say_all<T: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = T>) {
        lines.into_iter().for_each(|line| self.say(line));
    }

    /// The state of things; replaces the one before, or is a single line where nothing can be replaced.
    pub(super) fn live(&mut self, ledger: &Ledger) {
        if self.redraws {
            let lines = block(ledger);
            let text = format!("{}{}\n", self.erase(), lines.join("\n"));
            self.drawn = lines.len();
            self.put(&text);
        } else {
            self.put(&format!("{}\n", line(ledger)));
        }
    }

    /// The escape sequence that removes the block.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// A reader that went away is no reason to stop.
    fn put(&self, text: &str) {
        let _ = if self.to_stderr {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// What can be seen where.
pub(super) fn urls(places: &[Place]) -> Vec<String> {
    let mut lines = Vec::new();
    for place in places {
        lines.push(format!("  {:<20} page     http://{}/", place.id.to_string(), place.admin));
        lines.push(format!(
            "  {:<20} OTLP     http://{} (gRPC)  http://{} (HTTP)",
            "", place.otlp_grpc, place.otlp_http
        ));
        lines.push(format!("  {:<20} metrics  http://{}/metrics", "", place.metrics));
    }
    lines
}

/// Three things to try; `control` is needed only if several demos run.
pub(super) fn things_to_try() -> [&'static str; 4] {
    [
        "Try, in another terminal:",
        "  spanmesh demo kill us-west-2                   then: spanmesh demo restart us-west-2",
        "  spanmesh demo partition us-east-1 eu-west-1    then: spanmesh demo heal",
        "  spanmesh demo status",
    ]
}

/// One line, for logs.
fn line(l: &Ledger) -> String {
    let owners: Vec<String> = l.nodes.iter().map(|n| format!("{} {}", cluster(&n.id), n.traces)).collect();
    let members: Vec<String> = l.nodes.iter().map(|n| n.members.to_string()).collect();
    let b = &l.backend;
    format!(
        "{:>5.0}s sent {} duplicates {} exported {} distinct {} on-the-way {} again {} split {} | traces {} | kept for {}; dropped {} | members {}",
        l.seconds,
        b.accepted,
        l.sent.planned.duplicates,
        b.exported,
        b.distinct,
        b.on_the_way,
        b.twice,
        b.split_traces,
        owners.join(" "),
        kept_for(l),
        l.decisions.dropped_traces.counted,
        members.join("/"),
    )
}

fn cluster(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

/// Traces kept, by policy.
fn kept_for(l: &Ledger) -> String {
    let rules: Vec<String> =
        l.decisions.rules.iter().map(|rule| format!("{} {}", rule.policy, rule.traces.counted)).collect();
    rules.join(", ")
}

/// The block for a terminal.
fn block(l: &Ledger) -> Vec<String> {
    let (b, s, d) = (&l.backend, &l.sent.planned, &l.decisions);
    let mut lines = vec![
        String::new(),
        format!(
            "{:>6.0} s   sent {} spans of {} traces, and {} of them again, {} late, {} orphans",
            l.seconds, b.accepted, s.traces, s.duplicates, s.late, s.orphans
        ),
        format!(
            "           came out {}: {} distinct, {} again, {} on the way; {} traces kept, {} of them whole, {} split",
            b.exported, b.distinct, b.twice, b.on_the_way, b.kept_traces, b.whole_traces, b.split_traces
        ),
        format!("           kept for {}; {} dropped", kept_for(l), d.dropped_traces.counted),
        format!(
            "           without their parent {} spans; after the verdict {} spans kept, {} dropped",
            d.orphans.counted, d.late_kept_spans, d.late_dropped_spans
        ),
        format!(
            "  {:<20} {:<8} {:>7} {:>9} {:>9} {:>10} {:>9}",
            "node", "state", "members", "traces", "spans", "duplicates", "in flight"
        ),
    ];
    for node in &l.nodes {
        let own = node.ledger.clone().unwrap_or_default();
        lines.push(format!(
            "  {:<20} {:<8} {:>7} {:>9} {:>9} {:>10} {:>9}",
            node.id, node.state, node.members, node.traces, node.exported, own.duplicate, own.in_flight
        ));
    }
    for call in &d.calls {
        let millis = |seconds: Option<f64>| seconds.unwrap_or_default() * 1e3;
        let (p50, p99) = (millis(call.p50_seconds), millis(call.p99_seconds));
        lines.push(format!(
            "  {:<9} -> {:<9} {:>7} calls, p50 {p50:>6.0} ms, p99 {p99:>6.0} ms",
            call.source, call.target, call.calls.counted
        ));
    }
    if b.foreign > 0 {
        lines.push(format!("  and {} spans that the demo did not send", b.foreign));
    }
    for [a, b] in &l.partitions {
        lines.push(format!("  {a} and {b} are cut off from each other"));
    }
    lines
}

/// The end: the whole ledger, and whether it adds up.
pub(super) fn closing(ledger: &Ledger, verdict: &Verdict) -> Vec<String> {
    let mut lines = block(ledger);
    lines.push(String::new());
    if verdict.ok {
        lines.push(
            "The ledger balances: every trace that the rules keep came out whole, once, from one node, and no other."
                .to_owned(),
        );
    } else {
        lines.push("The ledger does not balance:".to_owned());
        lines.extend(verdict.differences.iter().map(|difference| format!("  {difference}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::decisions::{CallLine, Counted, Decisions, RuleLine};
    use super::super::generator::Sent;
    use super::super::ledger::NodeLine;
    use super::super::nodes::State;
    use super::super::rules::Bounds;
    use super::*;

    fn decisions() -> Decisions {
        let calls = Counted { counted: 12, expected: Bounds::default() };
        let call = CallLine {
            source: "us-east-1",
            target: "us-west-2",
            calls,
            p50_seconds: Some(0.31),
            p99_seconds: Some(1.5),
        };
        let rule = RuleLine { policy: "errors", traces: Counted { counted: 5, expected: Bounds::default() } };
        Decisions { rules: vec![rule], calls: vec![call], ..Decisions::default() }
    }

    fn ledger() -> Ledger {
        Ledger {
            seconds: 3.2,
            sent: Sent::default(),
            backend: Default::default(),
            bad_requests: 0,
            unstamped: 0,
            nodes: vec![NodeLine::new("us-east-1/node-0".to_owned(), &State::Running, 0)],
            decisions: decisions(),
            first_trace: None,
            partitions: vec![["us-east-1", "eu-west-1"]],
            relay_forwarded: 0,
            relay_dropped: 0,
        }
    }

    #[test]
    fn the_block_tells_each_node_and_each_cut() {
        let lines = block(&ledger()).join("\n");
        assert!(lines.contains("us-east-1/node-0     running"));
        assert!(lines.contains("us-east-1 and eu-west-1 are cut off"));
        assert!(lines.contains("kept for errors 5; 0 dropped"), "{lines}");
        assert!(lines.contains("us-east-1 -> us-west-2      12 calls, p50    310 ms, p99   1500 ms"), "{lines}");
        assert!(line(&ledger()).starts_with("    3s sent 0 "));
    }

    #[test]
    fn the_closing_lists_what_is_wrong() {
        let bad = Verdict { ok: false, differences: vec!["missing: x".to_owned()] };
        assert!(closing(&ledger(), &bad).contains(&"  missing: x".to_owned()));
    }
}
