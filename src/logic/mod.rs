//! What decides: sans-IO machines. Input, the time and an output buffer go in; nothing here reads a clock, opens a
//! socket, spawns a task or iterates a map without order.

pub mod backoff;
pub mod clock_filter;
pub mod cross_cluster;
pub mod dedup;
pub mod membership;
pub mod ring;
pub mod route;
pub mod sampler;
pub mod sampling;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace;
pub mod traces;
pub mod waterfall;
