//! OTLP's wire forms, read and written without building span structs.

pub mod edit;
pub mod json;
pub mod regroup;
pub mod reply;
pub mod walk;

pub use edit::ResourceEdits;
pub use regroup::{Part, edit_resources, regroup, select};
pub use walk::{Limits, Rejected, Walked, WireError, walk};
