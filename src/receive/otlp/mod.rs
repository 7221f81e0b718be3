//! The `otlp` receiver: OTLP/gRPC and OTLP/HTTP (specification.md of opentelemetry-proto 1.11).
//!
//! Both ports run one service that looks at the Content-Type, so gRPC is answered on the HTTP port too. The other way
//! round a request gets a 415 that names the right port: sending to the wrong one of the two is the most common
//! mistake there is. Bodies go into the walker as raw bytes; no span is decoded here.

mod body;
mod compression;
mod counts;
mod grpc;
mod http;
mod intake;
mod reply;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::Incoming;

pub use self::counts::{ReceiverStatus, TransportStatus};

use self::body::{Admission, Patience};
use self::counts::Transport;
use self::intake::Intake;
use self::reply::Reply;
use super::listen::{Bound, Bounds, Server};
use crate::config::settings::{OtlpReceiverSettings, ServerSettings};
use crate::model::Budget;
use crate::pipeline::{Consume, Ledger};
use crate::wire::Limits;

/// A running `otlp` receiver. Dropping it closes its ports at once; [`OtlpReceiver::stop`] does it kindly.
pub struct OtlpReceiver {
    id: String,
    intake: Arc<Intake>,
    grpc: Option<Server>,
    http: Option<Server>,
}

/// One port's view of the receiver.
struct Door {
    intake: Arc<Intake>,
    takes_http: bool,
    traces_path: String,
    max_request_bytes: usize,
}

impl OtlpReceiver {
    /// Takes the configured ports and begins to serve them. Spans go to `next`. While the node holds more than
    /// `admit_bytes_limit` bytes (`budget`), requests are refused before they are read.
    pub async fn start(
        id: &str,
        settings: &OtlpReceiverSettings,
        next: Arc<dyn Consume>,
        budget: Budget,
        ledger: Arc<Ledger>,
        limits: Limits,
        admit_bytes_limit: u64,
    ) -> io::Result<OtlpReceiver> {
        let admission = Admission::new(budget, admit_bytes_limit);
        let patience = Patience::default();
        let (grpc, http) = (Arc::default(), Arc::default());
        let intake = Intake { next, ledger, limits, admission, patience, grpc, http };
        OtlpReceiver::with(id, settings, Bounds::ingest(), intake).await
    }

    async fn with(
        id: &str,
        settings: &OtlpReceiverSettings,
        bounds: Bounds,
        intake: Intake,
    ) -> io::Result<OtlpReceiver> {
        // Both ports are taken before either is served, so that a failed start answers nobody.
        let grpc = bind(settings.grpc.as_ref()).await?;
        let http = bind(settings.http.as_ref()).await?;
        let intake = Arc::new(intake);
        let serve = |bound: Option<(Bound, &ServerSettings)>, takes_http: bool| {
            bound.map(|(bound, settings)| {
                let door = Arc::new(Door {
                    intake: intake.clone(),
                    takes_http,
                    traces_path: settings.traces_path.clone(),
                    max_request_bytes: settings.max_request_bytes,
                });
                bound.serve(bounds.clone(), move |request| answer(door.clone(), request))
            })
        };
        let (grpc, http) = (serve(grpc, false), serve(http, true));
        Ok(OtlpReceiver { id: id.to_owned(), intake, grpc, http })
    }

    /// Where gRPC is taken, if it has a port of its own.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(Server::addr)
    }

    /// Where HTTP (and gRPC) is taken.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Server::addr)
    }

    pub fn status(&self) -> ReceiverStatus {
        let of = |transport, server: &Option<Server>| TransportStatus {
            endpoint: server.as_ref().map(Server::addr),
            connections: server.as_ref().map(Server::status),
            ..self.intake.counts(transport).status(transport)
        };
        let transports = vec![of(Transport::Grpc, &self.grpc), of(Transport::Http, &self.http)];
        ReceiverStatus { id: self.id.clone(), transports }
    }

    /// Closes the ports, lets requests in flight be answered until `deadline` has passed. Returns whether all were.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let stop = async |server: &Option<Server>| match server {
            Some(server) => server.stop(deadline).await,
            None => true,
        };
        let (grpc, http) = tokio::join!(stop(&self.grpc), stop(&self.http));
        grpc && http
    }
}

async fn bind(settings: Option<&ServerSettings>) -> io::Result<Option<(Bound, &ServerSettings)>> {
    let Some(settings) = settings else { return Ok(None) };
    Ok(Some((Bound::bind(settings.endpoint, settings.tls.as_ref()).await?, settings)))
}

async fn answer(door: Arc<Door>, request: Request<Incoming>) -> Response<Reply> {
    if grpc::is_asked_for(request.headers()) {
        grpc::answer(&door, request).await
    } else {
        http::answer(&door, request).await
    }
}

#[cfg(test)]
mod tests;
