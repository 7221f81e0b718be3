//! The integration tests: one binary, real processes and in-process servers on loopback, real certificates and DNS.

#![allow(unreachable_pub, reason = "a binary of its own: nothing in it is anybody's API")]

mod bad_input;
mod commands;
mod discovery;
mod harness;
mod layers;
mod mesh;
mod operation;
mod security;
