//! Values that every stage shares. Nothing here reads a clock, opens a socket or knows a task.

pub mod batch;
pub mod budget;
pub mod ids;
pub mod receipt;
pub mod refusal;
pub mod time;

pub use batch::{Batch, ByteRange, ResourceEntry, ScopeEntry, SpanEntry, Spans};
pub use budget::{Budget, Held};
pub use ids::{BootId, ClusterName, MAX_NAME, NodeId, NodeName, SpanId, TraceId};
pub use receipt::{DropReason, Fate, Holder, Receipt};
pub use refusal::{Reason, Refusal};
pub use time::{Tick, UnixNanos};
