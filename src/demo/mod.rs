//! `spanmesh demo`.
pub mod backend;
pub mod checker;
pub mod generator;
pub mod places;
pub mod relay;
pub mod showcase;
pub mod traffic;
