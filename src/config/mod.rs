//! The Collector's configuration language, with the `mesh` connector.
//!
//! Text goes through four steps, each a function of its input: [`yaml`] reads it into a [`tree`] that keeps
//! positions, [`merge`] lays several sources over one another, [`substitute`] puts the environment in, and `check`
//! decodes and wires it into [`Settings`]. The environment and the facts of the machine are arguments; nothing here
//! reads a file or asks the system, so a configuration can be checked anywhere.
//!
//! Rejected: serde. Its errors stop at the first problem, and positions are gone by the time two components turn out
//! to want the same port.

pub mod builtin;
mod check;
mod merge;
pub mod pattern;
pub mod problem;
mod render;
pub mod rule_tests;
mod scalar;
pub mod schema;
mod secrets;
pub mod settings;
mod substitute;
mod suggest;
mod tree;
pub mod units;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use check::{FileUse, HostFacts};
use problem::Sources;
pub use problem::{Problem, Problems, Severity, Source};
pub use render::Expanded;
pub use settings::Settings;

/// Largest source of configuration, in bytes. Readers of files stop there.
pub const MAX_SOURCE_BYTES: usize = yaml::MAX_BYTES;

/// Most sources of one configuration.
pub const MAX_SOURCES: usize = 64;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// Warnings and notes; there are no errors among them.
    pub warnings: Problems,
    pub expanded: Expanded,
    /// Files that it names. Whether they exist is not looked at here.
    pub files: Vec<FileUse>,
}

/// Reads, merges, substitutes and checks. Of several sources the later one stands where they differ.
///
/// # Errors
/// With every problem found, warnings included.
pub fn load(sources: &[Source], env: &dyn Fn(&str) -> Option<String>, host: &HostFacts) -> Result<Loaded, Problems> {
    let (mut problems, mut secrets, mut root) = (Vec::new(), Vec::new(), None);
    let mut readable = sources.len() <= MAX_SOURCES && !sources.is_empty();
    if !readable {
        let message = format!("{} sources of configuration: 1 to {MAX_SOURCES} are wanted", sources.len());
        problems.push(Problem::nowhere(Severity::Error, message));
    }
    for (number, source) in sources.iter().take(MAX_SOURCES).enumerate() {
        let parsed = yaml::parse(u16::try_from(number).unwrap_or(u16::MAX), &source.text);
        problems.extend(parsed.problems);
        secrets.extend(parsed.secrets);
        match (parsed.root, root.as_mut()) {
            (Some(node), None) => root = Some(node),
            (Some(node), Some(root)) => merge::merge(root, node),
            (None, _) => readable = false,
        }
    }
    let sources = Arc::new(Sources { list: sources.to_vec(), secrets });
    let Some(mut root) = root.filter(|_| readable) else { return Err(Problems::new(problems, sources)) };
    substitute::substitute(&mut root, env, &mut problems);
    let checked = check::check(&root, host);
    problems.extend(checked.problems);
    let failed = problems.iter().any(|p| p.severity == Severity::Error);
    let report = Problems::new(problems, sources);
    match checked.settings {
        Some(settings) if !failed => {
            let expanded = Expanded { root, defaults: checked.defaults };
            Ok(Loaded { settings, warnings: report, expanded, files: checked.files })
        }
        _ => Err(report),
    }
}
