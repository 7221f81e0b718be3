//! Several configurations into one, as the Collector does: maps merge key by key, of anything else the later one
//! stands. A list replaces a list: pipelines are lists, and appending to one is not what an override means.

use super::tree::{Node, Value};

/// Lays `later` over `base`. Every value keeps the position of the file that it came from.
pub(super) fn merge(base: &mut Node, later: Node) {
    match (&mut base.value, later) {
        (Value::Map(entries), Node { value: Value::Map(new), .. }) => {
            for entry in new {
                match entries.iter_mut().find(|e| e.key == entry.key) {
                    Some(old) => {
                        old.key_at = entry.key_at;
                        merge(&mut old.node, entry.node);
                    }
                    None => entries.push(entry),
                }
            }
        }
        (_, later) => *base = later,
    }
}
