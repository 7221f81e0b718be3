//! Whether a text is among those that a policy names: literally, or by a pattern.
//!
//! All patterns of a policy are one automaton that looks at the text once. Patterns are searched for anywhere in the
//! text, as Go's `MatchString` does; who means the whole says `^...$`. The syntax is Go's but for classes: `\d`, `\w`, `\s`
//! and `\b` know all of Unicode here and only ASCII there. Their time is linear in the text, whatever the
//! pattern: that is why no other kind of engine would do.
//!
//! What was found is remembered for as many texts as the policy's `cache_max_size` says, but for no more than
//! [`MAX_CACHED`], and only for short ones: their lengths are the senders' to choose. Each text has one place where it
//! may be; another one that falls there takes it over. The Collector keeps them in the order of their use, under one
//! lock: here that would make all shards wait for each other at each span.

use std::sync::{Mutex, TryLockError};

use regex::{RegexSet, RegexSetBuilder};
use xxhash_rust::xxh3::xxh3_64;

/// Most texts that a policy remembers.
const MAX_CACHED: usize = 16_384;
/// Longest text that is remembered, in bytes.
const MAX_CACHED_TEXT: usize = 256;
/// Most memory of one compiled pattern: the default of the crate that the configuration was checked with.
const MAX_PATTERN_BYTES: usize = 10 << 20;

/// The texts that a policy looks for.
pub(super) enum Texts {
    /// In their order, without repetitions.
    Literal(Vec<Box<str>>),
    Patterns(RegexSet, Cache),
}

impl Texts {
    /// Exactly these; the empty text is never meant.
    pub(super) fn literal<'a>(values: impl IntoIterator<Item = &'a str>) -> Texts {
        let mut texts: Vec<Box<str>> = values.into_iter().filter(|text| !text.is_empty()).map(Box::from).collect();
        texts.sort_unstable();
        texts.dedup();
        Texts::Literal(texts)
    }

    /// Whatever one of these patterns is found in. Patterns that do not compile, which a checked configuration does not
    /// have, are found in nothing.
    pub(super) fn patterns(values: &[String], cached: usize) -> Texts {
        let limit = MAX_PATTERN_BYTES.saturating_mul(values.len().max(1));
        let set = RegexSetBuilder::new(values).size_limit(limit).build();
        Texts::Patterns(set.unwrap_or_else(|_| RegexSet::empty()), Cache::new(cached))
    }

    pub(super) fn contain(&self, text: &str) -> bool {
        match self {
            Texts::Literal(texts) => texts.binary_search_by(|known| (**known).cmp(text)).is_ok(),
            Texts::Patterns(set, cache) => cache.get_or(text, || set.is_match(text)),
        }
    }
}

/// What was found out about some texts.
pub(super) struct Cache {
    places: Box<[Mutex<Option<Known>>]>,
}

struct Known {
    text: Box<str>,
    found: bool,
}

impl Cache {
    fn new(size: usize) -> Cache {
        Cache { places: (0..size.min(MAX_CACHED)).map(|_| Mutex::new(None)).collect() }
    }

    fn get_or(&self, text: &str, find: impl Fn() -> bool) -> bool {
        if self.places.is_empty() || text.len() > MAX_CACHED_TEXT {
            return find();
        }
        let place = &self.places[(xxh3_64(text.as_bytes()) % self.places.len() as u64) as usize];
        let mut known = match place.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // Another shard is at it: looking for oneself is sooner done than waiting.
            Err(TryLockError::WouldBlock) => return find(),
        };
        match &*known {
            Some(known) if *known.text == *text => known.found,
            _ => {
                let found = find();
                *known = Some(Known { text: text.into(), found });
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn patterns(values: &[&str]) -> Texts {
        Texts::patterns(&values.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), 8)
    }

    #[test]
    fn literal_texts_are_whole_texts() {
        let texts = Texts::literal(["b", "a", "", "b"]);
        assert!(texts.contain("a") && texts.contain("b"));
        assert!(!texts.contain("") && !texts.contain("ab") && !texts.contain("A"));
    }

    #[test]
    fn patterns_are_found_anywhere_unless_they_say_otherwise() {
        let texts = patterns(&["\\/health", "^v[0-9]+$"]);
        assert!(texts.contain("/a/health/b") && texts.contain("v12"));
        assert!(!texts.contain("/heal") && !texts.contain("v12b"));
        for _ in 0..2 {
            assert!(texts.contain("/health"), "the same again");
            assert!(!texts.contain("/metrics"));
        }
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_found_in_nothing() {
        assert!(!patterns(&["("]).contain("("));
        assert!(!patterns(&[]).contain(""));
    }

    #[test]
    fn what_was_found_is_remembered_and_only_for_short_texts() {
        let asked = Cell::new(0);
        let find = || {
            asked.set(asked.get() + 1);
            true
        };
        let cache = Cache::new(1);
        assert!(cache.get_or("a", find) && cache.get_or("a", find));
        assert_eq!(asked.get(), 1);
        assert!(cache.get_or("b", find) && cache.get_or("a", find));
        assert_eq!(asked.get(), 3, "one place only");
        let long = "x".repeat(MAX_CACHED_TEXT + 1);
        assert!(cache.get_or(&long, find) && cache.get_or(&long, find));
        assert_eq!(asked.get(), 5);
        let none = Cache::new(0);
        assert!(none.get_or("a", find) && none.get_or("a", find));
        assert_eq!(asked.get(), 7);
        assert_eq!(Cache::new(usize::MAX).places.len(), MAX_CACHED);
    }
}
