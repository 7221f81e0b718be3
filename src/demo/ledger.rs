//! The demo's books: what was sent, what came out, what each node says, and what does not add up.

use serde::Serialize;

use super::checker::{Checker, Counts, Difference};
use super::decisions::Decisions;
use super::generator::Sent;
use super::nodes::State;
use super::probe::NodeLedger;

/// Everything that is known at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// Since the demo's start.
    pub seconds: f64,
    pub sent: Sent,
    pub backend: Counts,
    /// Requests to the backend that were refused.
    pub bad_requests: u64,
    /// Spans that came out without the name of the cluster they came in at.
    pub unstamped: u64,
    pub nodes: Vec<NodeLine>,
    /// What the nodes decided and measured, beside what it must be.
    pub decisions: Decisions,
    pub first_trace: Option<FirstLine>,
    /// Pairs of clusters that are cut off from each other.
    pub partitions: Vec<[&'static str; 2]>,
    pub relay_forwarded: u64,
    pub relay_dropped: u64,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    pub id: String,
    /// `running`, `stopped` or `ended`.
    pub state: &'static str,
    /// Why it ended, if it did so by itself.
    pub ended: Option<String>,
    pub kills: u32,
    /// Members that it sees alive, itself included.
    pub members: usize,
    /// Traces that it exported.
    pub traces: u64,
    /// Spans that came to the backend from it.
    pub exported: u64,
    /// What the node says; absent if it does not answer.
    pub ledger: Option<NodeLedger>,
}

impl NodeLine {
    pub fn new(id: String, state: &State, kills: u32) -> NodeLine {
        let ended = match state {
            State::Ended(why) => Some(why.clone()),
            State::Running | State::Stopped => None,
        };
        let state = state.label();
        NodeLine { id, state, ended, kills, members: 0, traces: 0, exported: 0, ledger: None }
    }
}

/// The first trace that came whole from several clusters.
#[derive(Clone, Debug, Serialize)]
pub struct FirstLine {
    pub trace: String,
    pub owner: String,
    /// From the demo's start until it was whole at the backend.
    pub seconds: f64,
}

/// Does it add up?
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub ok: bool,
    /// One sentence each; the first say how many, those after them which.
    pub differences: Vec<String>,
}

/// Holds everything against everything. `names` are the nodes' ids. Spans of traces that the demo did not make are wrong
/// only if `alone`: users are invited to send their own.
pub fn judge(ledger: &Ledger, checker: &Checker, names: &[String], alone: bool) -> Verdict {
    let mut wrong = Vec::new();
    let mut count = |count: u64, what: &str| {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    };
    let b = &ledger.backend;
    count(b.on_the_way + b.judged_missing, "spans were accepted and never exported");
    count(b.twice, "spans were exported again");
    count(b.split_traces, "traces were split: their spans came from several nodes");
    count(b.kept_wrongly, "spans were exported of traces that all rules give up");
    count(b.unexpected, "spans were exported that nobody sent");
    count(if alone { b.foreign } else { 0 }, "spans came out of traces that were never made");
    count(b.altered, "spans were changed on the way");
    count(b.after_judgement, "spans came so late that their traces were forgotten");
    count(ledger.unstamped, "spans came without k8s.cluster.name of a cluster of the demo");
    count(ledger.bad_requests, "requests to the backend were refused: from nobody known, or not readable");
    count(ledger.sent.given_up, "spans were given up by their sender");
    count(ledger.sent.rejected, "spans were rejected by a node");
    if b.traces == 0 {
        wrong.push("no trace was sent".to_owned());
    } else if ledger.first_trace.is_none() {
        wrong.push("no trace of several clusters came out whole".to_owned());
    }
    ledger.nodes.iter().for_each(|node| judge_node(node, &mut wrong));
    // What a killed node had counted is gone with it.
    if ledger.nodes.iter().all(|node| node.kills == 0) && b.foreign == 0 {
        wrong.extend(ledger.decisions.differences(b.accepted));
    }
    wrong.extend(checker.differences().iter().map(|difference| sentence(difference, names)));
    Verdict { ok: wrong.is_empty(), differences: wrong }
}

fn judge_node(node: &NodeLine, wrong: &mut Vec<String>) {
    let id = &node.id;
    if let Some(why) = &node.ended {
        wrong.push(format!("{id} did not end well: {why}"));
    }
    let Some(own) = &node.ledger else {
        // What was killed and not started again has no ledger to show.
        if node.kills == 0 {
            wrong.push(format!("{id} did not show its ledger"));
        }
        return;
    };
    if !own.balanced {
        wrong.push(format!("{id}: its ledger does not balance: {own:?}"));
    }
    if own.in_flight > 0 {
        wrong.push(format!("{id} still holds {} spans", own.in_flight));
    }
    if own.released > 0 {
        wrong.push(format!("{id} forgot {} spans", own.released));
    }
    for (reason, spans) in own.dropped.iter().filter(|(_, spans)| **spans > 0) {
        wrong.push(format!("{id} dropped {spans} spans: {reason}"));
    }
    // A node that was started again counts from zero.
    if node.kills == 0 && own.exported != node.exported {
        wrong.push(format!("{id} says it exported {} spans, {} came from it", own.exported, node.exported));
    }
}

fn sentence(difference: &Difference, names: &[String]) -> String {
    let name = |node: &usize| names.get(*node).map_or("nobody", String::as_str);
    match difference {
        Difference::Missing(span) => format!("missing: {span}"),
        Difference::Twice { span, node } => format!("again: {span} from {}", name(node)),
        Difference::Split { trace, nodes } => {
            format!("split: {trace} between {}", nodes.iter().map(name).collect::<Vec<_>>().join(" and "))
        }
        Difference::Unexpected { span, node } => format!("never sent: {span} from {}", name(node)),
        Difference::Kept { span, node } => format!("to be dropped: {span} from {}", name(node)),
        Difference::Altered { span, node } => format!("changed: {span} from {}", name(node)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::checker::Outcome;
    use super::super::checker::SpanKey;
    use super::*;
    use crate::model::{SpanId, TraceId};

    const KEY: SpanKey = SpanKey { trace: TraceId([7; 16]), span: SpanId([1; 8]) };

    /// A run of one span that went well.
    fn good() -> (Ledger, Checker) {
        let mut checker = Checker::new([7; 8]);
        checker.expect(KEY.trace, Outcome::Kept, [(KEY.span, 5)]);
        checker.accepted(&KEY);
        checker.exported(0, &KEY, 5);
        let own = NodeLedger { received_local: 1, exported: 1, balanced: true, ..NodeLedger::default() };
        let node =
            NodeLine { exported: 1, ledger: Some(own), ..NodeLine::new("a/node-0".to_owned(), &State::Stopped, 0) };
        let first_trace = Some(FirstLine { trace: String::new(), owner: String::new(), seconds: 1.0 });
        let ledger = Ledger {
            seconds: 2.0,
            sent: Sent::default(),
            backend: checker.counts().clone(),
            bad_requests: 0,
            unstamped: 0,
            nodes: vec![node],
            decisions: Decisions { decided_spans: 1, ..Decisions::default() },
            first_trace,
            partitions: Vec::new(),
            relay_forwarded: 0,
            relay_dropped: 0,
        };
        (ledger, checker)
    }

    fn verdict(ledger: &Ledger, checker: &Checker) -> Verdict {
        let ledger = Ledger { backend: checker.counts().clone(), ..ledger.clone() };
        judge(&ledger, checker, &["a/node-0".to_owned(), "b/node-0".to_owned()], true)
    }

    #[test]
    fn books_that_balance_are_ok() {
        let (ledger, checker) = good();
        assert_eq!(verdict(&ledger, &checker), Verdict { ok: true, differences: vec![] });
    }

    #[test]
    fn every_fault_of_the_spans_is_named_with_its_node() {
        let (ledger, mut checker) = good();
        checker.exported(1, &KEY, 5);
        checker.exported(0, &SpanKey { span: SpanId([9; 8]), ..KEY }, 0);
        checker.exported(0, &SpanKey { trace: TraceId([9; 16]), ..KEY }, 0);
        let missing = SpanKey { trace: TraceId([8; 16]), ..KEY };
        checker.expect(missing.trace, Outcome::Kept, [(missing.span, 1)]);
        checker.accepted(&missing);
        let found = verdict(&ledger, &checker);
        assert!(!found.ok);
        for wanted in [
            "1 spans were accepted and never exported",
            "1 spans were exported again",
            "1 traces were split",
            "1 spans were exported that nobody sent",
            "again: 07070707070707070707070707070707/0101010101010101 from b/node-0",
            "split: 07070707070707070707070707070707 between a/node-0 and b/node-0",
            "1 spans came out of traces that were never made",
            "never sent: 07070707070707070707070707070707/0909090909090909 from a/node-0",
            "missing: 08",
        ] {
            assert!(found.differences.iter().any(|d| d.starts_with(wanted)), "{wanted:?} in {:?}", found.differences);
        }
    }

    #[test]
    fn a_node_whose_own_books_are_wrong_is_named() {
        let (ledger, checker) = good();
        let with = |edit: fn(&mut NodeLine)| {
            let mut ledger = ledger.clone();
            edit(&mut ledger.nodes[0]);
            verdict(&ledger, &checker).differences
        };
        assert!(with(|n| n.ledger = None)[0].contains("did not show"));
        assert!(with(|n| n.ended = Some("exit status: 1".to_owned()))[0].contains("did not end well"));
        assert!(with(|n| n.ledger.iter_mut().for_each(|l| l.balanced = false))[0].contains("does not balance"));
        assert!(with(|n| n.ledger.iter_mut().for_each(|l| l.in_flight = 2))[0].contains("still holds 2"));
        assert!(with(|n| n.ledger.iter_mut().for_each(|l| l.released = 2))[0].contains("forgot 2"));
        assert!(with(|n| n.ledger.iter_mut().for_each(|l| l.exported = 2))[0].contains("says it exported 2 spans, 1"));
        assert!(with(|n| n.exported = 0)[0].contains("0 came from it"));
        assert!(with(|n| (n.kills, n.ledger) = (1, None)).is_empty());
    }

    #[test]
    fn nothing_sent_is_not_success() {
        let (ledger, _) = good();
        let none = verdict(&Ledger { first_trace: None, ..ledger.clone() }, &Checker::new([0; 8]));
        assert!(none.differences.contains(&"no trace was sent".to_owned()));
        let (_, checker) = good();
        let never = verdict(&Ledger { first_trace: None, ..ledger }, &checker);
        assert_eq!(never.differences, ["no trace of several clusters came out whole"]);
    }
}
