//! The draw for a slot, and the integer logarithm that lets weights count in it.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{MemberIndex, SLOTS};

/// Members of one weight, in the order of their index.
struct Class {
    weight: u16,
    members: Vec<(MemberIndex, [u64; 2])>,
}

/// Owner of each slot, for members given by key and weight (above 0), in the order of their index.
pub(super) fn owners(members: &[(u128, u16)], slot_seed: u64) -> Vec<MemberIndex> {
    let classes = by_weight(members);
    if classes.is_empty() {
        return Vec::new();
    }
    (0..SLOTS as u32)
        .map(|slot| {
            let slot_key = halves(xxh3_128_with_seed(&slot.to_le_bytes(), slot_seed));
            let best_of_each = classes.iter().map(|class| (class.weight, best_draw(&class.members, slot_key)));
            best_of_each.reduce(better).map_or(0, |(_, best)| best.member)
        })
        .collect()
}

fn by_weight(members: &[(u128, u16)]) -> Vec<Class> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|index| members[*index].1);
    let mut classes: Vec<Class> = Vec::new();
    for index in order {
        let (key, weight) = members[index];
        let member = (index as MemberIndex, halves(key));
        match classes.last_mut().filter(|class| class.weight == weight) {
            Some(class) => class.members.push(member),
            None => classes.push(Class { weight, members: vec![member] }),
        }
    }
    classes
}

fn halves(key: u128) -> [u64; 2] {
    [key as u64, (key >> 64) as u64]
}

#[derive(Clone, Copy)]
struct Draw {
    hash: u64,
    member: MemberIndex,
}

/// The largest draw; the smallest index if two are equal.
fn best_draw(members: &[(MemberIndex, [u64; 2])], slot: [u64; 2]) -> Draw {
    let mut best = Draw { hash: 0, member: members.first().map_or(0, |(member, _)| *member) };
    for (member, key) in members {
        // Both factors are random 64-bit numbers, so one multiplication, folded, is mixing enough.
        let product = u128::from(key[0] ^ slot[0]) * u128::from(key[1] ^ slot[1]);
        let hash = product as u64 ^ (product >> 64) as u64;
        if hash > best.hash {
            best = Draw { hash, member: *member };
        }
    }
    best
}

/// A total order over all draws of a slot, that does not depend on which members take part: least cost per weight,
/// then the larger hash, then the smaller index (which is the order of ids).
fn better(a: (u16, Draw), b: (u16, Draw)) -> (u16, Draw) {
    // cost_a / weight_a < cost_b / weight_b, without dividing; 47 and 16 bits.
    let cost_a = cost(a.1.hash) * u64::from(b.0);
    let cost_b = cost(b.1.hash) * u64::from(a.0);
    let order = cost_a.cmp(&cost_b).then(b.1.hash.cmp(&a.1.hash)).then(a.1.member.cmp(&b.1.member));
    if order.is_le() { a } else { b }
}

/// Fraction bits of the logarithm. The best of 65,535 draws is about 1.5e-5 from 1: its cost still has 24 bits.
const FRACTION: u32 = 40;
/// 1,024 steps for each power of two.
const STEP_BITS: u32 = 10;

/// `-log2(hash / 2^64)` in 2^-40ths, by linear interpolation: off by at most 0.05 %, alike for all members.
fn cost(hash: u64) -> u64 {
    let zeros = hash.leading_zeros();
    if zeros == 64 {
        return 64 << FRACTION;
    }
    // The mantissa without its leading one: where between two powers of two the hash lies, in 2^-63rds.
    let mantissa = (hash << zeros) & (u64::MAX >> 1);
    let step = (mantissa >> (63 - STEP_BITS)) as usize;
    let within = mantissa & ((1 << (63 - STEP_BITS)) - 1);
    let (low, high) = (LOG2[step], LOG2[step + 1]);
    let log = low + ((u128::from(high - low) * u128::from(within)) >> (63 - STEP_BITS)) as u64;
    (u64::from(zeros) << FRACTION) + ((1 << FRACTION) - log)
}

/// `log2(1 + step / 1024)` in 2^-40ths.
static LOG2: [u64; (1 << STEP_BITS) + 1] = {
    let mut table = [0; (1 << STEP_BITS) + 1];
    let mut step = 0;
    while step < table.len() {
        table[step] = log2(step as u64);
        step += 1;
    }
    table
};

/// Digit by digit: a number in 1..2 that reaches 2 when squared has a one as next binary digit of its logarithm.
const fn log2(step: u64) -> u64 {
    if step == 1 << STEP_BITS {
        return 1 << FRACTION;
    }
    let one: u128 = 1 << 62;
    let mut x = one + ((step as u128) << (62 - STEP_BITS));
    let mut log = 0;
    let mut digit = 0;
    while digit < FRACTION {
        x = (x * x) >> 62;
        log <<= 1;
        if x >= 2 * one {
            x >>= 1;
            log |= 1;
        }
        digit += 1;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integer_logarithm_is_that_of_mathematics_and_never_falls() {
        let mut last = cost(0);
        for i in 1..200_000u64 {
            let hash = i * (u64::MAX / 200_000);
            let exact = -(hash as f64 / 2f64.powi(64)).log2();
            let ours = cost(hash) as f64 / 2f64.powi(FRACTION as i32);
            assert!((ours - exact).abs() <= exact * 5e-4 + 1e-9, "{hash}: {ours} {exact}");
            assert!(cost(hash) <= last);
            last = cost(hash);
        }
        assert!(cost(u64::MAX) < 2);
        for bit in 0..64u32 {
            assert_eq!(cost(1 << bit), u64::from(64 - bit) << FRACTION);
        }
    }
}
