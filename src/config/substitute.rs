//! `${env:X}`, `${X}`, `${env:X:-default}`, `${X:-default}` and `$$`, in values, after parsing.
//!
//! After parsing, as the Collector does it: a variable can then never change the structure of the file around it
//! (Vector substituted text before parsing, and ended by turning substitution off). A plain scalar that is one
//! substitution and nothing else takes the type of its new text, so ports and booleans may come from the environment;
//! if the new text is a flow list or map (`[a, b]`, `{a: b}`), the value is that. In quotes it stays a string.
//!
//! Two differences from the Collector, both on the side of saying what is wrong: a variable that is not set and has no
//! default is an error at its line (there: an empty value), and the default also works without `env:`. As there, the
//! default is for a variable that is not set; one that is set and empty is empty.

use super::problem::Problem;
use super::tree::{Node, Scalar, Value};
use super::yaml;

/// Most bytes that all substitutions of a configuration may bring in.
const MAX_SUBSTITUTED: usize = 4 << 20;

/// Substitutes in every value of the tree, in place.
pub(super) fn substitute(root: &mut Node, env: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) {
    let mut work = Work { env, problems, left: MAX_SUBSTITUTED };
    work.node(root, "");
}

struct Work<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a mut Vec<Problem>,
    left: usize,
}

impl Work<'_> {
    fn node(&mut self, node: &mut Node, path: &str) {
        match &mut node.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.node(item, &format!("{path}[{index}]"));
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.node(&mut entry.node, &format!("{path}{dot}{}", entry.key.escape_debug()));
                }
            }
            Value::Scalar(scalar) if scalar.text.contains('$') => {
                let value = self.scalar(scalar);
                let shown = node.shown();
                node.value = value.unwrap_or_else(|message| {
                    let problem = Problem::error(node.at, path, message.text).value(shown);
                    self.problems.push(match message.help {
                        Some(help) => problem.help(help),
                        None => problem,
                    });
                    Value::Unresolved
                });
                if matches!(node.value, Value::List(_) | Value::Map(_)) {
                    stand_at(node);
                }
            }
            Value::Scalar(_) | Value::Unresolved => {}
        }
    }

    fn scalar(&mut self, scalar: &Scalar) -> Result<Value, Complaint> {
        let pieces = pieces(&scalar.text)?;
        let mut text = String::new();
        let mut from_environment = false;
        for piece in &pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Variable { name, default } => {
                    from_environment = true;
                    let value = (self.env)(name).or_else(|| default.map(str::to_owned)).ok_or_else(|| Complaint {
                        text: format!("the environment variable {name} is not set"),
                        help: Some(format!("set it, or give a default: ${{env:{name}:-default}}")),
                    })?;
                    self.left = self.left.checked_sub(value.len()).ok_or_else(|| Complaint {
                        text: "the environment brings in too much text".to_owned(),
                        help: Some(format!("at most {MAX_SUBSTITUTED} bytes in all")),
                    })?;
                    text.push_str(&value);
                }
            }
        }
        if !scalar.quoted && matches!(pieces.as_slice(), [Piece::Variable { .. }]) {
            if let Some(collection) = flow_collection(&text) {
                return Ok(collection);
            }
        } else if !scalar.quoted && !from_environment {
            // `$$5` is the text `$5`; it cannot become anything but a string.
            return Ok(Value::Scalar(Scalar { text, quoted: true, written: None }));
        }
        let written = from_environment.then(|| scalar.text.clone());
        Ok(Value::Scalar(Scalar { text, quoted: scalar.quoted, written }))
    }
}

struct Complaint {
    text: String,
    help: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Piece<'t> {
    Text(&'t str),
    Variable { name: &'t str, default: Option<&'t str> },
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Complaint> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, from) = rest.split_at(dollar);
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        if let Some(after) = from.strip_prefix("$$") {
            pieces.push(Piece::Text("$"));
            rest = after;
        } else if let Some(after) = from.strip_prefix("${") {
            let unclosed = || Complaint { text: "`${` without `}`".to_owned(), help: Some(ESCAPE.to_owned()) };
            let (inner, after) = after.split_once('}').ok_or_else(unclosed)?;
            pieces.push(variable(inner)?);
            rest = after;
        } else {
            pieces.push(Piece::Text("$"));
            rest = from.get(1..).unwrap_or("");
        }
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

const ESCAPE: &str = "a literal dollar sign is written `$$`";

fn variable(inner: &str) -> Result<Piece<'_>, Complaint> {
    let complaint = |text: String| Complaint { text, help: Some(ESCAPE.to_owned()) };
    if inner.contains("${") {
        return Err(complaint("a substitution inside of a substitution is not supported".to_owned()));
    }
    let (reference, default) = match inner.split_once(":-") {
        Some((reference, default)) => (reference, Some(default)),
        None => (inner, None),
    };
    let name = match reference.split_once(':') {
        None => reference,
        Some(("env", name)) => name,
        Some((provider @ ("file" | "yaml" | "http" | "https"), _)) => {
            let text = format!("`${{{provider}:…}}` is not supported yet");
            return Err(Complaint {
                text,
                help: Some("use an environment variable, or a further --config".to_owned()),
            });
        }
        Some((provider, _)) => {
            return Err(complaint(format!("`{}` is no provider of values: use `env`", provider.escape_debug())));
        }
    };
    let legal = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !legal {
        return Err(complaint(format!("`{}` is no name of an environment variable", name.escape_debug())));
    }
    Ok(Piece::Variable { name, default })
}

fn flow_collection(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let parsed = yaml::parse(0, text);
    match parsed.root?.value {
        value @ (Value::List(_) | Value::Map(_)) if parsed.problems.is_empty() => Some(value),
        _ => None,
    }
}

/// Gives a value that came from the environment the place of its substitution, all through, and its secrecy.
fn stand_at(node: &mut Node) {
    let (at, secret) = (node.at, node.secret);
    let settle = |child: &mut Node| {
        child.at = at;
        child.secret |= secret;
        if let Value::Scalar(scalar) = &mut child.value {
            scalar.written.get_or_insert_with(|| "${…}".to_owned());
        }
        stand_at(child);
    };
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(settle),
        Value::Map(entries) => {
            for entry in entries {
                entry.key_at = at;
                settle(&mut entry.node);
            }
        }
        Value::Scalar(_) | Value::Unresolved => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scalar::Typed;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "PORT" => "4317",
            "HOST" => "127.0.0.1",
            "EMPTY" => "",
            "SEEDS" => "[a:1, b:2]",
            "BROKEN" => "[::]:4317",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn one(value: &str) -> (Value, Vec<Problem>) {
        let mut root = yaml::parse(0, &format!("a: {value}\n")).root.unwrap();
        let mut problems = Vec::new();
        substitute(&mut root, &env, &mut problems);
        (root.get("a").unwrap().value.clone(), problems)
    }

    fn text(value: &str) -> String {
        match one(value) {
            (Value::Scalar(scalar), problems) if problems.is_empty() => scalar.text,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_variable_is_understood() {
        for (written, meaning) in [
            ("${env:PORT}", "4317"),
            ("${PORT}", "4317"),
            ("${HOST}:${env:PORT}", "127.0.0.1:4317"),
            ("${env:NONE:-x:y}", "x:y"),
            ("${NONE:-5}", "5"),
            ("${env:NONE:-}", ""),
            ("${EMPTY:-default}", ""),
            ("$$${PORT}", "$4317"),
            ("$$PORT", "$PORT"),
            ("$$$${PORT}", "$${PORT}"),
            ("a $PORT is text", "a $PORT is text"),
            ("${BROKEN}", "[::]:4317"),
        ] {
            assert_eq!(text(written), meaning, "{written}");
        }
    }

    #[test]
    fn a_value_that_is_one_variable_takes_the_type_of_its_text_unless_quoted() {
        let typed = |value: &str| match one(value).0 {
            Value::Scalar(scalar) => scalar.typed(),
            other => panic!("{other:?}"),
        };
        assert_eq!(typed("${PORT}"), Typed::Int(4317));
        assert_eq!(typed("\"${PORT}\""), Typed::Text);
        assert_eq!(typed("${NONE:-true}"), Typed::Bool(true));
        assert_eq!(typed("$$5"), Typed::Text);
        let (Value::List(items), _) = one("${SEEDS}") else { panic!() };
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn what_cannot_be_substituted_is_reported_where_it_stands() {
        for (written, part) in [
            ("${NONE}", "NONE is not set"),
            ("${file:/etc/passwd}", "not supported yet"),
            ("${https://x/y}", "not supported yet"),
            ("${vault:x}", "no provider"),
            ("${PORT", "without `}`"),
            ("${env:${PORT}}", "inside of a substitution"),
            ("${9X}", "no name"),
            ("${}", "no name"),
        ] {
            let (value, problems) = one(written);
            assert!(matches!(value, Value::Unresolved), "{written}");
            assert_eq!(problems.len(), 1, "{written}");
            assert!(problems[0].message.contains(part), "{written}: {}", problems[0].message);
            let place = problems[0].place.unwrap();
            assert_eq!((place.line, place.column), (1, 4), "{written}");
        }
    }

    #[test]
    fn a_large_variable_used_often_meets_a_bound() {
        let big = "x".repeat(100_000);
        let mut root = yaml::parse(0, &format!("a: [{}]\n", "\"${BIG}\", ".repeat(100))).root.unwrap();
        let mut problems = Vec::new();
        substitute(&mut root, &|_| Some(big.clone()), &mut problems);
        assert!(problems.iter().any(|p| p.message.contains("too much text")));
    }
}
