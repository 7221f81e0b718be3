//! Out of the node: one bounded queue per exporter, and behind it the protocol that its backend speaks.
//!
//! A backend is two steps on purpose. [`Backend::encode`] makes what is sent, once; [`Backend::send`] tries to deliver
//! it, as often as it takes. So a request is compressed once and not once per try (gzip costs more than everything
//! else an owner does for a span), and while it waits for its next try it occupies its compressed size only.
//!
//! Everything that is the same for all backends is in [`queue`] (the bound, custody, coalescing, the end) and [`courier`]
//! (tries, fates, counts); a backend knows one protocol and says in an [`Outcome`] what the queue may do next.

pub mod client;
pub mod compress;
pub mod courier;
pub mod debug;
pub mod file;
pub mod otlp_grpc;
pub mod otlp_http;
pub mod outcome;
pub mod queue;
pub mod tls;

#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

pub use courier::ExporterStatus;
pub use outcome::Outcome;
pub use queue::{ExportQueue, Slot};

use crate::config::settings::{ComponentId, ExporterSettings, RetrySettings};
use crate::model::Spans;
use crate::runtime::clock::Clock;

/// Most bytes of one request before compression: the limit OTLP 1.11 recommends to receivers and forbids senders to
/// pass.
pub const MAX_REQUEST_BYTES: usize = 64 << 20;

/// A boxed future, since backends stand behind `dyn`.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One place that spans are exported to.
pub trait Backend: Send + Sync + 'static {
    /// The component type, `otlp_http`.
    fn kind(&self) -> &'static str;

    /// What is sent for `spans`, ready for any number of tries.
    fn encode(&self, spans: &Spans) -> Result<Bytes, EncodeError>;

    /// One try. Bounded in time by the backend itself.
    fn send(&self, payload: Bytes) -> Sending<'_>;
}

/// The spans can never be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Larger than [`MAX_REQUEST_BYTES`] in the backend's encoding.
    #[error("the request is {bytes} bytes, more than the {MAX_REQUEST_BYTES} that OTLP allows")]
    TooLarge { bytes: usize },
    #[error("the spans cannot be encoded: {0}")]
    Malformed(String),
}

/// Why an exporter cannot be started: all of it is configuration or the file system.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
    #[error("{url:?} is not a URL an exporter can send to: {reason}")]
    Url { url: String, reason: String },
    #[error("header {name:?}: {reason}")]
    Header { name: String, reason: &'static str },
    #[error("TLS: {0}")]
    Tls(String),
}

/// Starts one exporter. Only files are touched: a backend that is down delays nothing, it is dialled when there are
/// spans. Needs a tokio runtime.
pub fn start(id: &ComponentId, settings: &ExporterSettings, clock: Clock) -> Result<Arc<ExportQueue>, StartError> {
    let (backend, retry): (Arc<dyn Backend>, RetrySettings) = match settings {
        ExporterSettings::OtlpGrpc(otlp) => (Arc::new(otlp_grpc::OtlpGrpc::new(otlp)?), otlp.retry.clone()),
        ExporterSettings::OtlpHttp(otlp) => (Arc::new(otlp_http::OtlpHttp::new(otlp)?), otlp.retry.clone()),
        ExporterSettings::File(file) => (Arc::new(file::FileBackend::open(file)?), local_retry()),
        ExporterSettings::Debug(debug) => (Arc::new(debug::DebugBackend::new(debug)), local_retry()),
    };
    Ok(ExportQueue::start(id.clone(), backend, retry, clock))
}

/// For exporters that have no `retry_on_failure`: the Collector's defaults.
fn local_retry() -> RetrySettings {
    RetrySettings {
        enabled: true,
        initial_interval: Duration::from_secs(5),
        randomization_factor: 0.5,
        multiplier: 1.5,
        max_interval: Duration::from_secs(30),
        max_elapsed_time: Duration::from_secs(300),
    }
}
