//! Promises of the arena.
