//! Outcomes as a text for people and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json as object};

use super::outcome::{Outcome, TraceOutcome, verdict_text};

/// Version of the shape of the JSON. Fields are added without a change of it.
const SCHEMA: u32 = 1;

/// Traces of one test whose difference is written out; of more it is said how many.
const MOST_TRACES: usize = 10;

/// A line for each test, and below each that failed the difference.
pub fn text(files: &[(String, Vec<Outcome>)]) -> String {
    let mut out = String::new();
    for (file, outcomes) in files {
        let _ = writeln!(out, "{file}");
        for outcome in outcomes {
            let word = if outcome.passed { "ok    " } else { "FAILED" };
            let _ = writeln!(out, "  {word}  {}", plain(&outcome.name));
            let failed: Vec<&TraceOutcome> = outcome.traces.iter().filter(|trace| !trace.passed).collect();
            if !failed.is_empty() {
                let _ = writeln!(out, "          at {file}:{}:{}", outcome.line, outcome.column);
            }
            failed.iter().take(MOST_TRACES).for_each(|trace| difference(&mut out, trace));
            if failed.len() > MOST_TRACES {
                let _ = writeln!(out, "          and {} more traces", failed.len() - MOST_TRACES);
            }
        }
    }
    let (all, failed) = counts(files);
    let plural = if all == 1 { "" } else { "s" };
    let _ = writeln!(out, "\n{all} test{plural}, {failed} failed");
    out
}

fn difference(out: &mut String, trace: &TraceOutcome) {
    let plural = if trace.spans == 1 { "" } else { "s" };
    let _ = writeln!(out, "          trace {}, {} span{plural}", trace.trace_id, trace.spans);
    let by = |policy: Option<&str>| match policy {
        Some(name) => format!(", by the policy {}", plain(name)),
        None => ", by no policy".to_owned(),
    };
    let expected = trace.expected.policy.as_ref().map_or_else(String::new, |policy| by(policy.as_deref()));
    let _ = writeln!(out, "            expected: {}{expected}", verdict_text(trace.expected.keep));
    let got = by(trace.got.policy.as_deref());
    let _ = writeln!(out, "            got:      {}{got}", verdict_text(trace.got.keep));
    let width = |of: fn(&super::Vote) -> usize| trace.policies.iter().map(of).max().unwrap_or(0);
    let (names, kinds) = (width(|vote| plain(&vote.name).chars().count()), width(|vote| vote.kind.len()));
    for vote in &trace.policies {
        let (name, kind, said) = (plain(&vote.name), vote.kind, vote.said.text());
        let _ = writeln!(out, "              {name:names$}  {kind:kinds$}  {said}");
    }
}

/// Names come from files: control characters would move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// All tests, and those that failed.
fn counts(files: &[(String, Vec<Outcome>)]) -> (usize, usize) {
    let outcomes = || files.iter().flat_map(|(_, outcomes)| outcomes);
    (outcomes().count(), outcomes().filter(|outcome| !outcome.passed).count())
}

/// The same for programs.
pub fn json(files: &[(String, Vec<Outcome>)]) -> Value {
    let (all, failed) = counts(files);
    let files: Vec<Value> = files.iter().map(|(file, outcomes)| object!({"file": file, "tests": outcomes})).collect();
    object!({"schema": SCHEMA, "passed": failed == 0, "tests": all, "failed": failed, "files": files})
}
