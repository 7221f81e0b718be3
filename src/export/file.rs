//! JSON lines in a file: one OTLP/JSON `TracesData` object a line.
//!
//! A request is written with one system call and reported as delivered only when the system has it, so there is no
//! buffer of ours to flush at the end or to lose. If the disk fills in the middle of a line, the file is cut back to
//! the last whole line before the next try: a reader never sees half an object.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::outcome::brief;
use super::{Backend, EncodeError, Outcome, Sending, StartError};
use crate::config::settings::FileExporterSettings;
use crate::model::Spans;
use crate::wire::json;

/// One file.
pub struct FileBackend {
    lines: Arc<Mutex<Lines>>,
}

struct Lines {
    file: File,
    /// Set while the file may end in half a line: its length before that line.
    whole: Option<u64>,
}

impl FileBackend {
    /// Creates the file, and empties it unless `append` is set.
    pub fn open(settings: &FileExporterSettings) -> Result<FileBackend, StartError> {
        let file = open(&settings.path, settings.append)
            .map_err(|error| StartError::File { path: settings.path.clone(), reason: error.to_string() })?;
        Ok(FileBackend { lines: Arc::new(Mutex::new(Lines { file, whole: None })) })
    }
}

fn open(path: &Path, append: bool) -> io::Result<File> {
    if !append {
        File::create(path)?;
    }
    // Appending also when the file was emptied: each write then goes to the end, wherever that is after a cut.
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if ends_in_half_a_line(path)? {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// A process that was killed while it wrote leaves half a line, and the next one must not stand behind it.
fn ends_in_half_a_line(path: &Path) -> io::Result<bool> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

impl Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let whole = match self.whole {
            Some(length) => {
                self.file.set_len(length)?;
                length
            }
            None => self.file.metadata()?.len(),
        };
        self.whole = Some(whole);
        match self.file.write_all(line) {
            Ok(()) => {
                self.whole = None;
                Ok(())
            }
            Err(error) => {
                // Best now; if it fails too, the next try begins with it.
                if self.file.set_len(whole).is_ok() {
                    self.whole = None;
                }
                Err(error)
            }
        }
    }
}

impl Backend for FileBackend {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError> {
        let mut line = Vec::new();
        json::encode(&spans.bytes, &mut line).map_err(|error| EncodeError::Malformed(error.to_string()))?;
        line.push(b'\n');
        Ok(Bytes::from(line))
    }

    fn send(&self, payload: Bytes) -> Sending<'_> {
        let lines = self.lines.clone();
        Box::pin(async move {
            let write = move || lines.lock().unwrap_or_else(PoisonError::into_inner).write(&payload);
            let message = match tokio::task::spawn_blocking(write).await {
                Ok(Ok(())) => return Outcome::Delivered,
                Ok(Err(error)) => error.to_string(),
                Err(stopped) => stopped.to_string(),
            };
            Outcome::Retry { at_least: None, unanswered: false, message: brief(&message) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::request;
    use crate::wire::{Limits, walk};

    fn spans(names: &[&str]) -> Spans {
        walk(request(names).into(), &Limits::default()).unwrap().spans
    }

    #[tokio::test]
    async fn each_request_is_a_line_and_only_append_keeps_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traces.json");
        for (append, lines) in [(false, 2), (true, 4), (false, 2)] {
            let backend = FileBackend::open(&FileExporterSettings { path: path.clone(), append }).unwrap();
            for name in ["first", "second"] {
                let line = backend.encode(&spans(&[name])).unwrap();
                assert_eq!(backend.send(line).await, Outcome::Delivered);
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), lines);
            for line in text.lines() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"].is_string());
            }
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_tried_again() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let backend = FileBackend::open(&FileExporterSettings { path: "/dev/full".into(), append: true }).unwrap();
        let line = backend.encode(&spans(&["lost"])).unwrap();
        assert!(matches!(backend.send(line).await, Outcome::Retry { unanswered: false, .. }));
    }

    #[test]
    fn half_a_line_is_cut_off_before_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traces.json");
        std::fs::write(&path, "{\"whole\":1}\n{\"ha").unwrap();
        let mut lines = Lines { file: open(&path, true).unwrap(), whole: Some(12) };
        lines.write(b"{\"next\":2}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"whole\":1}\n{\"next\":2}\n");
    }

    #[test]
    fn what_is_appended_begins_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traces.json");
        for (before, after) in [("{\"ha", "{\"ha\nx\n"), ("{}\n", "{}\nx\n"), ("", "x\n")] {
            std::fs::write(&path, before).unwrap();
            Lines { file: open(&path, true).unwrap(), whole: None }.write(b"x\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_said_at_the_start() {
        let settings = FileExporterSettings { path: "/nowhere/traces.json".into(), append: false };
        assert!(FileBackend::open(&settings).is_err());
    }
}
