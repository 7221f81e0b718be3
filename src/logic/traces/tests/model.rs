//! The buffer against a naive one, over random lives.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Spans as (trace, id, is an error, kilobytes).
    Offer(Vec<(u64, u64, bool, u8)>),
    /// After so many seconds.
    Decide(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let span = (0..12_u64, 1..40_u64, prop::bool::weighted(0.1), prop_oneof![9 => 0..3_u8, 1 => 3..60_u8]);
    let step = prop_oneof![
        6 => prop::collection::vec(span, 1..40).prop_map(Step::Offer),
        3 => (0..12_u8).prop_map(Step::Decide),
    ];
    prop::collection::vec(step, 1..60)
}

/// Open traces by number, and verdicts.
#[derive(Default)]
struct Naive {
    open: BTreeMap<u64, (f64, BTreeSet<u64>, bool)>,
    verdicts: BTreeMap<u64, bool>,
    sent: BTreeSet<(u64, u64)>,
}

impl Naive {
    /// How many of them are duplicates.
    fn offer(&mut self, now: f64, spans: &[(u64, u64, bool, u8)]) -> (u32, u32) {
        let (mut duplicates, mut dropped) = (0, 0);
        for (trace, id, error, _) in spans {
            match self.verdicts.get(trace) {
                Some(true) => duplicates += u32::from(!self.sent.insert((*trace, *id))),
                Some(false) => dropped += 1,
                None => {
                    let open = self.open.entry(*trace).or_insert((now, BTreeSet::new(), false));
                    if open.1.insert(*id) {
                        open.2 |= error;
                    } else {
                        duplicates += 1;
                    }
                }
            }
        }
        (duplicates, dropped)
    }

    fn decide(&mut self, now: f64) -> u32 {
        let due: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.0 + 10.0 <= now).map(|(trace, _)| *trace).collect();
        let mut dropped = 0;
        for trace in due {
            let Some((_, spans, keep)) = self.open.remove(&trace) else { continue };
            self.verdicts.insert(trace, keep);
            if keep {
                self.sent.extend(spans.iter().map(|id| (trace, *id)));
            } else {
                dropped += spans.len() as u32;
            }
        }
        dropped
    }
}

/// The same span has the same bytes whenever it comes.
fn sent(of: &(u64, u64, bool, u8)) -> Sent {
    let (trace, id, error, kilobytes) = *of;
    let cluster = ["east", "west", "north"][id as usize % 3];
    let scope = ["http", "sql"][trace as usize % 2];
    Sent { status: if error { 2 } else { 0 }, cluster, scope, ..large(trace, id, usize::from(kilobytes) * 1_000) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_buffer_does_what_a_naive_one_does_while_its_pieces_are_moved(steps in steps(), moves in 0..4_usize) {
        let mut rig = Rig::sampling(|bounds, _| {
            bounds.recent_bytes = 30_000;
            bounds.recent_traces = 3;
        });
        let (mut naive, mut now) = (Naive::default(), 0.0);
        let (mut duplicates, mut dropped) = (0, 0);
        let mut released = BTreeMap::new();
        let mut bodies: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Offer(spans) => {
                    for span in &spans {
                        bodies.entry((span.0, span.1)).or_default().push(sent(span).encode());
                    }
                    rig.at(now).offer(&spans.iter().map(sent).collect::<Vec<_>>());
                    let (more, gone) = naive.offer(now, &spans);
                    duplicates += more;
                    dropped += gone;
                }
                Step::Decide(later) => {
                    now += f64::from(later);
                    rig.at(now).advance();
                    dropped += naive.decide(now);
                }
            }
            for _ in 0..moves {
                rig.traces.store.compact();
            }
            prop_assert_eq!(rig.fate("Duplicate"), duplicates);
            prop_assert_eq!(rig.fate("SampledOut"), dropped);
            for out in rig.exported() {
                let key = (number_of(out.trace), out.id);
                let late = out.attribute("spanmesh.late").is_some();
                prop_assert!(late || bodies[&key].contains(&out.body), "spans keep their bytes");
                prop_assert_eq!(&out.cluster, ["east", "west", "north"][key.1 as usize % 3]);
                prop_assert!(released.insert(key, ()).is_none(), "once");
            }
            prop_assert!(released.keys().eq(naive.sent.iter()));
            prop_assert_eq!(rig.status().open_traces, naive.open.len() as u64);
        }
        rig.finish();
    }
}
