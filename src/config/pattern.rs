//! Regular expressions in a configuration: how they are compiled, the same when they are checked and when they are used.
//!
//! Compiled size is bounded, so is the crate's cache of states, and matching is linear in the text (crate `regex`),
//! so neither the author of a configuration nor the sender of a span can make it expensive. The syntax is Go's (RE2)
//! but for `\Q…\E` and `\C`; `\w`, `\d`, `\s` and `\b` know all of Unicode, and those of Go ASCII alone.

use regex::{Regex, RegexBuilder};

/// Most bytes of one expression, as written.
pub const MOST_TEXT: usize = 8 * 1024;

/// Most bytes of one compiled expression. A repeated class of Unicode takes tens of kilobytes for each repetition, so a
/// sound expression may take megabytes.
const MOST_COMPILED: usize = 4 << 20;

/// Compiles an expression that is to be found anywhere in a text.
///
/// # Errors
/// What is wrong with it, in one line that quotes nothing of it.
pub fn compile(text: &str) -> Result<Regex, String> {
    if text.len() > MOST_TEXT {
        return Err(format!("longer than {MOST_TEXT} bytes"));
    }
    RegexBuilder::new(text).size_limit(MOST_COMPILED).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "it grows too large; repeat less, or write [0-9A-Za-z_] for \\w and [0-9] for \\d".to_owned()
        }
        error => {
            let shown = error.to_string();
            let last = shown.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_compiled_or_refused_in_one_line() {
        assert!(compile("^us-.*|eu-west-[12]$").is_ok());
        assert!(compile(r"^[\w.-]{1,64}@\d+$").is_ok());
        assert!(compile(r"(?i)\bpayment\b[[:alpha:]]*\pL\z").is_ok());
        for (text, part) in
            [("(a", "unclosed group"), ("a{1000}{1000}", "grows too large"), (&"x".repeat(9000), "longer than")]
        {
            let said = compile(text).unwrap_err();
            assert!(said.contains(part) && said.lines().count() == 1, "{said}");
        }
    }
}
