//! Edits of spans, held against the same edits of prost's structs.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use super::*;
use crate::wire::span_edit::write_span;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn spans_are_dropped_and_edited_as_prost_would(bytes in request(5), what in vec(0..5u8, 1..7)) {
        let spans = walked(&bytes).unwrap().spans;
        let attributes = span_attributes();
        let edits_of = |index: usize| {
            let kind = what[index % what.len()];
            let trace_state = (kind & 1 > 0).then_some("ot=th:8,zz=1");
            (kind != 4).then_some(SpanEdits { trace_state, attributes: if kind & 2 > 0 { &attributes } else { &[] } })
        };
        let rewritten = rewrite(&spans, edits_of);
        index_is_that_of_a_walk(&rewritten)?;
        let selected = select(&spans, |index| edits_of(index).is_some());
        let mut expected = Request::decode(selected.bytes.clone()).unwrap();
        let kept = (0..spans.len()).filter_map(edits_of);
        let scopes = expected.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans);
        for (span, edits) in scopes.flat_map(|scope| &mut scope.spans).zip(kept) {
            edit_with_prost(span, &edits);
        }
        prop_assert_eq!(Request::decode(rewritten.bytes.clone()).unwrap(), expected);
        if what.iter().all(|&kind| kind == 0 || kind == 4) {
            prop_assert_eq!(&rewritten.bytes, &selected.bytes);
        }
    }

    #[test]
    fn damaged_spans_are_copied_whole_or_edited(bytes in span(0), at in any::<prop::sample::Index>(), damage in any::<u8>()) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] = damage;
        let attributes = span_attributes();
        let edits = SpanEdits { trace_state: Some("ot=th:8"), attributes: &attributes };
        let mut out = Vec::new();
        write_span(&mut out, &bytes, &edits);
        prop_assert!(out == bytes || out.ends_with(b"\x10\x01"), "{out:?}");
        if let Ok(mut span) = Span::decode(&bytes[..]) {
            edit_with_prost(&mut span, &edits);
            prop_assert_eq!(Span::decode(&out[..]).unwrap(), span);
        }
    }
}

fn span_attributes() -> [(&'static str, AttributeValue); 4] {
    [
        ("a", AttributeValue::String("text".to_owned())),
        ("", AttributeValue::Int(-7)),
        ("bb", AttributeValue::Double(0.25)),
        ("cc", AttributeValue::Bool(true)),
    ]
}

fn edit_with_prost(span: &mut Span, edits: &SpanEdits<'_>) {
    if let Some(text) = edits.trace_state {
        span.trace_state = text.to_owned();
    }
    span.attributes.retain(|attribute| edits.attributes.iter().all(|(key, _)| *key != attribute.key));
    let written = edits.attributes.iter().map(|(key, value)| {
        let value = match value {
            AttributeValue::String(text) => Value::StringValue(text.clone()),
            AttributeValue::Bool(value) => Value::BoolValue(*value),
            AttributeValue::Int(value) => Value::IntValue(*value),
            AttributeValue::Double(value) => Value::DoubleValue(*value),
        };
        KeyValue { key: (*key).to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    });
    span.attributes.extend(written);
}
