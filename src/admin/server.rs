//! The admin API, the status page and the metrics port.
//!
//! Read-only, no configuration in it, and attributes of spans only for callers on this machine (see [`super::trace`]). On
//! loopback by default; the page runs no script and its Content-Security-Policy allows none, so that nothing a peer or a
//! sender named can become one.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use serde::Serialize;
use tower::ServiceExt;

use super::status::{LedgerPart, NodeStatus, OwnerStatus, SCHEMA, Versioned};
use super::trace::{self, TraceAnswer};
use super::{page, trace_page};
use crate::logic::traces::Wanted;
use crate::model::TraceId;
use crate::receive::listen::{Bound, Bounds, Server};
use crate::telemetry::metrics;

/// Where the answers come from: given by the node, which alone knows all its parts.
#[derive(Clone)]
pub struct Report {
    /// Takes the snapshot.
    pub status: Arc<dyn Fn() -> NodeStatus + Send + Sync>,
    /// Asks the ring in force.
    pub owner: Arc<dyn Fn(&TraceId) -> OwnerStatus + Send + Sync>,
    pub explain: Explain,
}

/// Asks the mesh what became of a trace; takes some seconds at most.
pub type Explain = Arc<dyn Fn(TraceId, Wanted) -> Pin<Box<dyn Future<Output = TraceAnswer> + Send>> + Send + Sync>;

/// Whether the caller may see what spans carry. Goes with each request.
#[derive(Clone, Copy, Debug)]
struct Caller {
    is_local: bool,
}

const PATHS: [&str; 9] = [
    "/",
    "/trace",
    "/api/v1/status",
    "/api/v1/members",
    "/api/v1/ring",
    "/api/v1/ring/owner/{trace_id}",
    "/api/v1/links",
    "/api/v1/ledger",
    "/api/v1/traces/{trace_id}",
];

/// Serves the page and the API.
pub async fn serve_admin(endpoint: SocketAddr, report: Report) -> io::Result<Server> {
    let router = Router::new()
        .route("/", get(|State(report): State<Report>| async move { html(page::render(&(report.status)())) }))
        .route("/style.css", get(|| async { ([(CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE) }))
        .route("/api/v1/status", get(|State(report): State<Report>| async move { versioned(&(report.status)()) }))
        .route(
            "/api/v1/members",
            get(|State(report): State<Report>| async move { versioned(&(report.status)().members()) }),
        )
        .route("/api/v1/ring", get(|State(report): State<Report>| async move { versioned(&(report.status)().ring()) }))
        .route(
            "/api/v1/links",
            get(|State(report): State<Report>| async move { versioned(&(report.status)().links()) }),
        )
        .route("/api/v1/ledger", get(ledger))
        .route("/api/v1/ring/owner/{trace_id}", get(owner))
        .route("/api/v1/traces/{trace_id}", get(trace))
        .route("/trace", get(trace_on_a_page))
        .with_state(report);
    serve(endpoint, router).await
}

/// Serves `/metrics` for Prometheus.
pub async fn serve_metrics(endpoint: SocketAddr, report: Report) -> io::Result<Server> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(report);
    serve(endpoint, router).await
}

/// Runs a router on the hardened accept loop; what it does not know is answered in JSON.
pub(super) async fn serve(endpoint: SocketAddr, router: Router) -> io::Result<Server> {
    let router = router.fallback(no_such_path).method_not_allowed_fallback(not_a_get);
    let bound = Bound::bind(endpoint, None).await?;
    Ok(bound.serve_with_peer(Bounds::operation(), move |peer, mut request| {
        let router = router.clone();
        let is_local = trace::is_local(peer, &request);
        request.extensions_mut().insert(Caller { is_local });
        async move {
            let mut answer: Response<Body> = match router.oneshot(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
            for (name, value) in GUARDS {
                answer.headers_mut().insert(name, value);
            }
            answer
        }
    }))
}

/// Headers of every answer.
const GUARDS: [(HeaderName, HeaderValue); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Pages of others cannot even have the answers brought into their process.
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

fn html(page: String) -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a status cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn versioned(part: &impl Serialize) -> Response {
    json(&Versioned { schema: SCHEMA, part })
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    paths: &'a [&'a str],
}

fn failure(code: StatusCode, error: &str, paths: &[&str]) -> Response {
    (code, versioned(&Failure { error, paths })).into_response()
}

async fn no_such_path() -> Response {
    failure(StatusCode::NOT_FOUND, "no such path", &PATHS)
}

async fn not_a_get() -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here", &[])
}

async fn ledger(State(report): State<Report>) -> Response {
    versioned(&LedgerPart { ledger: &(report.status)().ledger })
}

async fn owner(State(report): State<Report>, Path(trace_id): Path<String>) -> Response {
    match trace_id.parse::<TraceId>() {
        Ok(trace_id) => versioned(&(report.owner)(&trace_id)),
        Err(_) => failure(StatusCode::BAD_REQUEST, "a trace id is 32 hex digits", &[]),
    }
}

async fn trace(
    State(report): State<Report>,
    Extension(caller): Extension<Caller>,
    Path(trace_id): Path<String>,
    uri: Uri,
) -> Response {
    match (trace_id.parse::<TraceId>(), trace::wanted(&uri)) {
        (Ok(trace_id), Ok(wanted)) => versioned(&explain(&report, caller, trace_id, wanted).await),
        (Err(_), _) => failure(StatusCode::BAD_REQUEST, "a trace id is 32 hex digits", &[]),
        (_, Err(error)) => failure(StatusCode::BAD_REQUEST, error, &[]),
    }
}

/// Values for who may see them; others get all the rest, and are told.
async fn explain(report: &Report, caller: Caller, trace_id: TraceId, wanted: Wanted) -> TraceAnswer {
    let refused = wanted.values && !caller.is_local;
    let mut answer = (report.explain)(trace_id, Wanted { values: wanted.values && !refused, ..wanted }).await;
    if refused {
        answer.notes.push("values of attributes are shown on the node's own machine only".to_owned());
    }
    answer
}

async fn trace_on_a_page(State(report): State<Report>, Extension(caller): Extension<Caller>, uri: Uri) -> Response {
    let asked = trace_page::Asked::of(&uri);
    let answer = match asked.trace_id {
        Some(trace_id) => Some(explain(&report, caller, trace_id, asked.wanted()).await),
        None => None,
    };
    let code = if asked.is_wrong() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    (code, html(trace_page::render(&asked, answer.as_ref()))).into_response()
}

/// What does not name OpenMetrics gets no exemplars: older parsers stumble over them, and only over them.
async fn scrape(State(report): State<Report>, headers: HeaderMap) -> Response {
    let reads_exemplars = headers.get_all(ACCEPT).iter().any(|accept| {
        accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("application/openmetrics-text"))
    });
    let render = if reads_exemplars { metrics::render } else { metrics::render_without_exemplars };
    match render((report.status)()) {
        Ok(page) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests;
