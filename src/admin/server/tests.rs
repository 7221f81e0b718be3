use http::header::ALLOW;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::*;
use crate::admin::client::{self, AskError};
use crate::admin::example::{self, MARKUP};
use crate::admin::status::NodeState;
use crate::admin::{Health, serve_health};
use crate::runtime::clock::Clock;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn report() -> Report {
    let explain: Explain = Arc::new(|trace, wanted| Box::pin(async move { example::explain(trace, wanted) }));
    Report { status: Arc::new(example::status), owner: Arc::new(example::owner), explain }
}

async fn ask(server: &Server, method: Method, path: &str) -> (StatusCode, http::HeaderMap, String) {
    ask_as(server, method, path, &[("host", "x")]).await
}

async fn ask_for(server: &Server, method: Method, path: &str, accept: &str) -> (StatusCode, http::HeaderMap, String) {
    ask_as(server, method, path, &[("host", "x"), ("accept", accept)]).await
}

async fn ask_as(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, http::HeaderMap, String) {
    let socket = TcpStream::connect(server.addr()).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (head.status, head.headers, body)
}

async fn get(server: &Server, path: &str) -> (StatusCode, http::HeaderMap, String) {
    ask(server, Method::GET, path).await
}

async fn json_of(server: &Server, path: &str) -> Value {
    let (status, headers, body) = get(server, path).await;
    assert_eq!((status, headers[CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, "application/json"), "{body}");
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

#[tokio::test]
async fn every_part_of_the_status_has_its_path() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let status = json_of(&server, "/api/v1/status").await;
    assert_eq!(status["node"]["state"], "ready");
    assert_eq!(status["receivers"][0]["transports"][0]["accepted_spans_total"], 41);
    assert_eq!(status["dedup"][0]["duplicates"], 10);
    assert_eq!(json_of(&server, "/api/v1/members").await["members"][0]["id"], "us-east-1/node-1");
    assert_eq!(json_of(&server, "/api/v1/ring").await["ring"]["members"][0]["slots"], 65_536);
    assert!(json_of(&server, "/api/v1/links").await["links"].is_array());
    assert_eq!(json_of(&server, "/api/v1/ledger").await["ledger"]["dropped"]["backend_refused"], 1);
    let owner = json_of(&server, "/api/v1/ring/owner/4BF92F3577B34DA6A3CE929D0E0E4736").await;
    assert_eq!((&owner["slot"], &owner["trace_id"]), (&77.into(), &"4bf92f3577b34da6a3ce929d0e0e4736".into()));
}

#[tokio::test]
async fn odd_paths_and_methods_are_answered_in_json_and_give_nothing_away() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    for path in ["/api/v1/nothing", "/api/v2/status", "/../../etc/passwd", "//", "/%00", "/style.css/x", "/metrics"] {
        let (status, _, body) = get(&server, path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["schema"], &body["error"]), (&1.into(), &"no such path".into()));
    }
    let (status, _, body) = get(&server, "/api/v1/ring/owner/xyz").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(!body.contains("xyz") && body.contains("32 hex digits"), "{body}");
    let (status, headers, body) = ask(&server, Method::DELETE, "/api/v1/status").await;
    assert_eq!((status, headers.contains_key(ALLOW)), (StatusCode::METHOD_NOT_ALLOWED, true));
    assert!(body.contains("only GET"));
}

#[tokio::test]
async fn the_page_is_whole_without_scripts_and_shows_markup_of_strangers_as_text() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let (status, headers, page) = get(&server, "/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self'"));
    assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
    assert!(!page.contains("<script") && !page.contains("style=") && !page.contains(MARKUP));
    assert!(page.contains("&lt;script&gt;alert(&quot;1\\\u{fffd}2&quot;)&lt;/script&gt;"));
    assert!(page.contains("1 node active, 0 links down; the ledger balances.") && page.contains("insecure_dev is on"));
    assert!(page.contains("<td>-750.0 ms</td>"), "a peer's clock");
    for text in ["Whole traces of traces/owned", "<td>status_code</td>", "<td>0.750 s after it was due</td>"] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    // Half of the calls took up to two thirds of the first bucket's 100 ms; the slowest one more than a second.
    assert!(page.contains("<td>66.7 ms</td><td>1000.0 ms</td>"), "{page}");
    let tables = page.matches("<table>").count();
    assert!(tables >= 6 && page.matches("<caption>").count() == tables, "{tables}");
    let (status, headers, style) = get(&server, "/style.css").await;
    assert_eq!((status, headers[CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, "text/css; charset=utf-8"));
    assert!(style.contains("prefers-color-scheme: dark"));
}

#[tokio::test]
async fn metrics_are_served_as_openmetrics() {
    let server = serve_metrics(loopback(), report()).await.unwrap();
    let (status, headers, page) = get(&server, "/metrics").await;
    assert_eq!((status, headers[CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, metrics::CONTENT_TYPE));
    assert!(page.contains("otelcol_receiver_accepted_spans_total"));
    assert!(page.contains("_bucket{") && !page.contains("trace_id="), "nobody said that exemplars can be read");
    assert_eq!(get(&server, "/").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_scraper_that_reads_openmetrics_gets_exemplars() {
    let server = serve_metrics(loopback(), report()).await.unwrap();
    // As Prometheus asks.
    let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                  text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let (.., page) = ask_for(&server, Method::GET, "/metrics", accept).await;
    assert!(page.contains(r#"# {trace_id="abab"#), "{page}");
}

#[tokio::test]
async fn readiness_follows_the_node_and_liveness_does_not() {
    let health = Health::new(Clock::start());
    let server = serve_health(loopback(), health.clone()).await.unwrap();
    for (state, ready, says) in [
        (NodeState::Starting, 503, "Server not available"),
        (NodeState::Ready, 200, "Server available"),
        (NodeState::Draining, 503, "Server not available"),
    ] {
        health.set(state);
        for path in ["/", "/ready"] {
            let (status, _, body) = get(&server, path).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status.as_u16(), &body["status"]), (ready, &says.into()), "{state:?}");
            assert!(body["upSince"].as_str().unwrap().ends_with('Z') && body["uptime"].is_string());
        }
        assert_eq!(get(&server, "/live").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn commands_hear_the_answer_or_what_is_wrong() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let base = format!("http://{}", server.addr());
    assert_eq!(client::ask(&format!("{base}/"), "/api/v1/ring").await.unwrap()["ring"]["version"], "00ff");
    let refused = client::ask(&base, "/api/v1/ring/owner/xyz").await.unwrap_err();
    assert!(matches!(&refused, AskError::Refused { status: 400, message } if message.contains("32 hex")), "{refused}");
    for wrong in ["127.0.0.1:4320", "https://127.0.0.1:4320", "http://", "", "http:///x"] {
        let error = client::ask(wrong, "/api/v1/ring").await.unwrap_err();
        assert!(matches!(error, AskError::Url { .. }), "{wrong:?}: {error}");
    }
    server.stop(std::time::Duration::ZERO).await;
    let nobody = client::ask(&base, "/api/v1/ring").await.unwrap_err().to_string();
    assert!(nobody.contains("is one running there?") && nobody.contains("--admin http://127.0.0.1:"), "{nobody}");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_trace_is_explained_and_what_is_no_id_is_refused() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let answer = json_of(&server, &format!("/api/v1/traces/{TRACE}")).await;
    assert_eq!(
        (&answer["trace_id"], &answer["state"], &answer["policy"]),
        (&TRACE.into(), &"kept".into(), &"errors".into())
    );
    assert_eq!((&answer["details"]["spans"], &answer["details"]["timeline"]), (&3.into(), &Value::Null));
    let answer = json_of(&server, &format!("/api/v1/traces/{TRACE}?spans=true")).await;
    assert_eq!(answer["details"]["timeline"].as_array().unwrap().len(), 3);
    for (path, says) in
        [("/api/v1/traces/xyz", "32 hex"), (&format!("/api/v1/traces/{TRACE}?spans=maybe"), "true or false")]
    {
        let (status, _, body) = get(&server, path).await;
        assert!(status == StatusCode::BAD_REQUEST && body.contains(says), "{path}: {body}");
    }
}

#[tokio::test]
async fn values_are_for_callers_on_this_machine_and_others_are_told() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let api = format!("/api/v1/traces/{TRACE}?spans=true&values=true");
    let page = format!("/trace?id={TRACE}&values=true");
    let here = server.addr().to_string();
    for (headers, sees) in [
        (&[("host", here.as_str())][..], true),
        (&[("host", "localhost:4320")], true),
        (&[("host", "evil.example")], false),
        (&[("host", "localhost"), ("x-forwarded-for", "10.0.0.9")], false),
        (&[("host", "localhost"), ("forwarded", "for=10.0.0.9")], false),
    ] {
        let (_, _, body) = ask_as(&server, Method::GET, &api, headers).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        let span = &answer["details"]["timeline"][0];
        assert_eq!(span["service"].is_string() && body.contains("/cart"), sees, "{headers:?}: {body}");
        assert_eq!(answer["notes"].to_string().contains("own machine only"), !sees, "{headers:?}: {body}");
        let (_, _, html) = ask_as(&server, Method::GET, &page, headers).await;
        assert_eq!((html.contains("/cart"), html.contains("own machine only")), (sees, !sees), "{headers:?}");
    }
}

#[tokio::test]
async fn the_trace_page_is_a_form_and_its_answer_in_tables_without_markup_of_strangers() {
    let server = serve_admin(loopback(), report()).await.unwrap();
    let (status, headers, form) = get(&server, "/trace").await;
    assert!(status == StatusCode::OK && form.contains("<form method=\"get\"") && !form.contains("<table>"), "{form}");
    assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("form-action 'self'"));
    let (status, _, page) = get(&server, &format!("/trace?id=%20{TRACE}+")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("kept by errors") && page.contains("called from another cluster"), "{page}");
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
    let (status, _, page) = get(&server, "/trace?id='onfocus='x'").await;
    assert!(status == StatusCode::BAD_REQUEST && page.contains("Not a trace id"), "{page}");
    assert!(page.contains("value=\"&#39;onfocus=&#39;x&#39;\""), "{page}");
}
