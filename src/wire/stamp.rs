//! The origin's cluster in every resource it takes in.
//!
//! Where a span was taken in is the only place that knows its cluster, and every view across clusters rests on that
//! name: two spellings of one cluster would be calls between clusters that do not exist, a forged one a lie. So it is not
//! left to a processor that somebody may forget to configure. A name that the sender gave and that is another one
//! is kept under [`ORIGINAL_KEY`], in place of whatever stood there: that it was so is worth knowing, and whoever
//! sends through a relay may have meant it.
//!
//! Most senders give no name or the right one. Requests with the right one are not touched.

use super::edit::ResourceEdits;
use crate::model::{MAX_NAME, Spans};

/// The resource attribute that names a span's cluster.
pub const CLUSTER_KEY: &str = "k8s.cluster.name";
/// What a sender said in its place.
pub const ORIGINAL_KEY: &str = "spanmesh.original.k8s.cluster.name";

/// What a stamp may add to a resource: the name, and what stood in its place.
pub(super) const MOST_ATTRIBUTES: usize = 2;
/// With tags and lengths of the two, which are at most 5 bytes each, and what the lengths around them may grow by.
pub(super) const MOST_BYTES: usize = CLUSTER_KEY.len() + ORIGINAL_KEY.len() + MAX_NAME + 64;

/// Writes one cluster's name into resources.
#[derive(Clone, Debug)]
pub struct ClusterStamp {
    cluster: Box<[u8]>,
    edits: ResourceEdits,
}

/// What there is to do for some spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamping {
    /// Some resource does not say what it must.
    pub needed: bool,
    /// Spans below resources that name another cluster.
    pub conflicting_spans: u64,
}

impl ClusterStamp {
    pub fn new(cluster: &str) -> ClusterStamp {
        ClusterStamp { cluster: cluster.as_bytes().into(), edits: ResourceEdits::stamp(cluster) }
    }

    /// For those who write the spans anew.
    pub fn edits(&self) -> &ResourceEdits {
        &self.edits
    }

    /// Looks at the resources only.
    pub fn look(&self, spans: &Spans) -> Stamping {
        let mut found = Stamping::default();
        let mut conflicts = Vec::new();
        for (index, resource) in spans.resources.iter().enumerate() {
            let parts = resource.resource.iter().map(|range| range.of(&spans.bytes));
            match super::edit::named(parts, CLUSTER_KEY.as_bytes(), &self.cluster) {
                Named::Same => {}
                Named::Nothing => found.needed = true,
                Named::Other => {
                    found.needed = true;
                    conflicts.resize(spans.resources.len(), false);
                    conflicts[index] = true;
                }
            }
        }
        if !conflicts.is_empty() {
            let resource_of = |scope: u32| spans.scopes.get(scope as usize).map_or(0, |scope| scope.resource as usize);
            let conflicting = spans.spans.iter().filter(|span| conflicts.get(resource_of(span.scope)) == Some(&true));
            found.conflicting_spans = conflicting.count() as u64;
        }
        found
    }
}

/// What a resource says under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Nothing,
    /// The text that was asked for, and nothing else.
    Same,
    Other,
}

#[cfg(test)]
mod tests {
    use super::super::attributes::{Value, resource_attributes, span_attributes};
    use super::super::{Limits, edit_resources, json, walk};
    use super::*;

    fn text(key: &str, value: &str) -> String {
        format!(r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}}"#)
    }

    /// A resource with these attributes and so many spans, whose own attributes name a cluster too.
    fn resource(attributes: &[String], spans: usize) -> String {
        let span = |n: usize| {
            let (trace, span, attribute) = ("01".repeat(16), format!("{:016x}", n + 1), text(CLUSTER_KEY, "target"));
            format!(r#"{{"traceId":"{trace}","spanId":"{span}","attributes":[{attribute}]}}"#)
        };
        let spans: Vec<String> = (0..spans).map(span).collect();
        let attributes = attributes.join(",");
        format!(r#"{{"resource":{{"attributes":[{attributes}]}},"scopeSpans":[{{"spans":[{}]}}]}}"#, spans.join(","))
    }

    fn spans(resources: &[String]) -> Spans {
        let request = format!(r#"{{"resourceSpans":[{}]}}"#, resources.join(","));
        let limits = Limits::default();
        walk(json::decode(request.as_bytes(), &limits).unwrap().bytes.into(), &limits).unwrap().spans
    }

    /// Attributes of each resource after stamping; stamping them again must find nothing to do.
    fn stamped(spans: &Spans) -> Vec<Vec<(String, String)>> {
        let stamp = ClusterStamp::new("here");
        let out = edit_resources(spans, stamp.edits());
        assert_eq!(stamp.look(&out), Stamping::default());
        assert_eq!(walk(out.bytes.clone(), &Limits::default()).unwrap().spans.spans, out.spans);
        for span in &out.spans {
            let attributes: Vec<_> = span_attributes(span.body().of(&out.bytes)).collect();
            assert_eq!(attributes, [(CLUSTER_KEY, Value::Str("target"))], "those of spans are theirs");
        }
        let attributes = |resource: &crate::model::ResourceEntry| {
            let body: Vec<u8> = resource.resource.iter().flat_map(|range| range.of(&out.bytes)).copied().collect();
            let shown = resource_attributes(&body).map(|(key, value)| match value {
                Value::Str(text) => (key.to_owned(), text.to_owned()),
                other => (key.to_owned(), format!("{other:?}")),
            });
            shown.collect()
        };
        out.resources.iter().map(attributes).collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_resource_that_says_nothing_gets_the_name() {
        let none = format!(r#"{{"scopeSpans":[{{"spans":[{{"traceId":"{}","spanId":"{:016x}","#, "01".repeat(16), 9)
            + &format!(r#""attributes":[{}]}}]}}]}}"#, text(CLUSTER_KEY, "target"));
        let spans = spans(&[resource(&[text("service.name", "shop")], 1), none]);
        let looked = ClusterStamp::new("here").look(&spans);
        assert_eq!(looked, Stamping { needed: true, conflicting_spans: 0 });
        let expected = [pairs(&[("service.name", "shop"), (CLUSTER_KEY, "here")]), pairs(&[(CLUSTER_KEY, "here")])];
        assert_eq!(stamped(&spans), expected);
    }

    #[test]
    fn a_resource_that_says_it_already_is_left_alone_byte_for_byte() {
        let spans = spans(&[resource(&[text(CLUSTER_KEY, "here"), text(ORIGINAL_KEY, "forged")], 2)]);
        assert_eq!(ClusterStamp::new("here").look(&spans), Stamping::default());
        assert_eq!(edit_resources(&spans, ClusterStamp::new("here").edits()).bytes, spans.bytes);
    }

    #[test]
    fn b46_another_name_is_replaced_and_kept_under_another_key_and_its_spans_are_counted() {
        let spans = spans(&[
            resource(&[text(CLUSTER_KEY, "there"), text("a", "b")], 3),
            resource(&[text(CLUSTER_KEY, "here")], 5),
            resource(&[text(ORIGINAL_KEY, "forged"), text(CLUSTER_KEY, "there"), text(ORIGINAL_KEY, "twice")], 2),
        ]);
        let looked = ClusterStamp::new("here").look(&spans);
        assert_eq!(looked, Stamping { needed: true, conflicting_spans: 5 });
        let expected = [
            pairs(&[(CLUSTER_KEY, "here"), ("a", "b"), (ORIGINAL_KEY, "there")]),
            pairs(&[(CLUSTER_KEY, "here")]),
            pairs(&[(ORIGINAL_KEY, "there"), (CLUSTER_KEY, "here")]),
        ];
        assert_eq!(stamped(&spans), expected);
    }

    #[test]
    fn b46_a_second_name_behind_the_right_one_does_not_survive() {
        let number = format!(r#"{{"key":"{CLUSTER_KEY}","value":{{"intValue":"5"}}}}"#);
        let spans = spans(&[
            resource(&[text(CLUSTER_KEY, "here"), text(CLUSTER_KEY, "there")], 1),
            resource(&[number, text(CLUSTER_KEY, "here")], 1),
            resource(&[text(CLUSTER_KEY, "")], 1),
        ]);
        assert_eq!(ClusterStamp::new("here").look(&spans).conflicting_spans, 3);
        let expected = [
            pairs(&[(CLUSTER_KEY, "here"), (ORIGINAL_KEY, "there")]),
            pairs(&[(CLUSTER_KEY, "here"), (ORIGINAL_KEY, "Int(5)")]),
            pairs(&[(CLUSTER_KEY, "here"), (ORIGINAL_KEY, "")]),
        ];
        assert_eq!(stamped(&spans), expected);
    }
}
