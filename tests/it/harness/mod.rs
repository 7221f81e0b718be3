//! What the tests are made of: node processes, a backend that remembers, senders, certificates.

pub mod backend;
pub mod certs;
pub mod node;
pub mod sender;
pub mod traces;

use std::future::Future;
use std::time::Duration;

/// Longest that anything in these tests is waited for. Generous: it is reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a future that an event completes.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("gave up waiting for {what}"),
    }
}

/// Asks `probe` until it answers: for what only another process knows.
pub async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, asking).await
}
