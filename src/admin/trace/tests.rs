use super::*;
use crate::link::explain::{Silence, example};
use crate::model::UnixNanos;

const NOW: UnixNanos = UnixNanos(2_000_000_000_000_000_000);

fn answer(spans: Option<u64>) -> PeerAnswer {
    let answer = PeerAnswer::new(NOW, 4_000.0, Some(3_600.0), spans.map(example::report));
    PeerAnswer { ring_version: "00ff".into(), owner: Some("us/a".into()), ..answer }
}

fn explanation(answer: Result<PeerAnswer, Silence>) -> Explanation {
    Explanation {
        slot: 7,
        ring_version: "00ff".into(),
        owner: Some("us/a".parse().unwrap()),
        answer,
        elsewhere: Vec::new(),
        others_asked: 0,
        others_silent: 0,
    }
}

fn told(explanation: Explanation) -> TraceAnswer {
    TraceAnswer::new(TraceId([7; 16]), explanation, "eu/b")
}

#[test]
fn what_the_owner_knows_is_the_answer() {
    let told = told(explanation(Ok(answer(Some(4)))));
    assert_eq!((told.answered, told.asked_of.as_deref(), told.state), (true, Some("us/a"), State::Kept));
    assert_eq!((told.policy.as_deref(), told.cause.as_deref()), (Some("errors"), Some("waited")));
    assert_eq!((told.details.unwrap().first_seen_at, told.unknown_since), (1_999_999_970.0, None));
    assert_eq!((told.notes, told.owner_ring_version), (Vec::<String>::new(), None));
}

#[test]
fn unknown_says_since_when_and_whom_else_was_asked() {
    let mut unknown = explanation(Ok(answer(None)));
    (unknown.others_asked, unknown.others_silent) = (3, 1);
    let told = told(unknown);
    assert_eq!((told.answered, told.state, told.unknown_since), (true, State::Unknown, Some(1_999_996_400.0)));
    assert_eq!(
        told.notes,
        ["the owner does not know it; asked 3 other members (1 of them did not answer): nobody knows it"]
    );
}

#[test]
fn a_trace_that_another_member_holds_is_found_there() {
    let mut moved = explanation(Ok(answer(None)));
    moved.others_asked = 2;
    let verdict_only = {
        let mut answer = answer(Some(1));
        answer.trace.as_mut().unwrap().details = None;
        answer
    };
    moved.elsewhere = vec![("us/c".parse().unwrap(), answer(Some(3))), ("eu/d".parse().unwrap(), verdict_only)];
    let told = told(moved);
    assert_eq!((told.asked_of.as_deref(), told.state, told.answered), (Some("us/c"), State::Kept, true));
    assert_eq!(
        told.notes,
        [
            "the owner does not know it; asked the other members: us/c holds 3 spans, eu/d remembers the verdict (the ring \
          changed, or the owner was restarted)"
        ]
    );
}

#[test]
fn an_owner_that_cannot_be_asked_is_named_with_the_reason() {
    let told = told(explanation(Err(Silence::NotLinked)));
    assert_eq!((told.answered, told.why_not.as_deref()), (false, Some("no link to it is up")));
    assert_eq!((told.state, told.asked_of, told.unknown_since), (State::Unknown, None, None));
}

#[test]
fn a_young_node_and_one_that_remembers_nothing_say_so() {
    let young = PeerAnswer { started_at: 1_999_999_960.0, remembers_since: None, ..answer(None) };
    let notes = told(explanation(Ok(young))).notes;
    assert!(notes[0].starts_with("us/a does nothing that waits for whole traces"), "{notes:?}");
    assert_eq!(notes[1], "us/a has been up for 40 s only");
}

#[test]
fn rings_that_differ_are_worth_a_sentence() {
    let other = PeerAnswer { ring_version: "aa".into(), owner: Some("eu/b".into()), ..answer(Some(1)) };
    let told = told(explanation(Ok(other)));
    assert_eq!(told.owner_ring_version.as_deref(), Some("aa"));
    assert!(
        told.notes[0].starts_with("us/a has another ring in force, aa; by it eu/b owns the trace"),
        "{:?}",
        told.notes
    );
}

#[test]
fn a_node_without_a_mesh_answers_for_itself() {
    let local = PeerAnswer { ring_version: String::new(), owner: None, ..answer(Some(1)) };
    let told = told(Explanation { owner: None, ring_version: String::new(), slot: 0, ..explanation(Ok(local)) });
    assert_eq!((told.asked_of.as_deref(), told.state), (Some("eu/b"), State::Kept));
    assert_eq!(told.notes, ["this node is in no mesh and answers for itself"]);
}

#[test]
fn only_who_is_on_this_machine_for_himself_is_local() {
    let request = |version, headers: &[(&str, &str)]| {
        let request = Request::get("/api/v1/traces/x").version(version);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    };
    let local =
        |peer: &str, headers: &[(&str, &str)]| is_local(peer.parse().unwrap(), &request(Version::HTTP_11, headers));
    for host in ["localhost", "LOCALHOST:4320", "127.0.0.1:4320", "127.9.9.9", "[::1]:4320"] {
        assert!(local("127.0.0.1:5000", &[("host", host)]), "{host}");
    }
    assert!(local("[::1]:5000", &[("host", "[::1]")]) && local("[::ffff:127.0.0.1]:5000", &[("host", "localhost")]));
    for host in ["", "example.com", "localhost.example.com", "10.0.0.1:4320", "127.0.0.1.example.com", "[::2]"] {
        assert!(!local("127.0.0.1:5000", &[("host", host)]), "{host}");
    }
    assert!(!local("10.0.0.1:5000", &[("host", "localhost")]) && !local("127.0.0.1:5000", &[]));
    for name in ["forwarded", "x-forwarded-for", "X-Forwarded-Port", "x-real-ip", "via", "x-original-uri", "cf-ray"] {
        assert!(!local("127.0.0.1:5000", &[("host", "localhost"), (name, "127.0.0.1")]), "{name}");
    }
    assert!(!local("127.0.0.1:5000", &[("host", "localhost"), ("host", "example.com")]));
    // What nginx sends for anybody if it is told nothing but where to.
    let proxied = request(Version::HTTP_10, &[("host", "127.0.0.1:4320"), ("connection", "close")]);
    assert!(!is_local("127.0.0.1:5000".parse().unwrap(), &proxied));
}

#[test]
fn what_is_asked_for_stands_in_the_query() {
    let wanted = |query: &str| wanted(&format!("/x{query}").parse().unwrap());
    assert_eq!(wanted(""), Ok(Wanted::default()));
    assert_eq!(wanted("?spans=true&values=1&x=y"), Ok(Wanted { spans: true, values: true }));
    assert_eq!(wanted("?spans&values=false"), Ok(Wanted { spans: true, values: false }));
    assert!(wanted("?spans=perhaps").is_err());
}

#[test]
fn what_only_a_dry_run_kept_is_told_as_that() {
    let mut kept = answer(Some(1));
    kept.trace.as_mut().unwrap().would_drop = true;
    let told = told(explanation(Ok(kept)));
    assert_eq!(
        (told.state, told.notes),
        (State::Kept, vec!["kept for dry_run alone: the rules would have dropped it".to_owned()])
    );
}
