//! What a node tells those who operate it: one status, read by the admin API, the page, the metrics and the commands.

pub mod client;
#[cfg(test)]
pub(crate) mod example;
mod health;
mod page;
pub mod server;
pub mod status;
pub mod trace;
mod trace_page;

pub use health::{Health, serve_health};
pub use server::{Explain, Report, serve_admin, serve_metrics};
pub use status::NodeStatus;
