//! What came of a test: for each trace what was wanted, what the rules said, and what each policy said.

use serde::Serialize;

use crate::config::rule_tests::{Expect, ExpectedPolicy, RuleTest};
use crate::logic::sampling::PolicyStatus;
use crate::logic::trace::TraceView;
use crate::model::TraceId;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub name: String,
    /// Where the test stands in its file.
    pub line: u32,
    pub column: u32,
    pub passed: bool,
    pub traces: Vec<TraceOutcome>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceOutcome {
    pub trace_id: String,
    pub spans: usize,
    pub passed: bool,
    pub expected: Wanted,
    pub got: Got,
    /// In the order of the configuration.
    pub policies: Vec<Vote>,
}

/// The verdict that is expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wanted {
    #[serde(rename = "verdict", serialize_with = "verdict")]
    pub keep: bool,
    /// Absent: no matter which. Null: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Option<String>>,
}

/// The verdict of the rules.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Got {
    #[serde(rename = "verdict", serialize_with = "verdict")]
    pub keep: bool,
    /// Null: none said so.
    pub policy: Option<String>,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vote {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Sampled,
    NotSampled,
    /// Drop, whatever others say.
    Drop,
    /// Others had decided already.
    NotAsked,
}

impl Said {
    pub(super) fn text(self) -> &'static str {
        match self {
            Said::Sampled => "sampled",
            Said::NotSampled => "not sampled",
            Said::Drop => "drop",
            Said::NotAsked => "not asked",
        }
    }
}

pub(super) fn verdict_text(keep: bool) -> &'static str {
    if keep { "keep" } else { "drop" }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn verdict<S: serde::Serializer>(keep: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict_text(*keep))
}

impl Vote {
    /// From a policy's counts before and after one trace.
    pub(super) fn between(before: &PolicyStatus, after: &PolicyStatus) -> Vote {
        let said = if after.dropped > before.dropped {
            Said::Drop
        } else if after.sampled > before.sampled {
            Said::Sampled
        } else if after.not_sampled > before.not_sampled {
            Said::NotSampled
        } else {
            Said::NotAsked
        };
        Vote { name: after.name.clone(), kind: after.kind, said }
    }
}

impl TraceOutcome {
    pub(super) fn new(trace: &TraceView<'_>, expect: &Expect, got: Got, policies: Vec<Vote>) -> TraceOutcome {
        let policy = match &expect.policy {
            ExpectedPolicy::Any => None,
            ExpectedPolicy::Nobody => Some(None),
            ExpectedPolicy::Named(name) => Some(Some(name.text.clone())),
        };
        let passed = got.keep == expect.keep && policy.as_ref().is_none_or(|policy| *policy == got.policy);
        let id: TraceId = trace.id;
        TraceOutcome {
            trace_id: id.to_string(),
            spans: trace.spans.len(),
            passed,
            expected: Wanted { keep: expect.keep, policy },
            got,
            policies,
        }
    }
}

impl Outcome {
    pub(super) fn new(test: &RuleTest, traces: Vec<TraceOutcome>) -> Outcome {
        let passed = traces.iter().all(|trace| trace.passed);
        let (line, column) = (test.place.line, test.place.column);
        Outcome { name: test.name.clone(), line, column, passed, traces }
    }
}
