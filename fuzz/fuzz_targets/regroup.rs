//! Parts are requests whose index is that of a walk, and have every span once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanmesh::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceAction, ResourceSettings};
use spanmesh::wire::{Limits, ResourceEdits, regroup, walk};

fuzz_target!(|data: &[u8]| {
    let [groups, edit, request @ ..] = data else { return };
    let groups = u16::from(*groups % 20) + 1;
    let Ok(walked) = walk(request.to_vec().into(), &Limits::default()) else { return };
    let spans = walked.spans;
    let group_of: Vec<u16> = spans.spans.iter().map(|span| u16::from(span.trace_id.0[0]) % groups).collect();
    let edits = edits();
    let parts = regroup(&spans, &group_of, groups, (edit % 2 == 1).then_some(&edits));
    let mut total = 0;
    for part in parts {
        total += part.spans.len();
        // Edits may take a resource over the limit that it was under.
        let limits = Limits { max_header_bytes: usize::MAX, max_attributes: usize::MAX, ..Limits::default() };
        let again = walk(part.spans.bytes.clone(), &limits).expect("a part is a request");
        assert_eq!(again.rejected.spans, 0);
        assert_eq!(again.spans.spans, part.spans.spans);
        assert_eq!(again.spans.scopes, part.spans.scopes);
        assert_eq!(again.spans.resources, part.spans.resources);
        let mut of_group = spans.spans.iter().zip(&group_of).filter(|(_, group)| **group == part.group);
        for span in &part.spans.spans {
            let (original, _) = of_group.next().expect("no span is made up");
            assert_eq!(span.body().of(&part.spans.bytes), original.body().of(&spans.bytes));
        }
    }
    assert_eq!(total, spans.len());
});

fn edits() -> ResourceEdits {
    let text = |value: &str| AttributeSource::Value(AttributeValue::String(value.into()));
    let actions = [
        ("a", ActionKind::Upsert(text("ours"))),
        ("b", ActionKind::Insert(AttributeSource::FromAttribute("a".into()))),
        ("c", ActionKind::Update(AttributeSource::Value(AttributeValue::Int(-1)))),
        ("d", ActionKind::Delete),
    ];
    let actions = actions.into_iter().map(|(key, kind)| ResourceAction { key: key.into(), kind }).collect();
    ResourceEdits::compile(&ResourceSettings { actions })
}
