//! The integration tests: one binary, real processes and in-process servers on loopback, real certificates and DNS.

#![allow(unreachable_pub, reason = "a binary of its own: nothing in it is anybody's API")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, helpers of tests included")]

mod bad_input;
mod commands;
mod deciding;
mod discovery;
mod explain;
mod harness;
mod hostile_traces;
mod layers;
mod mesh;
mod operation;
mod sampling;
mod security;
