use super::*;
use crate::wire::{Limits, Walked, walk};

const TRACE: &str = "5b8efff798038103d269b633813fc60c";
const SPAN: &str = "eee19b7ec3c1b174";

fn read(json: &str) -> Result<Decoded, JsonError> {
    decode(json.as_bytes(), &Limits::default())
}

fn walked(json: &str) -> Walked {
    walk(read(json).unwrap().bytes.into(), &Limits::default()).unwrap()
}

/// Decoded and written again.
fn round(json: &str) -> String {
    let mut out = Vec::new();
    encode(&read(json).unwrap().bytes, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn spans(spans: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#)
}

/// One span with legal ids and these members.
fn span(members: &str) -> String {
    spans(&format!(r#"{{"traceId":"{TRACE}","spanId":"{SPAN}",{members}}}"#))
}

/// One span with an attribute of this value.
fn value(value: &str) -> String {
    span(&format!(r#""attributes":[{{"key":"k","value":{value}}}]"#))
}

#[test]
fn empty_requests_are_requests() {
    for empty in ["{}", " { } ", r#"{"resourceSpans":null}"#, r#"{"resourceSpans":[]}"#] {
        assert_eq!(read(empty).unwrap().bytes, b"", "{empty}");
    }
    for envelope in [r#"{"resourceSpans":[{}]}"#, r#"{"resourceSpans":[{"scopeSpans":[{"spans":null}]}]}"#] {
        let walked = walked(envelope);
        assert!(walked.spans.is_empty() && walked.spans.resources.is_empty(), "{envelope}");
    }
}

#[test]
fn what_the_specification_prescribes_comes_back_unchanged() {
    let json = concat!(
        r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a\"\\\n\u0001ü"}}],"#,
        r#""droppedAttributesCount":1},"scopeSpans":[{"scope":{"name":"n","version":"1"},"spans":["#,
        r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","traceState":"a=b","#,
        r#""parentSpanId":"eee19b7ec3c1b173","name":"op","kind":2,"startTimeUnixNano":"1544712660000000000","#,
        r#""endTimeUnixNano":"18446744073709551615","attributes":["#,
        r#"{"key":"i","value":{"intValue":"-9223372036854775808"}},{"key":"d","value":{"doubleValue":1.5}},"#,
        r#"{"key":"n","value":{"doubleValue":"NaN"}},{"key":"b","value":{"boolValue":false}},"#,
        r#"{"key":"e","value":{}},{"key":"y","value":{"bytesValue":"+/8="}},"#,
        r#"{"key":"l","value":{"arrayValue":{"values":[{"stringValue":""},{},{"arrayValue":{}}]}}},"#,
        r#"{"key":"m","value":{"kvlistValue":{"values":[{"key":"x","value":{"boolValue":true}}]}}}],"#,
        r#""droppedAttributesCount":2,"events":[{"timeUnixNano":"5","name":"e"}],"droppedEventsCount":3,"#,
        r#""links":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b175","flags":257}],"#,
        r#""droppedLinksCount":4,"status":{"message":"m","code":2},"flags":4294967295}],"schemaUrl":"s"}],"#,
        r#""schemaUrl":"r"}]}"#
    );
    assert_eq!(round(json), json);
    let walked = walked(json);
    assert_eq!(walked.rejected, crate::wire::Rejected::default());
    let span = walked.spans.spans[0];
    assert_eq!((span.kind, span.status, span.end.0), (2, 2, u64::MAX));
    assert_eq!(span.trace_id.to_string(), TRACE);
}

#[test]
fn ids_are_hex_of_either_case_and_bad_ones_cost_only_their_span() {
    let upper = walked(&spans(&format!(
        r#"{{"traceId":"{}","spanId":"{SPAN}"}},{{"traceId":"{TRACE}","spanId":"{SPAN}"}}"#,
        TRACE.to_uppercase()
    )));
    assert_eq!(upper.spans.spans[0].trace_id, upper.spans.spans[1].trace_id);
    for bad in ["", "0x5b8efff798038103d269b633813fc60c", "5b8", "W47/95gDgQPSabYzgT/GDA==", &"0".repeat(32)] {
        let json =
            spans(&format!(r#"{{"traceId":"{bad}","spanId":"{SPAN}"}},{{"traceId":"{TRACE}","spanId":"{SPAN}"}}"#));
        let walked = walked(&json);
        assert_eq!((walked.spans.len(), walked.rejected.spans), (1, 1), "{bad}");
    }
    let parent = |parent: &str| walked(&span(&format!(r#""parentSpanId":{parent}"#)));
    assert_eq!(parent(r#""7uGbfsPBsXM=""#).rejected.spans, 1);
    for root in [r#""""#, "null", r#""0000000000000000""#] {
        assert!(parent(root).spans.spans[0].parent_span_id.is_zero(), "{root}");
    }
}

#[test]
fn integers_are_texts_or_numbers_and_must_fit() {
    for (given, kept) in [
        ("17", "17"),
        (r#""17""#, "17"),
        ("1.0", "1"),
        ("1e3", "1000"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775807.0", "9223372036854775807"),
    ] {
        assert!(round(&value(&format!(r#"{{"intValue":{given}}}"#))).contains(&format!(r#""intValue":"{kept}""#)));
    }
    let refused = |member: &str| read(&span(member)).unwrap_err();
    for range in ["9223372036854775808", "1.5", "1e40", r#""-9223372036854775809""#] {
        let error = read(&value(&format!(r#"{{"intValue":{range}}}"#))).unwrap_err();
        assert!(matches!(error, JsonError::Range(_)), "{range}");
    }
    assert!(matches!(refused(r#""startTimeUnixNano":"-1""#), JsonError::Range(_)));
    assert!(matches!(refused(r#""startTimeUnixNano":"18446744073709551616""#), JsonError::Range(_)));
    assert!(matches!(refused(r#""flags":4294967296"#), JsonError::Range(_)));
    for wrong in [r#""startTimeUnixNano":"""#, r#""startTimeUnixNano":"0x1""#, r#""startTimeUnixNano":true"#] {
        assert!(matches!(refused(wrong), JsonError::Type(_)), "{wrong}");
    }
}

#[test]
fn doubles_have_words_for_what_json_cannot_say() {
    for (given, kept) in [
        (r#""NaN""#, r#""NaN""#),
        (r#""Infinity""#, r#""Infinity""#),
        (r#""-Infinity""#, r#""-Infinity""#),
        (r#""1.5""#, "1.5"),
        ("1", "1.0"),
        ("1e300", "1e+300"),
    ] {
        let round = round(&value(&format!(r#"{{"doubleValue":{given}}}"#)));
        assert!(round.contains(&format!(r#""doubleValue":{kept}"#)), "{given}: {round}");
    }
    assert!(matches!(read(&value(r#"{"doubleValue":1e999}"#)), Err(JsonError::Range(_))));
    assert!(matches!(read(&value(r#"{"doubleValue":"inf"}"#)), Err(JsonError::Type(_))));
}

#[test]
fn enums_by_name_are_taken_with_a_warning() {
    let named = read(&span(r#""kind":"SPAN_KIND_CONSUMER","status":{"code":"STATUS_CODE_ERROR"}"#)).unwrap();
    assert!(named.warning.is_some());
    let walked = walk(named.bytes.into(), &Limits::default()).unwrap();
    assert_eq!((walked.spans.spans[0].kind, walked.spans.spans[0].status), (5, 2));
    assert!(matches!(read(&span(r#""kind":"SPAN_KIND_SERVE""#)), Err(JsonError::Type(_))));
    assert!(round(&span(r#""kind":99"#)).contains(r#""kind":99"#));
    assert!(round(&span(r#""kind":-1"#)).contains(r#""kind":-1"#));
}

#[test]
fn unknown_keys_are_ignored_and_snake_case_is_not_ignored_silently() {
    let unknown = span(r#""new":[{"a":[1,-2.5e3,"x",null,true,false,{}]}],"name":"op""#);
    assert_eq!(read(&unknown).unwrap().warning, None);
    assert!(round(&unknown).contains(r#""name":"op""#));
    let snake = read(r#"{"resource_spans":[{"scope_spans":[]}]}"#).unwrap();
    assert!(snake.bytes.is_empty() && snake.warning.is_some());
    assert_eq!(read(r#"{"some_thing":1}"#).unwrap().warning, None);
}

#[test]
fn nulls_are_absent_but_keep_their_place_in_an_array() {
    let members = ["name", "kind", "attributes", "events", "links", "status", "flags", "parentSpanId", "traceState"];
    let nulls: Vec<String> = members.iter().map(|member| format!(r#""{member}":null"#)).collect();
    assert_eq!(walked(&span(&nulls.join(","))).spans.len(), 1);
    let array = value(r#"{"arrayValue":{"values":[null,{"boolValue":true}]}}"#);
    assert!(round(&array).contains(r#"{"values":[{},{"boolValue":true}]}"#));
    assert!(round(&value("null")).contains(r#"[{"key":"k"}]"#));
}

#[test]
fn the_last_of_equal_keys_wins() {
    let twice = span(r#""name":"first","name":"second""#);
    assert!(round(&twice).contains(r#""name":"second""#));
    assert!(!round(&twice).contains("first"));
    assert!(round(&value(r#"{"intValue":1,"stringValue":"x"}"#)).contains(r#""value":{"stringValue":"x"}"#));
}

#[test]
fn bytes_are_base64_of_either_alphabet() {
    for given in ["-_8=", "-_8", "+/8", "+/8="] {
        assert!(round(&value(&format!(r#"{{"bytesValue":"{given}"}}"#))).contains(r#""bytesValue":"+/8=""#), "{given}");
    }
    assert!(matches!(read(&value(r#"{"bytesValue":"?"}"#)), Err(JsonError::Base64(_))));
}

#[test]
fn string_table_indices_are_taken_as_absent_with_a_warning() {
    let index = value(r#"{"stringValueStrindex":3}"#);
    assert!(read(&index).unwrap().warning.is_some());
    assert!(round(&index).contains(r#""value":{}"#));
}

#[test]
fn texts_keep_every_character_and_half_pairs_are_replaced() {
    let text = |given: &str| round(&span(&format!(r#""name":"{given}""#)));
    assert!(text(r"\ud83d\ude00").contains("\u{1f600}"));
    assert!(text(r"a\ud83d").contains("a\u{fffd}\""));
    assert!(text(r"\ude00\ud83dx").contains("\u{fffd}\u{fffd}x"));
    assert!(text(r"\ud83d\u0041").contains("\u{fffd}A"));
    assert!(text(r"\u001b[31m\u0000").contains(r"\u001b[31m\u0000"));
    let mut invalid = span(r#""name":"?""#).into_bytes();
    let at = invalid.iter().position(|b| *b == b'?').unwrap();
    invalid[at] = 0xff;
    let bytes = decode(&invalid, &Limits::default()).unwrap().bytes;
    assert_eq!(walk(bytes.into(), &Limits::default()).unwrap().rejected.spans, 1);
}

#[test]
fn what_is_not_json_is_refused_at_its_place() {
    assert_eq!(read("").unwrap_err(), JsonError::Syntax(0));
    assert_eq!(read("{} x").unwrap_err(), JsonError::Syntax(3));
    for bad in [
        "[]",
        "{,}",
        r#"{"a":1,}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":+1}"#,
        r#"{"a":tru}"#,
        r#"{"a":"\x"}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":{"b":1]}"#,
        r#"{"resourceSpans":{}}"#,
        r#"{"resourceSpans":[1]}"#,
        "{\"a\"",
        "nul",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

fn nested(depth: usize, kvlist: bool) -> String {
    let (open, close) = match kvlist {
        true => (r#"{"kvlistValue":{"values":[{"key":"k","value":"#, "}]}}"),
        false => (r#"{"arrayValue":{"values":["#, "]}}"),
    };
    value(&format!("{}{{}}{}", open.repeat(depth), close.repeat(depth)))
}

#[test]
fn nesting_of_64_is_taken_and_of_1_000_and_200_000_refused_without_a_stack_overflow() {
    for kvlist in [false, true] {
        for depth in [64, 128] {
            let json = nested(depth, kvlist);
            assert_eq!(walked(&json).rejected.spans, 0);
            assert_eq!(round(&json), json);
        }
        assert_eq!(walked(&nested(129, kvlist)).rejected.spans, 1);
        for depth in [1_000, 200_000] {
            assert!(matches!(read(&nested(depth, kvlist)), Err(JsonError::TooDeep(_))), "{depth}");
        }
    }
    for depth in [1_000, 200_000] {
        assert!(matches!(read(&format!(r#"{{"x":{}"#, "[".repeat(depth))), Err(JsonError::TooDeep(_))));
        assert!(matches!(read(&"{\"x\":".repeat(depth)), Err(JsonError::TooDeep(_))));
    }
}

#[test]
fn no_prefix_makes_a_panic_and_none_is_a_request() {
    let json = value(r#"{"arrayValue":{"values":[{"doubleValue":-1.5e-3},{"stringValue":"\ud83d\ude00"}]}}"#);
    for len in 0..json.len() {
        assert!(read(&json[..len]).is_err(), "{len}");
    }
}

#[test]
fn malformed_protobuf_leaves_the_output_as_it_was() {
    let mut out = b"before".to_vec();
    assert!(encode(&[0x0a, 5, 0x0a], &mut out).is_err());
    assert!(encode(&[0x08, 1], &mut out).is_err());
    assert_eq!(out, b"before");
}
