//! Where the spans of a batch go: kept here, sent whole to one peer, or cut up by owner.
//!
//! Most batches of a small mesh are cut up, but the two cases that need no copy are common enough to be looked for
//! first: a lone node owns everything, and what a peer forwarded was already grouped for this node. So nothing is
//! allocated until two spans of a batch disagree about their owner.

use super::ring::{MemberIndex, Ring};
use crate::model::Spans;

/// How often spans may be sent from node to node. Two sends reach the owner through a previous one; the third is for
/// a ring that moves meanwhile. A node that gets spans with no hops left keeps them, so no disagreement can loop.
pub const MAX_HOPS: u8 = 3;

/// Where a batch goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// All of it stays here.
    Mine,
    /// All of it is this member's.
    Whole(MemberIndex),
    /// Several owners, this node perhaps among them.
    Split {
        /// For each span the index of its owner in `owners`.
        group_of: Vec<u16>,
        /// In the order in which they were met.
        owners: Vec<MemberIndex>,
    },
    /// The ring is empty.
    NoOwner,
}

/// Decides for spans that have travelled `hops` times. `me` is this node's place in the ring, if it has one. The
/// second value tells that the hop limit, and not the ring, decided.
pub fn route(ring: &Ring, me: Option<MemberIndex>, spans: &Spans, hops: u8) -> (Route, bool) {
    let whole = |owner| if Some(owner) == me { Route::Mine } else { Route::Whole(owner) };
    let Some(first) = spans.spans.first() else { return (Route::Mine, false) };
    let Some(first_owner) = ring.owner(&first.trace_id) else {
        return if hops >= MAX_HOPS { (Route::Mine, true) } else { (Route::NoOwner, false) };
    };
    let differs = spans.spans.iter().position(|span| ring.owner(&span.trace_id) != Some(first_owner));
    if hops >= MAX_HOPS {
        let mine = differs.is_none() && Some(first_owner) == me;
        return (Route::Mine, !mine);
    }
    let Some(differs) = differs else { return (whole(first_owner), false) };

    const UNSEEN: u16 = u16::MAX;
    let mut group = vec![UNSEEN; ring.members().len()];
    let mut owners: Vec<MemberIndex> = vec![first_owner];
    let mut group_of = Vec::with_capacity(spans.len());
    group_of.resize(differs, 0);
    if let Some(place) = group.get_mut(usize::from(first_owner)) {
        *place = 0;
    }
    for span in spans.spans.iter().skip(differs) {
        let Some(owner) = ring.owner(&span.trace_id) else { return (Route::NoOwner, false) };
        let Some(place) = group.get_mut(usize::from(owner)) else { return (Route::NoOwner, false) };
        if *place == UNSEEN {
            // At most one group per member, and a ring has at most 65,535.
            *place = owners.len() as u16;
            owners.push(owner);
        }
        group_of.push(*place);
    }
    (Route::Split { group_of, owners }, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeId, SpanEntry, SpanId, TraceId, UnixNanos};

    fn spans(traces: impl Iterator<Item = u64>) -> Spans {
        let spans = traces
            .map(|trace| SpanEntry {
                trace_id: TraceId((u128::from(trace) << 64 | 1).to_be_bytes()),
                span_id: SpanId([1; 8]),
                parent_span_id: SpanId::NONE,
                start: UnixNanos(0),
                end: UnixNanos(0),
                scope: 0,
                field: Default::default(),
                head: 0,
                kind: 0,
                status: 0,
            })
            .collect();
        Spans { spans, ..Spans::default() }
    }

    fn ring(members: usize) -> Ring {
        let members: Vec<(NodeId, u16)> = (0..members).map(|i| (format!("c{i}/n").parse().unwrap(), 100)).collect();
        Ring::build("test", &members)
    }

    #[test]
    fn every_span_of_a_split_batch_is_in_its_owners_group() {
        let (ring, batch) = (ring(5), spans((0_u64..500).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_003)));
        let (Route::Split { group_of, owners }, false) = route(&ring, Some(0), &batch, 0) else { panic!("not split") };
        assert_eq!(group_of.len(), batch.len());
        for (span, group) in batch.spans.iter().zip(&group_of) {
            assert_eq!(ring.owner(&span.trace_id), Some(owners[usize::from(*group)]));
        }
    }

    #[test]
    fn a_batch_of_one_trace_is_not_cut_up() {
        let (ring, batch) = (ring(5), spans([7; 9].into_iter()));
        let owner = ring.owner(&batch.spans[0].trace_id).unwrap();
        assert_eq!(route(&ring, Some(owner), &batch, 0), (Route::Mine, false));
        assert_eq!(route(&ring, None, &batch, 0), (Route::Whole(owner), false));
    }

    #[test]
    fn spans_with_no_hops_left_stay_and_say_so() {
        let (ring, batch) = (ring(5), spans([7; 9].into_iter()));
        let owner = ring.owner(&batch.spans[0].trace_id).unwrap();
        assert_eq!(route(&ring, None, &batch, MAX_HOPS), (Route::Mine, true));
        assert_eq!(route(&ring, Some(owner), &batch, MAX_HOPS), (Route::Mine, false));
        assert_eq!(route(&ring, None, &batch, MAX_HOPS - 1).0, Route::Whole(owner));
    }

    #[test]
    fn an_empty_ring_has_no_owner_for_anything_but_an_empty_batch() {
        assert_eq!(route(&Ring::empty(), None, &spans([7].into_iter()), 0).0, Route::NoOwner);
        assert_eq!(route(&Ring::empty(), None, &spans([].into_iter()), 0).0, Route::Mine);
    }
}
