//! The policies of `tail_sampling`: the list, and those that are made of others. What a single one asks is in [`conditions`].
//!
//! `and`, `not` and `drop` may stand in one another, to a depth and number that are bounded; the bounds are far above
//! what anybody writes by hand, and keep what a verdict costs within sight.

use std::collections::BTreeMap;

use super::fields::{Choice, Fields, join};
use super::{Check, composite, conditions};
use crate::config::problem::Problem;
use crate::config::schema::traces::{AND, DROP, NO_OTTL, NOT, POLICIES, POLICY};
use crate::config::settings::{PolicyKind, PolicySettings};
use crate::config::tree::{Node, Place};

const DEEPEST: usize = 8;
const MOST_POLICIES: usize = 1_000;
/// Regular expressions of all policies together: each may take megabytes.
pub(super) const MOST_PATTERNS: usize = 256;
const LONGEST_NAME: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    AlwaysSample,
    Latency,
    NumericAttribute,
    Probabilistic,
    StatusCode,
    StringAttribute,
    BooleanAttribute,
    TraceState,
    TraceFlags,
    RateLimiting,
    BytesLimiting,
    SpanCount,
    And,
    Not,
    Drop,
    Composite,
    CrossCluster,
}

const TYPES: Choice<Type> = Choice {
    values: &[
        ("always_sample", Type::AlwaysSample),
        ("latency", Type::Latency),
        ("numeric_attribute", Type::NumericAttribute),
        ("probabilistic", Type::Probabilistic),
        ("status_code", Type::StatusCode),
        ("string_attribute", Type::StringAttribute),
        ("boolean_attribute", Type::BooleanAttribute),
        ("trace_state", Type::TraceState),
        ("trace_flags", Type::TraceFlags),
        ("rate_limiting", Type::RateLimiting),
        ("bytes_limiting", Type::BytesLimiting),
        ("span_count", Type::SpanCount),
        ("and", Type::And),
        ("not", Type::Not),
        ("drop", Type::Drop),
        ("composite", Type::Composite),
        ("cross_cluster", Type::CrossCluster),
    ],
    not_yet: &[("ottl_condition", NO_OTTL)],
};

impl Type {
    fn name(self) -> &'static str {
        TYPES.values.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The key of its settings; these two have none.
    fn block(self) -> Option<&'static str> {
        (!matches!(self, Type::AlwaysSample | Type::TraceFlags)).then(|| self.name())
    }
}

/// What may still be defined.
pub(super) struct Left {
    policies: usize,
    patterns: usize,
    told: bool,
}

impl Left {
    /// Takes a policy. Says once if there are none left; what is beyond is not read.
    fn policy(&mut self, check: &mut Check<'_>, at: Place, path: &[String]) -> bool {
        let some = take(&mut self.policies);
        if !some && !std::mem::replace(&mut self.told, true) {
            let problem = Problem::error(at, &join(path), "too many policies");
            check.say(problem.allowed(format!("at most {MOST_POLICIES}, with those inside of others")));
        }
        some
    }

    /// Takes a regular expression.
    pub(super) fn pattern(&mut self) -> bool {
        take(&mut self.patterns)
    }
}

fn take(count: &mut usize) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

/// Where a policy stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Within {
    depth: usize,
    /// `None`: in `policies`.
    parent: Option<Type>,
}

impl Within {
    fn below(self, parent: Type) -> Within {
        Within { depth: self.depth + 1, parent: Some(parent) }
    }
}

/// A list of policies, and where each name was given, also of those that could not be read.
#[derive(Default)]
pub(super) struct Listed {
    pub policies: Vec<PolicySettings>,
    pub names: BTreeMap<String, Place>,
}

pub(super) fn read(check: &mut Check<'_>, tail_sampling: &Fields<'_>) -> Vec<PolicySettings> {
    let mut left = Left { policies: MOST_POLICIES, patterns: MOST_PATTERNS, told: false };
    if tail_sampling.is_empty_list("policies") {
        let help =
            "a trace that no policy wants is dropped; this keeps everything: `- {name: all, type: always_sample}`";
        tail_sampling.missing(check, "policies", help);
    }
    let listed = list(check, tail_sampling, "policies", Within { depth: 1, parent: None }, &mut left);
    inverted_beside_others(check, tail_sampling, &listed);
    listed.policies
}

/// At the top an inverted vote is not one like others here, and is one in the Collector of today.
fn inverted_beside_others(check: &mut Check<'_>, tail_sampling: &Fields<'_>, listed: &Listed) {
    let is_inverted = |kind: &PolicyKind| match kind {
        PolicyKind::NumericAttribute { invert_match, .. }
        | PolicyKind::StringAttribute { invert_match, .. }
        | PolicyKind::BooleanAttribute { invert_match, .. } => *invert_match,
        _ => false,
    };
    let voters = listed.policies.iter().filter(|policy| !matches!(policy.kind, PolicyKind::Drop(_))).count();
    if voters < 2 {
        return;
    }
    for policy in listed.policies.iter().filter(|policy| is_inverted(&policy.kind)) {
        let Some(place) = listed.names.get(&policy.name) else { continue };
        let name = policy.name.escape_debug();
        let message =
            format!("`{name}` has `invert_match`: a trace in which it finds a match goes, whoever wants it kept");
        let problem = Problem::warning(*place, &join(&tail_sampling.path_of("policies")), message);
        check.say(problem.help(
            "so the Collector documents it; since v0.149 it counts this vote like others: for that, put the policy into `and` (alone), or say what is to go with `drop`",
        ));
    }
}

fn list(check: &mut Check<'_>, parent: &Fields<'_>, key: &'static str, within: Within, left: &mut Left) -> Listed {
    let mut listed = Listed::default();
    for (index, (path, item)) in parent.list(check, key).into_iter().enumerate() {
        if !left.policy(check, item.at, &path) {
            break;
        }
        let (name, kind) = policy(check, item, path.clone(), index, within, left);
        let Some((name, place)) = name else { continue };
        match listed.names.get(&name) {
            Some(first) => {
                let message = format!("two policies of one name, `{}`", name.escape_debug());
                check.say(Problem::error(place, &join(&path), message).related(*first, "the first one"));
            }
            None => {
                listed.names.insert(name.clone(), place);
            }
        }
        listed.policies.extend(kind.map(|kind| PolicySettings { name, kind }));
    }
    listed
}

/// A list that makes no sense empty.
pub(super) fn some(
    check: &mut Check<'_>,
    block: &Fields<'_>,
    key: &'static str,
    (within, parent): (Within, Type),
    left: &mut Left,
) -> Listed {
    if block.is_empty_list(key) {
        block.missing(check, key, "a list of policies, each with `name`, `type` and the settings of its type");
    }
    list(check, block, key, within.below(parent), left)
}

/// Its name with the place, and what it asks.
fn policy(
    check: &mut Check<'_>,
    item: &Node,
    path: Vec<String>,
    index: usize,
    within: Within,
    left: &mut Left,
) -> (Option<(String, Place)>, Option<PolicyKind>) {
    if within.depth > DEEPEST {
        let problem = Problem::error(item.at, &join(&path), "policies inside of policies, too deep");
        check.say(problem.allowed(format!("at most {DEEPEST} levels")));
        return (None, None);
    }
    let fields = Fields::open(check, item, item.at, path, &POLICY);
    let kind = kind(check, &fields, within);
    let name = name(check, &fields, kind, index, within);
    let given = |kind: &Type| kind.block().is_some_and(|block| fields.get(block).is_some());
    let blocks: Vec<Type> = TYPES.values.iter().map(|(_, kind)| *kind).filter(given).collect();
    let Some(kind) = kind else {
        // The type is wrong; what else is wrong is to be said as well.
        for kind in blocks {
            body(check, &fields, kind, within, left);
        }
        return (name, None);
    };
    for other in blocks.into_iter().filter(|other| *other != kind) {
        let (block, at) = (other.name(), fields.key_place(other.name()));
        let message = format!("`{block}` in a policy of `type: {}`", kind.name());
        let help =
            format!("a policy has one type: remove this, or join two policies with `type: and` (`{block}` apart)");
        check.say(Problem::error(at, &join(&fields.path), message).help(help));
    }
    let body = body(check, &fields, kind, within, left);
    (name, body)
}

fn kind(check: &mut Check<'_>, fields: &Fields<'_>, within: Within) -> Option<Type> {
    if fields.get("type").is_none() {
        let names: Vec<&str> = POLICIES.iter().map(|(name, _)| *name).collect();
        fields.missing(check, "type", &format!("one of {}", names.join(", ")));
        return None;
    }
    if fields.names("ottl_condition") {
        // Reported where its settings stand.
        return None;
    }
    let kind = fields.choice_given(check, "type", &TYPES)?;
    if matches!(kind, Type::Drop | Type::Composite)
        && let Some(parent) = within.parent
    {
        let reason = match kind {
            Type::Drop => "it outvotes every other policy",
            _ => "its rate holds for all that it lets pass",
        };
        let message = format!("`{}` inside of `{}`", kind.name(), parent.name());
        let problem = Problem::error(fields.place("type"), &join(&fields.path_of("type")), message);
        check.say(problem.help(format!("move it to the top of `policies`: {reason}")));
        return None;
    }
    Some(kind)
}

/// Names tell policies apart in metrics and verdicts. Inside of others, where nobody sees them, they may be left out.
fn name(
    check: &mut Check<'_>,
    fields: &Fields<'_>,
    kind: Option<Type>,
    index: usize,
    within: Within,
) -> Option<(String, Place)> {
    let place = fields.place("name");
    let named = matches!(within.parent, None | Some(Type::Composite));
    if fields.get("name").is_none() && !named {
        let name = format!("{}-{}", kind.map_or("policy", Type::name), index + 1);
        fields.default(check, "name", name.as_str());
        return Some((name, place));
    }
    let name = fields.text(check, "name").unwrap_or_default();
    if name.trim().is_empty() {
        fields.missing(check, "name", "verdicts and metrics name the policy");
        return None;
    }
    if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        let allowed = format!("at most {LONGEST_NAME} bytes of printable text");
        fields.wrong(check, "name", "this cannot be the name of a policy", &allowed);
        return None;
    }
    Some((name, place))
}

/// The settings of a policy of this type; `None`: reported.
fn body(check: &mut Check<'_>, fields: &Fields<'_>, kind: Type, within: Within, left: &mut Left) -> Option<PolicyKind> {
    if let Some(key) = kind.block()
        && fields.get(key).is_none()
        && kind != Type::CrossCluster
    {
        fields.missing(check, key, &format!("the settings of a policy of `type: {key}`"));
        return None;
    }
    match kind {
        Type::AlwaysSample => Some(PolicyKind::AlwaysSample),
        Type::TraceFlags => Some(PolicyKind::TraceFlags),
        Type::Latency => conditions::latency(check, fields),
        Type::NumericAttribute => conditions::numeric_attribute(check, fields),
        Type::Probabilistic => Some(conditions::probabilistic(check, fields)),
        Type::StatusCode => Some(conditions::status_code(check, fields)),
        Type::StringAttribute => Some(conditions::string_attribute(check, fields, left)),
        Type::BooleanAttribute => Some(conditions::boolean_attribute(check, fields)),
        Type::TraceState => Some(conditions::trace_state(check, fields)),
        Type::RateLimiting => Some(conditions::rate_limiting(check, fields)),
        Type::BytesLimiting => Some(conditions::bytes_limiting(check, fields)),
        Type::SpanCount => conditions::span_count(check, fields),
        Type::CrossCluster => Some(conditions::cross_cluster(check, fields)),
        Type::And => {
            let block = fields.map(check, "and", &AND);
            Some(PolicyKind::And(some(check, &block, "and_sub_policy", (within, kind), left).policies))
        }
        Type::Drop => {
            let block = fields.map(check, "drop", &DROP);
            Some(PolicyKind::Drop(some(check, &block, "drop_sub_policy", (within, kind), left).policies))
        }
        Type::Not => not(check, fields, within, left),
        Type::Composite => composite::read(check, fields, within, left),
    }
}

fn not(check: &mut Check<'_>, fields: &Fields<'_>, within: Within, left: &mut Left) -> Option<PolicyKind> {
    const KEY: &str = "not_sub_policy";
    let block = fields.map(check, "not", &NOT);
    let Some(item) = block.get(KEY) else {
        block.missing(check, KEY, "one policy, with `type` and the settings of its type");
        return None;
    };
    let path = block.path_of(KEY);
    if !left.policy(check, item.at, &path) {
        return None;
    }
    let (name, kind) = policy(check, item, path, 0, within.below(Type::Not), left);
    let ((name, _), kind) = (name?, kind?);
    Some(PolicyKind::Not(Box::new(PolicySettings { name, kind })))
}
