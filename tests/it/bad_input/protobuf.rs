//! Rows about protobuf, sent over both transports.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use prost::Message;

use super::row::{Case, Says, Table};
use crate::harness::traces::{request, span, trace_id};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A request with these spans, all of which arrive.
fn kept(spans: Vec<Span>) -> Case {
    Case::of(request("kept", spans.clone())).brings(&spans)
}

/// A request with `bad` between two good spans that arrive without it.
fn costs_itself(trace: u64, bad: Span) -> Case {
    let good = [span(trace, 0), span(trace, 1)];
    let [first, last] = good.clone();
    Case::of(request("partly", vec![first, bad, last])).brings(&good).rejects(1)
}

/// A length-delimited field.
fn field(number: u8, inside: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encode_length_delimiter(inside.len(), &mut out).unwrap();
    out.extend_from_slice(inside);
    out
}

/// A request whose resource, scope and spans are these bytes.
fn by_hand(spans: &[Vec<u8>], beside: [&[u8]; 3]) -> Vec<u8> {
    let [in_scope, in_resource, in_request] = beside;
    let spans: Vec<u8> = spans.iter().flat_map(|span| field(2, span)).collect();
    let scope = field(2, &[&spans[..], in_scope].concat());
    [&field(1, &[&scope[..], in_resource].concat())[..], in_request].concat()
}

fn one_by_hand(encoded: Vec<u8>) -> Case {
    Case::of(by_hand(std::slice::from_ref(&encoded), [&[]; 3])).brings_encoded(vec![encoded])
}

/// An attribute whose value is that many lists inside each other; written from the inside, backwards, in linear time.
fn nested(depth: usize) -> Vec<u8> {
    let mut backwards = Vec::new();
    let wrap = |backwards: &mut Vec<u8>, number: u8| {
        let mut head = vec![number << 3 | 2];
        prost::encode_length_delimiter(backwards.len(), &mut head).unwrap();
        backwards.extend(head.iter().rev());
    };
    for _ in 0..depth {
        wrap(&mut backwards, 1);
        wrap(&mut backwards, 5);
    }
    wrap(&mut backwards, 2);
    backwards.extend(field(1, b"deep").iter().rev());
    backwards.reverse();
    backwards
}

/// A span with a field that no schema has, of this number.
fn with_field(span: &Span, number: u8, inside: &[u8]) -> Vec<u8> {
    [span.encode_to_vec(), field(number, inside)].concat()
}

pub fn rows(table: &mut Table) {
    table.both("B5 nothing", Says::Success, |_| Case::default());
    malformed(table);
    ids(table);
    values(table);
    numbers(table);
    same_ids(table);
    preserved(table);
}

fn malformed(table: &mut Table) {
    let valid = request("prefixes", vec![span(0, 0)]);
    for len in 1..valid.len() {
        table.both(&format!("B7 the first {len} bytes"), Says::Malformed, |_| Case::of(&valid[..len]));
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(10_000)
    .collect();
    for (number, noise) in noise.chunks(1_000).enumerate() {
        table.both(&format!("B7 noise {number}"), Says::Malformed, |_| Case::of(noise));
    }
    for (name, bytes) in [
        ("B20 wire type 7", &b"\x0f\x01"[..]),
        ("B20 wire type 6", b"\x0e\x01"),
        ("B20 field number 0", b"\x02\x00"),
        ("B20 a group", b"\x0b\x0c"),
        ("B20 a group's end alone", b"\x0c"),
        ("B20 a length of eleven bytes", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("B20 a length of 2^63", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
        ("B20 a list of resources that is a number", b"\x08\x01"),
    ] {
        table.both(name, Says::Malformed, |_| Case::of(bytes));
    }
    table.both("B20 a trace id that is a number", Says::Malformed, |_| Case::of(by_hand(&[vec![8, 1]], [&[]; 3])));
}

fn ids(table: &mut Table) {
    for (name, length) in [("B22 a trace id of 15 bytes", 15), ("B22 a trace id of 17 bytes", 17)] {
        table.both(name, Says::Success, |trace| {
            let mut spans: Vec<Span> = (0..100).map(|number| span(trace, number)).collect();
            spans[50].trace_id.resize(length, 7);
            let sent = request("hundred", spans.clone());
            spans.remove(50);
            Case::of(sent).brings(&spans).rejects(1)
        });
    }
    type Spoil = fn(&mut Span);
    let bad: [(&str, Spoil); 7] = [
        ("B23 no trace id", |span| span.trace_id.clear()),
        ("B23 a trace id of zeros", |span| span.trace_id = vec![0; 16]),
        ("B23 no span id", |span| span.span_id.clear()),
        ("B23 a span id of zeros", |span| span.span_id = vec![0; 8]),
        ("B23 a span id of 7 bytes", |span| span.span_id = vec![1; 7]),
        ("B23 a parent of 9 bytes", |span| span.parent_span_id = vec![1; 9]),
        ("B23 a link with a trace id of 3 bytes", |span| {
            span.links.push(span::Link { trace_id: vec![1; 3], span_id: vec![1; 8], ..span::Link::default() });
        }),
    ];
    for (name, spoil) in bad {
        table.both(name, Says::Success, |trace| {
            let mut bad = span(trace, 7);
            spoil(&mut bad);
            costs_itself(trace, bad)
        });
    }
}

fn values(table: &mut Table) {
    table.both("B31 empty values and an empty list", Says::Success, |trace| {
        let list = Value::ArrayValue(Default::default());
        let empty = KeyValue { key: "empty".into(), value: Some(AnyValue::default()), ..KeyValue::default() };
        let absent = KeyValue { key: "absent".into(), ..KeyValue::default() };
        kept(vec![Span { attributes: vec![empty, absent, attribute("list", list)], ..span(trace, 0) }])
    });
    table.both("B31 string table indices", Says::Success, |trace| {
        let indexed = KeyValue { key_strindex: 3, ..attribute("k", Value::BoolValue(true)) };
        kept(vec![Span { attributes: vec![indexed], ..span(trace, 0) }]).rejects(0)
    });
    // As deep as SDKs may go.
    table.both("B32 depth 64", Says::Success, |trace| one_by_hand(with_field(&span(trace, 0), 9, &nested(64))));
    for (name, depth) in [("B32 depth 1,000", 1_000), ("B32 depth 200,000", 200_000)] {
        table.both(name, Says::Success, |trace| {
            let deep = with_field(&span(trace, 7), 9, &nested(depth));
            let good = span(trace, 0);
            Case::of(by_hand(&[deep, good.encode_to_vec()], [&[]; 3])).brings(&[good]).rejects(1)
        });
    }
    let text = |len: usize| Value::StringValue("x".repeat(len));
    table.both("B33 a value of 10 MiB", Says::Success, |trace| {
        costs_itself(trace, Span { attributes: vec![attribute("k", text(10 << 20))], ..span(trace, 7) })
    });
    table.both("B33 a million attributes", Says::Success, |trace| {
        costs_itself(
            trace,
            Span { attributes: vec![attribute("k", Value::BoolValue(true)); 1_000_000], ..span(trace, 7) },
        )
    });
    table.both("B33 a key of 1 MiB", Says::Success, |trace| {
        costs_itself(trace, Span { attributes: vec![attribute(&"k".repeat(1 << 20), text(1))], ..span(trace, 7) })
    });
    table.both("B33 an empty key", Says::Success, |trace| {
        kept(vec![Span { attributes: vec![attribute("", text(1))], ..span(trace, 0) }])
    });
    table.both("B34 one key three times", Says::Success, |trace| {
        let attributes = vec![attribute("k", text(1)), attribute("k", text(2)), attribute("k", Value::IntValue(3))];
        kept(vec![Span { attributes, ..span(trace, 0) }])
    });
    table.both("B35 a name that is not UTF-8", Says::Success, |trace| {
        let bad = with_field(&Span { name: String::new(), ..span(trace, 7) }, 5, b"\xff\xfe");
        let good = span(trace, 0);
        Case::of(by_hand(&[bad, good.encode_to_vec()], [&[]; 3])).brings(&[good]).rejects(1)
    });
    table.both("B35 NUL and escapes in names", Says::Success, |trace| {
        let name = "a\0b\x1b[2J\x1b]0;title\x07\r\nforged: line".to_owned();
        kept(vec![Span { attributes: vec![attribute(&name, text(1))], name, ..span(trace, 0) }])
    });
    table.both("B37 a million events", Says::Success, |trace| {
        costs_itself(trace, Span { events: vec![span::Event::default(); 1_000_000], ..span(trace, 7) })
    });
    table.both("B37 100,000 links", Says::Success, |trace| {
        costs_itself(trace, Span { links: vec![span::Link::default(); 100_000], ..span(trace, 7) })
    });
}

fn numbers(table: &mut Table) {
    let year = 365 * 86_400 * 1_000_000_000;
    for (name, start, end) in [
        ("B36 times of zero", 0, 0),
        ("B36 the last times there are", u64::MAX, u64::MAX),
        ("B36 an end before its start", 2_000_000_000, 1_000_000_000),
        ("B36 a span of all time", 0, u64::MAX),
        ("B36 a year ahead", 1_800_000_000_000_000_000 + year, 1_800_000_000_000_000_001 + year),
    ] {
        table.both(name, Says::Success, |trace| {
            kept(vec![Span { start_time_unix_nano: start, end_time_unix_nano: end, ..span(trace, 0) }])
        });
    }
    table.both("B38 its own parent, a ring of parents, a parent of another trace", Says::Success, |trace| {
        let mut spans: Vec<Span> = (0..4).map(|number| span(trace, number)).collect();
        spans[0].parent_span_id = spans[0].span_id.clone();
        spans[1].parent_span_id = spans[2].span_id.clone();
        spans[2].parent_span_id = spans[1].span_id.clone();
        spans[3].parent_span_id = span(trace + 1, 0).span_id;
        kept(spans)
    });
}

fn same_ids(table: &mut Table) {
    table.both("B39 one span 1,000 times", Says::Success, |trace| Case {
        duplicates: 999,
        ..Case::of(request("again", vec![span(trace, 0); 1_000])).brings(&[span(trace, 0)])
    });
    table.both("B40 the ids of another, with another kind or end", Says::Success, |trace| {
        let first = span(trace, 0);
        let client = Span { kind: 3, ..first.clone() };
        let later = Span { end_time_unix_nano: first.end_time_unix_nano + 1, ..first.clone() };
        kept(vec![first, client, later])
    });
}

fn preserved(table: &mut Table) {
    table.both("B28 unknown fields of requests, resources and scopes", Says::Success, |trace| {
        let marks = ["in the scope", "in the resource", "in the request"];
        let [scope, resource, request] = marks.map(|mark| field(15, format!("{mark} {trace}").as_bytes()));
        let good = span(trace, 0);
        let body = by_hand(&[good.encode_to_vec()], [&scope, &resource, &request]);
        Case { carries: vec![scope, resource, request], ..Case::of(body).brings(&[good]) }
    });
    table.both("B28 unknown fields of spans", Says::Success, |trace| {
        let mut encoded = span(trace, 0).encode_to_vec();
        // Field 100: a text, a number, 64 bits and 32 bits.
        encoded.extend(
            b"\xa2\x06\x08tomorrow\xa0\x06\x96\x01\xa1\x06\x01\x02\x03\x04\x05\x06\x07\x08\xa5\x06\x01\x02\x03\x04",
        );
        one_by_hand(encoded)
    });
    table.both("B41 flags, a long trace state, kind 99", Says::Success, |trace| {
        let trace_state = "k=v,".repeat(2_500);
        kept(vec![Span { flags: 0xffff_fd01, trace_state, kind: 99, ..span(trace, 0) }])
    });
    table.both("B41 fields in an order of their own, and twice", Says::Success, |trace| {
        let first = Span { span_id: span(trace, 0).span_id, ..Span::default() }.encode_to_vec();
        let renamed = Span { name: "last of two".into(), ..Span::default() }.encode_to_vec();
        let rest = Span { trace_id: trace_id(trace).to_vec(), name: "first of two".into(), ..Span::default() };
        one_by_hand([first, rest.encode_to_vec(), renamed].concat())
    });
}
