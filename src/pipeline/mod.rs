//! From where spans come in to where they leave: the stages, called one after another by whoever received the batch.
//!
//! There is no task and no queue between two stages: a batch runs through its pipeline on the thread that brought it,
//! up to the queue of an exporter or of a link. So a refusal anywhere is known before the sender is answered. The one
//! stage that waits ([`batch`], for more spans) lets its senders wait with it.
//!
//! - [`build`]: pipelines made from the configuration, and the cycle with the mesh resolved.
//! - [`stages`]: what a pipeline does to a batch; [`sampler`]: the stage that keeps a share of the traces; [`batch`]: the
//!   stage that puts batches together.
//! - [`outputs`]: several exporters behind one pipeline, several pipelines behind one receiver.
//! - [`ledger`]: every span's fate; [`join`]: batches put together and cut.

pub mod assemble;
pub mod batch;
pub mod build;
pub mod join;
pub mod ledger;
pub mod outputs;
pub mod sampler;
pub mod stages;

#[cfg(test)]
pub(crate) mod testing;

pub use assemble::AssembleStatus;
pub use build::{BuildError, Environment, OwnedPipelines, PipelineStatus, Pipelines};
pub use ledger::{Ledger, Source};
pub use outputs::FanOut;

use crate::model::Batch;

/// Anything that takes batches: a pipeline, the mesh, an exporter's queue.
///
/// Never waits: what cannot be taken now is refused through the batch's receipt, and so is every other outcome.
pub trait Consume: Send + Sync + 'static {
    fn consume(&self, batch: Batch);
}
