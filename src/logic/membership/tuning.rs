//! How fast the gossip turns.
//!
//! `foca`'s own LAN settings took 815 s until 1,000 nodes knew each other, its WAN settings 250 s for 100. These took
//! 12 to 38 s for 1,000 with 20 to 80 ms of delay and 1 % loss, at 3 to 6 kB/s sent per node.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

use super::packet::MAX_PACKET;

/// A silent member is suspected about one and a half periods after its last word, at up to some 16 members.
pub(super) const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// How long the dead are remembered: shown, and not believed when others still call them alive.
pub(super) const KEEP_DEAD: Duration = Duration::from_secs(3600);

pub(super) fn config(members: usize, failover_after: Duration) -> Config {
    let count = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    let every = |millis, members| {
        Some(PeriodicParams { frequency: Duration::from_millis(millis), num_members: count(members) })
    };
    Config {
        probe_period: PROBE_PERIOD,
        // Round trips around the globe take 0.3 s; the rest is for a busy peer.
        probe_rtt: Duration::from_millis(600),
        num_indirect_probes: count(3),
        max_transmissions: NonZeroU8::new(transmissions(members)).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: failover_after.max(Duration::from_millis(1)),
        remove_down_after: Some(KEEP_DEAD),
        // One byte is the envelope's.
        max_packet_size: count(MAX_PACKET - 1),
        notify_down_members: true,
        periodic_announce: every(5_000, 1),
        periodic_announce_to_down_members: every(10_000, 3),
        periodic_gossip: every(300, 3),
    }
}

/// How often one piece of news is passed on: with the logarithm of the mesh's size, with reserve for loss.
fn transmissions(members: usize) -> u8 {
    match members {
        0..=16 => 10,
        17..=128 => 14,
        _ => 20,
    }
}
