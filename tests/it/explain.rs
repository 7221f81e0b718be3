//! What a mesh says of a trace, whoever is asked: that it waits, that it was kept or dropped and by what, or that nobody
//! knows it, and since when.

use std::collections::BTreeMap;
use std::process::Output;

use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::{Value, json};

use crate::harness::backend::Backend;
use crate::harness::node::{Mesh, NodeProcess, ask_with, get, spanmesh};
use crate::harness::traces::{request, span, span_id, text, text_of, trace_id};
use crate::harness::{eventually, within};

const CLUSTERS: [&str; 3] = ["east", "west", "north"];
const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

/// The wait is longer than any test's patience: what is decided was decided because its root had come.
const PROCESSORS: &str = r#"
  cross_cluster: {write_attributes: true}
  tail_sampling:
    decision_wait: 300s
    decision_wait_after_root_received: 500ms
    marks: [policy, owner, reason]
    policies:
      - {name: errors, type: status_code, status_code: {status_codes: [ERROR]}}
      - {name: from-east, type: string_attribute, string_attribute: {key: cross_cluster.source, values: [east]}}
"#;

const OPEN: u64 = 1;
const FAILED: u64 = 2;
const CROSSING: u64 = 3;
const DROPPED: u64 = 4;
const NEVER_SENT: u64 = 5;
/// From here on: traces of one span, which failed.
const SINGLE: u64 = 100;
const SINGLES: u64 = 60;

/// A child of span `parent`, as an application makes it.
fn child(trace: u64, number: u64, parent: u64, kind: i32) -> Span {
    let attributes = vec![text("card.number", "4111-1111")];
    Span { parent_span_id: span_id(trace, parent).to_vec(), kind, attributes, ..span(trace, number) }
}

fn failed(span: Span) -> Span {
    Span { status: Some(Status { code: 2, message: "out of stock".to_owned() }), ..span }
}

fn id(trace: u64) -> String {
    spanmesh::model::TraceId(trace_id(trace)).to_string()
}

async fn send(node: &NodeProcess, spans: Vec<Span>) {
    let service = format!("shop-{}", node.id.cluster);
    assert!(node.sender().deliver(request(&service, spans)).await);
}

async fn told(node: &NodeProcess, trace: u64) -> Value {
    node.api(&format!("traces/{}", id(trace))).await
}

/// Waits until the owner has counted this: a sender's success says that a node of the mesh has its spans, not that the
/// owner has.
async fn arrives(mesh: &Mesh, trace: u64, name: &str, count: u64) {
    eventually(&format!("{count} {name} of trace {trace} to arrive"), || async {
        (told(&mesh.nodes[EAST], trace).await["details"][name] == count).then_some(())
    })
    .await;
}

/// What all nodes say once each of them says this state; they say the same.
async fn told_by_all(mesh: &Mesh, trace: u64, state: &str) -> Value {
    let mut answers = Vec::new();
    for node in &mesh.nodes {
        let what = format!("{} to say that trace {trace} is {state}", node.id);
        let answer = eventually(&what, || async {
            let answer = told(node, trace).await;
            (answer["state"] == state).then_some(answer)
        });
        answers.push(answer.await);
    }
    for field in ["trace_id", "slot", "owner", "ring_version", "asked_of", "answered", "policy", "cause"] {
        assert!(answers.iter().all(|answer| answer[field] == answers[0][field]), "{field}: {answers:?}");
    }
    assert_eq!(answers[0]["asked_of"], answers[0]["owner"]);
    answers.remove(0)
}

/// Spans, duplicates, late ones, missing parents and calls between clusters.
fn counts(answer: &Value) -> [u64; 5] {
    let names = ["spans", "duplicates", "late", "missing_parents", "crossings"];
    names.map(|name| answer["details"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {answer}")))
}

/// `spanmesh trace`, asked of this node.
async fn command(node: &NodeProcess, trace: u64, options: &[&str]) -> Output {
    let mut command = spanmesh();
    command.args(["trace", &id(trace), "--admin", &format!("http://{}", node.address("admin"))]).args(options);
    within("the command", tokio::task::spawn_blocking(move || command.output().unwrap())).await.unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_tells_what_became_of_any_trace() {
    let backend = Backend::start().await;
    let mut mesh = Mesh::with_processors(CLUSTERS, &backend, PROCESSORS, "cross_cluster, tail_sampling").await;

    an_open_trace_is_told_with_all_that_is_odd_about_it(&mesh).await;
    a_kept_trace_is_told_with_its_policy_and_cause(&mesh, &backend).await;
    what_crossed_is_kept_though_its_applications_said_nothing(&mesh, &backend).await;
    a_dropped_trace_and_one_that_never_came_are_told_apart(&mesh, &backend).await;
    values_are_shown_on_the_nodes_own_machine_only(&mesh.nodes[NORTH]).await;
    clocks_of_peers_have_been_compared(&mesh).await;
    a_trace_whose_slot_has_moved_is_found_at_its_former_owner(&mut mesh, &backend).await;
    an_owner_that_is_frozen_is_named_and_not_waited_for(&mesh).await;
    mesh.stop().await;
}

async fn an_open_trace_is_told_with_all_that_is_odd_about_it(mesh: &Mesh) {
    // Neither the first one's parent ever comes, nor the last one's.
    send(&mesh.nodes[EAST], vec![child(OPEN, 1, 0, 3)]).await;
    let in_west = vec![child(OPEN, 2, 1, 2), child(OPEN, 3, 2, 1)];
    send(&mesh.nodes[WEST], in_west.clone()).await;
    send(&mesh.nodes[WEST], in_west).await;
    send(&mesh.nodes[NORTH], vec![child(OPEN, 4, 9, 2)]).await;
    arrives(mesh, OPEN, "spans", 4).await;
    arrives(mesh, OPEN, "duplicates", 2).await;
    let answer = told_by_all(mesh, OPEN, "open").await;
    assert_eq!(counts(&answer), [4, 2, 0, 2, 1], "{answer}");
    assert_eq!(answer["details"]["spans_by_cluster"], json!({"east": 1, "west": 2, "north": 1}));
    assert_eq!((&answer["policy"], &answer["details"]["decided_at"]), (&Value::Null, &Value::Null));
    assert!(answer["details"]["decision_at"].as_f64() > answer["answered_at"].as_f64());

    for node in &mesh.nodes {
        let output = command(node, OPEN, &["--spans"]).await;
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        for part in [
            "open, to be decided in ",
            "1 call between clusters",
            "2 duplicates dropped",
            "2 spans without their parent",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(text.lines().any(|line| line.starts_with('!') && line.contains("operation 2")), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.starts_with('?') && line.contains("operation")).count(),
            2,
            "{text}"
        );
    }
}

async fn a_kept_trace_is_told_with_its_policy_and_cause(mesh: &Mesh, backend: &Backend) {
    send(&mesh.nodes[WEST], vec![failed(child(FAILED, 1, 0, 2))]).await;
    arrives(mesh, FAILED, "spans", 1).await;
    send(&mesh.nodes[EAST], vec![span(FAILED, 0)]).await;
    let answer = told_by_all(mesh, FAILED, "kept").await;
    assert_eq!((&answer["policy"], &answer["cause"]), (&json!("errors"), &json!("root_received")));
    assert_eq!(counts(&answer), [2, 0, 0, 0, 1]);
    backend.has_distinct(2).await;

    // Late, and over another node.
    send(&mesh.nodes[NORTH], vec![child(FAILED, 2, 1, 1)]).await;
    backend.has_distinct(3).await;
    let answer = told_by_all(mesh, FAILED, "kept").await;
    assert_eq!(answer["details"]["late"], 1, "{answer}");

    let text = printed(&command(&mesh.nodes[NORTH], FAILED, &["--spans"]).await);
    assert!(text.contains("kept by policy errors") && text.contains("its root had come"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("!E") && line.contains("west")), "{text}");

    let spans = &backend.arrived().decoded()[&trace_id(FAILED)];
    assert_eq!(spans.len(), 3);
    for span in spans {
        assert_eq!(text_of(span, "tailsampling.policy"), Some("errors"));
        assert_eq!(text_of(span, "spanmesh.owner"), answer["owner"].as_str());
        assert_eq!(text_of(span, "spanmesh.decision_cause"), Some("root_received"));
        let is_late = span.attributes.iter().any(|attribute| attribute.key == "spanmesh.late");
        assert_eq!(is_late, span.span_id == span_id(FAILED, 2), "{span:?}");
    }
}

async fn what_crossed_is_kept_though_its_applications_said_nothing(mesh: &Mesh, backend: &Backend) {
    send(&mesh.nodes[WEST], vec![child(CROSSING, 2, 1, 2), child(CROSSING, 3, 2, 1)]).await;
    arrives(mesh, CROSSING, "spans", 2).await;
    send(&mesh.nodes[EAST], vec![span(CROSSING, 0), child(CROSSING, 1, 0, 3)]).await;
    let answer = told_by_all(mesh, CROSSING, "kept").await;
    assert_eq!(answer["policy"], "from-east");
    backend.has_distinct(3 + 4).await;
    let spans = &backend.arrived().decoded()[&trace_id(CROSSING)];
    for span in spans {
        let is_boundary = [1, 2].iter().any(|number| span.span_id == span_id(CROSSING, *number));
        assert_eq!(text_of(span, "cross_cluster.source"), is_boundary.then_some("east"), "{span:?}");
        assert_eq!(text_of(span, "cross_cluster.target"), is_boundary.then_some("west"), "{span:?}");
    }
}

async fn a_dropped_trace_and_one_that_never_came_are_told_apart(mesh: &Mesh, backend: &Backend) {
    send(&mesh.nodes[NORTH], vec![span(DROPPED, 0), child(DROPPED, 1, 0, 1)]).await;
    let answer = told_by_all(mesh, DROPPED, "dropped").await;
    assert_eq!((&answer["policy"], &answer["cause"]), (&Value::Null, &json!("root_received")));
    let text = printed(&command(&mesh.nodes[EAST], DROPPED, &[]).await);
    assert!(text.contains("dropped, as no policy kept it"), "{text}");
    assert!(!backend.arrived().traces.contains_key(&trace_id(DROPPED)));

    let answer = told_by_all(mesh, NEVER_SENT, "unknown").await;
    assert_eq!((&answer["answered"], &answer["details"]), (&json!(true), &Value::Null));
    assert!(answer["unknown_since"].as_f64() < answer["answered_at"].as_f64(), "{answer}");
    let output = command(&mesh.nodes[WEST], NEVER_SENT, &["--spans"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    assert!(text.contains("which remembers what it decided since"), "{text}");
    assert!(text.contains("asked 2 other members: nobody knows it"), "{text}");
}

async fn values_are_shown_on_the_nodes_own_machine_only(node: &NodeProcess) {
    let base = format!("http://{}/api/v1/traces/{}", node.address("admin"), id(FAILED));
    let ask = async |query: &str, headers: &[(&str, &str)]| -> (String, Vec<Value>) {
        let (status, body) = ask_with(&format!("{base}?spans=true{query}"), headers).await.expect("an answer");
        assert!(status.is_success());
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let spans = answer["details"]["timeline"].as_array().unwrap_or_else(|| panic!("no spans in {answer}"));
        (String::from_utf8(body.to_vec()).unwrap(), spans.clone())
    };
    let (text, spans) = ask("&values=true", &[]).await;
    let services: BTreeMap<&str, &str> =
        spans.iter().map(|span| (span["cluster"].as_str().unwrap(), span["service"].as_str().unwrap())).collect();
    // Spans that came late went on at once and are not held.
    assert_eq!(services, [("east", "shop-east"), ("west", "shop-west")].into());
    assert!(text.contains("card.number") && text.contains("4111-1111"), "{text}");
    for (query, headers) in [("", &[][..]), ("&values=true", &[("X-Forwarded-For", "10.0.0.1")])] {
        let (text, spans) = ask(query, headers).await;
        assert_eq!(spans.len(), 2, "{text}");
        assert!(!text.contains("shop-") && !text.contains("card.number") && !text.contains("4111"), "{text}");
    }
}

async fn clocks_of_peers_have_been_compared(mesh: &Mesh) {
    for node in &mesh.nodes {
        let links = eventually("all peers' clocks to be known", || async {
            let links = node.api("links").await["links"].as_array().expect("links").clone();
            let known = links.iter().filter(|link| link["clock_offset_seconds"].is_f64()).count();
            (known == CLUSTERS.len() - 1).then_some(links)
        })
        .await;
        let page = get(&format!("http://{}/metrics", node.address("metrics"))).await.expect("the metrics page");
        let page = String::from_utf8(page.to_vec()).unwrap();
        for link in &links {
            // All clocks are this machine's.
            let (offset, error) = (&link["clock_offset_seconds"], &link["clock_offset_error_seconds"]);
            assert!(offset.as_f64().unwrap().abs() <= error.as_f64().unwrap() + 1e-3, "{link}");
            for name in ["spanmesh_link_clock_offset_seconds", "spanmesh_link_clock_error_seconds"] {
                assert!(page.contains(&format!("{name}{{peer={}}} ", link["peer"])), "{name} of {}", link["peer"]);
            }
        }
    }
}

async fn a_trace_whose_slot_has_moved_is_found_at_its_former_owner(mesh: &mut Mesh, backend: &Backend) {
    let all: Vec<u64> = (SINGLE..SINGLE + SINGLES).collect();
    let before = backend.arrived().distinct();
    send(&mesh.nodes[EAST], all.iter().map(|trace| failed(span(*trace, 0))).collect()).await;
    backend.has_distinct(before + all.len()).await;
    mesh.join("south").await;
    let south = mesh.nodes[3].id.to_string();
    let mut moved = None;
    for trace in all {
        if mesh.nodes[3].owner_of(&trace_id(trace)).await == south {
            moved = Some(trace);
            break;
        }
    }
    let moved = moved.expect("a fourth of the slots has moved");
    let former = backend.arrived().exporters_of(&trace_id(moved)).first().expect("it was exported").to_string();
    for node in &mesh.nodes {
        eventually("the ring to be the same for all", || async {
            (node.owner_of(&trace_id(moved)).await == south).then_some(())
        })
        .await;
        let answer = told(node, moved).await;
        assert_eq!((&answer["owner"], &answer["asked_of"]), (&json!(south), &json!(former)), "{answer}");
        assert_eq!((&answer["state"], &answer["policy"]), (&json!("kept"), &json!("errors")), "{answer}");
        let text = printed(&command(node, moved, &["--spans"]).await);
        assert!(text.contains(&format!("all this is what {former} says")) && text.contains("operation 0"), "{text}");
        assert!(text.contains(&format!("asked the other members: {former} holds 1 span")), "{text}");
    }
}

async fn an_owner_that_is_frozen_is_named_and_not_waited_for(mesh: &Mesh) {
    let (east, west) = (&mesh.nodes[EAST], &mesh.nodes[WEST]);
    let mut owned = None;
    for trace in 1_000.. {
        if east.owner_of(&trace_id(trace)).await == west.id.to_string() {
            owned = Some(trace);
            break;
        }
    }
    let owned = owned.expect("west owns a fourth of all traces");
    west.freeze();
    let (answer, output) = tokio::join!(told(east, owned), command(east, owned, &["--spans"]));
    west.thaw();
    assert_eq!((&answer["owner"], &answer["answered"]), (&json!(west.id.to_string()), &json!(false)), "{answer}");
    assert_eq!((&answer["state"], &answer["why_not"]), (&json!("unknown"), &json!("it did not answer in time")));
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    assert!(text.contains("no answer from it: it did not answer in time"), "{text}");
    assert!(text.contains("the owner cannot be asked; asked 2 other members: nobody knows it"), "{text}");
    mesh.sees_active(4).await;
    assert_eq!(told(east, owned).await["answered"], true);
}
