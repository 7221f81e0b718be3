//! OTLP's wire forms, read and written without building span structs.

#[cfg(all(test, feature = "node"))]
mod against_prost;
pub mod attributes;
mod check;
pub mod edit;
pub mod json;
mod key_value;
pub(crate) mod reader;
pub mod regroup;
pub mod reply;
mod rewrite;
mod schema;
pub mod span_edit;
pub mod stamp;
#[cfg(test)]
mod tests;
pub mod walk;

pub use edit::ResourceEdits;
pub use regroup::{Part, edit_resources, most_bytes, regroup, select};
pub use rewrite::rewrite;
pub use span_edit::SpanEdits;
pub use stamp::{ClusterStamp, Stamping};
pub use walk::{Limits, Rejected, Walked, WireError, walk};
