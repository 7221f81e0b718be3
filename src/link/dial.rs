//! Which addresses to dial, and when: a plan without sockets.
//!
//! Addresses come from seeds (nobody knows who is there) and from members (somebody said so). Both may be wrong, stale or
//! this node's own. A mesh of a thousand nodes that restarts must not dial a million times a second, so each address
//! has a backoff with jitter of its own, few dials are under way at once, and of two nodes that can dial each other
//! the one with the higher id gives the other a head start. Members that were declared dead are dialled too, seldom:
//! after a long partition nobody else may tell the two sides of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::model::{NodeId, Tick};

/// Dials under way at once.
const MAX_DIALS: usize = 16;
/// Most addresses considered.
const MAX_ADDRESSES: usize = 16_384;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A peer that comes back is found within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same for members that were declared dead, and for addresses that turned out to be somebody else's.
const LONGEST_PAUSE_FOR_DEAD: Duration = Duration::from_secs(60);
/// After how long an address that was this node's own may be another's.
const RECHECK_OWN: Duration = Duration::from_secs(600);
/// How long a fresh connection to a suspected peer is given before the next one.
const RENEW_PAUSE: Duration = Duration::from_secs(3);
/// Head start of the node with the lower id.
const HEAD_START: Duration = Duration::from_millis(500);

/// An address somebody wants a link to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) address: SocketAddr,
    /// Who is said to be there; `None` for a seed.
    pub(super) member: Option<NodeId>,
    pub(super) dead: bool,
    /// A link is up, and suspected of leading to a run that is no more.
    pub(super) renew: bool,
    /// The peer may dial this node as well, and should go first.
    pub(super) yield_first: bool,
}

/// How a dial ended.
pub(super) enum Dialled {
    Linked(NodeId),
    Myself,
    Failed(String),
}

/// An address that does not lead to a link now.
#[derive(Clone, Debug, Serialize)]
pub struct DialStatus {
    pub address: SocketAddr,
    pub failures: u32,
    pub error: String,
}

struct Entry {
    next: Tick,
    failures: u32,
    dead: bool,
    under_way: bool,
    /// Who answered there last, and when.
    leads_to: Option<NodeId>,
    linked_at: Option<Tick>,
    error: Option<String>,
}

#[derive(Default)]
pub(super) struct DialPlan {
    entries: BTreeMap<SocketAddr, Entry>,
    under_way: usize,
}

impl DialPlan {
    /// The addresses to dial now. Wishes for linked nodes are left out by the caller, as far as it knows who is where;
    /// `linked` tells for those whose node is only known from a dial before. `random` in 0.0..1.0.
    pub(super) fn due(
        &mut self,
        wishes: Vec<Wish>,
        linked: impl Fn(&NodeId) -> bool,
        now: Tick,
        mut random: impl FnMut() -> f64,
    ) -> Vec<SocketAddr> {
        let wished: BTreeSet<SocketAddr> = wishes.iter().map(|wish| wish.address).collect();
        self.entries.retain(|address, entry| entry.under_way || wished.contains(address));
        let mut due = Vec::new();
        for wish in wishes {
            if self.entries.len() >= MAX_ADDRESSES && !self.entries.contains_key(&wish.address) {
                continue;
            }
            let entry = self.entries.entry(wish.address).or_insert_with(|| {
                let head_start = if wish.yield_first { HEAD_START } else { Duration::ZERO };
                let jitter = if wish.member.is_some() { FIRST_PAUSE / 4 } else { Duration::ZERO };
                let next = now + head_start + jitter.mul_f64(random());
                let (leads_to, linked_at) = (None, None);
                Entry { next, failures: 0, dead: wish.dead, under_way: false, leads_to, linked_at, error: None }
            });
            entry.dead = wish.dead;
            let known_and_linked = wish.member.is_none() && entry.leads_to.as_ref().is_some_and(&linked);
            let fresh = wish.renew && entry.linked_at.is_some_and(|at| now.since(at) < RENEW_PAUSE);
            if entry.under_way || known_and_linked || fresh || entry.next > now || self.under_way >= MAX_DIALS {
                continue;
            }
            entry.under_way = true;
            self.under_way += 1;
            due.push(wish.address);
        }
        due
    }

    pub(super) fn ended(&mut self, address: SocketAddr, how: Dialled, now: Tick, random: f64) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.under_way = false;
        match how {
            Dialled::Linked(node) => {
                (entry.leads_to, entry.linked_at) = (Some(node), Some(now));
                (entry.failures, entry.error) = (0, None);
                entry.next = now + FIRST_PAUSE;
            }
            Dialled::Myself => {
                (entry.failures, entry.error) = (0, None);
                entry.next = now + RECHECK_OWN;
            }
            Dialled::Failed(error) => {
                let longest = if entry.dead { LONGEST_PAUSE_FOR_DEAD } else { LONGEST_PAUSE };
                let pause = FIRST_PAUSE.saturating_mul(1 << entry.failures.min(10)).min(longest);
                entry.failures = entry.failures.saturating_add(1);
                entry.error = Some(error);
                // 50 % to 100 % of the pause, so that nodes that fail together do not come back together.
                entry.next = now + pause.mul_f64(0.5 + 0.5 * random);
            }
        }
    }

    /// Failures of an address so far.
    pub(super) fn failures(&self, address: &SocketAddr) -> u32 {
        self.entries.get(address).map_or(0, |entry| entry.failures)
    }

    pub(super) fn status(&self) -> Vec<DialStatus> {
        let failing = |(address, entry): (&SocketAddr, &Entry)| {
            let error = entry.error.clone()?;
            Some(DialStatus { address: *address, failures: entry.failures, error })
        };
        self.entries.iter().filter_map(failing).take(256).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn seed(port: u16) -> Wish {
        Wish { address: address(port), member: None, dead: false, renew: false, yield_first: false }
    }

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    fn due(plan: &mut DialPlan, wishes: &[Wish], now: Tick) -> Vec<SocketAddr> {
        plan.due(wishes.to_vec(), |node| node.to_string() == "up/n", now, || 0.5)
    }

    #[test]
    fn a_seed_is_dialled_at_once_and_a_failing_one_ever_more_seldom() {
        let mut plan = DialPlan::default();
        assert_eq!(due(&mut plan, &[seed(1)], at(0)), [address(1)]);
        assert!(due(&mut plan, &[seed(1)], at(1)).is_empty(), "it is under way");
        let mut dials = 0;
        for second in 1..100 {
            plan.ended(address(1), Dialled::Failed("no answer".into()), at(second), 1.0);
            let again = (second..second + 10).find(|s| !due(&mut plan, &[seed(1)], at(*s)).is_empty());
            assert!(again.is_some_and(|again| again - second <= 5));
            dials += 1;
        }
        assert_eq!((plan.failures(&address(1)), plan.status().len()), (dials, 1));
    }

    #[test]
    fn an_address_that_led_to_a_linked_node_or_back_here_is_left_alone() {
        let mut plan = DialPlan::default();
        assert_eq!(due(&mut plan, &[seed(1), seed(2), seed(3)], at(0)).len(), 3);
        plan.ended(address(1), Dialled::Linked("up/n".parse().unwrap()), at(1), 0.5);
        plan.ended(address(2), Dialled::Myself, at(1), 0.5);
        plan.ended(address(3), Dialled::Linked("down/n".parse().unwrap()), at(1), 0.5);
        assert_eq!(due(&mut plan, &[seed(1), seed(2), seed(3)], at(60)), [address(3)]);
        assert_eq!(due(&mut plan, &[seed(1), seed(2)], at(700)), [address(2)]);
    }

    #[test]
    fn few_dials_are_under_way_at_once_and_the_higher_id_waits() {
        let mut plan = DialPlan::default();
        let many: Vec<Wish> = (1..100).map(seed).collect();
        assert_eq!(due(&mut plan, &many, at(0)).len(), MAX_DIALS);
        let mut plan = DialPlan::default();
        let polite = Wish { member: Some("a/n".parse().unwrap()), yield_first: true, ..seed(1) };
        assert!(due(&mut plan, std::slice::from_ref(&polite), at(0)).is_empty());
        assert_eq!(due(&mut plan, &[polite], at(1)), [address(1)]);
    }

    #[test]
    fn a_suspected_link_is_renewed_and_then_given_time() {
        let mut plan = DialPlan::default();
        let suspect = [Wish { member: Some("up/n".parse().unwrap()), renew: true, ..seed(1) }];
        assert!(due(&mut plan, &suspect, at(0)).is_empty(), "jitter");
        assert_eq!(due(&mut plan, &suspect, at(1)), [address(1)]);
        plan.ended(address(1), Dialled::Linked("up/n".parse().unwrap()), at(1), 0.5);
        assert!(due(&mut plan, &suspect, at(3)).is_empty());
        assert_eq!(due(&mut plan, &suspect, at(4)), [address(1)]);
    }
}
