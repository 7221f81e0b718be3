//! `--config`: where the texts of a configuration are read from.
//!
//! The Collector's forms: a path, `file:PATH`, `yaml:TEXT`, `env:NAME`; and `-` for standard input. A problem's place
//! names the source as it was given.

use std::fs::File;
use std::io::{self, Read};

use crate::config::{MAX_SOURCE_BYTES, Source};

/// Reads every source in order. `Err` is a message for the user.
pub(super) fn read_all(configs: &[String]) -> Result<Vec<Source>, String> {
    if configs.iter().filter(|c| *c == "-").count() > 1 {
        return Err("standard input can be read once: a second `--config -`".to_owned());
    }
    configs.iter().map(|config| read(config)).collect()
}

/// Reads the file at a path.
pub(super) fn read_file(path: &str) -> Result<Source, String> {
    Ok(Source { name: path.to_owned(), text: file(path)? })
}

fn read(config: &str) -> Result<Source, String> {
    let source = |name: &str, text: String| Ok(Source { name: name.to_owned(), text });
    if config == "-" {
        return source("standard input", bounded("standard input", io::stdin().lock())?);
    }
    match config.split_once(':') {
        Some(("file", path)) => read_file(path),
        Some(("yaml", text)) => source("--config yaml:", text.to_owned()),
        Some(("env", name)) => match std::env::var(name) {
            Ok(text) => source(config, text),
            Err(_) => Err(format!("the environment variable {name} is not set, or is no UTF-8")),
        },
        Some(("http" | "https", _)) => {
            Err(format!("--config {config}: reading a configuration over HTTP is not supported yet; download it first"))
        }
        _ => read_file(config),
    }
}

fn file(path: &str) -> Result<String, String> {
    let file = File::open(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    bounded(path, file)
}

/// Reads no more than one byte over the bound, which the loader then reports as too large.
fn bounded(name: &str, from: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_SOURCE_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.len() > MAX_SOURCE_BYTES {
        // The cut may fall within a character; what is read is refused for its length in any case.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        format!("{name}:{line}: not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_in_every_form_of_the_collector() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, "a: 1\n").unwrap();
        let path = path.to_str().unwrap();
        for config in [path, &format!("file:{path}")] {
            let source = read(config).unwrap();
            assert_eq!((source.name.as_str(), source.text.as_str()), (path, "a: 1\n"));
        }
        assert_eq!(read("yaml:a::b: 1").unwrap().text, "a::b: 1");
        assert!(!read("env:PATH").unwrap().text.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
        assert!(read(path.to_str().unwrap()).unwrap_err().ends_with("a.yaml:2: not UTF-8"));
        assert!(read("/nowhere/a.yaml").unwrap_err().contains("cannot read /nowhere/a.yaml"));
        assert!(read("env:SPANMESH_TEST_NOT_SET").unwrap_err().contains("not set"));
        assert!(read("https://host/a.yaml").unwrap_err().contains("not supported yet"));
        assert!(read_all(&["-".to_owned(), "-".to_owned()]).is_err());
        let large = bounded("large", std::io::repeat(b' ')).unwrap();
        assert_eq!(large.len(), MAX_SOURCE_BYTES + 1);
    }
}
