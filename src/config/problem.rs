//! What is wrong with a configuration, and where: all of it at once, in a form for people and one for programs.
//!
//! The text form is rustc's, which everybody who reads it here knows: the message, the place, the line with a mark
//! under the culprit, then what would be right. A line is shown with every secret in it masked; if a file could not
//! be parsed, its secrets are not all known, and only the key part of the line is shown.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::tree::Place;

/// Problems listed one by one; what lies beyond is counted.
const MOST_SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is not used.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Worth knowing; never fails a check.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// One thing that is wrong. Its texts hold no secrets: values come through [`Node::shown`](super::tree::Node::shown).
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    pub place: Option<Place>,
    /// `receivers.otlp.protocols.grpc.endpoint`
    pub path: String,
    pub message: String,
    pub value: Option<String>,
    /// What would have been right.
    pub allowed: Option<String>,
    /// "did you mean".
    pub suggestion: Option<String>,
    /// What to do instead, or why.
    pub help: Option<String>,
    /// Another place that belongs to it: where a key was first given.
    pub related: Option<(Place, String)>,
    /// Found before the file's secrets were all known.
    pub conceal: bool,
}

impl Problem {
    fn new(severity: Severity, place: Option<Place>, path: &str, message: String) -> Problem {
        let path = path.to_owned();
        let (value, allowed, suggestion, help, related) = (None, None, None, None, None);
        Problem { severity, place, path, message, value, allowed, suggestion, help, related, conceal: false }
    }

    pub fn error(place: Place, path: &str, message: impl Into<String>) -> Problem {
        Problem::new(Severity::Error, Some(place), path, message.into())
    }

    pub fn warning(place: Place, path: &str, message: impl Into<String>) -> Problem {
        Problem::new(Severity::Warning, Some(place), path, message.into())
    }

    pub fn note(place: Place, path: &str, message: impl Into<String>) -> Problem {
        Problem::new(Severity::Note, Some(place), path, message.into())
    }

    /// A problem of no line: an unreadable source, a missing file.
    pub fn nowhere(severity: Severity, message: impl Into<String>) -> Problem {
        Problem::new(severity, None, "", message.into())
    }

    pub fn value(mut self, shown: String) -> Problem {
        self.value = Some(shown);
        self
    }

    pub fn allowed(mut self, text: impl Into<String>) -> Problem {
        self.allowed = Some(text.into());
        self
    }

    pub fn suggest(mut self, text: Option<String>) -> Problem {
        self.suggestion = text;
        self
    }

    pub fn help(mut self, text: impl Into<String>) -> Problem {
        self.help = Some(text.into());
        self
    }

    pub fn related(mut self, place: Place, text: impl Into<String>) -> Problem {
        self.related = Some((place, text.into()));
        self
    }
}

/// One text of configuration and its name: a path, `env:NAME`, `stdin`.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// The texts that problems point into, and the places in them that are never shown.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub list: Vec<Source>,
    pub secrets: Vec<Place>,
}

/// All problems of one configuration, in the order of their places.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    sources: Arc<Sources>,
}

impl Problems {
    pub fn new(mut list: Vec<Problem>, sources: Arc<Sources>) -> Problems {
        list.sort_by_key(|p| (p.place.is_none(), p.place, p.severity));
        Problems { list, sources }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }

    /// The same report with further problems in it, which point into the same sources.
    pub fn with(mut self, more: Vec<Problem>) -> Problems {
        self.list.extend(more);
        Problems::new(self.list, self.sources)
    }

    /// A list of objects with `severity`, `file`, `line`, `column`, `path`, `message` and what else is known.
    pub fn to_json(&self) -> Json {
        self.list.iter().map(|p| self.problem_json(p)).collect()
    }

    fn problem_json(&self, problem: &Problem) -> Json {
        let place = |p: &Place| json!({"file": self.name(p), "line": p.line, "column": p.column});
        let mut object = json!({"severity": problem.severity});
        if let Some(at) = &problem.place {
            object["file"] = self.name(at).into();
            object["line"] = at.line.into();
            object["column"] = at.column.into();
        }
        object["path"] = problem.path.as_str().into();
        object["message"] = problem.message.as_str().into();
        let optional = [
            ("value", &problem.value),
            ("allowed", &problem.allowed),
            ("did_you_mean", &problem.suggestion),
            ("help", &problem.help),
        ];
        for (key, text) in optional {
            if let Some(text) = text {
                object[key] = text.as_str().into();
            }
        }
        if let Some((at, text)) = &problem.related {
            let mut related = place(at);
            related["message"] = text.as_str().into();
            object["related"] = related;
        }
        object
    }

    fn name(&self, place: &Place) -> &str {
        self.sources.list.get(usize::from(place.source)).map_or("?", |s| s.name.as_str())
    }

    fn write_snippet(&self, out: &mut String, place: &Place, conceal: bool, mark: char) {
        let source = self.sources.list.get(usize::from(place.source));
        let line = source.and_then(|s| s.text.lines().nth(place.line.saturating_sub(1) as usize));
        let gutter = place.line.to_string().len();
        let _ = writeln!(out, "{:gutter$}--> {}:{}:{}", "", self.name(place), place.line, place.column);
        let Some(line) = line.filter(|l| !l.trim().is_empty()) else { return };
        let (text, from, to) =
            if conceal { concealed(line, place) } else { masked(line, place, &self.sources.secrets) };
        let _ = writeln!(out, "{:gutter$} |", "");
        let _ = writeln!(out, "{} | {text}", place.line);
        let marks: String = std::iter::repeat_n(mark, to.saturating_sub(from).max(1)).collect();
        let _ = writeln!(out, "{:gutter$} | {:from$}{marks}", "", "");
    }
}

/// A line is cut to this many characters in a report.
const LONGEST_LINE: usize = 160;

/// The line with its secrets masked, and where the marks go in it (from, to: characters from 0).
fn masked(line: &str, place: &Place, secrets: &[Place]) -> (String, usize, usize) {
    let is_secret = |column: u32| {
        secrets.iter().any(|s| {
            s.source == place.source
                && (s.line, s.column) <= (place.line, column)
                && (place.line, column) < (s.end_line, s.end_column)
        })
    };
    let last = if place.end_line == place.line { place.end_column } else { place.column + 1 };
    let (mut text, mut length, mut from, mut to, mut hidden) = (String::new(), 0, None, 0, false);
    for (index, c) in line.chars().enumerate() {
        let column = u32::try_from(index + 1).unwrap_or(u32::MAX);
        if column == place.column {
            from = Some(length);
        }
        match (is_secret(column), hidden) {
            (true, true) => {}
            (true, false) => {
                text.push_str("[redacted]");
                length += "[redacted]".len();
                hidden = true;
            }
            (false, _) => {
                text.push(if c.is_control() { ' ' } else { c });
                length += 1;
                hidden = false;
            }
        }
        if column < last {
            to = length;
        }
        if length >= LONGEST_LINE {
            text.push('…');
            break;
        }
    }
    let from = from.unwrap_or(length);
    (text, from, to.max(from))
}

/// The line up to its first `:`; what stands behind may be a secret.
fn concealed(line: &str, place: &Place) -> (String, usize, usize) {
    let key = line.find(':').map_or("", |colon| line.get(..=colon).unwrap_or(""));
    let indent: String = line.chars().take_while(|c| *c == ' ').take(LONGEST_LINE).collect();
    let mut text: String = if key.is_empty() { indent } else { key.chars().take(LONGEST_LINE).collect() };
    text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let known = text.chars().count() + 1;
    text.push_str(" …");
    let from = (place.column.saturating_sub(1) as usize).min(known);
    (text, from, from + 1)
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        for problem in self.list.iter().take(MOST_SHOWN) {
            let _ = writeln!(out, "{}: {}", problem.severity, problem.message);
            let gutter = problem.place.map_or(1, |p| p.line.to_string().len());
            if let Some(place) = &problem.place {
                self.write_snippet(&mut out, place, problem.conceal, '^');
            }
            let mut say = |label: &str, text: &str| {
                let _ = writeln!(out, "{:gutter$} = {label}: {text}", "");
            };
            if !problem.path.is_empty() {
                say("at", &problem.path);
            }
            let texts = [("value", &problem.value), ("allowed", &problem.allowed), ("help", &problem.help)];
            for (label, text) in texts.iter().filter_map(|(l, t)| t.as_deref().map(|t| (l, t))) {
                say(label, text);
            }
            if let Some(text) = &problem.suggestion {
                say("help", &format!("did you mean `{text}`?"));
            }
            if let Some((place, text)) = &problem.related {
                let _ = writeln!(out, "note: {text}");
                self.write_snippet(&mut out, place, problem.conceal, '-');
            }
            out.push('\n');
        }
        if self.list.len() > MOST_SHOWN {
            let _ = writeln!(out, "... and {} more", self.list.len() - MOST_SHOWN);
        }
        f.write_str(&out)
    }
}

impl std::error::Error for Problems {}
