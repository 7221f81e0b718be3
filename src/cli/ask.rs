//! What commands that read a running node have in common.

use clap::Args;
use serde_json::Value;

use super::exit::Exit;
use super::output::{self, OutputArgs};
use crate::admin::client;

#[derive(Args, Clone, Debug)]
pub struct AskArgs {
    /// The node's admin API
    #[arg(long, value_name = "URL", env = "SPANMESH_ADMIN", default_value = "http://127.0.0.1:4320")]
    pub admin: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl AskArgs {
    /// The node's answer. What is wrong is said on standard error.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Exit> {
        client::ask(&self.admin, path).await.map_err(|error| {
            output::complain(&format!("error: {error}\n"));
            if matches!(error, client::AskError::Url { .. }) { Exit::Usage } else { Exit::Failed }
        })
    }
}

/// A member of an answer as a table's cell. Peers wrote some of it: control characters must not reach the terminal.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// What somebody else wrote, fit for a terminal: without control characters, and without those that are not seen or that turn the
/// direction of what follows.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if output::hides(c) { '\u{fffd}' } else { c }).collect()
}

/// The elements of an answer's list; none if it is absent.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

/// `1h 2m`, `3m 4s`, `5s`.
pub(super) fn duration(value: &Value) -> String {
    match value.as_f64().map(|seconds| seconds as u64) {
        None => "-".to_owned(),
        Some(s @ 0..60) => format!("{s}s"),
        Some(s @ 60..3_600) => format!("{}m {}s", s / 60, s % 60),
        Some(s @ 3_600..86_400) => format!("{}h {}m", s / 3_600, s / 60 % 60),
        Some(s) => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_peers_wrote_is_shown_without_control_characters() {
        assert_eq!(cell(&json!("0.1\u{1b}[2J")), "0.1\u{fffd}[2J");
        assert_eq!(
            printable("a\u{202e}b\u{200b}c\u{9b}d\u{e0041}\u{e9}"),
            "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}\u{e9}"
        );
        assert_eq!((cell(&json!(null)), cell(&json!("")), cell(&json!(7))), ("-".into(), "-".into(), "7".into()));
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0.9, "0s"), (61.0, "1m 1s"), (3_660.0, "1h 1m"), (90_000.0, "1d 1h")] {
            assert_eq!(duration(&json!(seconds)), text);
        }
    }
}
