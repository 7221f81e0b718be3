//! From where spans come in to where they leave: the stages, called one after another by whoever received the batch.

pub mod ledger;

pub use ledger::{Ledger, Source};

use crate::model::Batch;

/// Anything that takes batches: a pipeline, the mesh, an exporter's queue.
///
/// Never waits: what cannot be taken now is refused through the batch's receipt, and so is every other outcome.
pub trait Consume: Send + Sync + 'static {
    fn consume(&self, batch: Batch);
}
