//! How commands answer: data on standard output, in a form for people or as JSON; everything else on standard error.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// `-o`, for every command that prints data.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OutputArgs {
    /// Form of what is printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl OutputArgs {
    pub fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a value as one JSON document. Strangers wrote parts of it, and it may end on a terminal: what [`hides`] there
/// is escaped, which says the same.
pub fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{}\n", escaped(&text))),
        Err(error) => complain(&format!("error: {error}\n")),
    }
}

/// Such characters stand in strings only; JSON itself escapes those below a blank.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c > ' ' && hides(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
}

/// Control characters, and those that are not seen or that turn the direction of what follows.
pub(super) fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Writes to standard error.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Rows under their headings, in columns as wide as their widest cell.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headings);
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_on_a_terminal_moves_nothing_and_reads_back_the_same() {
        let value = serde_json::json!({"a\u{9b}2J": "b\u{202e}\u{e0041}\u{1b}\u{7f} é\n"});
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|c| c == '\n' || !hides(c)), "{text:?}");
        assert!(text.contains(r"\u009b2J") && text.contains(r"\u202e\udb40\udc41") && text.contains(" é"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
