//! Where spans come in from senders beside this node: hardened listeners, the OTLP protocol, and the one table that
//! turns a stage's "no" into status codes.

pub mod listen;
pub mod otlp;
pub mod refusal;

pub use otlp::{OtlpReceiver, ReceiverStatus};
