//! The integration tests: one binary, real processes and in-process servers on loopback, real certificates and DNS.

mod discovery;
mod harness;
mod layers;
mod mesh;
mod security;
