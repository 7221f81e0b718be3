use std::collections::BTreeMap;

use super::*;

fn id(n: usize) -> NodeId {
    format!("cluster-{}/node-{n}", n % 3).parse().unwrap()
}

fn equal(n: usize) -> Vec<(NodeId, u16)> {
    (0..n).map(|i| (id(i), 100)).collect()
}

fn owner_of_slot(ring: &Ring, slot: usize) -> &NodeId {
    &ring.members[usize::from(ring.table[slot])]
}

/// Cheap random numbers of known quality, for ids.
fn random(n: u64) -> u64 {
    xxh3_64_with_seed(&n.to_le_bytes(), 7)
}

#[test]
fn a_newcomer_takes_only_what_it_wins_and_a_leaver_gives_up_only_what_it_had() {
    for weights in [[100u16; 20].as_slice(), &[100, 50, 7, 300, 100, 1, 65_535, 50], &[3, 1]] {
        let members: Vec<_> = weights.iter().enumerate().map(|(i, weight)| (id(i), *weight)).collect();
        let before = Ring::build("m", &members[..members.len() - 1]);
        let after = Ring::build("m", &members);
        let newcomer = &members[members.len() - 1].0;
        let mut moved = 0;
        for slot in 0..SLOTS {
            let (old, new) = (owner_of_slot(&before, slot), owner_of_slot(&after, slot));
            if old != new {
                assert_eq!(new, newcomer);
                moved += 1;
            }
        }
        let won = after.slots_owned[after.members.binary_search(newcomer).unwrap()];
        assert_eq!((moved, before.moved(&after), after.moved(&before)), (won, won, won));
    }
}

#[test]
fn a_member_that_gets_heavier_only_wins_slots() {
    let mut members = equal(10);
    let before = Ring::build("m", &members);
    members[3].1 = 150;
    let after = Ring::build("m", &members);
    let won = (0..SLOTS).filter(|slot| owner_of_slot(&before, *slot) != owner_of_slot(&after, *slot));
    assert!(won.clone().all(|slot| *owner_of_slot(&after, slot) == id(3)));
    assert_eq!(won.count() as u32, before.moved(&after));
}

#[test]
fn weights_are_shares() {
    let members = [(id(1), 100u16), (id(2), 200), (id(3), 50), (id(4), 50), (id(5), 600)];
    let ring = Ring::build("weights", &members);
    for (id, weight) in &members {
        let share = f64::from(ring.slots_owned[ring.members.binary_search(id).unwrap()]) / SLOTS as f64;
        let wanted = f64::from(*weight) / 1000.0;
        // Four standard deviations of a binomial.
        let tolerance = 4.0 * (wanted * (1.0 - wanted) / SLOTS as f64).sqrt();
        assert!((share - wanted).abs() < tolerance, "{id}: {share} instead of {wanted} ± {tolerance}");
    }
}

#[test]
fn equal_members_own_equal_shares() {
    for (n, most) in [(3, 1.02), (16, 1.05), (100, 1.15), (300, 1.30)] {
        let ring = Ring::build("balance", &equal(n));
        assert_eq!(ring.slots_owned.iter().sum::<u32>() as usize, SLOTS);
        let max = f64::from(*ring.slots_owned.iter().max().unwrap());
        assert!(max / (SLOTS as f64 / n as f64) < most, "{n}: {max}");
    }
}

#[test]
fn a_member_of_weight_zero_owns_nothing_and_is_not_listed() {
    let ring = Ring::build("m", &[(id(1), 0), (id(2), 1)]);
    assert_eq!(ring.members(), [id(2)]);
    assert_eq!(ring.slots_owned(), [65_536]);
    let spokes_only = Ring::build("m", &[(id(1), 0)]);
    assert!(spokes_only.is_empty());
    assert_eq!(spokes_only.owner(&TraceId([1; 16])), None);
}

#[test]
fn an_empty_ring_owns_nothing_and_differs_from_a_full_one_in_every_slot() {
    let (empty, full) = (Ring::empty(), Ring::build("m", &equal(3)));
    assert_eq!((empty.owner(&TraceId([7; 16])), empty.moved(&full), full.moved(&empty)), (None, 65_536, 65_536));
    assert_eq!(empty.moved(&Ring::empty()), 0);
}

#[test]
fn the_order_of_input_does_not_matter_nor_does_a_member_named_twice() {
    let mut members = equal(30);
    members[4].1 = 7;
    let ring = Ring::build("m", &members);
    members.reverse();
    members.rotate_left(11);
    members.push((id(4), 3));
    let other = Ring::build("m", &members);
    assert_eq!((ring.version(), ring.moved(&other), ring.members()), (other.version(), 0, other.members()));
}

#[test]
fn the_version_tells_members_weights_and_meshes_apart() {
    let three = Ring::build("m", &equal(3)).version();
    let mut heavier = equal(3);
    heavier[0].1 = 101;
    assert_ne!(three, Ring::build("m", &heavier).version());
    assert_ne!(three, Ring::build("m", &equal(4)).version());
    assert_ne!(three, Ring::build("n", &equal(3)).version());
}

/// If this fails, nodes of different versions disagree about owners: the protocol's version must change with it.
#[test]
fn all_versions_of_the_binary_agree_on_this_ring() {
    let members: Vec<(NodeId, u16)> =
        [("us-east-1/a", 100), ("us-east-1/b", 100), ("us-west-2/a", 100), ("eu-west-1/a", 250), ("eu-west-1/b", 25)]
            .map(|(id, weight)| (id.parse().unwrap(), weight))
            .to_vec();
    let ring = Ring::build("default", &members);
    let table: Vec<u8> = ring.table.iter().flat_map(|owner| owner.to_le_bytes()).collect();
    let trace: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap();
    assert_eq!(ring.slots_owned(), GOLDEN_SLOTS);
    assert_eq!(
        (xxh3_64_with_seed(&table, 0), ring.version(), ring.slot(&trace), ring.owner(&trace)),
        (GOLDEN_TABLE, GOLDEN_VERSION, GOLDEN_SLOT, Some(GOLDEN_OWNER))
    );
}
const GOLDEN_SLOTS: [u32; 5] = [28_569, 2_783, 11_273, 11_451, 11_460];
const GOLDEN_TABLE: u64 = 2_381_748_832_268_513_297;
const GOLDEN_VERSION: u64 = 16_372_897_809_685_725_520;
const GOLDEN_SLOT: u16 = 41_445;
const GOLDEN_OWNER: u16 = 4;

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn ids_crafted_for_one_owner_of_an_unkeyed_hash_spread_over_all() {
    const IDS: usize = 60_000;
    let random_id = |n: u64| (u128::from(random(2 * n)) << 64 | u128::from(random(2 * n + 1))).to_be_bytes();
    let crafted: BTreeMap<&str, Vec<[u8; 16]>> = BTreeMap::from([
        ("sequential", (1..=IDS as u128).map(u128::to_be_bytes).collect()),
        ("sequential from the left", (1..=IDS as u128).map(u128::to_le_bytes).collect()),
        ("steps of 65,536", (1..=IDS as u128).map(|n| (n << 16).to_be_bytes()).collect()),
        ("one high half", (0..IDS as u64).map(|n| (0xabcd_u128 << 64 | u128::from(random(n))).to_be_bytes()).collect()),
        (
            "three random bytes",
            (0..IDS as u64).map(|n| (0x77_u128 << 100 | u128::from(random(n) >> 40)).to_be_bytes()).collect(),
        ),
        ("fnv bucket", (0..).map(random_id).filter(|id| fnv1a(id) % 16 == 3).take(IDS).collect()),
        ("crc bucket", (0..).map(random_id).filter(|id| crc32(id) % 16 == 3).take(IDS).collect()),
        (
            "one slot of an unkeyed xxh3",
            (0..).map(random_id).filter(|id| xxh3_64_with_seed(id, 0) >> 60 == 3).take(IDS).collect(),
        ),
    ]);
    for (what, ids) in crafted {
        for members in [3, 16] {
            let ring = Ring::build("default", &equal(members));
            let mut per_owner = vec![0u32; members];
            for id in &ids {
                per_owner[usize::from(ring.owner(&TraceId(*id)).unwrap())] += 1;
            }
            for (owner, count) in per_owner.iter().enumerate() {
                let fair = IDS as f64 * f64::from(ring.slots_owned[owner]) / SLOTS as f64;
                assert!((f64::from(*count) / fair - 1.0).abs() < 0.10, "{what}, {members} members: {per_owner:?}");
            }
        }
    }
}
