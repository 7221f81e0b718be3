//! Cutting a batch up by owner, on bytes.
use super::edit::ResourceEdits;
use crate::model::Spans;

/// The spans of one group: a whole encoded request of its own, with its index.
pub struct Part {
    pub group: u16,
    pub spans: Spans,
}

/// `group_of[i]` is the group of span `i`, below `groups`. Empty groups give no part.
pub fn regroup(_spans: &Spans, _group_of: &[u16], _groups: u16, _edits: Option<&ResourceEdits>) -> Vec<Part> {
    todo!()
}

/// The spans that `keep` says, as a request of their own.
pub fn select(_spans: &Spans, _keep: impl FnMut(usize) -> bool) -> Spans {
    todo!()
}

/// All spans, their resources edited.
pub fn edit_resources(_spans: &Spans, _edits: &ResourceEdits) -> Spans {
    todo!()
}
