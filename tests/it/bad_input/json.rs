//! Rows about OTLP/JSON.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::row::{Case, Says, Table};
use crate::harness::traces::{span_id, trace_id};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spans(spans: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#)
}

/// One JSON span with legal ids and these further members.
fn member_of(trace: u64, number: u64, members: &str) -> String {
    let (trace, span) = (hex(&trace_id(trace)), hex(&span_id(trace, number)));
    format!(r#"{{"traceId":"{trace}","spanId":"{span}"{members}}}"#)
}

fn bare(trace: u64, number: u64) -> Span {
    Span { trace_id: trace_id(trace).to_vec(), span_id: span_id(trace, number).to_vec(), ..Span::default() }
}

/// A request with one span of these members, which arrives as `span`.
fn becomes(trace: u64, members: &str, span: Span) -> Case {
    let ids = bare(trace, 0);
    let span = Span { trace_id: ids.trace_id, span_id: ids.span_id, ..span };
    Case::of(spans(&member_of(trace, 0, members))).brings(&[span])
}

fn valued(trace: u64, value: &str, becoming: Option<Value>) -> Case {
    let attribute = KeyValue { key: "k".into(), value: Some(AnyValue { value: becoming }), ..KeyValue::default() };
    let members = format!(r#","attributes":[{{"key":"k","value":{value}}}]"#);
    becomes(trace, &members, Span { attributes: vec![attribute], ..Span::default() })
}

/// A request that is refused for this member of a span.
fn refused(trace: u64, members: &str) -> Case {
    Case::of(spans(&member_of(trace, 0, members)))
}

/// That many lists inside each other.
fn nested(depth: usize) -> String {
    let lists = r#"{"arrayValue":{"values":["#.repeat(depth);
    format!(r#","attributes":[{{"key":"k","value":{lists}{{}}{}}}]"#, "]}}".repeat(depth))
}

pub fn rows(table: &mut Table) {
    for empty in ["{}", r#"{"resourceSpans":null}"#, r#"{"resourceSpans":[]}"#, r#"{"resourceSpans":[{}]}"#] {
        table.json(&format!("B6 {empty}"), Says::Success, |_| Case::of(empty));
    }
    let whole = spans(&member_of(0, 0, r#","attributes":[{"key":"k","value":{"doubleValue":-1.5e3}}]"#));
    for len in 0..whole.len() {
        table.json(&format!("B7 the first {len} bytes"), Says::Malformed, |_| Case::of(&whole.as_bytes()[..len]));
    }
    ids(table);
    names(table);
    integers(table);
    values(table);
    nesting(table);
}

fn ids(table: &mut Table) {
    let base64 = "W47/95gDgQPSabYzgT/GDA==";
    for bad in ["", base64, "5b8efff798038103d269b633813fc60", "0x5b8efff798038103d269b633813fc60c", &"0".repeat(32)] {
        table.json(&format!("B24 trace id {bad:?}"), Says::Success, |trace| {
            let bad = format!(r#"{{"traceId":"{bad}","spanId":"eee19b7ec3c1b174"}},"#);
            Case::of(spans(&(bad + &member_of(trace, 0, "")))).brings(&[bare(trace, 0)]).rejects(1)
        });
    }
    table.json("B24 a parent in base64", Says::Success, |trace| {
        let bad = member_of(trace, 1, r#","parentSpanId":"7uGbfsPBsXM=""#) + ",";
        Case::of(spans(&(bad + &member_of(trace, 0, "")))).brings(&[bare(trace, 0)]).rejects(1)
    });
    table.json("B25 upper case is the same trace", Says::Success, |trace| {
        let (id, span) = (hex(&trace_id(trace)).to_uppercase(), hex(&span_id(trace, 1)).to_uppercase());
        let upper = format!(r#"{{"traceId":"{id}","spanId":"{span}"}},"#);
        Case::of(spans(&(upper + &member_of(trace, 0, "")))).brings(&[bare(trace, 1), bare(trace, 0)])
    });
}

fn names(table: &mut Table) {
    table.json("B26 enums by name", Says::Success, |trace| {
        let members = r#","kind":"SPAN_KIND_CONSUMER","status":{"code":"STATUS_CODE_ERROR"}"#;
        let status = Some(Status { code: 2, ..Status::default() });
        becomes(trace, members, Span { kind: 5, status, ..Span::default() }).rejects(0)
    });
    table.json("B26 no such enum", Says::Malformed, |trace| refused(trace, r#","kind":"SPAN_KIND_SERVE""#));
    table.json("B27 snake_case", Says::Success, |trace| {
        let snake = spans(&member_of(trace, 0, "")).replace("resourceSpans", "resource_spans");
        Case::of(snake).rejects(0)
    });
    table.json("B28 unknown keys", Says::Success, |trace| {
        let json = spans(&member_of(trace, 0, r#","new":{"a":[1,-2.5e3,"x",null,true,{}]}"#));
        Case::of(json.replacen('{', r#"{"more":[[]],"#, 1)).brings(&[bare(trace, 0)])
    });
    table.json("B30 members that are null", Says::Success, |trace| {
        let nulls = ["parentSpanId", "name", "kind", "attributes", "events", "links", "status", "flags", "traceState"];
        let nulls: String = nulls.iter().map(|name| format!(r#","{name}":null"#)).collect();
        becomes(trace, &nulls, Span::default())
    });
    table.json("B35 text that is not UTF-8", Says::Success, |trace| {
        let bad = member_of(trace, 1, r#","name":"?""#) + ",";
        let json = spans(&(bad + &member_of(trace, 0, ""))).replace('?', "\u{1}");
        let json = json.into_bytes().into_iter().map(|byte| if byte == 1 { 0xff } else { byte });
        Case::of(json.collect::<Vec<u8>>()).brings(&[bare(trace, 0)]).rejects(1)
    });
    table.json("B35 NUL and escapes in names", Says::Success, |trace| {
        becomes(trace, r#","name":"\u0000\u001b[2J""#, Span { name: "\0\x1b[2J".into(), ..Span::default() })
    });
    table.json("B41 flags and kind 99", Says::Success, |trace| {
        becomes(trace, r#","flags":4294966529,"kind":99"#, Span { flags: 0xffff_fd01, kind: 99, ..Span::default() })
    });
}

fn integers(table: &mut Table) {
    for (given, kept) in [(r#""17""#, 17), ("17", 17), ("1.0", 1), ("-9223372036854775808", i64::MIN)] {
        table.json(&format!("B29 intValue {given}"), Says::Success, |trace| {
            valued(trace, &format!(r#"{{"intValue":{given}}}"#), Some(Value::IntValue(kept)))
        });
    }
    for bad in ["9223372036854775808", "1.5", "1e40", r#""0x1""#] {
        table.json(&format!("B29 intValue {bad}"), Says::Malformed, |trace| {
            refused(trace, &format!(r#","attributes":[{{"key":"k","value":{{"intValue":{bad}}}}}]"#))
        });
    }
    for bad in [r#""-1""#, "-1", r#""18446744073709551616""#, "true"] {
        table.json(&format!("B29 endTimeUnixNano {bad}"), Says::Malformed, |trace| {
            refused(trace, &format!(r#","endTimeUnixNano":{bad}"#))
        });
    }
    table.json("B36 the last times there are", Says::Success, |trace| {
        let members = r#","startTimeUnixNano":"18446744073709551615","endTimeUnixNano":18446744073709551615"#;
        let (start_time_unix_nano, end_time_unix_nano) = (u64::MAX, u64::MAX);
        becomes(trace, members, Span { start_time_unix_nano, end_time_unix_nano, ..Span::default() })
    });
}

fn values(table: &mut Table) {
    for (given, kept) in [
        (r#""NaN""#, f64::NAN),
        (r#""Infinity""#, f64::INFINITY),
        (r#""-Infinity""#, f64::NEG_INFINITY),
        (r#""1.5""#, 1.5),
        ("1", 1.0),
    ] {
        table.json(&format!("B30 doubleValue {given}"), Says::Success, |trace| {
            valued(trace, &format!(r#"{{"doubleValue":{given}}}"#), Some(Value::DoubleValue(kept)))
        });
    }
    table.json("B31 an empty value", Says::Success, |trace| valued(trace, "{}", None));
    table.json("B31 an empty list", Says::Success, |trace| {
        valued(trace, r#"{"arrayValue":{}}"#, Some(Value::ArrayValue(ArrayValue::default())))
    });
    table.json("B31 a string table index", Says::Success, |trace| {
        valued(trace, r#"{"stringValueStrindex":3}"#, None).rejects(0)
    });
    table.json("B34 one key twice", Says::Success, |trace| {
        let attribute = |value| KeyValue {
            key: "k".into(),
            value: Some(AnyValue { value: Some(Value::IntValue(value)) }),
            ..KeyValue::default()
        };
        let members = r#","attributes":[{"key":"k","value":{"intValue":1}},{"key":"k","value":{"intValue":2}}]"#;
        becomes(trace, members, Span { attributes: vec![attribute(1), attribute(2)], ..Span::default() })
    });
    table.json("B33 a value of 10 MiB", Says::Success, |trace| {
        let large = format!(r#","name":"{}""#, "x".repeat(10 << 20));
        let bad = member_of(trace, 1, &large) + ",";
        Case::of(spans(&(bad + &member_of(trace, 0, "")))).brings(&[bare(trace, 0)]).rejects(1)
    });
    table.json("B39 one span 1,000 times", Says::Success, |trace| {
        let again = vec![member_of(trace, 0, ""); 1_000].join(",");
        Case { duplicates: 999, ..Case::of(spans(&again)).brings(&[bare(trace, 0)]) }
    });
}

fn nesting(table: &mut Table) {
    table.json("B32 depth 40", Says::Success, |trace| {
        let innermost = AnyValue { value: None };
        let deep = (0..40).fold(innermost, |inside, _| AnyValue {
            value: Some(Value::ArrayValue(ArrayValue { values: vec![inside] })),
        });
        let attribute = KeyValue { key: "k".into(), value: Some(deep), ..KeyValue::default() };
        becomes(trace, &nested(40), Span { attributes: vec![attribute], ..Span::default() })
    });
    for depth in [1_000, 200_000] {
        table.json(&format!("B32 depth {depth}"), Says::Malformed, |trace| refused(trace, &nested(depth)));
        let unknown = format!(r#"{{"x":{}"#, "[".repeat(depth));
        table.json(&format!("B32 depth {depth} in an unknown key"), Says::Malformed, |_| Case::of(unknown.clone()));
    }
}
