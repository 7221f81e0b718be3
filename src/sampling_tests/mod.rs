//! Tests of sampling rules: traces go in, and what the rules say is held against what a test expects.
//!
//! The code that judges here is the node's own: OTLP/JSON through its reader and its walk, views of whole traces,
//! the calls between clusters, and the same [`Sampler`] with the same checked settings. What is tested is the verdict
//! on a whole trace, so what decides *when* it falls (waiting times, caps, memory) has no part in it. Every test has a
//! sampler of its own at the first tick of time: rates begin full, and no test depends on another.
//!
//! A policy's own vote is not in a verdict, so it is read off the sampler's counts, before and after a trace.

mod outcome;
mod report;
#[cfg(test)]
mod tests;
mod traces;

pub use outcome::{Got, Outcome, Said, TraceOutcome, Vote, Wanted};
pub use report::{json, text};

use self::traces::{Loaded, load};
use crate::config::rule_tests::{Expect, RuleTest, RuleTests, Selected};
use crate::config::{Problem, Problems, Severity};
use crate::logic::cross_cluster::links;
use crate::logic::cross_cluster::write::write_crossings;
use crate::logic::sampling::Sampler;
use crate::logic::trace::{TraceView, headers_of};
use crate::model::{Tick, TraceId};

/// Most bytes of the traces of one test. Readers of files stop one byte behind.
pub const MAX_TRACE_BYTES: usize = 16 << 20;

/// Most traces of one test.
pub const MAX_TRACES: usize = 1_000;

/// Reads the file at a path as a test names it; `Err` is a message for the user.
pub type ReadFile<'f> = dyn Fn(&str) -> Result<Vec<u8>, String> + 'f;

/// What came of a file of tests.
#[derive(Debug)]
pub struct Ran {
    /// In the order of the file.
    pub outcomes: Vec<Outcome>,
    /// What was passed over in the traces.
    pub warnings: Problems,
}

/// Runs all tests of a file.
///
/// # Errors
/// With everything that is wrong with the traces, and with what is expected of traces that are not there.
pub fn run(file: &RuleTests, rules: Selected<'_>, read: &ReadFile<'_>) -> Result<Ran, Problems> {
    let (mut outcomes, mut problems) = (Vec::new(), Vec::new());
    for test in &file.tests {
        if let Some(loaded) = load(test, read, &mut problems) {
            outcomes.extend(judge(test, &loaded, rules, &mut problems));
        }
    }
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    let report = file.report(problems);
    if failed { Err(report) } else { Ok(Ran { outcomes, warnings: report }) }
}

/// `None` if an expectation is missing, or one too many.
fn judge(test: &RuleTest, loaded: &Loaded, rules: Selected<'_>, problems: &mut Vec<Problem>) -> Option<Outcome> {
    let before = problems.len();
    for (trace, expect) in &test.by_trace {
        if !loaded.traces.contains(trace) {
            let problem = Problem::error(expect.place, "expect_by_trace", "this trace is not among those of the test");
            problems.push(problem.allowed(listed(&loaded.traces)));
        }
    }
    let headers = headers_of(&loaded.spans);
    let sampler = Sampler::new(rules.sampling);
    let mut traces = Vec::with_capacity(loaded.traces.len());
    for id in &loaded.traces {
        let Some(expect) = test.by_trace.get(id).or(test.expect.as_ref()) else {
            let problem = Problem::error(test.place, "expect_by_trace", format!("nothing is expected of trace {id}"));
            problems.push(problem.help("name it, or give `expect` for all others"));
            continue;
        };
        let mut view = TraceView::of(*id, &loaded.spans, &headers);
        traces.push(ask(&sampler, &mut view, rules.write_crossings, expect));
    }
    (problems.len() == before).then(|| Outcome::new(test, traces))
}

fn ask(sampler: &Sampler, view: &mut TraceView<'_>, write: bool, expect: &Expect) -> TraceOutcome {
    let links = links(view);
    if write {
        write_crossings(view, &links.crossings);
    }
    let before = sampler.status();
    let verdict = sampler.decide(view, &links, Tick::ZERO);
    let votes = sampler.status().iter().zip(&before).map(|(after, before)| Vote::between(before, after)).collect();
    let policy = verdict.policy.map(|policy| sampler.name(policy).to_owned());
    TraceOutcome::new(view, expect, Got { keep: verdict.keep, policy }, votes)
}

fn listed(traces: &[TraceId]) -> String {
    const MOST: usize = 5;
    let mut text = traces.iter().take(MOST).map(TraceId::to_string).collect::<Vec<_>>().join(", ");
    if traces.len() > MOST {
        text.push_str(", …");
    }
    text
}
