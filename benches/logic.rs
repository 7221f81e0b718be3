//! What the pure decisions cost: `cargo bench --no-default-features --bench logic`, or with `-- ring`, `-- filters`,
//! `-- dedup`, `-- traces` a part of it.
//!
//! Times are of this thread's CPU clock, so that other work on the machine does not count; the longest batch
//! too. Medians are over batches of 512 spans, for filters over the last tenth of them: nearly full.

// A benchmark that cannot go on should stop.
#![allow(clippy::unwrap_used)]

mod buffer;

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use spanmesh::config::settings::DedupSettings;
use spanmesh::logic::dedup::Dedup;
use spanmesh::logic::dedup::filter::Filter;
use spanmesh::logic::ring::Ring;
use spanmesh::model::{Fate, NodeId, SpanEntry, SpanId, Spans, Tick, TraceId, UnixNanos};
use xxhash_rust::xxh3::xxh3_128;

const BATCH: u64 = 512;
const SPANS: u64 = 10_000_000;

fn main() {
    // Cargo adds flags of its own.
    let parts: Vec<String> = std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("ring") {
        println!("ring of 65,536 slots");
        println!("{:>10} {:>10} {:>12} {:>12} {:>10}", "members", "weights", "look up ns", "build ms", "max/mean");
        for (members, weights) in [(3, 1), (100, 1), (1_000, 1), (1_000, 8)] {
            ring(members, weights);
        }
    }
    if wanted("filters") {
        println!("\nfilters: {SPANS} random keys, look-up and insertion of {BATCH} at a time, then as many strangers");
        println!(
            "{:>40} {:>9} {:>11} {:>10} {:>10} {:>11} {:>9}",
            "", "bytes/key", "look up ns", "insert ns", "repeat ns", "error", "mistaken"
        );
        filter("bloomfilter 3.0", Bloomfilter::new());
        filter("fastbloom 0.17, SipHash", Fastbloom(fastbloom(), false));
        filter("fastbloom 0.17, key's own hash", Fastbloom(fastbloom(), true));
        filter("two blocked Bloom filters, 2 x 36 bits", TwoBlocked::new(36));
        filter("lines of fingerprints", Lines(Filter::new(SPANS as usize, 1 << 30)));
    }
    if wanted("dedup") {
        println!("\nwhole dedup: {SPANS} spans in batches of {BATCH}, admitted and settled");
        println!(
            "{:>40} {:>9} {:>10} {:>10} {:>10} {:>11} {:>9} {:>10} {:>10}",
            "", "admit ns", "settle ns", "repeat ns", "MiB", "error", "mistaken", "window s", "longest ms"
        );
        dedup("window 300 s, 256 MiB, 100,000 spans/s", 256 << 20, 100_000);
        dedup("window 300 s, 32 MiB, 100,000 spans/s", 32 << 20, 100_000);
        dedup("window 300 s, 256 MiB, 10,000 spans/s", 256 << 20, 10_000);
    }
    if wanted("traces") {
        buffer::measure();
    }
}

/// CPU time of this thread that `work` takes, in ns.
fn cpu<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let begin = now();
    let done = work();
    (now() - begin, done)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn key(n: u64) -> u128 {
    xxh3_128(&n.to_le_bytes())
}

fn batches(from: u64, to: u64) -> impl Iterator<Item = Vec<u128>> {
    (from..to).step_by(BATCH as usize).map(move |first| (first..to.min(first + BATCH)).map(key).collect())
}

fn ring(members: u32, weights: u32) {
    let list: Vec<(NodeId, u16)> = (0..members)
        .map(|n| (format!("cluster-{}/node-{n}", n % 7).parse().unwrap(), (100 + n % weights) as u16))
        .collect();
    let build = median((0..7).map(|_| cpu(|| black_box(Ring::build("bench", &list))).0 / 1e6).collect());
    let ring = Ring::build("bench", &list);
    let ids: Vec<TraceId> = (0..1_000_000).map(|n| TraceId(key(n).to_le_bytes())).collect();
    let lookup = median(
        (0..15)
            .map(|_| {
                cpu(|| ids.iter().fold(0u64, |sum, id| sum + u64::from(ring.owner(id).unwrap()))).0 / ids.len() as f64
            })
            .collect(),
    );
    let most = *ring.slots_owned().iter().max().unwrap();
    let ratio = f64::from(most) * f64::from(members) / 65_536.0;
    println!("{members:>10} {weights:>10} {lookup:>12.1} {build:>12.2} {ratio:>10.2}");
}

trait Candidate {
    fn bytes(&self) -> usize;
    fn error(&self) -> f64;
    /// How many of the keys it takes for members.
    fn look_up(&self, keys: &[u128]) -> usize;
    fn insert(&mut self, keys: &[u128]);
}

fn filter(name: &str, mut candidate: impl Candidate) {
    let (mut look_up, mut insert) = (Vec::new(), Vec::new());
    for keys in batches(0, SPANS) {
        look_up.push(cpu(|| black_box(candidate.look_up(&keys))).0 / keys.len() as f64);
        insert.push(cpu(|| candidate.insert(&keys)).0 / keys.len() as f64);
    }
    // The last tenth counts: the filter is nearly full.
    let late = look_up.len() * 9 / 10;
    let (look_up, insert) = (median(look_up.split_off(late)), median(insert.split_off(late)));
    let repeat =
        median(batches(0, SPANS / 10).map(|keys| cpu(|| candidate.look_up(&keys)).0 / keys.len() as f64).collect());
    let mistaken: usize = batches(SPANS, 2 * SPANS).map(|keys| candidate.look_up(&keys)).sum();
    println!(
        "{name:>40} {:>9.2} {look_up:>11.1} {insert:>10.1} {repeat:>10.1} {:>11.1e} {mistaken:>9}",
        candidate.bytes() as f64 / SPANS as f64,
        candidate.error()
    );
}

struct Bloomfilter(bloomfilter::Bloom<u128>);

impl Bloomfilter {
    fn new() -> Bloomfilter {
        let seed = std::array::from_fn(|i| i as u8);
        Bloomfilter(bloomfilter::Bloom::new_for_fp_rate_with_seed(SPANS as usize, 1e-9, &seed).unwrap())
    }
}

impl Candidate for Bloomfilter {
    fn bytes(&self) -> usize {
        self.0.len() as usize / 8
    }
    fn error(&self) -> f64 {
        1e-9
    }
    fn look_up(&self, keys: &[u128]) -> usize {
        keys.iter().filter(|key| self.0.check(key)).count()
    }
    fn insert(&mut self, keys: &[u128]) {
        keys.iter().for_each(|key| self.0.set(key));
    }
}

/// With its own hash of the key, or the key's low half as hash.
struct Fastbloom(fastbloom::BloomFilter, bool);

fn fastbloom() -> fastbloom::BloomFilter {
    fastbloom::BloomFilter::with_false_pos(1e-9).seed(&7).expected_items(SPANS as usize)
}

impl Candidate for Fastbloom {
    fn bytes(&self) -> usize {
        self.0.num_bits() / 8
    }
    fn error(&self) -> f64 {
        1e-9
    }
    fn look_up(&self, keys: &[u128]) -> usize {
        keys.iter()
            .filter(|key| if self.1 { self.0.contains_hash(**key as u64) } else { self.0.contains(*key) })
            .count()
    }
    fn insert(&mut self, keys: &[u128]) {
        for key in keys {
            if self.1 {
                self.0.insert_hash(*key as u64)
            } else {
                self.0.insert(key)
            };
        }
    }
}

/// Two filters of 512-bit blocks with eight bits a key in each, on independent halves of the key.
struct TwoBlocked([Vec<[u64; 8]>; 2]);

impl TwoBlocked {
    fn new(bits_per_key: u64) -> TwoBlocked {
        let blocks = (SPANS * bits_per_key / 512) as usize;
        TwoBlocked([vec![[0; 8]; blocks], vec![[0; 8]; blocks]])
    }

    fn place(&self, half: u64) -> (usize, [u64; 8]) {
        let block = ((u128::from(half) * self.0[0].len() as u128) >> 64) as usize;
        // One bit in each word: the block is then one vector.
        let bits = half.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (block, std::array::from_fn(|word| 1 << (bits.rotate_left(7 * word as u32) >> 58)))
    }
}

impl Candidate for TwoBlocked {
    fn bytes(&self) -> usize {
        self.0.iter().map(|blocks| blocks.len() * 64).sum()
    }
    fn error(&self) -> f64 {
        4e-10
    }
    fn look_up(&self, keys: &[u128]) -> usize {
        let holds = |half: usize, key: u64| {
            let (block, mask) = self.place(key);
            self.0[half][block].iter().zip(mask).all(|(word, bit)| word & bit != 0)
        };
        keys.iter().filter(|key| holds(0, **key as u64) && holds(1, (**key >> 64) as u64)).count()
    }
    fn insert(&mut self, keys: &[u128]) {
        for key in keys {
            for (half, key) in [*key as u64, (*key >> 64) as u64].into_iter().enumerate() {
                let (block, mask) = self.place(key);
                self.0[half][block].iter_mut().zip(mask).for_each(|(word, bit)| *word |= bit);
            }
        }
    }
}

struct Lines(Filter);

impl Candidate for Lines {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn error(&self) -> f64 {
        self.0.error_ratio()
    }
    fn look_up(&self, keys: &[u128]) -> usize {
        let mut found = 0;
        for keys in keys.chunks(32) {
            keys.iter().for_each(|key| self.0.touch(*key));
            found += keys.iter().filter(|key| self.0.contains(**key)).count();
        }
        found
    }
    fn insert(&mut self, keys: &[u128]) {
        for keys in keys.chunks(32) {
            keys.iter().for_each(|key| self.0.touch(*key));
            assert!(keys.iter().all(|key| self.0.insert(*key)));
        }
    }
}

/// Eight spans a trace.
fn spans(first: u64) -> Spans {
    let entry = |n: u64| {
        let trace = TraceId(key(n / 8).to_le_bytes());
        let span = SpanId((key(n) as u64).to_le_bytes());
        SpanEntry {
            trace_id: trace,
            span_id: span,
            parent_span_id: SpanId::NONE,
            start: UnixNanos(0),
            end: UnixNanos(1_700_000_000_000_000_000 + n),
            scope: 0,
            field: Default::default(),
            head: 0,
            kind: 2,
            status: 0,
        }
    };
    Spans { spans: (first..first + BATCH).map(entry).collect(), ..Spans::default() }
}

fn dedup(name: &str, max_memory_bytes: usize, spans_per_second: u64) {
    let settings = DedupSettings { wait_duration: Duration::from_secs(300), max_memory_bytes };
    let dedup = Dedup::new(&settings, 42);
    let at = |first: u64| Tick(first * 1_000_000_000 / spans_per_second);
    let (mut admit, mut settle, mut longest, mut mistaken) = (Vec::new(), Vec::new(), 0f64, 0);
    for first in (0..SPANS).step_by(BATCH as usize) {
        let (batch, now) = (spans(first), at(first));
        let (admitted_in, admitted) = cpu(|| dedup.admit(&batch, now));
        let (settled_in, ()) = cpu(|| dedup.settle(&admitted.keys, &Fate::Exported, now));
        longest = longest.max((admitted_in + settled_in) / 1e6);
        admit.push(admitted_in / BATCH as f64);
        settle.push(settled_in / BATCH as f64);
        mistaken += admitted.duplicates.len();
    }
    let late = admit.len() * 9 / 10;
    let (admit, settle) = (median(admit.split_off(late)), median(settle.split_off(late)));
    let now = at(SPANS);
    let recent = (SPANS - SPANS / 20..SPANS - BATCH).step_by(BATCH as usize);
    let repeat = median(
        recent
            .map(|first| {
                let batch = spans(first / BATCH * BATCH);
                let (time, admitted) = cpu(|| dedup.admit(&batch, now));
                assert_eq!(admitted.duplicates.len() as u64, BATCH, "forgotten within the window");
                time / BATCH as f64
            })
            .collect(),
    );
    let status = dedup.status(now);
    println!(
        "{name:>40} {admit:>9.1} {settle:>10.1} {repeat:>10.1} {:>10.1} {:>11.1e} {mistaken:>9} {:>10.1} {longest:>10.2}",
        status.filter_bytes as f64 / f64::from(1 << 20),
        status.error_ratio,
        status.window_seconds
    );
}
