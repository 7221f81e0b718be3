//! The walker, the cutter and the JSON codec held against prost, on generated requests.
//!
//! Requests are generated as wire fields rather than as structs: in any order, repeated, with unknown ones in between.
//! That is what protobuf allows and what no struct can express.

#![allow(clippy::unwrap_used, reason = "a test module, which clippy does not recognize by its two conditions")]

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Request;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::reader::{put_bytes, put_varint, tag};
use super::*;
use crate::config::settings::{ActionKind, AttributeSource, AttributeValue, ResourceAction, ResourceSettings};
use crate::model::{SpanEntry, Spans};

mod edits;

type Wire = Vec<u8>;

fn length_delimited(number: u32, body: &[u8]) -> Wire {
    let mut out = Vec::new();
    put_bytes(&mut out, number, body);
    out
}

fn varint(number: u32, value: u64) -> Wire {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(tag(number, 0)));
    put_varint(&mut out, value);
    out
}

fn fixed(number: u32, wire_type: u32, bytes: &[u8]) -> Wire {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(tag(number, wire_type)));
    out.extend_from_slice(bytes);
    out
}

fn message(
    number: u32,
    fields: impl Strategy<Value = Wire>,
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Wire> {
    vec(fields, count).prop_map(move |fields| length_delimited(number, &fields.concat()))
}

fn text(number: u32) -> impl Strategy<Value = Wire> {
    prop_oneof![4 => "[a-z]{0,9}", 1 => "\\PC{0,9}", 1 => "[a-z]{120,140}"]
        .prop_map(move |text| length_delimited(number, text.as_bytes()))
}

/// Numbers above all known ones.
fn unknown() -> impl Strategy<Value = Wire> {
    prop_oneof![
        any::<u64>().prop_map(|value| varint(17, value)),
        any::<[u8; 8]>().prop_map(|bytes| fixed(99, 1, &bytes)),
        any::<[u8; 4]>().prop_map(|bytes| fixed(1_000, 5, &bytes)),
        vec(any::<u8>(), 0..9).prop_map(|bytes| length_delimited(99_999, &bytes)),
    ]
}

fn any_value(number: u32) -> impl Strategy<Value = Wire> {
    let scalar = prop_oneof![
        text(1),
        any::<bool>().prop_map(|value| varint(2, u64::from(value))),
        prop_oneof![0..300u64, any::<u64>()].prop_map(|value| varint(3, value)),
        // Not NaN, which equals nothing.
        (-1e300..1e300f64).prop_map(|value| fixed(4, 1, &value.to_le_bytes())),
        vec(any::<u8>(), 0..9).prop_map(|bytes| length_delimited(7, &bytes)),
    ];
    let scalar = prop_oneof![9 => scalar, 1 => unknown()];
    let body = vec(scalar, 0..=1).prop_map(|fields| fields.concat());
    let body = body.prop_recursive(4, 16, 3, |inner| {
        let element = inner.clone().prop_map(|body| length_delimited(1, &body));
        let pair =
            (text(1), inner).prop_map(|(key, value)| length_delimited(1, &[key, length_delimited(2, &value)].concat()));
        prop_oneof![message(5, element, 0..3), message(6, pair, 0..3)]
    });
    body.prop_map(move |body| length_delimited(number, &body))
}

fn attribute(number: u32) -> impl Strategy<Value = Wire> {
    prop_oneof![
        8 => (text(1), any_value(2)).prop_map(|(key, value)| [key, value].concat()),
        1 => vec(prop_oneof![text(1), any_value(2), unknown()], 0..4).prop_map(|fields| fields.concat()),
    ]
    .prop_map(move |body| length_delimited(number, &body))
}

fn time(number: u32) -> impl Strategy<Value = Wire> {
    any::<u64>().prop_map(move |time| fixed(number, 1, &time.to_le_bytes()))
}

fn count(number: u32) -> impl Strategy<Value = Wire> {
    any::<u32>().prop_map(move |count| varint(number, u64::from(count)))
}

fn id<const N: usize>(number: u32) -> impl Strategy<Value = Wire> {
    // Few enough that traces have several spans.
    (1..9u8).prop_map(move |id| length_delimited(number, &[id * 29; N]))
}

fn flags(number: u32) -> impl Strategy<Value = Wire> {
    any::<[u8; 4]>().prop_map(move |flags| fixed(number, 5, &flags))
}

fn span_field() -> impl Strategy<Value = Wire> {
    let event = || message(11, prop_oneof![time(1), text(2), attribute(3), count(4), unknown()], 0..5);
    let link = || {
        message(13, prop_oneof![id::<16>(1), id::<8>(2), text(3), attribute(4), count(5), flags(6), unknown()], 0..5)
    };
    let code = || any::<i32>().prop_map(|code| varint(3, i64::from(code) as u64));
    let small_code = || (0..4u64).prop_map(|code| varint(3, code));
    let kind = prop_oneof![9 => 0..7u64, 1 => any::<i32>().prop_map(|kind| i64::from(kind) as u64)];
    prop_oneof![
        text(3),
        id::<8>(4),
        text(5),
        kind.prop_map(|kind| varint(6, kind)),
        time(7),
        time(8),
        attribute(9),
        count(10),
        event(),
        count(12),
        link(),
        count(14),
        message(15, prop_oneof![text(2), small_code(), code(), unknown()], 0..4),
        flags(16),
        unknown(),
    ]
}

/// A span's fields in any order. `bad` of 100 have something wrong with their ids.
fn span(bad: u32) -> impl Strategy<Value = Wire> {
    let ids = (id::<16>(1), id::<8>(2)).prop_map(|(trace, span)| vec![trace, span]).boxed();
    let wrong = (prop_oneof![Just(1u32), Just(2), Just(4)], vec(0..2u8, 0..20))
        .prop_map(|(number, id)| vec![length_delimited(number, &id)]);
    let wrong = (ids.clone(), wrong).prop_map(|(ids, wrong)| [ids, wrong].concat());
    let ids = if bad == 0 { ids } else { prop_oneof![100 - bad => ids, bad => wrong].boxed() };
    (ids, vec(span_field(), 0..12))
        .prop_map(|(ids, fields)| [ids, fields].concat())
        .prop_shuffle()
        .prop_map(|fields| length_delimited(2, &fields.concat()))
}

fn resource() -> impl Strategy<Value = Wire> {
    let entity = message(3, prop_oneof![text(1), text(2), text(3), text(4)], 0..4);
    // Keys that the edits below know, several times too.
    let known = (prop_oneof![Just("up"), Just("in"), Just("from"), Just("del")], any_value(2))
        .prop_map(|(key, value)| length_delimited(1, &[length_delimited(1, key.as_bytes()), value].concat()));
    message(1, prop_oneof![3 => known, 3 => attribute(1), 1 => count(2), 1 => entity, 1 => unknown()], 0..8)
}

fn request(bad: u32) -> impl Strategy<Value = Wire> {
    let scope = || message(1, prop_oneof![text(1), text(2), attribute(3), count(4), unknown()], 0..4);
    let scope_spans = move || message(2, prop_oneof![8 => span(bad), 1 => scope(), 1 => text(3), 1 => unknown()], 0..8);
    let resource_spans =
        move || message(1, prop_oneof![4 => scope_spans(), 2 => resource(), 1 => text(3), 1 => unknown()], 0..6);
    vec(prop_oneof![9 => resource_spans(), 1 => unknown()], 0..4).prop_map(|fields| fields.concat())
}

fn walked(bytes: &[u8]) -> Result<Walked, WireError> {
    walk(bytes.to_vec().into(), &Limits::default())
}

fn spans_of(request: &Request) -> impl Iterator<Item = &Span> {
    request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
}

fn is_legal(span: &Span) -> bool {
    let id = |id: &[u8], len: usize| id.len() == len && id.iter().any(|b| *b != 0);
    id(&span.trace_id, 16) && id(&span.span_id, 8) && matches!(span.parent_span_id.len(), 0 | 8)
}

fn says_the_same(entry: &SpanEntry, span: &Span) -> Result<(), TestCaseError> {
    prop_assert_eq!(&entry.trace_id.0[..], &span.trace_id[..]);
    prop_assert_eq!(&entry.span_id.0[..], &span.span_id[..]);
    let parent = if span.parent_span_id.is_empty() { &[0; 8][..] } else { &span.parent_span_id };
    prop_assert_eq!(&entry.parent_span_id.0[..], parent);
    prop_assert_eq!((entry.start.0, entry.end.0), (span.start_time_unix_nano, span.end_time_unix_nano));
    prop_assert_eq!(entry.kind, u8::try_from(span.kind).unwrap_or(255));
    let status = span.status.as_ref().map_or(0, |status| status.code);
    prop_assert_eq!(entry.status, u8::try_from(status).unwrap_or(255));
    Ok(())
}

/// The index is that of prost's structs, span by span, with their resources and scopes.
fn agrees(walked: &Walked, request: &Request) -> Result<(), TestCaseError> {
    let spans = &walked.spans;
    let mut entries = spans.spans.iter();
    for resource_spans in &request.resource_spans {
        for scope_spans in &resource_spans.scope_spans {
            for span in scope_spans.spans.iter().filter(|span| is_legal(span)) {
                let Some(entry) = entries.next() else { return Err(TestCaseError::fail("a span is missing")) };
                says_the_same(entry, span)?;
                prop_assert_eq!(&Span::decode(entry.body().of(&spans.bytes)).unwrap(), span);
                let scope = &spans.scopes[entry.scope as usize];
                let resource = &spans.resources[scope.resource as usize];
                let body: Vec<u8> =
                    resource.resource.iter().flat_map(|range| range.of(&spans.bytes)).copied().collect();
                let expected = resource_spans.resource.clone().unwrap_or_default();
                prop_assert_eq!(Resource::decode(&body[..]).unwrap(), expected);
            }
        }
    }
    prop_assert!(entries.next().is_none());
    let illegal = spans_of(request).filter(|span| !is_legal(span)).count();
    prop_assert_eq!(walked.rejected.spans as usize, illegal);
    Ok(())
}

fn edits() -> ResourceEdits {
    let text = |value: &str| AttributeSource::Value(AttributeValue::String(value.into()));
    let actions = [
        ("in", ActionKind::Insert(text("inserted"))),
        ("copy", ActionKind::Insert(AttributeSource::FromAttribute("from".into()))),
        ("up", ActionKind::Upsert(text("ours"))),
        ("del", ActionKind::Delete),
    ];
    let actions = actions.into_iter().map(|(key, kind)| ResourceAction { key: key.into(), kind }).collect();
    ResourceEdits::compile(&ResourceSettings { actions })
}

fn index_is_that_of_a_walk(spans: &Spans) -> Result<(), TestCaseError> {
    let again = walk(spans.bytes.clone(), &Limits::default()).unwrap();
    prop_assert_eq!(&again.spans.spans, &spans.spans);
    prop_assert_eq!(&again.spans.scopes, &spans.scopes);
    prop_assert_eq!(&again.spans.resources, &spans.resources);
    Ok(())
}

/// A quarter of the usual number, which the environment may raise (`PROPTEST_CASES`): the requests are large.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases / 4, failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_walker_finds_what_prost_finds(bytes in request(20)) {
        agrees(&walked(&bytes).unwrap(), &Request::decode(&bytes[..]).unwrap())?;
    }

    #[test]
    fn what_the_walker_takes_prost_takes(bytes in request(0), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = bytes;
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Ok(walked) = walked(&bytes) {
            // Not always: something wrong with a resource that has no spans is nobody's rejection.
            if let Ok(request) = Request::decode(&bytes[..])
                && walked.rejected.spans == 0
            {
                agrees(&walked, &request)?;
            }
            // What it leaves over poisons nobody's batch.
            let kept = select(&walked.spans, |_| true);
            prop_assert!(Request::decode(kept.bytes).is_ok());
        }
    }

    #[test]
    fn random_bytes_make_no_panic(bytes in vec(any::<u8>(), 0..64)) {
        let _ = walked(&bytes);
        let _ = json::encode(&bytes, &mut Vec::new());
        let _ = json::decode(&bytes, &Limits::default());
    }

    #[test]
    fn every_span_is_in_the_part_of_its_group_once(bytes in request(5), groups in 1..20u16, edit in any::<bool>()) {
        let spans = walked(&bytes).unwrap().spans;
        let group_of: Vec<u16> = spans.spans.iter().map(|span| u16::from(span.trace_id.0[0]) % groups).collect();
        let edits = edits();
        let parts = regroup(&spans, &group_of, groups, edit.then_some(&edits));
        if !edit {
            let total: u64 = parts.iter().map(|part| part.spans.bytes.len() as u64).sum();
            prop_assert!(total <= most_bytes(&spans, usize::from(groups)));
        }
        let mut found: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for part in &parts {
            index_is_that_of_a_walk(&part.spans)?;
            let request = Request::decode(part.spans.bytes.clone()).unwrap();
            let bodies = part.spans.spans.iter().map(|span| span.body().of(&part.spans.bytes).to_vec()).collect();
            prop_assert!(found.insert(part.group, bodies).is_none());
            prop_assert_eq!(spans_of(&request).count(), part.spans.len());
            for resource in request.resource_spans.iter().filter(|_| edit) {
                let attributes = resource.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
                let of = |key: &'static str| attributes.iter().filter(move |attribute| attribute.key == key);
                prop_assert_eq!(of("up").count(), 1);
                let value = of("up").next().and_then(|up| up.value.clone()).and_then(|value| value.value);
                prop_assert_eq!(value, Some(Value::StringValue("ours".into())));
                prop_assert!(of("in").count() >= 1);
                prop_assert_eq!(of("del").count(), 0);
                prop_assert_eq!(of("copy").count(), usize::from(of("from").count() > 0));
                let copied = of("copy").next().map(|copy| copy.value.clone().unwrap_or_default());
                let source = of("from").next().map(|from| from.value.clone().unwrap_or_default());
                prop_assert_eq!(copied, source);
            }
        }
        let mut expected: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for (span, group) in spans.spans.iter().zip(&group_of) {
            expected.entry(*group).or_default().push(span.body().of(&spans.bytes).to_vec());
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn cutting_into_one_part_changes_nothing_that_prost_sees(bytes in request(0)) {
        let all = select(&walked(&bytes).unwrap().spans, |_| true);
        let mut expected = Request::decode(&bytes[..]).unwrap();
        // Envelopes without spans are not kept.
        for resource in &mut expected.resource_spans {
            resource.scope_spans.retain(|scope| !scope.spans.is_empty());
        }
        expected.resource_spans.retain(|resource| !resource.scope_spans.is_empty());
        prop_assert_eq!(Request::decode(all.bytes).unwrap(), expected);
    }

    #[test]
    fn json_says_what_protobuf_says(bytes in request(0)) {
        let mut text = Vec::new();
        json::encode(&bytes, &mut text).unwrap();
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
        prop_assert!(!text.contains(&b'\n'));
        let decoded = json::decode(&text, &Limits::default()).unwrap();
        prop_assert_eq!(decoded.warning, None);
        prop_assert_eq!(Request::decode(&decoded.bytes[..]).unwrap(), Request::decode(&bytes[..]).unwrap());
        let mut again = Vec::new();
        json::encode(&decoded.bytes, &mut again).unwrap();
        prop_assert_eq!(again, text);
    }
}
