//! Reading the keys of one map: each reader says what is wrong, notes what the default was, and goes on.
//!
//! A reader of a field always returns a value, the default if the given one is no good; the report makes sure that
//! a configuration with such a stand-in is never used. So one pass finds every problem.

use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::config::problem::Problem;
use crate::config::scalar::Typed;
use crate::config::schema::{self, Scope};
use crate::config::suggest::nearest;
use crate::config::tree::{Entry, Node, Place, Value};
use crate::config::units;

/// A map being read.
#[derive(Clone, Debug)]
pub(super) struct Fields<'t> {
    pub path: Vec<String>,
    /// The key that the map stands under.
    pub at: Place,
    scope: &'static Scope,
    entries: &'t [Entry],
    /// Its substitution failed; what it would hold is not known.
    unresolved: bool,
}

pub(super) fn join(path: &[String]) -> String {
    let mut text = String::new();
    for segment in path {
        let index = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
        let dot = if text.is_empty() || index { "" } else { "." };
        let segment = segment.escape_debug();
        text.push_str(&if index { format!("[{segment}]") } else { format!("{dot}{segment}") });
    }
    text
}

/// A choice by name: the values of this build, and those that are known but not built.
pub(super) struct Choice<T: 'static> {
    pub values: &'static [(&'static str, T)],
    pub not_yet: &'static [(&'static str, &'static str)],
}

impl<T: Copy> Choice<T> {
    /// Names are taken in any case.
    pub(super) fn find(&self, text: &str) -> Option<T> {
        self.values.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    /// What is wrong with a text that is none of the names.
    pub(super) fn wrong(&self, place: Place, path: &[String], key: &str, text: &str, shown: String) -> Problem {
        let names: Vec<&str> = self.values.iter().map(|(name, _)| *name).filter(|n| !n.is_empty()).collect();
        let path = join(path);
        let problem = match self.not_yet.iter().find(|(name, _)| *name == text) {
            Some((name, help)) => {
                Problem::error(place, &path, format!("`{key}: {name}` is not supported yet")).help(*help)
            }
            None => {
                let near = nearest(text, names.iter().copied()).map(str::to_owned);
                Problem::error(place, &path, format!("wrong value for `{key}`")).value(shown).suggest(near)
            }
        };
        problem.allowed(names.join(", "))
    }
}

impl<'t> Fields<'t> {
    /// Opens a map and reports the keys that it cannot have. Nothing (`key:`) is an empty map.
    pub(super) fn open(
        check: &mut Check<'_>,
        node: &'t Node,
        at: Place,
        path: Vec<String>,
        scope: &'static Scope,
    ) -> Self {
        let unresolved = matches!(node.value, Value::Unresolved);
        let mut fields = Fields { path, at, scope, entries: &[], unresolved };
        match &node.value {
            Value::Map(entries) => {
                fields.entries = entries;
                fields.unknown_keys(check);
            }
            Value::Unresolved => {}
            _ if node.is_null() => {}
            _ => {
                let problem = Problem::error(node.at, &join(&fields.path), "a map is wanted here");
                check.say(problem.value(node.shown()).allowed(scope.keys.join(", ")));
                fields.unresolved = true;
            }
        }
        fields
    }

    /// The map under `key`, whether it is there or not.
    pub(super) fn map(&self, check: &mut Check<'_>, key: &'static str, scope: &'static Scope) -> Fields<'t> {
        let path = self.path_of(key);
        match self.entry(key) {
            Some(entry) => Fields::open(check, &entry.node, entry.key_at, path, scope),
            None => Fields { path, at: self.at, scope, entries: &[], unresolved: self.unresolved },
        }
    }

    pub(super) fn path_of(&self, key: &str) -> Vec<String> {
        self.path.iter().cloned().chain([key.to_owned()]).collect()
    }

    /// The key as written, with or without a value.
    pub(super) fn entry(&self, key: &'static str) -> Option<&'t Entry> {
        debug_assert!(self.scope.keys.contains(&key), "{key} is missing in the schema of {}", self.scope.path);
        self.entries.iter().find(|e| e.key == key)
    }

    /// The value, if one was given.
    pub(super) fn get(&self, key: &'static str) -> Option<&'t Node> {
        self.entry(key).map(|e| &e.node).filter(|n| !n.is_null())
    }

    /// Whether the key is there, also one that it should not have.
    pub(super) fn names(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// Where the key itself stands, or the map that lacks it.
    pub(super) fn key_place(&self, key: &'static str) -> Place {
        self.entry(key).map_or(self.at, |e| e.key_at)
    }

    /// Where to point at for `key`: its value, or the map that lacks it.
    pub(super) fn place(&self, key: &'static str) -> Place {
        self.get(key).map_or(self.at, |n| n.at)
    }

    pub(super) fn wrong(&self, check: &mut Check<'_>, key: &'static str, message: impl Into<String>, allowed: &str) {
        let mut problem = Problem::error(self.place(key), &join(&self.path_of(key)), message);
        if let Some(node) = self.get(key) {
            problem = problem.value(node.shown());
        }
        check.say(problem.allowed(allowed));
    }

    /// Reports that `key` must be given, unless what is here is not known.
    pub(super) fn missing(&self, check: &mut Check<'_>, key: &'static str, help: &str) {
        let unresolved = matches!(self.entry(key).map(|e| &e.node.value), Some(Value::Unresolved));
        if !self.unresolved && !unresolved {
            check
                .say(Problem::error(self.key_place(key), &join(&self.path), format!("`{key}` is required")).help(help));
        }
    }

    pub(super) fn default(&self, check: &mut Check<'_>, key: &str, value: impl Into<String>) {
        check.defaults.push((self.path_of(key), value.into()));
    }

    /// The text of a scalar. Numbers and booleans are taken as they are written.
    pub(super) fn text(&self, check: &mut Check<'_>, key: &'static str) -> Option<String> {
        let node = self.get(key)?;
        match &node.value {
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            Value::Unresolved => None,
            Value::List(_) | Value::Map(_) => {
                self.wrong(check, key, format!("`{key}` is one value"), "a string");
                None
            }
        }
    }

    pub(super) fn text_or(&self, check: &mut Check<'_>, key: &'static str, default: &str) -> String {
        if self.get(key).is_none() {
            self.default(check, key, default);
        }
        self.text(check, key).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn path_buf(&self, check: &mut Check<'_>, key: &'static str) -> Option<PathBuf> {
        let text = self.text(check, key)?;
        if text.is_empty() {
            return None;
        }
        if text.contains('\0') {
            self.wrong(check, key, "no path", "a path of a file");
            return None;
        }
        check.files.push(super::FileUse {
            place: self.place(key),
            path: join(&self.path_of(key)),
            file: text.clone().into(),
        });
        Some(text.into())
    }

    /// A value that `read` makes of the text, within its range.
    pub(super) fn read<T>(
        &self,
        check: &mut Check<'_>,
        key: &'static str,
        default: (T, String),
        allowed: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> T {
        if self.get(key).is_none() {
            self.default(check, key, default.1);
            return default.0;
        }
        let Some(text) = self.text(check, key) else { return default.0 };
        read(&text).unwrap_or_else(|| {
            self.wrong(check, key, format!("wrong value for `{key}`"), allowed);
            default.0
        })
    }

    pub(super) fn duration(
        &self,
        check: &mut Check<'_>,
        key: &'static str,
        default: Duration,
        range: (Duration, Duration),
    ) -> Duration {
        let (low, high) = (units::show_duration(range.0), units::show_duration(range.1));
        let allowed = format!("a duration with its unit, like 200ms, 5s or 1m30s, from {low} to {high}");
        self.read(check, key, (default, units::show_duration(default)), &allowed, |text| {
            units::duration(text).filter(|d| (range.0..=range.1).contains(d))
        })
    }

    pub(super) fn size(&self, check: &mut Check<'_>, key: &'static str, default: u64, range: (u64, u64)) -> u64 {
        let (low, high) = (units::show_size(range.0), units::show_size(range.1));
        let allowed = format!("a size like 64MiB or a number of bytes, from {low} to {high}");
        self.read(check, key, (default, units::show_size(default)), &allowed, |text| {
            units::size(text).filter(|n| (range.0..=range.1).contains(n))
        })
    }

    /// A whole number. In quotes it is a string, unless it came from the environment.
    pub(super) fn count(&self, check: &mut Check<'_>, key: &'static str, default: u64, range: (u64, u64)) -> u64 {
        if self.get(key).is_none() {
            self.default(check, key, default.to_string());
        }
        self.count_given(check, key, range).unwrap_or(default)
    }

    pub(super) fn count_given(&self, check: &mut Check<'_>, key: &'static str, range: (u64, u64)) -> Option<u64> {
        let number = self.typed(key)?;
        let count = match number {
            Some(Typed::Int(n)) => u64::try_from(n).ok().filter(|n| (range.0..=range.1).contains(n)),
            _ => None,
        };
        if count.is_none() {
            let is_whole = matches!(number, Some(Typed::Int(_)));
            self.no_number(check, key, is_whole, &format!("a whole number from {} to {}", range.0, range.1));
        }
        count
    }

    /// What is wrong with a value that should be a number within bounds.
    fn no_number(&self, check: &mut Check<'_>, key: &'static str, is_number: bool, allowed: &str) {
        if is_number {
            self.wrong(check, key, format!("`{key}` is out of range"), allowed);
        } else {
            self.wrong(check, key, format!("`{key}` is a number"), &format!("{allowed}, without quotes"));
        }
    }

    pub(super) fn number(&self, check: &mut Check<'_>, key: &'static str, default: f64, range: (f64, f64)) -> f64 {
        let Some(typed) = self.typed(key) else {
            if self.get(key).is_none() {
                self.default(check, key, default.to_string());
            }
            return default;
        };
        let number = match typed {
            Some(Typed::Int(n)) => Some(n as f64),
            Some(Typed::Float(n)) => Some(n),
            _ => None,
        };
        number.filter(|n| (range.0..=range.1).contains(n)).unwrap_or_else(|| {
            let is_number = matches!(typed, Some(Typed::Int(_) | Typed::Float(_)));
            self.no_number(check, key, is_number, &format!("a number from {} to {}", range.0, range.1));
            default
        })
    }

    pub(super) fn flag(&self, check: &mut Check<'_>, key: &'static str, default: bool) -> bool {
        match self.typed(key) {
            Some(Some(Typed::Bool(flag))) => flag,
            Some(_) => {
                self.wrong(check, key, format!("`{key}` is true or false"), "true, false");
                default
            }
            None => {
                if self.get(key).is_none() {
                    self.default(check, key, default.to_string());
                }
                default
            }
        }
    }

    pub(super) fn choice<T: Copy>(
        &self,
        check: &mut Check<'_>,
        key: &'static str,
        default: &str,
        choice: &Choice<T>,
    ) -> T {
        if self.get(key).is_none() {
            self.default(check, key, default);
        }
        self.choice_given(check, key, choice).or_else(|| choice.find(default)).unwrap_or(choice.values[0].1)
    }

    /// `None`: not given, or reported.
    pub(super) fn choice_given<T: Copy>(
        &self,
        check: &mut Check<'_>,
        key: &'static str,
        choice: &Choice<T>,
    ) -> Option<T> {
        let text = self.text(check, key)?;
        let found = choice.find(&text);
        if found.is_none() {
            let shown = self.get(key).map_or_else(String::new, Node::shown);
            check.say(choice.wrong(self.place(key), &self.path_of(key), key, &text, shown));
        }
        found
    }

    /// The items of a list, with their paths. One scalar is a list of one, as the Collector has it.
    pub(super) fn list(&self, check: &mut Check<'_>, key: &'static str) -> Vec<(Vec<String>, &'t Node)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        match &node.value {
            Value::List(items) => {
                let path = |index: usize| self.path_of(key).into_iter().chain([index.to_string()]).collect();
                items.iter().enumerate().map(|(index, item)| (path(index), item)).collect()
            }
            Value::Scalar(_) => vec![(self.path_of(key), node)],
            Value::Unresolved => Vec::new(),
            Value::Map(_) => {
                self.wrong(check, key, format!("`{key}` is a list"), "a list");
                Vec::new()
            }
        }
    }

    /// Outer `None`: not given, or not known. Inner `None`: no scalar.
    pub(super) fn typed(&self, key: &'static str) -> Option<Option<Typed>> {
        let node = self.get(key)?;
        match &node.value {
            Value::Unresolved => None,
            Value::Scalar(scalar) if scalar.quoted && scalar.written.is_some() => {
                Some(Some(crate::config::scalar::typed(&scalar.text)))
            }
            Value::Scalar(scalar) => Some(Some(scalar.typed())),
            Value::List(_) | Value::Map(_) => Some(None),
        }
    }

    fn unknown_keys(&self, check: &mut Check<'_>) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.scope.keys.contains(&key) {
                continue;
            }
            let path = join(&self.path);
            if let Some((_, help)) = self.scope.not_yet.iter().find(|(name, _)| *name == key) {
                check.say(Problem::error(entry.key_at, &path, format!("`{key}` is not supported yet")).help(*help));
                continue;
            }
            let mut problem = Problem::error(entry.key_at, &path, format!("unknown key `{}`", key.escape_debug()));
            let known = self.scope.keys.iter().copied();
            let near = nearest(key, known.chain(self.scope.not_yet.iter().map(|(name, _)| *name)));
            match schema::same_meaning(self.scope.path, key).or(near) {
                Some(near) => problem = problem.suggest(Some(near.to_owned())),
                None => {
                    if let Some(home) = schema::homes_of(key).first() {
                        problem = problem.help(format!("`{key}` belongs under {home}"));
                    }
                }
            }
            check.say(problem.allowed(self.scope.keys.join(", ")));
        }
    }
}
