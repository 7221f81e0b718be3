//! Health for whoever runs the process: Kubernetes' probes, a load balancer, the Collector's own chart.
//!
//! Ready means that the node's own listeners are open and its configuration is in force, and that it is not leaving.
//! It never depends on other nodes: a partition must not take a node away from the senders beside it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;

use super::server::{json, serve};
use super::status::NodeState;
use crate::model::{Tick, UnixNanos};
use crate::receive::listen::Server;
use crate::runtime::clock::{Clock, unix_now};

/// The node's state, set by the node and read by the probes. Starts as [`NodeState::Starting`].
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    state: AtomicU8,
    clock: Clock,
    up_since: UnixNanos,
}

impl Health {
    /// `clock`: the node's, whose beginning is the node's start.
    pub fn new(clock: Clock) -> Health {
        let age = clock.now().since(Tick::ZERO);
        let up_since = UnixNanos(unix_now().0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(0)));
        Health(Arc::new(Shared { state: AtomicU8::new(0), clock, up_since }))
    }

    pub fn set(&self, state: NodeState) {
        self.0.state.store(state as u8, Relaxed);
    }

    pub fn state(&self) -> NodeState {
        match self.0.state.load(Relaxed) {
            0 => NodeState::Starting,
            1 => NodeState::Ready,
            _ => NodeState::Draining,
        }
    }

    /// Unix seconds.
    pub fn started_at(&self) -> u64 {
        self.0.up_since.0 / 1_000_000_000
    }
}

/// Serves `/` and `/ready` (200 only if ready, else 503) and `/live` (200 while the process answers at all).
pub async fn serve_health(endpoint: SocketAddr, health: Health) -> io::Result<Server> {
    let router =
        Router::new().route("/", get(ready)).route("/ready", get(ready)).route("/live", get(live)).with_state(health);
    serve(endpoint, router).await
}

/// The body of the Collector's `health_check`, and our state.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    status: &'static str,
    up_since: String,
    uptime: String,
    state: NodeState,
}

fn answer(health: &Health, is_well: bool) -> Response {
    let body = Body {
        status: if is_well { "Server available" } else { "Server not available" },
        up_since: rfc3339(health.started_at()),
        uptime: format!("{:.3}s", health.0.clock.now().since(Tick::ZERO).as_secs_f64()),
        state: health.state(),
    };
    let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, json(&body)).into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    answer(&health, health.state() == NodeState::Ready)
}

async fn live(State(health): State<Health>) -> Response {
    answer(&health, true)
}

/// Unix seconds as `2026-11-20T13:26:00Z`.
fn rfc3339(seconds: u64) -> String {
    let (mut year, mut day) = (1970, seconds / 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_181_160, "2026-11-20T13:26:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
