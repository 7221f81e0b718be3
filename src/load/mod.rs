//! The load tool: OTLP requests that look like a busy service's, sent as fast as asked, with what came of them.

pub mod drive;
pub mod payload;
mod proto;
pub mod sender;

pub use payload::{Payload, Shape};
