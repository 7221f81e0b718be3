//! From a request's bytes to spans in the pipeline and the answer: what gRPC and HTTP have in common.
//!
//! Bytes are walked as soon as they are whole, because a request that waits unparsed falls out of the caches and
//! costs twenty times as much to walk later. Nothing here waits for the pipeline but the answer itself; when the
//! client goes away in between, the receipt goes on and the counts stay right.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::refusal::No;
use super::body::{Admission, Patience};
use super::counts::{Counts, Transport};
use crate::model::{Batch, Held, Refusal};
use crate::pipeline::{Consume, Ledger, Source};
use crate::wire::reply::PartialSuccess;
use crate::wire::{self, Limits, Rejected, Walked, json};

/// How spans are written in a request, and what is written in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

/// Longest wait for a stage to take or refuse spans; a sender with a shorter deadline (`grpc-timeout`) is answered then.
/// Longer than any sender's default timeout (10 s): who still listens gets an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Above this, reading JSON would hold up the thread's other tasks for more than some milliseconds.
const LARGE_JSON: usize = 512 << 10;

/// What one receiver's requests share.
pub(super) struct Intake {
    pub next: Arc<dyn Consume>,
    pub ledger: Arc<Ledger>,
    pub limits: Limits,
    pub admission: Admission,
    pub patience: Patience,
    pub grpc: Arc<Counts>,
    pub http: Arc<Counts>,
}

impl Intake {
    pub(super) fn counts(&self, transport: Transport) -> &Arc<Counts> {
        match transport {
            Transport::Grpc => &self.grpc,
            Transport::Http => &self.http,
        }
    }

    /// Takes in one whole, uncompressed request. `Ok(None)` is full success.
    pub(super) async fn take(
        &self,
        transport: Transport,
        encoding: Encoding,
        bytes: Bytes,
        held: Held,
        sender_waits: Option<Duration>,
    ) -> Result<Option<PartialSuccess>, No> {
        let (bytes, held, warning) = match encoding {
            Encoding::Protobuf => (bytes, held, None),
            Encoding::Json => self.reencode(bytes, held).await?,
        };
        let Walked { spans, rejected } =
            wire::walk(bytes, &self.limits).map_err(|e| No::Malformed(format!("not a request of traces: {e}")))?;
        let counts = self.counts(transport).clone();
        if spans.is_empty() {
            counts.rejected_spans.fetch_add(rejected.spans.into(), Relaxed);
            return Ok(partial(&rejected, warning));
        }
        let (taken, rejected_spans) = (spans.len() as u32, rejected.spans);
        let (tell, answer) = oneshot::channel();
        let answered = move |answer: Result<(), Refusal>| {
            match &answer {
                Ok(()) => {
                    counts.accepted_spans.fetch_add(taken.into(), Relaxed);
                    counts.rejected_spans.fetch_add(rejected_spans.into(), Relaxed);
                }
                Err(refusal) => counts.refused(taken, refusal),
            }
            // Nobody listens if the client went away.
            let _ = tell.send(answer);
        };
        let receipt = self.ledger.open(taken, Source::Local, answered);
        self.next.consume(Batch { spans, receipt, held, hops: 0 });
        let wait = sender_waits.unwrap_or(ANSWER_WITHIN).min(ANSWER_WITHIN);
        match timeout(wait, answer).await {
            Ok(Ok(Ok(()))) => Ok(partial(&rejected, warning)),
            Ok(Ok(Err(refusal))) => Err(refusal.into()),
            // The ledger calls `answered` whatever happens to the receipt.
            Ok(Err(_)) | Err(_) => Err(No::NotAnswered),
        }
    }

    async fn reencode(&self, bytes: Bytes, mut held: Held) -> Result<(Bytes, Held, Option<&'static str>), No> {
        // Protobuf is shorter than the JSON it comes from.
        held.resize(bytes.len() * 2);
        let decoded = if bytes.len() > LARGE_JSON {
            let _worker = self.admission.workers.acquire().await;
            let limits = self.limits.clone();
            match tokio::task::spawn_blocking(move || json::decode(&bytes, &limits)).await {
                Ok(decoded) => decoded,
                Err(_) => return Err(Refusal::passing(crate::model::Reason::Internal).into()),
            }
        } else {
            json::decode(&bytes, &self.limits)
        };
        let decoded = decoded.map_err(|e| No::Malformed(format!("not a JSON request of traces: {e}")))?;
        held.resize(decoded.bytes.len());
        Ok((Bytes::from(decoded.bytes), held, decoded.warning))
    }
}

/// What the sender hears besides "taken". A reason without rejected spans is a warning.
fn partial(rejected: &Rejected, warning: Option<&'static str>) -> Option<PartialSuccess> {
    let first = match (rejected.spans, rejected.reason) {
        (0, reason) => reason.map(str::to_owned),
        (spans, why) => Some(format!("{spans} spans were rejected; the first: {}", why.unwrap_or("not valid"))),
    };
    let said: Vec<String> = first.into_iter().chain(warning.map(str::to_owned)).collect();
    let error_message = said.join(". ");
    (!error_message.is_empty()).then_some(PartialSuccess { rejected_spans: rejected.spans.into(), error_message })
}
