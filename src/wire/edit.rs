//! Resource edits at wire level.
use crate::config::settings::ResourceSettings;

/// Compiled [`ResourceSettings`].
pub struct ResourceEdits {}

impl ResourceEdits {
    pub fn compile(_settings: &ResourceSettings) -> ResourceEdits {
        todo!()
    }
}
