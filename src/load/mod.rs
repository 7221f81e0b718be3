//! The load tool: OTLP requests that look like a busy service's, sent as fast as asked, with what came of them.

pub mod drive;
pub mod payload;
mod proto;
pub(crate) mod rng;
pub mod sender;
mod template;

pub use payload::{Payload, Shape};
