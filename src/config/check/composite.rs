//! `composite`: policies that share a rate, in the order in which they are asked.
//!
//! Shares as in the Collector (`composite_helper.go`): `percent` of the total, or for 0 an equal part of it. A policy
//! without a share gets nothing there, though its documentation says that such a one takes what is left. So it does here.

use std::collections::BTreeMap;

use super::Check;
use super::fields::{Fields, join};
use super::policies::{self, Left, Listed, Type, Within};
use crate::config::problem::Problem;
use crate::config::schema::traces::{COMPOSITE, RATE_ALLOCATION};
use crate::config::settings::{CompositePart, PolicyKind};
use crate::config::suggest::nearest;
use crate::config::tree::Place;

const SUBS: &str = "composite_sub_policy";
const ORDER: &str = "policy_order";
const SHARES: &str = "rate_allocation";
const TOTAL: &str = "max_total_spans_per_second";

pub(super) fn read(check: &mut Check<'_>, fields: &Fields<'_>, within: Within, left: &mut Left) -> Option<PolicyKind> {
    let block = fields.map(check, "composite", &COMPOSITE);
    if block.get(TOTAL).is_none() {
        block.missing(check, TOTAL, "the spans a second that all of its policies may keep");
    }
    let total = block.count_given(check, TOTAL, (1, super::conditions::MOST_RATE)).unwrap_or(1);
    let listed = policies::some(check, &block, SUBS, (within, Type::Composite), left);
    let order = order(check, &block, &listed);
    let percents = shares(check, &block, &listed);
    let rates = rates(check, &block, total, &order, &percents);
    let mut policies = listed.policies;
    let mut parts = Vec::new();
    for ((name, _), spans_per_second) in order.into_iter().zip(rates) {
        if let Some(index) = policies.iter().position(|policy| policy.name == name) {
            parts.push(CompositePart { policy: policies.swap_remove(index), spans_per_second });
        }
    }
    Some(PolicyKind::Composite { max_total_spans_per_second: total, parts })
}

/// The names in the order in which they are asked, each once, and where each policy is defined.
fn order(check: &mut Check<'_>, block: &Fields<'_>, listed: &Listed) -> Vec<(String, Place)> {
    if block.get(ORDER).is_none() {
        return listed.policies.iter().filter_map(|p| Some((p.name.clone(), *listed.names.get(&p.name)?))).collect();
    }
    let mut given: BTreeMap<String, Place> = BTreeMap::new();
    let mut order = Vec::new();
    for (path, item, name) in block.scalars(check, ORDER, "the name of a policy") {
        let Some(place) = listed.names.get(&name) else {
            unknown(check, item.at, &path, &name, listed);
            continue;
        };
        if let Some(first) = given.insert(name.clone(), item.at) {
            let message = format!("`{}` is listed twice", name.escape_debug());
            check.say(Problem::error(item.at, &join(&path), message).related(first, "first listed here"));
            continue;
        }
        order.push((name, *place));
    }
    for (name, place) in listed.names.iter().filter(|(name, _)| !given.contains_key(*name)) {
        let message = format!("`{}` is missing in `{ORDER}`: it would never be asked", name.escape_debug());
        check.say(Problem::error(*place, &join(&block.path_of(SUBS)), message).help("name it there, or remove it"));
    }
    order
}

/// The percentages that are given, by the names of the policies.
fn shares(check: &mut Check<'_>, block: &Fields<'_>, listed: &Listed) -> BTreeMap<String, u64> {
    let mut percents: BTreeMap<String, u64> = BTreeMap::new();
    for (path, item) in block.list(check, SHARES) {
        let share = Fields::open(check, item, item.at, path, &RATE_ALLOCATION);
        let percent = share.count(check, "percent", 0, (0, 100));
        let Some(name) = share.text(check, "policy").filter(|name| !name.is_empty()) else {
            share.missing(check, "policy", "the name of one of the policies");
            continue;
        };
        if !listed.names.contains_key(&name) {
            unknown(check, share.place("policy"), &share.path_of("policy"), &name, listed);
        } else if percents.insert(name.clone(), percent).is_some() {
            let message = format!("a second share for `{}`", name.escape_debug());
            check.say(Problem::error(share.place("policy"), &join(&share.path), message));
        }
    }
    let sum: u64 = percents.values().sum();
    if sum > 100 {
        block.wrong(check, SHARES, format!("the shares add up to {sum} percent"), "100 percent together, or less");
    }
    percents
}

/// What each may use, in spans a second.
fn rates(
    check: &mut Check<'_>,
    block: &Fields<'_>,
    total: u64,
    order: &[(String, Place)],
    percents: &BTreeMap<String, u64>,
) -> Vec<u64> {
    let part =
        |of: u64, by: u64| u64::try_from(u128::from(total) * u128::from(of) / u128::from(by.max(1))).unwrap_or(0);
    let equal = part(1, order.len() as u64);
    let share = |name: &str| percents.get(name).map(|percent| if *percent == 0 { equal } else { part(*percent, 100) });
    let given: u64 = order.iter().filter_map(|(name, _)| share(name)).fold(0, u64::saturating_add);
    let without = order.iter().filter(|(name, _)| !percents.contains_key(name)).count() as u64;
    let rest = total.saturating_sub(given) / without.max(1);
    let mut rates = Vec::new();
    for (name, place) in order {
        let rate = share(name).unwrap_or(rest);
        let path = join(&block.path_of(SUBS));
        if rate == 0 {
            let message = format!("nothing of the rate is left for `{}`: it keeps no trace", name.escape_debug());
            check.say(Problem::warning(*place, &path, message).help(format!("give it a share in `{SHARES}`")));
        } else if !percents.is_empty() && !percents.contains_key(name) {
            let message =
                format!("`{}` has no share of its own: it may use what is left, {rate} spans/s", name.escape_debug());
            check.say(Problem::note(*place, &path, message));
        }
        rates.push(rate);
    }
    rates
}

fn unknown(check: &mut Check<'_>, at: Place, path: &[String], name: &str, listed: &Listed) {
    let message = format!("no policy `{}` is among the `{SUBS}`", name.escape_debug());
    let known: Vec<&str> = listed.names.keys().map(String::as_str).collect();
    let near = nearest(name, known.iter().copied()).map(str::to_owned);
    let problem = Problem::error(at, &join(path), message).suggest(near);
    check.say(if known.is_empty() { problem } else { problem.allowed(known.join(", ")) });
}
