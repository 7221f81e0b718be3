//! The Collector's configuration language, with the `mesh` connector.

pub mod settings;

pub use settings::Settings;
