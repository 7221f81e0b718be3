//! The traces of a test, from OTLP/JSON in files or in the test itself.

use bytes::Bytes;

use super::{MAX_TRACE_BYTES, MAX_TRACES, ReadFile};
use crate::config::Problem;
use crate::config::rule_tests::{InlineTraces, RuleTest, Text, TracesFrom};
use crate::model::{Spans, TraceId};
use crate::wire::json::{JsonError, decode};
use crate::wire::{Limits, walk};

pub(super) struct Loaded {
    pub spans: Spans,
    /// In the order of their first spans.
    pub traces: Vec<TraceId>,
}

/// Reads what a test names. `None`: it cannot be used, and `problems` says why.
pub(super) fn load(test: &RuleTest, read: &ReadFile<'_>, problems: &mut Vec<Problem>) -> Option<Loaded> {
    let before = problems.len();
    // Encoded requests one behind the other are one request.
    let mut request = Vec::new();
    let mut warnings = Vec::new();
    match &test.traces {
        TracesFrom::Here(inline) => here(test, inline, &mut request, &mut warnings, problems),
        TracesFrom::Files(files) => {
            let mut room = MAX_TRACE_BYTES;
            for file in files {
                if let Err(problem) = from_file(file, read, &mut room, &mut request, &mut warnings) {
                    problems.push(*problem);
                }
            }
        }
    }
    if problems.len() > before {
        return None;
    }
    let loaded = index(test, request);
    problems.extend(warnings);
    loaded.map_err(|message| problems.push(Problem::error(test.place, "", message))).ok()
}

fn here(
    test: &RuleTest,
    inline: &InlineTraces,
    request: &mut Vec<u8>,
    warnings: &mut Vec<Problem>,
    problems: &mut Vec<Problem>,
) {
    match decode(inline.json.as_bytes(), &Limits::default()) {
        Ok(decoded) => {
            request.extend(decoded.bytes);
            warnings.extend(decoded.warning.map(|text| Problem::warning(test.place, "otlp", text)));
        }
        Err(error) => {
            let (what, byte) = fault(&error);
            problems.push(Problem::error(inline.place(byte), "otlp", format!("no OTLP: {what}")));
        }
    }
}

fn from_file(
    file: &Text,
    read: &ReadFile<'_>,
    room: &mut usize,
    request: &mut Vec<u8>,
    warnings: &mut Vec<Problem>,
) -> Result<(), Box<Problem>> {
    let wrong = |message: String| Box::new(Problem::error(file.place, "traces", message));
    let name = &file.text;
    let text = read(name).map_err(wrong)?;
    let Some(left) = room.checked_sub(text.len()) else {
        let problem = wrong("too many bytes of traces in one test".to_owned());
        return Err(Box::new(problem.allowed(format!("at most {MAX_TRACE_BYTES}"))));
    };
    *room = left;
    for (start, document) in documents(&text) {
        let decoded = decode(document, &Limits::default()).map_err(|error| {
            let (what, byte) = fault(&error);
            let (line, column) = line_and_column(&text, start + byte);
            wrong(format!("{name}:{line}:{column}: no OTLP/JSON: {what}"))
        })?;
        request.extend(decoded.bytes);
        warnings.extend(decoded.warning.map(|text| Problem::warning(file.place, "traces", format!("{name}: {text}"))));
    }
    Ok(())
}

/// One JSON document, or one on each line, as the `file` exporter writes them: then the first line is one already.
fn documents(text: &[u8]) -> Vec<(usize, &[u8])> {
    let mut lines = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.trim_ascii().is_empty() {
            lines.push((start, line));
        }
        start += line.len();
    }
    let is_lines = lines.len() > 1 && decode(lines[0].1, &Limits::default()).is_ok();
    if is_lines { lines } else { vec![(0, text)] }
}

fn index(test: &RuleTest, request: Vec<u8>) -> Result<Loaded, String> {
    let name = &test.name;
    let walked = walk(Bytes::from(request), &Limits::default()).map_err(|error| format!("`{name}`: {error}"))?;
    if walked.rejected.spans > 0 {
        let reason = walked.rejected.reason.unwrap_or_default();
        return Err(format!("`{name}`: a node would not take {} of the spans: {reason}", walked.rejected.spans));
    }
    let mut known = std::collections::BTreeSet::new();
    let mut traces = Vec::new();
    for span in &walked.spans.spans {
        if known.insert(span.trace_id) {
            traces.push(span.trace_id);
        }
    }
    match traces.len() {
        0 => Err(format!("`{name}`: there is no span in it")),
        1..=MAX_TRACES => Ok(Loaded { spans: walked.spans, traces }),
        many => Err(format!("`{name}`: {many} traces in one test; at most {MAX_TRACES}")),
    }
}

/// What is wrong, and at which byte.
fn fault(error: &JsonError) -> (&'static str, usize) {
    match error {
        JsonError::Syntax(at) => ("not JSON", *at),
        JsonError::Type(at) => ("a value of the wrong type", *at),
        JsonError::Range(at) => ("a number out of range", *at),
        JsonError::Base64(at) => ("not base64", *at),
        JsonError::TooDeep(at) => ("nested too deeply", *at),
    }
}

/// Both from 1, the column in bytes.
fn line_and_column(text: &[u8], byte: usize) -> (usize, usize) {
    let before = &text[..byte.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    (line, before.len() - start + 1)
}
