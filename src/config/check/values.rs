//! Readers of values that only some components have: signed numbers, percentages, lists of texts.

use super::Check;
use super::fields::{Choice, Fields, join};
use crate::config::problem::Problem;
use crate::config::scalar::Typed;
use crate::config::tree::{Node, Value};
use crate::config::units;

impl Fields<'_> {
    /// A whole number of either sign. `None`: not given, or reported.
    pub(super) fn integer(&self, check: &mut Check<'_>, key: &'static str) -> Option<i64> {
        match self.typed(key)? {
            Some(Typed::Int(number)) => Some(number),
            _ => {
                self.wrong(check, key, format!("`{key}` is a number"), "a whole number, without quotes");
                None
            }
        }
    }

    /// A percentage that must be given.
    pub(super) fn percentage(&self, check: &mut Check<'_>, key: &'static str) -> f64 {
        if self.get(key).is_none() {
            self.missing(check, key, "the share to keep, a percentage from 0 to 100");
            return 0.0;
        }
        self.number(check, key, 0.0, (0.0, 100.0))
    }

    /// A size, if one was given.
    pub(super) fn size_given(&self, check: &mut Check<'_>, key: &'static str, range: (u64, u64)) -> Option<u64> {
        self.get(key)?;
        let (low, high) = (units::show_size(range.0), units::show_size(range.1));
        let allowed = format!("a size like 64MiB or a number of bytes, from {low} to {high}");
        self.read(check, key, (None, String::new()), &allowed, |text| {
            units::size(text).filter(|n| (range.0..=range.1).contains(n)).map(Some)
        })
    }

    /// The texts of a list; nothing, lists and maps in it are reported.
    pub(super) fn texts(&self, check: &mut Check<'_>, key: &'static str, what: &str) -> Vec<String> {
        self.scalars(check, key, what).into_iter().map(|(_, _, text)| text).collect()
    }

    /// The scalars of a list with their paths.
    pub(super) fn scalars<'s>(
        &'s self,
        check: &mut Check<'_>,
        key: &'static str,
        what: &str,
    ) -> Vec<(Vec<String>, &'s Node, String)> {
        let mut found = Vec::new();
        for (path, item) in self.list(check, key) {
            match &item.value {
                Value::Scalar(scalar) if !scalar.text.is_empty() => found.push((path, item, scalar.text.clone())),
                Value::Unresolved => {}
                _ => {
                    let problem = Problem::error(item.at, &join(&path), format!("{what} is wanted here"));
                    check.say(problem.value(item.shown()));
                }
            }
        }
        found
    }

    /// As [`Fields::texts`]; the list must not be empty.
    pub(super) fn some_texts(&self, check: &mut Check<'_>, key: &'static str, what: &str) -> Vec<String> {
        if self.is_empty_list(key) {
            self.missing(check, key, &format!("give at least one: {what}"));
        }
        self.texts(check, key, what)
    }

    /// A list of names of a choice.
    pub(super) fn choices<T: Copy>(&self, check: &mut Check<'_>, key: &'static str, choice: &Choice<T>) -> Vec<T> {
        let mut found = Vec::new();
        for (path, item, text) in self.scalars(check, key, "a name") {
            match choice.find(&text) {
                Some(value) => found.push(value),
                None => check.say(choice.wrong(item.at, &path, key, &text, item.shown())),
            }
        }
        found
    }

    /// Nothing is given, or a list of nothing.
    pub(super) fn is_empty_list(&self, key: &'static str) -> bool {
        self.get(key).is_none_or(|node| matches!(&node.value, Value::List(items) if items.is_empty()))
    }

    /// Notes that a key of the Collector is understood and changes nothing.
    pub(super) fn no_effect(&self, check: &mut Check<'_>, key: &'static str, why: &str) {
        if self.get(key).is_some() {
            let message = format!("`{key}` has no effect: {why}");
            check.say(Problem::note(self.place(key), &join(&self.path_of(key)), message));
        }
    }
}
