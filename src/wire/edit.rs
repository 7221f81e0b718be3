//! Resource edits at wire level: the Collector's `resource` processor on encoded bytes.
//!
//! A resource is parsed into a list of slices (one per attribute), the actions run over the list in order, and the
//! list is written out again. Attributes that no action names, and fields that this build does not know, are copied
//! as they are. It runs once per resource of a batch, whatever the number of spans or owners.
//!
//! Meaning of the actions: those of the Collector's `attraction` package. One deliberate difference, which shows only
//! if a sender breaks the rule that keys are unique: there, an action touches the first of equal keys and leaves the
//! others standing, so a sender could smuggle a second `k8s.cluster.name` past the one we stamp, and a backend that
//! takes the last one would believe it. Here a key that was written or deleted has no other occurrences left. Equal
//! keys that no action names are passed on unchanged.
//!
//! A resource is repeated for every owner, so peers bound its size, and what is over their bound they reject, long after the
//! sender was told that all is well. So an action that would make a resource larger than [`MAX_EDITED_BYTES`] or give it
//! more than [`MAX_EDITED_ATTRIBUTES`] is left out, and counted; the others are done. Rejecting the spans was the other
//! way: it would punish senders for what they have no part in. Deletions always are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::{SmallVec, smallvec};

use super::key_value::{KEY, VALUE, fields, key_of, put_value};
use super::reader::{LEN, Reader, put_bytes, put_head, tag};
use super::stamp::{CLUSTER_KEY, Named, ORIGINAL_KEY};
use crate::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceSettings};

/// Largest body of a resource that an action may make of a smaller one: twice what senders may send.
pub(super) const MAX_EDITED_BYTES: usize = 512 << 10;
/// Most attributes of a resource that an action may add one to: twice what senders may send.
pub(super) const MAX_EDITED_ATTRIBUTES: usize = 2_000;

const ATTRIBUTE: u32 = tag(1, LEN);
/// Of an `AnyValue`.
const STRING: u32 = tag(1, LEN);

/// Compiled [`ResourceSettings`]: values are encoded already.
#[derive(Clone, Debug)]
pub struct ResourceEdits {
    edits: Vec<Edit>,
    /// Shared by clones.
    left_out: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Edit {
    key: Box<[u8]>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Delete,
    Set {
        if_absent: bool,
        if_present: bool,
        source: Source,
    },
    /// See [`super::stamp`].
    Stamp {
        text: Box<[u8]>,
        value: Box<[u8]>,
    },
}

#[derive(Clone, Debug)]
enum Source {
    /// An encoded `AnyValue`.
    Value(Box<[u8]>),
    Attribute(Box<[u8]>),
}

/// The body of an `AnyValue`: slices whose concatenation it is.
type Value<'a> = SmallVec<[&'a [u8]; 1]>;

enum Item<'a> {
    /// Fields that are not attributes, and attributes that were deleted (empty).
    Raw(&'a [u8]),
    Attribute {
        key: &'a [u8],
        /// The whole field, for copying.
        field: &'a [u8],
        /// The `KeyValue` in it; empty for a new one.
        body: &'a [u8],
        /// What replaces its value.
        written: Option<Value<'a>>,
    },
}

impl ResourceEdits {
    pub fn compile(settings: &ResourceSettings) -> ResourceEdits {
        let set = |source: &AttributeSource, if_absent, if_present| {
            let source = match source {
                AttributeSource::Value(value) => {
                    let mut encoded = Vec::new();
                    put_value(&mut encoded, value);
                    Source::Value(encoded.into())
                }
                AttributeSource::FromAttribute(key) => Source::Attribute(key.as_bytes().into()),
            };
            Kind::Set { if_absent, if_present, source }
        };
        let edits = settings.actions.iter().map(|action| {
            let kind = match &action.kind {
                ActionKind::Insert(source) => set(source, true, false),
                ActionKind::Update(source) => set(source, false, true),
                ActionKind::Upsert(source) => set(source, true, true),
                ActionKind::Delete => Kind::Delete,
            };
            Edit { key: action.key.as_bytes().into(), kind }
        });
        ResourceEdits { edits: edits.collect(), left_out: Arc::default() }
    }

    /// Actions left out so far, once for each resource: it would have grown too large.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// The edits of a [`super::ClusterStamp`].
    pub(super) fn stamp(cluster: &str) -> ResourceEdits {
        let mut value = Vec::new();
        put_value(&mut value, &AttributeValue::String(cluster.to_owned()));
        let kind = Kind::Stamp { text: cluster.as_bytes().into(), value: value.into() };
        let edits = vec![Edit { key: CLUSTER_KEY.as_bytes().into(), kind }];
        ResourceEdits { edits, left_out: Arc::default() }
    }

    /// Appends the edited body to `out`. `parts` is the body of a `Resource` as the walker found it.
    pub(super) fn apply<'a>(&'a self, parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        let mut items = Vec::with_capacity(24);
        for part in parts {
            parse(part, &mut items);
        }
        for edit in &self.edits {
            if !edit.apply(&mut items) {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
        for item in &items {
            item.write(out);
        }
    }
}

impl Edit {
    /// False: it was left out, since the resource would have grown too large.
    fn apply<'a>(&'a self, items: &mut Vec<Item<'a>>) -> bool {
        let key = &*self.key;
        match &self.kind {
            Kind::Delete => remove(items, key),
            Kind::Set { if_absent, if_present, source } => {
                let value = match source {
                    Source::Value(value) => smallvec![&**value],
                    Source::Attribute(from) => match items.iter().find(|item| item.is(from)) {
                        Some(item) => item.value(),
                        None => return true,
                    },
                };
                let acts = if items.iter().any(|item| item.is(key)) { *if_present } else { *if_absent };
                if acts && !has_room(items, key, &value) {
                    return false;
                }
                set(items, key, value, *if_absent, *if_present);
            }
            Kind::Stamp { text, value } => {
                let (mut named, mut others) = (false, None);
                for item in items.iter().filter(|item| item.is(key)) {
                    named = true;
                    if !is_text(&item.value(), text) {
                        others = others.or_else(|| Some(item.value()));
                    }
                }
                if named && others.is_none() {
                    return true;
                }
                if let Some(original) = others {
                    set(items, ORIGINAL_KEY.as_bytes(), original, true, true);
                }
                set(items, key, smallvec![&**value], true, true);
            }
        }
        true
    }
}

/// Whether a resource has room for this value under this key. One that shrinks by it always has.
fn has_room(items: &[Item<'_>], key: &[u8], value: &Value<'_>) -> bool {
    let (mut bytes, mut attributes, mut replaced, mut first) = (0, 0, 0, None);
    for item in items {
        let len = item.most_bytes();
        bytes += len;
        attributes += usize::from(matches!(item, Item::Attribute { .. }));
        if item.is(key) {
            replaced += len;
            first = first.or(Some(item));
        }
    }
    let body = if let Some(Item::Attribute { body, .. }) = first { body } else { &[][..] };
    let written = attribute_bytes(key, body, value);
    let fits = written <= replaced || bytes - replaced + written <= MAX_EDITED_BYTES;
    fits && (first.is_some() || attributes < MAX_EDITED_ATTRIBUTES)
}

/// The most bytes that an attribute takes with this value written into it.
fn attribute_bytes(key: &[u8], body: &[u8], value: &Value<'_>) -> usize {
    const FRAME: usize = 6;
    let others: usize = others_of(body).map(<[u8]>::len).sum();
    3 * FRAME + key.len() + others + value.iter().map(|part| part.len()).sum::<usize>()
}

/// Fields of an attribute that are neither key nor value.
fn others_of(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    fields(body).filter(|(tag, ..)| *tag != KEY && *tag != VALUE).map(|(_, whole, _)| whole)
}

fn set<'a>(items: &mut Vec<Item<'a>>, key: &'a [u8], value: Value<'a>, if_absent: bool, if_present: bool) {
    match items.iter().position(|item| item.is(key)) {
        None if if_absent => items.push(Item::Attribute { key, field: &[], body: &[], written: Some(value) }),
        Some(at) if if_present => {
            let (first, others) = items.split_at_mut(at + 1);
            remove(others, key);
            if let Some(Item::Attribute { written, .. }) = first.last_mut() {
                *written = Some(value);
            }
        }
        _ => {}
    }
}

/// What a resource says under `key`: nothing, this text, or something else too.
pub(super) fn named<'a>(parts: impl Iterator<Item = &'a [u8]>, key: &[u8], text: &[u8]) -> Named {
    let mut found = Named::Nothing;
    for (tag, _, body) in parts.flat_map(fields) {
        if tag == ATTRIBUTE && key_of(body) == key {
            if !is_text(&values_of(body), text) {
                return Named::Other;
            }
            found = Named::Same;
        }
    }
    found
}

/// Whether a value is a string and nothing else.
fn is_text(value: &Value<'_>, text: &[u8]) -> bool {
    let mut said = value.iter().flat_map(|part| fields(part));
    let first = said.next();
    first.is_some_and(|(tag, _, body)| tag == STRING && body == text) && said.next().is_none()
}

/// Two value fields merge, and concatenation is that merge.
fn values_of(key_value: &[u8]) -> Value<'_> {
    fields(key_value).filter(|(tag, ..)| *tag == VALUE).map(|(.., value)| value).collect()
}

fn remove(items: &mut [Item<'_>], key: &[u8]) {
    for item in items.iter_mut().filter(|item| item.is(key)) {
        *item = Item::Raw(&[]);
    }
}

/// The walker has checked these bytes; should they be malformed nevertheless, what is left is copied as it is.
fn parse<'a>(part: &'a [u8], items: &mut Vec<Item<'a>>) {
    let mut reader = Reader::new(part);
    let mut start = 0;
    while let Ok(Some(tag)) = reader.tag() {
        if tag == ATTRIBUTE {
            let Ok(body) = reader.bytes() else { break };
            items.push(Item::Attribute { key: key_of(body), field: &part[start..reader.pos()], body, written: None });
        } else {
            if reader.skip(tag).is_err() {
                break;
            }
            items.push(Item::Raw(&part[start..reader.pos()]));
        }
        start = reader.pos();
    }
    if start < part.len() {
        items.push(Item::Raw(&part[start..]));
    }
}

impl<'a> Item<'a> {
    fn is(&self, wanted: &[u8]) -> bool {
        matches!(self, Item::Attribute { key, .. } if *key == wanted)
    }

    fn value(&self) -> Value<'a> {
        match self {
            Item::Raw(_) => Value::new(),
            Item::Attribute { written: Some(value), .. } => value.clone(),
            Item::Attribute { body, .. } => values_of(body),
        }
    }

    /// The most that [`Item::write`] appends.
    fn most_bytes(&self) -> usize {
        match self {
            Item::Raw(bytes) => bytes.len(),
            Item::Attribute { field, written: None, .. } => field.len(),
            Item::Attribute { key, body, written: Some(value), .. } => attribute_bytes(key, body, value),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (key, body, value) = match self {
            Item::Raw(bytes) => return out.extend_from_slice(bytes),
            Item::Attribute { field, written: None, .. } => return out.extend_from_slice(field),
            Item::Attribute { key, body, written: Some(value), .. } => (*key, *body, value),
        };
        let mut pair = Vec::with_capacity(key.len() + 64);
        put_bytes(&mut pair, 1, key);
        others_of(body).for_each(|whole| pair.extend_from_slice(whole));
        put_head(&mut pair, 2, value.iter().map(|part| part.len()).sum());
        value.iter().for_each(|part| pair.extend_from_slice(part));
        put_bytes(out, 1, &pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{AttributeValue, ResourceAction};

    fn pair(key: &str, value: &str) -> Vec<u8> {
        let (mut any, mut pair, mut field) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut any, 1, value.as_bytes());
        put_bytes(&mut pair, 1, key.as_bytes());
        put_bytes(&mut pair, 2, &any);
        put_bytes(&mut field, 1, &pair);
        field
    }

    fn resource(pairs: &[(&str, &str)]) -> Vec<u8> {
        pairs.iter().flat_map(|(key, value)| pair(key, value)).collect()
    }

    fn text(value: &str) -> AttributeSource {
        AttributeSource::Value(AttributeValue::String(value.into()))
    }

    fn from(key: &str) -> AttributeSource {
        AttributeSource::FromAttribute(key.into())
    }

    fn edited(body: &[u8], actions: Vec<(&str, ActionKind)>) -> Vec<u8> {
        let actions = actions.into_iter().map(|(key, kind)| ResourceAction { key: key.into(), kind }).collect();
        let mut out = Vec::new();
        ResourceEdits::compile(&ResourceSettings { actions }).apply([body].into_iter(), &mut out);
        out
    }

    #[test]
    fn insert_only_adds_and_update_only_changes() {
        use ActionKind::{Insert, Update};
        let body = resource(&[("a", "1")]);
        assert_eq!(edited(&body, vec![("a", Insert(text("2"))), ("b", Update(text("2")))]), body);
        let expected = resource(&[("a", "3"), ("b", "2")]);
        assert_eq!(edited(&body, vec![("b", Insert(text("2"))), ("a", Update(text("3")))]), expected);
    }

    #[test]
    fn actions_run_in_order_and_see_what_the_ones_before_them_did() {
        use ActionKind::{Delete, Insert, Upsert};
        let body = resource(&[("cluster", "theirs"), ("x", "y")]);
        let actions = vec![
            ("original", Insert(from("cluster"))),
            ("cluster", Upsert(text("ours"))),
            ("copy", Upsert(from("cluster"))),
            ("nothing", Upsert(from("absent"))),
            ("x", Delete),
        ];
        let expected = resource(&[("cluster", "ours"), ("original", "theirs"), ("copy", "ours")]);
        assert_eq!(edited(&body, actions), expected);
    }

    #[test]
    fn a_written_or_deleted_key_has_no_second_occurrence_left_but_other_duplicates_stay() {
        use ActionKind::{Delete, Upsert};
        let body = resource(&[("a", "1"), ("d", "1"), ("a", "2"), ("d", "2"), ("e", "1"), ("e", "2")]);
        let expected = resource(&[("a", "9"), ("e", "1"), ("e", "2")]);
        assert_eq!(edited(&body, vec![("a", Upsert(text("9"))), ("d", Delete)]), expected);
    }

    #[test]
    fn other_fields_and_unknown_fields_survive_in_a_changed_attribute_too() {
        let mut body = vec![0x10, 0x05]; // dropped_attributes_count
        // KeyValue { unknown 9: 1, key "a", value "1" }
        body.extend_from_slice(&[0x0a, 10, 0x48, 0x01, 0x0a, 1, b'a', 0x12, 3, 0x0a, 1, b'1']);
        body.extend_from_slice(&[0x9a, 0x06, 0x01, 0xff]); // unknown 99
        let out = edited(&body, vec![("a", ActionKind::Update(AttributeSource::Value(AttributeValue::Bool(true))))]);
        let mut expected = vec![0x10, 0x05];
        expected.extend_from_slice(&[0x0a, 9, 0x0a, 1, b'a', 0x48, 0x01, 0x12, 2, 0x10, 1]);
        expected.extend_from_slice(&[0x9a, 0x06, 0x01, 0xff]);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_resource_grows_no_further_than_peers_let_pass_and_what_is_left_out_is_counted() {
        use ActionKind::{Delete, Insert, Update, Upsert};
        let actions = |kinds: Vec<(&str, ActionKind)>| {
            let actions = kinds.into_iter().map(|(key, kind)| ResourceAction { key: key.into(), kind }).collect();
            ResourceEdits::compile(&ResourceSettings { actions })
        };
        let run = |edits: &ResourceEdits, body: &[u8]| {
            let mut out = Vec::new();
            edits.apply([body].into_iter(), &mut out);
            out
        };
        let large = "x".repeat(200 << 10);
        let body = resource(&[("a", &large), ("secret", "s")]);
        // The first copy fits, and no other; what is smaller fits still, and deletions are done.
        let copies = actions(vec![
            ("b", Insert(from("a"))),
            ("c", Upsert(from("a"))),
            ("d", Insert(from("a"))),
            ("secret", Delete),
            ("small", Insert(text("v"))),
        ]);
        assert_eq!(run(&copies, &body), resource(&[("a", &large), ("b", &large), ("small", "v")]));
        assert_eq!(copies.left_out(), 2, "by all clones together");

        let keys: Vec<String> = (0..MAX_EDITED_ATTRIBUTES).map(|n| format!("k{n}")).collect();
        let full: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "v")).collect();
        let adding = actions(vec![("new", Insert(text("v"))), ("k0", Update(text("w"))), ("k1", Insert(text("w")))]);
        let mut expected = full.clone();
        expected[0].1 = "w";
        assert_eq!(run(&adding, &resource(&full)), resource(&expected));
        assert_eq!(adding.left_out(), 1);

        // Senders cannot send more than the bound, but what is larger may shrink.
        let huge = "x".repeat(MAX_EDITED_BYTES);
        let shrinking = actions(vec![("a", Update(text("small")))]);
        assert_eq!(
            run(&shrinking, &resource(&[("a", &huge), ("b", &huge)])),
            resource(&[("a", "small"), ("b", &huge)])
        );
        assert_eq!(shrinking.left_out(), 0);
    }
}
