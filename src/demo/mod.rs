//! `spanmesh demo`.
pub mod checker;
pub mod places;
pub mod traffic;
