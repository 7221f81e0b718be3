//! Tail sampling: the verdict on a whole trace.
//!
//! Policies vote (`policy.rs` says what each of them wants), and their votes are weighed as the Collector's
//! `tail_sampling` weighs them, since its users' policies were written against that:
//!
//! 1. a `drop` policy that fits: the trace goes;
//! 2. an inverted no (`invert_match`, and a span or resource fitted): it goes;
//! 3. a yes: it stays;
//! 4. an inverted yes, if no policy said no (a `drop` policy that did not fit did): it stays;
//! 5. otherwise it goes.
//!
//! The second and the fourth are what its documentation says. Its code has deprecated them: from v0.149 on inverted votes
//! count like others unless a feature gate says otherwise, from v0.156 on in any case. What is documented is kept here, and
//! the configuration check warns where it makes a difference. Within `and`, `drop`, `not`
//! and `composite` an inverted vote always was a vote like others, and `drop` says plainly what an inverted no says by
//! the way.
//!
//! `drop` policies are asked first, in their order, and the first that fits ends the asking. With
//! `sample_on_first_match` the first yes among the others ends it too; the votes given so far are then weighed as always,
//! so that an inverted no in front of it still wins.
//!
//! The verdict bears the name of the policy that decided: the first in the order of the configuration that gave the
//! winning vote. If nobody wanted the trace kept, nobody decided.
//!
//! Chance is told to backends: a trace that only chance kept gets the threshold it had to pass. If several thresholds kept
//! it, the lowest one says how likely that was. A policy that keeps a trace for what is in it would have kept it at any
//! rate, so a threshold beside it would make backends count the trace several times. With `sample_on_first_match` the
//! policies behind the first match are not asked; there a threshold is told only if nothing but chance stands behind.
//!
//! All shards of the buffer share one sampler: counters are atomic, and only rates and the memory of patterns have locks.
//! But for rates, nothing that was decided before changes what is decided now: a trace gets the same verdict on every
//! node, in any order of its spans.

mod case;
mod policy;
mod questions;
mod rates;
#[cfg(test)]
mod tests;
mod text;
pub mod threshold;
pub mod tracestate;

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use self::case::Case;
use self::policy::{Policy, Vote, type_name};
use self::questions::Questions;
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
pub struct Sampler {
    policies: Vec<Named>,
    /// As they are asked: `drop` policies first.
    order: Vec<PolicyIndex>,
    questions: Questions,
    first_match: bool,
}

struct Named {
    name: String,
    kind: &'static str,
    policy: Policy,
    /// What is told of traces that it keeps by chance, if nothing else keeps them.
    told: Option<Threshold>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    sampled: AtomicU64,
    not_sampled: AtomicU64,
    dropped: AtomicU64,
    decided_traces: AtomicU64,
    decided_spans: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    // Each counter is a sum of its own; none says anything about another.
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The first policy that gave each vote, in the order of asking, which among equal votes is that of the configuration.
#[derive(Default)]
struct Tally {
    sampled: Option<PolicyIndex>,
    not_sampled: bool,
    invert_sampled: Option<PolicyIndex>,
    invert_not_sampled: Option<PolicyIndex>,
    dropped: Option<PolicyIndex>,
    /// One of those that sampled did so for what is in the trace.
    for_cause: bool,
    /// The lowest threshold that sampled.
    chance: Option<Threshold>,
}

impl Tally {
    fn add(&mut self, policy: PolicyIndex, vote: Vote) {
        match vote {
            Vote::Sampled { by_chance } => {
                self.sampled.get_or_insert(policy);
                self.for_cause |= by_chance.is_none();
                self.chance = lowest(self.chance, by_chance);
            }
            Vote::NotSampled => self.not_sampled = true,
            Vote::InvertSampled => {
                self.invert_sampled.get_or_insert(policy);
            }
            Vote::InvertNotSampled => {
                self.invert_not_sampled.get_or_insert(policy);
            }
            Vote::Dropped => self.dropped = Some(policy),
        }
    }
}

fn lowest(one: Option<Threshold>, other: Option<Threshold>) -> Option<Threshold> {
    one.into_iter().chain(other).min()
}

impl Sampler {
    /// Compiles the policies, at most 65,536 of them. Checked settings always compile.
    pub fn new(settings: &TailSamplingSettings) -> Sampler {
        let mut questions = Questions::default();
        let mut policies: Vec<Named> = settings.policies[..settings.policies.len().min(1 << PolicyIndex::BITS)]
            .iter()
            .map(|policy| Named {
                name: policy.name.clone(),
                kind: type_name(&policy.kind),
                policy: Policy::new(&policy.kind, &mut questions),
                told: None,
                counts: Counts::default(),
            })
            .collect();
        // Whatever passes another threshold passes the lowest that is there for all traces as well.
        let for_all =
            policies.iter().filter(|named| named.policy.is_chance()).filter_map(|named| named.policy.threshold());
        let lowest_for_all = for_all.min();
        let mut only_chance_behind = true;
        for named in policies.iter_mut().rev().filter(|named| !named.policy.is_drop()) {
            if only_chance_behind || !settings.sample_on_first_match {
                named.told = named.policy.threshold().map(|own| lowest_for_all.map_or(own, |lowest| lowest.min(own)));
            }
            only_chance_behind &= named.policy.is_chance();
        }
        let mut order: Vec<PolicyIndex> = (0..=PolicyIndex::MAX).take(policies.len()).collect();
        order.sort_by_key(|policy| !policies[usize::from(*policy)].policy.is_drop());
        Sampler { policies, order, questions, first_match: settings.sample_on_first_match }
    }

    /// Asks the policies. The same for any order of the spans, but for what depends on a rate.
    pub fn decide(&self, trace: &TraceView<'_>, links: &Links, now: Tick) -> Verdict {
        let case = Case::new(trace, links, now, &self.questions);
        let mut tally = Tally::default();
        for &policy in &self.order {
            let Named { policy: asked, counts, .. } = &self.policies[usize::from(policy)];
            let vote = asked.vote(&case);
            match vote {
                Vote::Sampled { .. } | Vote::InvertSampled => count(&counts.sampled, 1),
                Vote::NotSampled | Vote::InvertNotSampled => count(&counts.not_sampled, 1),
                Vote::Dropped => count(&counts.dropped, 1),
            }
            tally.add(policy, vote);
            if vote == Vote::Dropped || self.first_match && matches!(vote, Vote::Sampled { .. }) {
                break;
            }
        }
        let verdict = self.weigh(&tally);
        if let Some(policy) = verdict.policy {
            let counts = &self.policies[usize::from(policy)].counts;
            count(&counts.decided_traces, 1);
            count(&counts.decided_spans, trace.spans.len() as u64);
        }
        verdict
    }

    fn weigh(&self, tally: &Tally) -> Verdict {
        let goes = |policy| Verdict { keep: false, policy, threshold: None };
        let stays = |policy, threshold| Verdict { keep: true, policy: Some(policy), threshold };
        if let Some(policy) = tally.dropped.or(tally.invert_not_sampled) {
            goes(Some(policy))
        } else if let Some(policy) = tally.sampled {
            let told = self.policies[usize::from(policy)].told;
            let by_chance = !tally.for_cause && told.is_some();
            stays(policy, lowest(told, tally.chance).filter(|_| by_chance))
        } else if let Some(policy) = tally.invert_sampled.filter(|_| !tally.not_sampled) {
            stays(policy, None)
        } else {
            goes(None)
        }
    }

    /// The name of a policy.
    pub fn name(&self, policy: PolicyIndex) -> &str {
        self.policies.get(usize::from(policy)).map_or("", |named| &named.name)
    }

    /// What a policy that keeps by chance writes to the spans it keeps: for spans that come after the verdict. Only where
    /// the verdict had a threshold: if another policy wanted the trace as well, it was not kept by chance.
    pub fn threshold(&self, policy: PolicyIndex) -> Option<Threshold> {
        self.policies.get(usize::from(policy))?.told
    }

    /// Counts of all policies, in the order of the configuration.
    pub fn status(&self) -> Vec<PolicyStatus> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let status = |Named { name, kind, counts, .. }: &Named| PolicyStatus {
            name: name.clone(),
            kind,
            sampled: read(&counts.sampled),
            not_sampled: read(&counts.not_sampled),
            dropped: read(&counts.dropped),
            decided_traces: read(&counts.decided_traces),
            decided_spans: read(&counts.decided_spans),
        };
        self.policies.iter().map(status).collect()
    }
}
