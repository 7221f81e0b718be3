//! Batches put together and cut apart, with everything that travels with them.
//!
//! Two encoded requests one behind the other are one encoded request: protobuf appends repeated fields, and a request
//! is nothing but a repeated field. So putting batches together is a copy of bytes, and their indexes are shifted.

use bytes::{Bytes, BytesMut};

use crate::model::{Batch, ByteRange, Receipt, Spans};
use crate::wire;

/// One batch of several. Its receipt stands for all of theirs, its hops are the most that any of them had.
pub fn join(mut batches: Vec<Batch>) -> Option<Batch> {
    if batches.len() < 2 {
        return batches.pop();
    }
    let hops = batches.iter().map(|batch| batch.hops).max().unwrap_or(0);
    let mut receipts = Vec::with_capacity(batches.len());
    let mut parts = Vec::with_capacity(batches.len());
    let mut held = Vec::with_capacity(batches.len());
    for batch in batches {
        receipts.push(batch.receipt);
        parts.push(batch.spans);
        held.push(batch.held);
    }
    let spans = concatenated(&parts);
    drop(parts);
    let mut held = held.into_iter();
    let mut all = held.next()?;
    all.resize(spans.bytes.len());
    drop(held);
    Some(Batch { spans, receipt: Receipt::merge(receipts), held: all, hops })
}

fn concatenated(parts: &[Spans]) -> Spans {
    let mut bytes = BytesMut::with_capacity(parts.iter().map(|part| part.bytes.len()).sum());
    let mut all = Spans {
        bytes: Bytes::new(),
        resources: Vec::with_capacity(parts.iter().map(|part| part.resources.len()).sum()),
        scopes: Vec::with_capacity(parts.iter().map(|part| part.scopes.len()).sum()),
        spans: Vec::with_capacity(parts.iter().map(Spans::len).sum()),
    };
    for part in parts {
        // Whoever joins bounds the sum far below 4 GiB.
        let (at, resources, scopes) = (bytes.len() as u32, all.resources.len() as u32, all.scopes.len() as u32);
        let shift = |range: &mut ByteRange| {
            range.start += at;
            range.end += at;
        };
        for resource in &part.resources {
            let mut resource = resource.clone();
            resource.other_fields.iter_mut().for_each(shift);
            resource.resource.iter_mut().for_each(shift);
            all.resources.push(resource);
        }
        for scope in &part.scopes {
            let mut scope = scope.clone();
            scope.resource += resources;
            scope.other_fields.iter_mut().for_each(shift);
            all.scopes.push(scope);
        }
        for span in &part.spans {
            let mut span = *span;
            span.scope += scopes;
            shift(&mut span.field);
            all.spans.push(span);
        }
        bytes.extend_from_slice(&part.bytes);
    }
    all.bytes = bytes.freeze();
    all
}

/// Cuts the first `count` spans off a batch. Asks for at least one span on either side.
pub fn cut(mut batch: Batch, count: usize) -> (Batch, Batch) {
    let count = count.clamp(1, batch.spans.len().saturating_sub(1).max(1));
    let first = wire::select(&batch.spans, |index| index < count);
    let rest = wire::select(&batch.spans, |index| index >= count);
    let held = batch.held.budget().hold(first.bytes.len());
    let receipt = batch.receipt.split(u32::try_from(first.len()).unwrap_or(u32::MAX));
    batch.held.resize(rest.bytes.len());
    let first = Batch { spans: first, receipt, held, hops: batch.hops };
    (first, Batch { spans: rest, ..batch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{batch, names, request};
    use crate::model::Fate;
    use crate::pipeline::testing::Watched;
    use crate::wire::{Limits, walk};

    #[test]
    fn a_joined_batch_has_the_index_that_a_walk_over_its_bytes_gives() {
        let parts = [request(&["a", "b"]), request(&["c"]), request(&["d", "e", "f"])];
        let watched: Vec<_> = parts.iter().map(|_| Watched::default()).collect();
        let batches = parts.iter().zip(&watched).map(|(part, watched)| batch(part, watched)).collect();
        let joined = join(batches).unwrap();
        let walked = walk(parts.concat().into(), &Limits::default()).unwrap().spans;
        assert_eq!(joined.spans.bytes, walked.bytes);
        assert_eq!(joined.spans.resources, walked.resources);
        assert_eq!(joined.spans.scopes, walked.scopes);
        assert_eq!(joined.spans.spans, walked.spans);
        assert_eq!(joined.held.bytes(), walked.bytes.len() as u64);
        joined.receipt.resolve(Fate::Exported);
        assert!(watched.iter().all(|watched| watched.finished() == Some(Fate::Exported)));
    }

    #[test]
    fn both_sides_of_a_cut_answer_for_their_own_spans() {
        let watched = Watched::default();
        let (first, rest) = cut(batch(&request(&["a", "b", "c"]), &watched), 2);
        assert_eq!((names(&first.spans.bytes), first.receipt.spans()), (vec!["a".to_owned(), "b".to_owned()], 2));
        assert_eq!((names(&rest.spans.bytes), rest.receipt.spans()), (vec!["c".to_owned()], 1));
        assert_eq!(first.held.bytes() + rest.held.bytes(), watched.budget().bytes());
        first.receipt.resolve(Fate::Exported);
        assert_eq!(watched.finished(), None);
        rest.receipt.resolve(Fate::Exported);
        assert_eq!(watched.finished(), Some(Fate::Exported));
    }
}
