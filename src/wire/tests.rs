//! What the front door lets in, on bytes written by hand.

use bytes::Bytes;

use super::reader::{put_bytes, put_varint, tag};
use super::*;
use crate::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceAction, ResourceSettings};
use crate::model::{SpanId, Spans, TraceId};

fn field(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, body);
    out
}

fn number(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(tag(number, 0)));
    put_varint(&mut out, value);
    out
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Trace and span id, from which everything else of a span follows.
fn ids(trace: u8, span: u8) -> Vec<u8> {
    join(&[&field(1, &[trace; 16]), &field(2, &[span; 8])])
}

fn span(trace: u8, id: u8, more: &[u8]) -> Vec<u8> {
    field(2, &join(&[&ids(trace, id), more]))
}

fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
    join(&[&field(1, key.as_bytes()), &field(2, value)])
}

fn request(spans: &[&[u8]]) -> Vec<u8> {
    field(1, &field(2, &join(spans)))
}

fn walked(bytes: Vec<u8>) -> Result<Walked, WireError> {
    walk(Bytes::from(bytes), &Limits::default())
}

/// Indexed spans, rejected spans.
fn counts(bytes: Vec<u8>) -> (usize, u32) {
    let walked = walked(bytes).unwrap();
    assert_eq!(walked.rejected.spans > 0, walked.rejected.reason.is_some());
    (walked.spans.len(), walked.rejected.spans)
}

#[test]
fn a_span_is_found_with_everything_that_routing_asks_for() {
    let mut times = vec![0x39];
    times.extend(7u64.to_le_bytes());
    times.push(0x41);
    times.extend(u64::MAX.to_le_bytes());
    let status = field(15, &join(&[&field(2, b"why"), &number(3, 2)]));
    let body = join(&[&ids(1, 2), &field(4, &[3; 8]), &number(6, 5), &times, &status]);
    let bytes = request(&[&field(2, &body)]);
    let walked = walked(bytes.clone()).unwrap();
    let span = walked.spans.spans[0];
    assert_eq!((span.trace_id, span.span_id), (TraceId([1; 16]), SpanId([2; 8])));
    assert_eq!((span.parent_span_id, span.start.0, span.end.0), (SpanId([3; 8]), 7, u64::MAX));
    assert_eq!((span.kind, span.status), (5, 2));
    assert_eq!(span.body().of(&bytes), body);
    assert_eq!(span.field.of(&bytes), field(2, &body));
}

#[test]
fn empty_requests_and_envelopes_have_no_entries() {
    for empty in [vec![], field(1, b""), field(1, &field(2, b"")), field(1, &field(1, b""))] {
        let spans = walked(empty).unwrap().spans;
        assert!(spans.is_empty() && spans.scopes.is_empty() && spans.resources.is_empty());
    }
}

#[test]
fn a_million_empty_envelopes_make_no_index() {
    let bytes = join(&[&field(1, b"").repeat(500_000), &field(1, &field(2, b"").repeat(500_000))]);
    let spans = walked(bytes).unwrap().spans;
    assert!(spans.resources.capacity() + spans.scopes.capacity() < 10);
    let unknown = field(1, &join(&[&number(99, 1).repeat(50_000), &field(2, &span(1, 1, b""))]));
    assert_eq!(walked(unknown).unwrap().spans.resources[0].other_fields.len(), 1);
}

#[test]
fn one_span_with_bad_ids_costs_only_itself() {
    let good = span(1, 1, b"");
    let trace = |id: &[u8]| field(2, &join(&[&field(1, id), &field(2, &[1; 8])]));
    let id = |id: &[u8]| field(2, &join(&[&field(1, &[1; 16]), &field(2, id)]));
    let parent = |id: &[u8]| span(1, 1, &field(4, id));
    for bad in [trace(&[1; 15]), trace(&[1; 17]), trace(&[0; 16]), trace(&[]), field(2, &[])] {
        assert_eq!(counts(request(&[&good, &bad, &good])), (2, 1));
    }
    for bad in [id(&[1; 7]), id(&[1; 9]), id(&[0; 8]), id(&[]), parent(&[1; 7]), parent(&[1; 16])] {
        assert_eq!(counts(request(&[&good, &bad, &good])), (2, 1));
    }
    for root in [parent(&[]), parent(&[0; 8])] {
        let walked = walked(request(&[&root])).unwrap();
        assert_eq!(walked.spans.spans[0].parent_span_id, SpanId::NONE);
    }
}

#[test]
fn of_fields_that_occur_twice_the_last_one_counts_and_messages_merge() {
    let first = join(&[&field(1, &[9; 3]), &field(2, &[8; 8]), &number(6, 1), &field(15, &number(3, 2))]);
    let second = join(&[&ids(1, 2), &number(6, 3), &field(15, &field(2, b"text"))]);
    let span = walked(request(&[&field(2, &join(&[&first, &second]))])).unwrap().spans.spans[0];
    assert_eq!((span.trace_id, span.span_id), (TraceId([1; 16]), SpanId([2; 8])));
    assert_eq!((span.kind, span.status), (3, 2));
    assert_eq!(counts(request(&[&field(2, &join(&[&ids(1, 2), &field(1, b"")]))])), (0, 1));
}

#[test]
fn enums_beyond_a_byte_are_255() {
    let kind = |value| walked(request(&[&span(1, 1, &number(6, value))])).unwrap().spans.spans[0].kind;
    assert_eq!([kind(99), kind(254), kind(255), kind(256), kind(u64::MAX)], [99, 254, 255, 255, 255]);
}

#[test]
fn what_is_not_protobuf_refuses_the_request() {
    let good = span(1, 1, b"");
    let inside = |more: &[u8]| walked(request(&[&good, &span(1, 2, more)])).unwrap_err();
    assert_eq!(inside(&[0x4b, 0x4c]), WireError::Group);
    assert_eq!(inside(&[0x9b, 0x06, 0x9c, 0x06]), WireError::Group);
    assert_eq!(inside(&[0x9e, 0x06]), WireError::WireType);
    assert_eq!(inside(&[0x00, 0x00]), WireError::FieldNumber);
    assert_eq!(inside(&[0x4a, 0x05, 0x00]), WireError::Truncated);
    assert_eq!(inside(&[0x39, 0, 0]), WireError::Truncated);
    assert_eq!(inside(&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), WireError::Varint);
    for wrong in [number(1, 1), number(5, 1), number(9, 1), field(6, b""), field(7, b"12345678"), field(16, b"")] {
        assert_eq!(inside(&wrong), WireError::WrongType);
    }
    // The same in an attribute, an event, a link, a status: a backend would look there.
    for number in [9, 11, 13, 15] {
        assert_eq!(inside(&field(number, &[0x12, 0x05, 0x00])), WireError::Truncated, "{number}");
    }
    assert_eq!(inside(&field(9, &attribute("k", &[0x0a, 0x05, 0x00]))), WireError::Truncated);
    assert_eq!(inside(&field(9, &attribute("k", &[0x10, 0x80]))), WireError::Truncated);
    assert_eq!(inside(&field(9, &attribute("k", &[0x08, 0x01]))), WireError::WrongType);
    assert_eq!(walked(number(1, 1)).unwrap_err(), WireError::WrongType);
    assert_eq!(walked(field(1, &number(2, 1))).unwrap_err(), WireError::WrongType);
}

#[test]
fn no_prefix_of_a_request_is_walked_past_its_end() {
    let more = join(&[&field(9, &attribute("k", &field(1, &[b'v'; 200]))), &field(11, &field(2, b"e"))]);
    let bytes = request(&[&span(1, 1, &more), &span(1, 2, &more)]);
    for len in 1..bytes.len() {
        assert!(walked(bytes[..len].to_vec()).is_err(), "{len}");
    }
}

/// An attribute value of so many lists within each other.
fn nested(depth: usize, list: u32) -> Vec<u8> {
    // Written from the inside out, so kept in reverse: each length is that of what is there already.
    let mut reversed: Vec<u8> = Vec::new();
    let mut wrap = |number: u32, key: bool| {
        if key {
            reversed.extend([b'k', 1, 0x0a]);
        }
        let mut head = Vec::new();
        put_varint(&mut head, u64::from(tag(number, 2)));
        put_varint(&mut head, reversed.len() as u64);
        reversed.extend(head.iter().rev());
    };
    for level in 0..depth {
        match list {
            5 => (level > 0).then(|| wrap(1, false)),
            _ => {
                (level > 0).then(|| wrap(2, false));
                (level > 0).then(|| wrap(1, true))
            }
        };
        wrap(list, false);
    }
    reversed.reverse();
    reversed
}

#[test]
fn nesting_of_64_is_taken_and_of_1_000_and_200_000_refused_without_a_stack_overflow() {
    let limits = Limits { max_span_bytes: 64 << 20, max_header_bytes: 64 << 20, ..Limits::default() };
    let good = span(1, 1, b"");
    for list in [5, 6] {
        for (depth, kept) in [(1, 2), (64, 2), (128, 2), (129, 1), (1_000, 1), (200_000, 1)] {
            let deep = field(9, &attribute("k", &nested(depth, list)));
            let event = field(11, &field(3, &attribute("k", &nested(depth, list))));
            let link = field(13, &field(4, &attribute("k", &nested(depth, list))));
            for more in [deep, event, link] {
                let walked = walk(request(&[&good, &span(1, 2, &more)]).into(), &limits).unwrap();
                assert_eq!(walked.spans.len(), kept, "{list} {depth}");
            }
            let resource = field(1, &field(1, &attribute("k", &nested(depth, list))));
            let bytes = field(1, &join(&[&field(2, &join(&[&good, &good])), &resource]));
            let walked = walk(bytes.into(), &limits).unwrap();
            assert_eq!(walked.spans.len(), if kept == 2 { 2 } else { 0 }, "{list} {depth}");
        }
    }
}

#[test]
fn a_string_that_is_not_utf8_costs_its_span_wherever_it_is() {
    let good = span(1, 1, b"");
    let (bad, long) = ([b'a', 0xff], [&[b'a'; 300][..], &[0xc3]].concat());
    for bad in [&bad[..], &long] {
        let in_value = field(9, &attribute("k", &field(1, bad)));
        let in_key = field(9, &join(&[&field(1, bad), &field(2, &number(2, 1))]));
        let in_list = field(9, &attribute("k", &field(5, &field(1, &field(1, bad)))));
        let in_event = field(11, &field(2, bad));
        let in_link = field(13, &field(3, bad));
        let in_status = field(15, &field(2, bad));
        let in_state = field(3, bad);
        let in_name = field(5, bad);
        for more in [in_value, in_key, in_list, in_event, in_link, in_status, in_state, in_name] {
            assert_eq!(counts(request(&[&good, &span(1, 2, &more)])), (1, 1));
        }
    }
    let fine = join(&[&field(5, "ü€😀".as_bytes()), &field(9, &attribute("ключ", &field(7, &[0xff])))]);
    assert_eq!(counts(request(&[&span(1, 2, &fine)])), (1, 0));
}

#[test]
fn bytes_outside_strings_do_not_hide_bad_text() {
    // As many bytes above 0x7f in binary fields as anyone likes: the text is still looked at.
    for binary in 0..40 {
        let more = join(&[
            &field(9, &attribute("b", &field(7, &vec![0xff; binary]))),
            &field(9, &attribute("i", &number(3, 300))),
            &field(5, &[0xff]),
        ]);
        assert_eq!(counts(request(&[&span(0xff, 0xfe, &more)])), (0, 1), "{binary}");
    }
}

#[test]
fn a_bad_resource_or_scope_costs_the_spans_below_it_also_if_it_comes_last() {
    let good = field(1, &field(2, &join(&[&span(1, 1, b""), &span(1, 2, b"")])));
    let bad_text = field(1, &attribute("k", &field(1, &[0xff])));
    let spans = field(2, &span(2, 1, b""));
    for bad in [
        join(&[&field(1, &bad_text), &spans]),
        join(&[&spans, &field(1, &bad_text)]),
        join(&[&spans, &field(3, &[0xff])]),
        field(2, &join(&[&field(1, &field(1, &[0xff])), &span(2, 1, b"")])),
        field(2, &join(&[&span(2, 1, b""), &field(3, &[0xff])])),
        join(&[&spans, &field(99, &vec![0; 300 << 10])]),
        field(2, &join(&[&span(2, 1, b""), &field(1, &field(1, &vec![b'x'; 300 << 10]))])),
    ] {
        let walked = walked(join(&[&field(1, &bad), &good])).unwrap();
        assert_eq!((walked.spans.len(), walked.rejected.spans), (2, 1));
        assert_eq!((walked.spans.resources.len(), walked.spans.scopes.len()), (1, 1));
        assert!(walked.spans.spans.iter().all(|span| span.scope == 0 && span.trace_id == TraceId([1; 16])));
    }
}

#[test]
fn spans_beyond_a_cap_are_left_out() {
    let good = span(1, 1, b"");
    let attribute = field(9, &attribute("", b""));
    let limits = Limits::default();
    let big = field(9, &field(1, &vec![b'x'; 10 << 20]));
    let attributes = attribute.repeat(limits.max_attributes + 1);
    let events = field(11, b"").repeat(limits.max_events + 1);
    let links = field(13, b"").repeat(limits.max_links + 1);
    let event = field(11, &field(3, b"").repeat(limits.max_attributes + 1));
    for more in [big, attributes, events, links, event, field(13, &field(1, &[1; 15]))] {
        assert_eq!(counts(request(&[&good, &span(1, 2, &more), &good])), (2, 1));
    }
    assert_eq!(counts(request(&[&span(1, 2, &attribute.repeat(limits.max_attributes))])), (1, 0));
}

#[test]
fn string_table_indices_are_a_warning_and_no_rejection() {
    let index = field(9, &attribute("k", &number(8, 3)));
    let walked = walked(request(&[&span(1, 1, &index)])).unwrap();
    assert_eq!((walked.spans.len(), walked.rejected.spans), (1, 0));
    assert!(walked.rejected.reason.is_some());
}

/// A request whose spans are `(trace, id)` per resource and scope, with unknown fields on every level.
fn mixed() -> Vec<u8> {
    let unknown = |n: u8| field(99, &[b'u', n]);
    let scope = |spans: &[(u8, u8)]| {
        let spans: Vec<u8> = spans.iter().flat_map(|(trace, id)| span(*trace, *id, &unknown(3))).collect();
        field(2, &join(&[&field(1, b""), &unknown(2), &spans, &field(3, b"scope")]))
    };
    let resource = |name: &str, scopes: &[u8]| {
        let body = field(1, &join(&[&field(1, &attribute("name", &field(1, name.as_bytes()))), &unknown(1)]));
        field(1, &join(&[&unknown(0), scopes, &body, &field(3, b"schema")]))
    };
    join(&[
        &unknown(9),
        &resource("a", &join(&[&scope(&[(1, 1), (2, 2), (1, 3)]), &scope(&[(2, 4)])])),
        &resource("b", &scope(&[(3, 5), (3, 6), (1, 7)])),
    ])
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).filter(|window| *window == needle).count()
}

fn assert_index_is_that_of_a_walk(spans: &Spans) {
    let again = walk(spans.bytes.clone(), &Limits::default()).unwrap();
    assert_eq!(again.rejected, Rejected::default());
    assert_eq!(again.spans.spans, spans.spans);
    assert_eq!(again.spans.scopes, spans.scopes);
    assert_eq!(again.spans.resources, spans.resources);
}

#[test]
fn parts_have_each_span_once_in_order_under_its_own_resource_with_unknown_fields() {
    let spans = walked(mixed()).unwrap().spans;
    let group_of: Vec<u16> = spans.spans.iter().map(|span| u16::from(span.trace_id.0[0])).collect();
    let parts = regroup(&spans, &group_of, 9, None);
    assert_eq!(parts.iter().map(|part| part.group).collect::<Vec<_>>(), [1, 2, 3]);
    for part in &parts {
        assert_index_is_that_of_a_walk(&part.spans);
        let bytes = &part.spans.bytes;
        let (resources, scopes) = (part.spans.resources.len(), part.spans.scopes.len());
        for (level, times) in [(9, 1), (0, resources), (1, resources), (2, scopes), (3, part.spans.len())] {
            assert_eq!(occurrences(bytes, &[b'u', level]), times, "level {level}");
        }
    }
    assert!(parts.iter().map(|part| part.spans.bytes.len() as u64).sum::<u64>() <= most_bytes(&spans, 9));
    let ids = |part: &Part| part.spans.spans.iter().map(|span| span.span_id.0[0]).collect::<Vec<_>>();
    assert_eq!(parts.iter().map(ids).collect::<Vec<_>>(), [vec![1, 3, 7], vec![2, 4], vec![5, 6]]);
}

#[test]
fn selecting_nothing_is_empty_and_everything_is_everything() {
    let spans = walked(mixed()).unwrap().spans;
    assert!(select(&spans, |_| false).bytes.is_empty());
    let all = select(&spans, |_| true);
    assert_index_is_that_of_a_walk(&all);
    assert_eq!(all.bytes.len(), spans.bytes.len());
    let one = select(&spans, |i| spans.spans[i].span_id.0[0] == 5);
    assert_eq!((one.len(), one.resources.len()), (1, 1));
    assert_index_is_that_of_a_walk(&one);
}

#[test]
fn rejected_spans_are_in_no_part() {
    let bytes = request(&[&span(1, 1, b""), &field(2, &field(5, b"no ids")), &span(1, 2, b"")]);
    let spans = walked(bytes).unwrap().spans;
    let all = select(&spans, |_| true);
    assert_eq!(all.len(), 2);
    assert_eq!(occurrences(&all.bytes, b"no ids"), 0);
}

#[test]
fn an_absent_resource_gets_what_is_inserted_and_stays_absent_otherwise() {
    let spans = walked(request(&[&span(1, 1, b"")])).unwrap().spans;
    let edits =
        |kind| ResourceEdits::compile(&ResourceSettings { actions: vec![ResourceAction { key: "k".into(), kind }] });
    let value = AttributeSource::Value(AttributeValue::String("v".into()));
    let inserted = edit_resources(&spans, &edits(ActionKind::Insert(value)));
    assert_index_is_that_of_a_walk(&inserted);
    let expected = field(1, &attribute("k", &field(1, b"v")));
    assert_eq!(inserted.resources[0].resource[0].of(&inserted.bytes), expected);
    let deleted = edit_resources(&spans, &edits(ActionKind::Delete));
    assert_eq!(deleted.bytes, spans.bytes);
}

#[test]
fn a_resource_that_comes_in_two_halves_is_one_resource() {
    let half = |key: &str| field(1, &field(1, &attribute(key, &field(1, b"v"))));
    let spans = walked(field(1, &join(&[&half("a"), &field(2, &span(1, 1, b"")), &half("b")]))).unwrap().spans;
    assert_eq!(spans.resources[0].resource.len(), 2);
    let kind = ActionKind::Delete;
    let edits = ResourceEdits::compile(&ResourceSettings { actions: vec![ResourceAction { key: "a".into(), kind }] });
    let edited = edit_resources(&spans, &edits);
    assert_eq!(edited.resources[0].resource[0].of(&edited.bytes), field(1, &attribute("b", &field(1, b"v"))));
}

#[test]
fn what_was_let_in_at_the_very_limit_and_edited_as_far_as_may_be_passes_at_a_peer() {
    use super::attributes::resource_attributes;
    use super::{ClusterStamp, SpanEdits, rewrite};

    let text = |bytes: usize| field(1, "x".repeat(bytes).as_bytes());
    let mut attributes: Vec<Vec<u8>> = (0..998).map(|n| field(1, &attribute(&format!("k{n}"), &text(1)))).collect();
    attributes.push(field(1, &attribute("k8s.cluster.name", &text(100 << 10))));
    attributes.push(field(1, &attribute("large", &text(100 << 10))));
    let request = |schema: usize, name: usize| {
        let spans = field(2, &span(1, 1, &field(5, "n".repeat(name).as_bytes())));
        field(1, &join(&[&field(1, &attributes.concat()), &spans, &field(3, "s".repeat(schema).as_bytes())]))
    };
    let largest = |fits: &dyn Fn(usize) -> bool| (0..2 << 20).collect::<Vec<_>>().partition_point(|n| fits(*n)) - 1;
    let passes = |schema, name| walked(request(schema, name)).unwrap().rejected.spans == 0;
    let (schema, name) = (largest(&|schema| passes(schema, 1)), largest(&|name| passes(1, name)));
    let limits = Limits::default();
    let spans = walked(request(schema, name)).unwrap().spans;
    assert_eq!(spans.len(), 1);

    let copy = |key: String, from: &str| ResourceAction {
        key,
        kind: ActionKind::Insert(AttributeSource::FromAttribute(from.to_owned())),
    };
    let small = (0..1_500).map(|n| copy(format!("small-{n}"), "k1"));
    let actions = (0..9).map(|n| copy(format!("large-{n}"), "large")).chain(small).collect();
    let edits = ResourceEdits::compile(&ResourceSettings { actions });
    let mut out = edit_resources(&spans, &edits);
    assert!(edits.left_out() > 0);
    let state = format!("ot=th:8,{}", format!("k={},", "v".repeat(200)).repeat(5));
    out = rewrite(&out, |_| Some(SpanEdits { trace_state: Some(&state[..1_000]), attributes: &[] }));
    let longest = "c".repeat(crate::model::MAX_NAME);
    out = edit_resources(&out, ClusterStamp::new(&longest).edits());

    let body = out.resources[0].resource[0].of(&out.bytes);
    assert_eq!(resource_attributes(body).count(), 2_001, "all there may be, and what the cluster was called before");
    assert_eq!(walk(out.bytes.clone(), &limits).unwrap().rejected.spans, 1);
    assert_eq!(walk(out.bytes, &limits.of_peers()).unwrap().rejected.spans, 0);
}
