//! YAML to [tree](super::tree): a loop over the parser's events, with bounds on everything a file can blow up.
//!
//! `saphyr-parser` gives events with positions and does not recurse, so depth is ours to bound. An alias is copied
//! where it is used; copies count against the same budget as what is written, so nine lines of aliases to aliases
//! end at the budget and not at the end of memory. Refused by name: several documents in one file, tags beyond the
//! core schema, keys that are not scalars. Supported: anchors, aliases and `<<`, since the Collector's parser does.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::merge::merge;
use super::problem::Problem;
use super::secrets;
use super::tree::{Entry, Node, Place, Scalar, Value};

/// Largest source. A configuration of a thousand components is far below.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Most nodes, copies made by aliases included.
pub(super) const MAX_NODES: usize = 20_000;
/// Most bytes of scalars, copies included.
pub(super) const MAX_TEXT: usize = 4 << 20;
/// Deepest nesting.
pub(super) const MAX_DEPTH: usize = 64;

/// What one source holds.
pub(super) struct Parsed {
    /// `None` if the text is no YAML, or too much of it.
    pub root: Option<Node>,
    pub problems: Vec<Problem>,
    pub secrets: Vec<Place>,
}

/// Reads one source. Duplicate keys are reported and the first one kept, so that checks can go on.
pub(super) fn parse(source: u16, text: &str) -> Parsed {
    let mut builder = Builder { source, ..Builder::default() };
    if text.len() > MAX_BYTES {
        let start = Place { source, line: 1, column: 1, end_line: 1, end_column: 2 };
        let message = format!("{} bytes are too large for a configuration", text.len());
        builder.problems.push(Problem::error(start, "", message).allowed(format!("at most {MAX_BYTES} bytes")));
        return builder.finish(false);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if let Err(problem) = builder.event(event, place(source, &span)) {
                    builder.problems.push(*problem);
                    return builder.finish(false);
                }
            }
            Err(error) => {
                let at = place(source, &Span::empty(*error.marker()));
                let mut problem = Problem::error(at, &builder.path(), format!("not valid YAML: {}", error.info()));
                problem.conceal = true;
                builder.problems.push(problem);
                return builder.finish(false);
            }
        }
    }
    builder.finish(true)
}

fn place(source: u16, span: &Span) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (line, column) = (number(span.start.line()).max(1), number(span.start.col()) + 1);
    let (end_line, end_column) = (number(span.end.line()).max(1), number(span.end.col()) + 1);
    Place { source, line, column, end_line, end_column }
}

/// A collection that is still open.
struct Frame {
    at: Place,
    anchor: usize,
    secret: bool,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: BTreeMap<String, Place>, key: Option<(String, Place)>, merged: Vec<Node> },
}

#[derive(Default)]
struct Builder {
    source: u16,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Node>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    text: usize,
    problems: Vec<Problem>,
    secrets: Vec<Place>,
}

type Fatal = Result<(), Box<Problem>>;

impl Builder {
    fn finish(self, whole: bool) -> Parsed {
        let start = Place { source: self.source, line: 1, column: 1, end_line: 1, end_column: 1 };
        let null = || Node { at: start, value: Value::Scalar(Scalar::plain("")), secret: false };
        let root = whole.then(|| self.root.unwrap_or_else(null)).map(nested);
        Parsed { root, problems: self.problems, secrets: self.secrets }
    }

    fn event(&mut self, event: Event<'_>, at: Place) -> Fatal {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let problem = Problem::error(at, "", "a second YAML document");
                    return Err(Box::new(problem.help("give each document its own file and several --config")));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(anchor, tag) => self.open(Kind::List(Vec::new()), anchor, tag.as_deref(), at),
            Event::MappingStart(anchor, tag) => {
                let (entries, seen, merged) = (Vec::new(), BTreeMap::new(), Vec::new());
                self.open(Kind::Map { entries, seen, key: None, merged }, anchor, tag.as_deref(), at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>, mut at: Place) -> Fatal {
        self.spend(at, 1, text.len())?;
        let quoted = style != ScalarStyle::Plain || tag.is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
        self.check_tag(tag, at, &["str", "int", "float", "bool", "null"]);
        if let Some(Frame { kind: Kind::Map { key: key @ None, .. }, .. }) = self.frames.last_mut() {
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        if text.is_empty() && !quoted {
            // The parser puts an absent value where the next token stands; its key is the better place.
            at = self.key_place().unwrap_or(at);
        }
        let secret = self.secret() || secrets::has_credentials(text);
        if secret && !text.is_empty() {
            self.secrets.push(at);
        }
        let scalar = Scalar { text: text.to_owned(), quoted, written: None };
        self.value(Node { at, value: Value::Scalar(scalar), secret }, anchor)
    }

    fn open(&mut self, kind: Kind, anchor: usize, tag: Option<&Tag>, at: Place) -> Fatal {
        self.spend(at, 1, 0)?;
        self.check_tag(tag, at, &["map", "seq"]);
        if self.frames.len() >= MAX_DEPTH {
            return Err(Box::new(self.too_deep(at)));
        }
        if let Some(Frame { kind: Kind::Map { key: None, .. }, .. }) = self.frames.last() {
            return Err(Box::new(Problem::error(at, &self.path(), "a key must be a scalar")));
        }
        let secret = self.secret();
        self.frames.push(Frame { at, anchor, secret, kind });
        Ok(())
    }

    fn close(&mut self) -> Fatal {
        let Some(Frame { at, anchor, secret, kind }) = self.frames.pop() else { return Ok(()) };
        let at = Place { end_line: at.line, end_column: at.column + 1, ..at };
        let value = match kind {
            Kind::List(items) => Value::List(items),
            Kind::Map { mut entries, mut seen, merged, .. } => {
                let entries_of = merged.into_iter().filter_map(|node| match node.value {
                    Value::Map(entries) => Some(entries),
                    _ => None,
                });
                for entry in entries_of.flatten() {
                    if seen.insert(entry.key.clone(), entry.key_at).is_none() {
                        entries.push(entry);
                    }
                }
                Value::Map(entries)
            }
        };
        self.value(Node { at, value, secret }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Fatal {
        if let Some(Frame { kind: Kind::Map { key: None, .. }, .. }) = self.frames.last() {
            return Err(Box::new(Problem::error(at, &self.path(), "an alias cannot be a key")));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Box::new(Problem::error(at, &self.path(), "an alias inside of what it stands for")));
        };
        if self.frames.len() + node.height() > MAX_DEPTH {
            return Err(Box::new(self.too_deep(at)));
        }
        let (nodes, text) = (node.count(), text_of(node));
        let mut node = node.clone();
        self.spend(at, nodes, text)?;
        if self.secret() {
            hide(&mut node, &mut self.secrets);
        }
        self.value(node, 0)
    }

    /// A whole value: it goes to the open collection, or is the document.
    fn value(&mut self, node: Node, anchor: usize) -> Fatal {
        if anchor != 0 {
            self.spend(node.at, node.count(), text_of(&node))?;
            self.anchors.insert(anchor, node.clone());
        }
        let path = self.path();
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.kind {
            Kind::List(items) => items.push(node),
            Kind::Map { entries, seen, key, merged } => {
                let Some((key, key_at)) = key.take() else { return Ok(()) };
                if key == "<<" {
                    return add_merged(node, merged, &path);
                }
                if let Some(first) = seen.get(&key) {
                    let message = format!("the key `{}` is given twice", key.escape_debug());
                    self.problems.push(Problem::error(key_at, &path, message).related(*first, "first given here"));
                    return Ok(());
                }
                seen.insert(key.clone(), key_at);
                entries.push(Entry { key, key_at, node });
            }
        }
        Ok(())
    }

    fn spend(&mut self, at: Place, nodes: usize, text: usize) -> Fatal {
        self.nodes += nodes;
        self.text += text;
        if self.nodes <= MAX_NODES && self.text <= MAX_TEXT {
            return Ok(());
        }
        let problem = Problem::error(at, &self.path(), "the file grows too large here, with its aliases written out");
        Err(Box::new(problem.allowed(format!("at most {MAX_NODES} values and {MAX_TEXT} bytes of text"))))
    }

    fn check_tag(&mut self, tag: Option<&Tag>, at: Place, core: &[&str]) {
        let Some(tag) = tag else { return };
        if !(tag.is_yaml_core_schema() && core.contains(&tag.suffix.as_str())) {
            let message = format!("the tag `{}{}` is not supported", tag.handle, tag.suffix);
            self.problems.push(Problem::error(at, &self.path(), message).help("write the value without a tag"));
        }
    }

    fn too_deep(&self, at: Place) -> Problem {
        Problem::error(at, "", "nested too deeply").allowed(format!("at most {MAX_DEPTH} levels"))
    }

    fn key_place(&self) -> Option<Place> {
        match &self.frames.last()?.kind {
            Kind::Map { key: Some((_, at)), .. } => Some(*at),
            _ => None,
        }
    }

    /// Whether the value to come is a secret.
    fn secret(&self) -> bool {
        self.frames.last().is_some_and(|frame| {
            frame.secret || matches!(&frame.kind, Kind::Map { key: Some((key, _)), .. } if secrets::is_sensitive(key))
        })
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.kind {
                Kind::List(items) => path.push_str(&format!("[{}]", items.len())),
                Kind::Map { key: Some((key, _)), .. } => {
                    let dot = if path.is_empty() { "" } else { "." };
                    path.push_str(&format!("{dot}{}", key.escape_debug()));
                }
                Kind::Map { key: None, .. } => {}
            }
        }
        path
    }
}

/// `<<: *one` or `<<: [*one, *two]`; of equal keys the first stands.
fn add_merged(node: Node, merged: &mut Vec<Node>, path: &str) -> Fatal {
    let at = node.at;
    match node.value {
        Value::Map(_) => merged.push(node),
        Value::List(items) if items.iter().all(|i| matches!(i.value, Value::Map(_))) => merged.extend(items),
        _ => return Err(Box::new(Problem::error(at, path, "`<<` takes a map, or a list of maps"))),
    }
    Ok(())
}

fn text_of(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.len(),
        Value::List(items) => items.iter().map(text_of).sum(),
        Value::Map(entries) => entries.iter().map(|e| e.key.len() + text_of(&e.node)).sum(),
        Value::Unresolved => 0,
    }
}

fn hide(node: &mut Node, secrets: &mut Vec<Place>) {
    node.secret = true;
    match &mut node.value {
        Value::Scalar(_) | Value::Unresolved => secrets.push(node.at),
        Value::List(items) => items.iter_mut().for_each(|item| hide(item, secrets)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| hide(&mut entry.node, secrets)),
    }
}

/// The Collector's short form of `--config=yaml:processors::batch::timeout: 2s`: `::` separates keys.
fn nested(root: Node) -> Node {
    let Node { at, value: Value::Map(entries), secret } = root else { return root };
    let mut whole = Node { at, value: Value::Map(Vec::new()), secret };
    for Entry { key, key_at, node } in entries {
        let mut parts: Vec<&str> = key.split("::").take(MAX_DEPTH).collect();
        let first = parts.remove(0);
        let wrap = |node: Node, key: &&str| {
            let (at, secret) = (node.at, node.secret);
            Node { at, secret, value: Value::Map(vec![Entry { key: (*key).to_owned(), key_at, node }]) }
        };
        let node = parts.iter().rev().fold(node, wrap);
        let entry = wrap(node, &first);
        merge(&mut whole, entry);
    }
    whole
}
