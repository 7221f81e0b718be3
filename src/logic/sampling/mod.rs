//! Tail sampling: the verdict on a whole trace.

pub mod threshold;
pub mod tracestate;

use serde::Serialize;

use self::threshold::Threshold;
use super::cross_cluster::Links;
use super::trace::TraceView;
use crate::config::settings::TailSamplingSettings;
use crate::model::Tick;

/// Index of a policy in the order of the configuration.
pub type PolicyIndex = u16;

/// What is to become of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub keep: bool,
    /// The policy that said so; `None`: none did, so it goes.
    pub policy: Option<PolicyIndex>,
    /// Set if it is kept by chance alone: to be written to the spans' tracestate, so that backends can weigh them.
    pub threshold: Option<Threshold>,
}

/// One policy's counts, in traces. A policy that was not asked counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    pub name: String,
    /// The type, as in the configuration.
    pub kind: &'static str,
    /// It wanted the trace kept.
    pub sampled: u64,
    /// It did not.
    pub not_sampled: u64,
    /// It wanted the trace dropped, whatever others say.
    pub dropped: u64,
    /// Traces whose verdict bears its name, and their spans.
    pub decided_traces: u64,
    pub decided_spans: u64,
}

/// The policies of one `tail_sampling`, shared by all shards of the buffer: rates hold for the node.
pub struct Sampler {}

impl Sampler {
    /// Compiles the policies. Checked settings always compile.
    pub fn new(settings: &TailSamplingSettings) -> Sampler {
        let _ = settings;
        Sampler {}
    }

    /// Asks the policies. The same for any order of the spans, but for what depends on a rate.
    pub fn decide(&self, trace: &TraceView<'_>, links: &Links, now: Tick) -> Verdict {
        let _ = (trace, links, now);
        Verdict { keep: true, policy: None, threshold: None }
    }

    /// The name of a policy.
    pub fn name(&self, policy: PolicyIndex) -> &str {
        let _ = policy;
        ""
    }

    /// What a `probabilistic` policy writes to the spans it keeps: for spans that come after the verdict.
    pub fn threshold(&self, policy: PolicyIndex) -> Option<Threshold> {
        let _ = policy;
        None
    }

    pub fn status(&self) -> Vec<PolicyStatus> {
        Vec::new()
    }
}
