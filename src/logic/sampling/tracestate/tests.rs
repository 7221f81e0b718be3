use super::*;

const TRACE: &str = "fefefefefefefefefe80000000000000";

fn id(text: &str) -> TraceId {
    text.parse().unwrap()
}

fn with(text: &str, th: &str) -> Option<String> {
    with_threshold(text, Threshold::parse(th).unwrap())
}

#[test]
fn randomness_is_the_end_of_the_trace_id() {
    let none = std::iter::empty;
    assert_eq!(randomness(&id(TRACE), none()), 0x80_0000_0000_0000);
    assert_eq!(randomness(&id("00000000000000000000000000000001"), none()), 1);
    assert_eq!(randomness(&id("ffffffffffffffffff00000000000000"), none()), 0);
    assert_eq!(randomness(&id("ffffffffffffffffffffffffffffffff"), none()), (1 << 56) - 1);
}

#[test]
fn explicit_randomness_wins_and_spans_that_disagree_give_the_same_in_any_order() {
    let (low, high) = ("ot=th:8;rv:90000000000000", "zz=1 , ot=rv:FD70A3D70A3D71");
    assert_eq!(randomness(&id(TRACE), [high].into_iter()), 0xfd_70a3_d70a_3d71);
    assert_eq!(randomness(&id(TRACE), ["", "zz=1", high, low].into_iter()), 0x90_0000_0000_0000);
    assert_eq!(randomness(&id(TRACE), [low, high, "zz=1", ""].into_iter()), 0x90_0000_0000_0000);
    // Also where it is more than the trace id has.
    for malformed in
        ["ot=rv:1", "ot=rv:000000000000001", "ot=rv:0000000000000g", "OT=rv:00000000000001", "ot=rv:-0000000000001"]
    {
        assert_eq!(randomness(&id(TRACE), [malformed].into_iter()), 0x80_0000_0000_0000, "{malformed}");
    }
}

#[test]
fn the_threshold_of_the_stages_before_is_read() {
    let table = [
        ("ot=th:1", Some("1")),
        (" ot=th:1 ", Some("1")),
        (" , ot=th:1, , other=value\t", Some("1")),
        ("ot=th:100;rv:abcdabcdabcdff", Some("1")),
        ("zz=vendorcontent,ot=pn:abc;th:c", Some("c")),
        ("t@ot=th:1", None),
        ("ot=rv:11111111111111", None),
        ("", None),
        (",,,", None),
    ];
    for (text, expected) in table {
        assert_eq!(sampled_threshold(text), expected.and_then(Threshold::parse), "{text:?}");
    }
}

#[test]
fn the_threshold_goes_into_the_member_ot_which_moves_to_the_front() {
    let table = [
        ("", "ot=th:c"),
        (" , ", "ot=th:c"),
        ("zz=1", "ot=th:c,zz=1"),
        ("zz=1,ot=th:8,t@yy=a b", "ot=th:c,zz=1,t@yy=a b"),
        (" zz=1\t,, ot=th:8 ,xx=2", "ot=th:c,zz=1,xx=2"),
        // Sub-keys keep their order, unknown ones too, and `rv` its case.
        ("ot=rv:FD70A3D70A3D71", "ot=rv:FD70A3D70A3D71;th:c"),
        ("ot=a:b;th:80000000000000;rv:f0000000000000;x1:", "ot=a:b;th:c;rv:f0000000000000;x1:"),
        ("ot=thx:1;th:0", "ot=thx:1;th:c"),
    ];
    for (text, expected) in table {
        assert_eq!(with(text, "c").as_deref(), Some(expected), "{text:?}");
        assert_eq!(sampled_threshold(expected), Threshold::parse("c"));
    }
}

#[test]
fn a_threshold_is_raised_and_never_lowered() {
    // Collector, `UpdateTValueWithSampling`.
    let table = [
        ("ot=th:8", "e", Some("ot=th:e")),
        ("ot=th:8", "2", None),
        ("ot=th:f", "8", None),
        ("ot=th:0", "f", Some("ot=th:f")),
        ("", "f", Some("ot=th:f")),
        ("", "0", Some("ot=th:0")),
        ("ot=th:8", "0", None),
        ("ot=th:0", "ffffffffffffff", Some("ot=th:ffffffffffffff")),
        ("ot=th:555", "aab", Some("ot=th:aab")),
        // The same once more.
        ("ot=th:8", "8", None),
        ("ot=th:800", "8", None),
    ];
    for (text, th, expected) in table {
        assert_eq!(with(text, th).as_deref(), expected, "{text} and {th}");
    }
}

#[test]
fn what_is_malformed_says_nothing_and_stays_as_it_is() {
    let repeat = |text: &str, count: usize| text.repeat(count);
    let mut table: Vec<String> = [
        // Members.
        "-1=2",
        "=",
        "=value",
        "KEY=value",
        "key",
        "key=",
        "1abc=value",
        "@system=value",
        "tenant@=value",
        "tenant@1system=v",
        "key=val\0ue",
        "key=val\x1fue",
        "key\0=value",
        "key=value\x7f",
        "a b=value",
        "key=a=b",
        "key=é",
        "ot=th:1,ot=th:1",
        // The member `ot`.
        "ot=",
        "ot=th:1;",
        "ot=;th:1",
        "ot=th:1=p:2",
        "ot=:1;p:2",
        "ot=:",
        "ot=th",
        "ot=th:",
        "ot=th:$",
        "ot=th:14.5",
        "ot=th:-1",
        "ot=th:+1",
        "ot=th:ffffffffffffffff",
        "ot=th:100000000000000",
        "ot=1:1;u:V",
        "ot=X:1;u:V",
        "ot=rv:100000000000000",
        "ot=rv:3;p:2",
        "ot=th:1;th:1",
        "ot=rv:11111111111111;rv:11111111111111",
        "ot=a: b",
    ]
    .map(str::to_owned)
    .into();
    table.extend([
        format!("{}=v", repeat("x", 257)),
        format!("{}@y=v", repeat("x", 242)),
        format!("y@{}=v", repeat("x", 15)),
        format!("x={}", repeat("y", 257)),
        format!("ot=x:{}", repeat("_", 255)),
        vec!["x=y"; 33].join(","),
        // Hostile senders.
        format!("ot=th:8,{}", repeat(" ", 10_000)),
        format!("ot=th:8,{}", repeat(",", 10_000)),
        format!("ot={}", repeat("a:b;", 2500)),
        repeat("=", 10_000),
    ]);
    for text in &table {
        assert_eq!(TraceState::parse(text).err(), Some(Malformed), "{text:?}");
        assert_eq!((sampled_threshold(text), with(text, "c")), (None, None), "{text:?}");
    }
}

#[test]
fn legal_texts_at_the_limits_are_read() {
    let table = [
        format!("{}=v", "x".repeat(256)),
        format!("{}@{}=v", "0".repeat(241), "y".repeat(14)),
        format!("x={}", "y".repeat(256)),
        format!("ot=x:{}", "_".repeat(254)),
        vec!["x=y"; 32].join(","),
        "key_with-all*of/it=!~ \"".to_owned(),
        "0tenant@system=value".to_owned(),
        "key= value".to_owned(),
        "ot=x:0X1FFF;y:.-_-.;z:".to_owned(),
        format!("x=y{}", " ".repeat(1021)),
    ];
    for text in &table {
        assert!(TraceState::parse(text).is_ok(), "{text:?}");
    }
}

#[test]
fn nothing_is_written_that_would_break_a_limit_or_push_another_member_out() {
    let full = vec!["x=y"; 32].join(",");
    assert_eq!(with(&full, "c"), None);
    let with_ot = format!("{},ot=th:8", vec!["x=y"; 31].join(","));
    assert_eq!(with(&with_ot, "c"), Some(format!("ot=th:c,{}", vec!["x=y"; 31].join(","))));

    // `;th:c` are 5 bytes.
    let ot = |len: usize| format!("ot=x:{}", "_".repeat(len - 2));
    assert_eq!(with(&ot(252), "c"), None);
    assert_eq!(with(&ot(251), "c"), Some(format!("{};th:c", ot(251))));

    // `ot=th:c,` are 8 bytes.
    let long = |len: usize| {
        let member = format!("x={}", "y".repeat(256));
        let three = [&*member; 3].join(",");
        format!("{three},z={}", "y".repeat(len - three.len() - 3))
    };
    assert_eq!(with(&long(1017), "c"), None);
    assert_eq!(with(&long(1016), "c"), Some(format!("ot=th:c,{}", long(1016))));
}

#[test]
fn randomness_is_added_only_where_there_is_none() {
    let write = |text: &str, th: &str| TraceState::parse(text).unwrap().with(Threshold::parse(th).unwrap(), Some(0xab));
    assert_eq!(write("", "0").unwrap(), "ot=rv:000000000000ab;th:0");
    assert_eq!(write("zz=1,ot=th:8;a:b", "8").unwrap(), "ot=th:8;a:b;rv:000000000000ab,zz=1");
    assert_eq!(write("ot=rv:11111111111111", "8").unwrap(), "ot=rv:11111111111111;th:8");
    assert_eq!(write("ot=rv:11111111111111;th:8", "8"), None);
    // An untrue threshold is replaced by a lower one.
    assert_eq!(write("ot=rv:11111111111111;th:8", "0").unwrap(), "ot=rv:11111111111111;th:0");
}

proptest::proptest! {
    #[test]
    fn what_is_written_can_be_read_and_keeps_everything_else(
        text in "([a-z]{1,3}=[a-z:;]{1,4}|ot=(th:[0-9a-f]{1,4}|rv:[0-9a-f]{14}|[a-z]{1,2}:[a-z]{0,2})(;[a-z]{1,3}:[0-9a-f]{0,3}){0,3}| ){1,1}(,[a-z]{1,3}=[a-z]{1,4}){0,40}",
        th in 0..1_u64 << 56,
    ) {
        if let Some(written) = with_threshold(&text, Threshold(th)) {
            let (before, after) = (TraceState::parse(&text).unwrap(), TraceState::parse(&written).unwrap());
            assert_eq!(after.threshold(), Some(Threshold(th)));
            assert_eq!((after.randomness(), &after.others), (before.randomness(), &before.others));
            let rest = |state: &TraceState<'_>| state.ot.iter().filter(|i| !i.starts_with("th:")).map(|i| (*i).to_owned()).collect::<Vec<_>>();
            assert_eq!(rest(&after), rest(&before));
            assert!(written.len() <= text.len() + 21);
        }
    }

    #[test]
    fn no_text_makes_a_panic(text in "\\PC{0,40}", ot in "ot=[a-z0-9:;=, ]{0,40}") {
        for text in [text, ot] {
            let _ = with_threshold(&text, Threshold(1));
            let _ = randomness(&TraceId::default(), [&*text].into_iter());
        }
    }
}
