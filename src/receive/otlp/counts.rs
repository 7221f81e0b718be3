//! What a receiver counts, per transport.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::super::listen::ConnectionStatus;
use super::super::refusal::No;
use crate::model::{Reason, Refusal};

/// How spans were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Grpc,
    Http,
}

/// One receiver, for the status and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiverStatus {
    /// `type/name` as configured.
    pub id: String,
    pub transports: Vec<TransportStatus>,
}

/// One transport of a receiver. Counts are since the node's start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TransportStatus {
    /// `grpc` or `http`.
    pub transport: &'static str,
    /// Where it listens; absent if only the other port serves it.
    pub endpoint: Option<SocketAddr>,
    pub requests_total: u64,
    /// Bodies as sent, before decompression.
    pub bytes_total: u64,
    pub accepted_spans_total: u64,
    /// Not taken, by the stage's reason: the sender keeps them.
    pub refused_spans_total: BTreeMap<&'static str, u64>,
    /// Left out of requests that were taken, and told so in `partial_success`.
    pub rejected_spans_total: u64,
    /// Requests answered with an error, by reason; those whose spans were never counted among them.
    pub failed_requests_total: BTreeMap<&'static str, u64>,
    pub connections: Option<ConnectionStatus>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub accepted_spans: AtomicU64,
    pub rejected_spans: AtomicU64,
    refused_spans: [AtomicU64; Reason::ALL.len()],
    failed_requests: [AtomicU64; No::LABELS.len()],
}

impl Counts {
    pub(super) fn refused(&self, spans: u32, refusal: &Refusal) {
        if let Some(at) = Reason::ALL.iter().position(|reason| *reason == refusal.reason()) {
            self.refused_spans[at].fetch_add(u64::from(spans), Relaxed);
        }
    }

    pub(super) fn failed(&self, no: &No) {
        if let Some(at) = No::LABELS.iter().position(|label| *label == no.label()) {
            self.failed_requests[at].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn status(&self, transport: Transport) -> TransportStatus {
        let named = |labels: &mut dyn Iterator<Item = &'static str>, counts: &[AtomicU64]| {
            let all = labels.zip(counts).map(|(label, count)| (label, count.load(Relaxed)));
            all.filter(|(_, count)| *count > 0).collect()
        };
        TransportStatus {
            transport: match transport {
                Transport::Grpc => "grpc",
                Transport::Http => "http",
            },
            endpoint: None,
            requests_total: self.requests.load(Relaxed),
            bytes_total: self.bytes.load(Relaxed),
            accepted_spans_total: self.accepted_spans.load(Relaxed),
            rejected_spans_total: self.rejected_spans.load(Relaxed),
            refused_spans_total: named(&mut Reason::ALL.iter().map(|reason| reason.label()), &self.refused_spans),
            failed_requests_total: named(&mut No::LABELS.into_iter(), &self.failed_requests),
            connections: None,
        }
    }
}
