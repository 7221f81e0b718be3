//! The `resource` processor: a list of edits.

use super::Check;
use super::fields::{Choice, Fields, join};
use crate::config::problem::Problem;
use crate::config::scalar::Typed;
use crate::config::schema::{RESOURCE, RESOURCE_ACTION};
use crate::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceAction, ResourceSettings};
use crate::config::tree::{Node, Place, Value};

/// More edits than any resource has attributes.
const MOST_ACTIONS: usize = 256;

#[derive(Clone, Copy)]
enum Action {
    Insert,
    Update,
    Upsert,
    Delete,
}

const ACTIONS: Choice<Action> = Choice {
    values: &[
        ("insert", Action::Insert),
        ("update", Action::Update),
        ("upsert", Action::Upsert),
        ("delete", Action::Delete),
    ],
    not_yet: &[
        ("hash", "hash in a Collector in front of this node"),
        ("extract", "extract in a Collector in front of this node"),
        ("convert", "set a `value` of the type wanted"),
    ],
};

pub(super) fn read(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> ResourceSettings {
    let fields = Fields::open(check, node, at, path, &RESOURCE);
    let items = fields.list(check, "attributes");
    if fields.get("attributes").is_none() || items.is_empty() && is_empty_list(fields.get("attributes")) {
        fields.missing(check, "attributes", "name at least one edit: `- {key: NAME, value: VALUE, action: upsert}`");
    }
    if items.len() > MOST_ACTIONS {
        fields.wrong(check, "attributes", "too many edits", &format!("at most {MOST_ACTIONS}"));
    }
    let actions = items.into_iter().take(MOST_ACTIONS).filter_map(|(path, item)| action(check, item, path)).collect();
    ResourceSettings { actions }
}

fn is_empty_list(node: Option<&Node>) -> bool {
    matches!(node.map(|n| &n.value), Some(Value::List(items)) if items.is_empty())
}

fn action(check: &mut Check<'_>, item: &Node, path: Vec<String>) -> Option<ResourceAction> {
    let fields = Fields::open(check, item, item.at, path, &RESOURCE_ACTION);
    let key = fields.text(check, "key").filter(|k| !k.is_empty());
    if key.is_none() {
        fields.missing(check, "key", "the name of the attribute");
    }
    if fields.get("action").is_none() {
        fields.missing(check, "action", "one of insert, update, upsert, delete");
        return None;
    }
    let action = fields.choice(check, "action", "upsert", &ACTIONS);
    let value = fields.get("value").is_some().then(|| value(check, &fields));
    let from = fields.text(check, "from_attribute").filter(|f| !f.is_empty());
    let source = match (value, from) {
        (Some(value), None) => value.map(AttributeSource::Value),
        (None, Some(from)) => Some(AttributeSource::FromAttribute(from)),
        (Some(_), Some(_)) => {
            let message = "`value` and `from_attribute` cannot both be given";
            check.say(Problem::error(fields.place("from_attribute"), &join(&fields.path), message));
            return None;
        }
        (None, None) => None,
    };
    let kind = match (action, source) {
        (Action::Delete, None) => ActionKind::Delete,
        (Action::Delete, Some(_)) => {
            check.say(Problem::error(fields.at, &join(&fields.path), "`delete` takes no value"));
            return None;
        }
        (Action::Insert, Some(source)) => ActionKind::Insert(source),
        (Action::Update, Some(source)) => ActionKind::Update(source),
        (Action::Upsert, Some(source)) => ActionKind::Upsert(source),
        (_, None) => {
            if fields.get("value").is_none() {
                no_source(check, &fields);
            }
            return None;
        }
    };
    Some(ResourceAction { key: key?, kind })
}

/// The Collector's error names the action; here the usual reason is named, a variable that is empty.
fn no_source(check: &mut Check<'_>, fields: &Fields<'_>) {
    let written = fields.entry("value").and_then(|e| e.node.scalar()).and_then(|s| s.written.clone());
    match (written, fields.entry("value")) {
        (Some(written), Some(entry)) => {
            let message = "the value is empty";
            let problem = Problem::error(entry.node.at, &join(&fields.path_of("value")), message);
            check
                .say(problem.value(format!("`{written}`")).help("set the variable, or write \"\" for an empty string"));
        }
        _ => fields.missing(check, "value", "give `value` or `from_attribute`"),
    }
}

fn value(check: &mut Check<'_>, fields: &Fields<'_>) -> Option<AttributeValue> {
    let node = fields.get("value")?;
    match &node.value {
        Value::Scalar(scalar) => Some(match scalar.typed() {
            Typed::Bool(flag) => AttributeValue::Bool(flag),
            Typed::Int(number) => AttributeValue::Int(number),
            Typed::Float(number) => AttributeValue::Double(number),
            Typed::Null | Typed::Text => AttributeValue::String(scalar.text.clone()),
        }),
        Value::Unresolved => None,
        Value::List(_) | Value::Map(_) => {
            fields.wrong(check, "value", "lists and maps are not supported yet", "a string, number, true or false");
            None
        }
    }
}
