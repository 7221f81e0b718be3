//! The same spans to several places.
//!
//! All or nothing, as far as it can be known. The Collector's fan-out gives the batch to one exporter after another and
//! joins the errors: one full queue fails the whole request, the sender sends it again, and the healthy backends store
//! it twice. Here room is reserved in every exporter's queue first; if one has none, nothing has been given to any.
//!
//! What a mesh or another pipeline will say is not known beforehand. Next to those, a refusal after the others have
//! accepted makes the sender repeat, and the repetition is a possible duplicate behind the others.

use std::sync::Arc;

use super::Consume;
use crate::export::{ExportQueue, Slot};
use crate::model::{Batch, Fate, Receipt, Refusal};

/// Where a pipeline ends.
#[derive(Default)]
pub struct Outputs {
    pub queues: Vec<Arc<ExportQueue>>,
    /// The mesh.
    pub others: Vec<Arc<dyn Consume>>,
}

impl Consume for Outputs {
    fn consume(&self, batch: Batch) {
        let slots = match self.reserve(&batch) {
            Ok(slots) => slots,
            Err(refusal) => return batch.receipt.resolve(Fate::Refused(refusal)),
        };
        let mut copies = copies(batch, slots.len() + self.others.len()).into_iter();
        slots.into_iter().zip(&mut copies).for_each(|(slot, copy)| slot.put(copy));
        self.others.iter().zip(copies).for_each(|(other, copy)| other.consume(copy));
    }
}

impl Outputs {
    fn reserve(&self, batch: &Batch) -> Result<Vec<Slot>, Refusal> {
        let (bytes, spans) = (batch.spans.bytes.len(), batch.receipt.spans());
        self.queues.iter().map(|queue| queue.reserve(bytes, spans)).collect()
    }
}

/// Several pipelines behind one receiver.
pub struct FanOut(Vec<Arc<dyn Consume>>);

impl FanOut {
    /// All of `places` as one; one place stays what it is.
    pub fn over(mut places: Vec<Arc<dyn Consume>>) -> Option<Arc<dyn Consume>> {
        match places.len() {
            0 | 1 => places.pop(),
            _ => Some(Arc::new(FanOut(places))),
        }
    }
}

impl Consume for FanOut {
    fn consume(&self, batch: Batch) {
        let copies = copies(batch, self.0.len());
        self.0.iter().zip(copies).for_each(|(place, copy)| place.consume(copy));
    }
}

/// The bytes are shared; each copy counts them in full, since each alone keeps them alive. The sum is then an upper
/// bound, never too low.
fn copies(batch: Batch, count: usize) -> Vec<Batch> {
    let Batch { spans, receipt, held, hops } = batch;
    if count == 1 {
        return vec![Batch { spans, receipt, held, hops }];
    }
    let copy = |receipt: Receipt| {
        let held = held.budget().hold(spans.bytes.len());
        Batch { spans: spans.clone(), receipt, held, hops }
    };
    receipt.tee(count).into_iter().map(copy).collect()
}
