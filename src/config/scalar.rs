//! What a plain scalar means: YAML 1.2's core schema, which leaves `yes`, `no`, `on` and `off` strings.

/// The type of a plain scalar's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Typed {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

pub(super) fn typed(text: &str) -> Typed {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Typed::Null,
        "true" | "True" | "TRUE" => Typed::Bool(true),
        "false" | "False" | "FALSE" => Typed::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Typed::Float(f64::NAN),
        _ => number(text).unwrap_or(Typed::Text),
    }
}

fn number(text: &str) -> Option<Typed> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Some(Typed::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY }));
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        // The core schema gives these no sign.
        if let Some(rest) = text.strip_prefix(prefix) {
            let legal = !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
            return legal.then(|| i64::from_str_radix(rest, radix).ok().map(Typed::Int)).flatten();
        }
    }
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse() {
            Ok(int) => Some(Typed::Int(int)),
            Err(_) => text.parse().ok().map(Typed::Float),
        };
    }
    let float_like = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if float_like { text.parse().ok().map(Typed::Float) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_mean_what_the_core_schema_says() {
        for (text, meaning) in [
            ("", Typed::Null),
            ("~", Typed::Null),
            ("true", Typed::Bool(true)),
            ("yes", Typed::Text),
            ("4317", Typed::Int(4317)),
            ("-7", Typed::Int(-7)),
            ("0x1F", Typed::Int(31)),
            ("0o17", Typed::Int(15)),
            ("99999999999999999999", Typed::Float(1e20)),
            ("1.5", Typed::Float(1.5)),
            (".5e3", Typed::Float(500.0)),
            ("-.inf", Typed::Float(f64::NEG_INFINITY)),
            ("1.2.3", Typed::Text),
            ("127.0.0.1:4317", Typed::Text),
            ("5s", Typed::Text),
            ("e5", Typed::Text),
            (".", Typed::Text),
            ("-", Typed::Text),
            ("inf", Typed::Text),
        ] {
            assert_eq!(typed(text), meaning, "{text:?}");
        }
    }
}
