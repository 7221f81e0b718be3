//! Structured logs on stderr: text where a person reads, JSON elsewhere.
//!
//! Both forms escape control characters (text by tracing-subscriber, since 0.3.20; JSON by its nature), so nothing that
//! a sender or a peer wrote can move the cursor of the terminal that shows it, or forge a line.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::settings::LogFormat;

/// Wins over the configured level: `SPANMESH_LOG=debug`, or per module `info,spanmesh::link=trace`.
pub const ENV: &str = "SPANMESH_LOG";

#[derive(Debug, Error)]
pub enum LogError {
    #[error("{level:?} is no log level: use error, warn, info, debug, trace, or module=level pairs")]
    Level { level: String },
    #[error("logging is set up already")]
    Twice,
}

/// Sets logging up for the whole process. `level` is the configured one.
pub fn init(level: &str, format: LogFormat) -> Result<(), LogError> {
    let asked = std::env::var(ENV).ok().filter(|value| !value.is_empty());
    let is_terminal = io::stderr().is_terminal();
    let is_json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    let is_coloured = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let filter = filter(asked.as_deref().unwrap_or(level))?;
    install(filter, is_json, is_coloured, io::stderr).map_err(|_| LogError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = || LogError::Level { level: level.to_owned() };
    // The filter itself takes a misspelt level for the name of a module, and then logs nothing at all.
    let is_clear = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    if !level.split(',').all(is_clear) {
        return Err(wrong());
    }
    EnvFilter::builder().parse(level).map_err(|_| wrong())
}

fn install(
    filter: EnvFilter,
    is_json: bool,
    is_coloured: bool,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Result<(), tracing_subscriber::util::TryInitError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if is_json {
        builder.json().flatten_event(true).with_current_span(false).finish().try_init()
    } else {
        builder.with_ansi(is_coloured).finish().try_init()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_strangers_write_cannot_reach_the_terminal_as_control_characters() {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let name = "\u{1b}[2Jevil\u{7}";
            tracing::warn!(service = name, "named {name}");
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("evil") && !text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    }

    #[test]
    fn levels_and_pairs_are_understood_and_nonsense_is_named() {
        for good in ["info", "debug", "info,spanmesh::link=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("loud").is_err());
        assert!(filter("spanmesh=loud").unwrap_err().to_string().contains("spanmesh=loud"));
    }
}
