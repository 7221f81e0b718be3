//! The integration tests: one binary, real processes and in-process servers on loopback, real certificates and DNS.

#![allow(unreachable_pub, reason = "a binary of its own: nothing in it is anybody's API")]

mod discovery;
mod harness;
mod layers;
mod mesh;
mod security;
