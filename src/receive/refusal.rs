//! The one table from "no" to status codes.
//!
//! What matters to a sender is a single bit, whether the same bytes may be sent again, and OTLP spells it differently
//! on each transport (specification.md, "Failures"). Getting it wrong loses data (a passing fault answered with a code
//! that means "drop it") or makes a sender repeat a poisonous request for its whole retry budget:
//!
//! | No | gRPC | HTTP | sent again |
//! |---|---|---|---|
//! | memory limit, full queue, no owner, shutting down, lost track | 14 UNAVAILABLE + RetryInfo | 503 + Retry-After | yes |
//! | the request came too slowly | 4 DEADLINE_EXCEEDED | 503 + Retry-After | yes |
//! | no stage answered in time | 4 DEADLINE_EXCEEDED | 503 + Retry-After | yes |
//! | malformed, cut or wrongly compressed | 3 INVALID_ARGUMENT + BadRequest | 400 + BadRequest | no |
//! | larger than the limit, before or after decompression | 8 RESOURCE_EXHAUSTED, never RetryInfo | 413 | no |
//! | gRPC framing broken | 13 INTERNAL | - | no |
//! | unknown method, signal, path, encoding | 12 UNIMPLEMENTED | 404, 405, 415 | no |
//!
//! 503 and not 429 for a full queue: 429 tells a sender that *it* sends too much, and no quota per sender exists here.
//! Never 408 or 500 for what passes: senders give those up.

use std::time::Duration;

use http::StatusCode;

use crate::model::{Reason, Refusal};
use crate::wire::reply::Status;

/// gRPC's codes, those that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// Everything a receiver says instead of success. Texts are fixed or made of numbers: input is never echoed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// A stage's refusal.
    Refused(Refusal),
    /// The request's bytes, or none of them, came in time.
    TooSlow,
    /// No stage took or refused the spans before the sender's deadline.
    NotAnswered,
    /// The request is not what OTLP allows.
    Malformed(String),
    /// Over `limit` bytes.
    TooLarge { limit: usize },
    /// gRPC only: the message framing contradicts itself.
    Framing(&'static str),
    /// gRPC: no such method, or a compression not known.
    Unimplemented(&'static str),
    /// HTTP: no such path.
    NotFound(&'static str),
    /// HTTP: not a POST.
    Method,
    /// HTTP: no body of this type or encoding is taken.
    MediaType(&'static str),
}

impl No {
    /// The stable label of this reason in metrics and the status.
    pub fn label(&self) -> &'static str {
        match self {
            No::Refused(refusal) => refusal.reason().label(),
            No::TooSlow => "too_slow",
            No::NotAnswered => "not_answered",
            No::Malformed(_) => Reason::Malformed.label(),
            No::TooLarge { .. } => Reason::TooLarge.label(),
            No::Framing(_) => "framing",
            No::Unimplemented(_) => "unimplemented",
            No::NotFound(_) => "not_found",
            No::Method => "method",
            No::MediaType(_) => "media_type",
        }
    }

    /// All labels, in the order in which they are shown.
    pub const LABELS: [&'static str; 14] = [
        "memory_limit",
        "queue_full",
        "shutting_down",
        "no_owner",
        "malformed",
        "too_large",
        "internal",
        "too_slow",
        "not_answered",
        "framing",
        "unimplemented",
        "not_found",
        "method",
        "media_type",
    ];

    /// The codes of the table above.
    pub fn codes(&self) -> (Code, StatusCode) {
        match self {
            No::Refused(Refusal::RetryAfter { .. }) => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
            No::Refused(Refusal::Permanent { reason }) => match reason {
                Reason::TooLarge => (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE),
                Reason::Malformed => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
                Reason::MemoryLimit | Reason::QueueFull | Reason::ShuttingDown | Reason::NoOwner | Reason::Internal => {
                    (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR)
                }
            },
            No::TooSlow | No::NotAnswered => (Code::DeadlineExceeded, StatusCode::SERVICE_UNAVAILABLE),
            No::Malformed(_) => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
            No::TooLarge { .. } => (Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE),
            No::Framing(_) => (Code::Internal, StatusCode::BAD_REQUEST),
            No::Unimplemented(_) => (Code::Unimplemented, StatusCode::NOT_IMPLEMENTED),
            No::NotFound(_) => (Code::NotFound, StatusCode::NOT_FOUND),
            No::Method => (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED),
            No::MediaType(_) => (Code::Unimplemented, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        }
    }

    /// How long the sender should wait; `None` where it must not send the same again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            No::Refused(Refusal::RetryAfter { after, .. }) => Some(*after),
            No::TooSlow | No::NotAnswered => Some(Duration::from_secs(1)),
            No::Refused(Refusal::Permanent { .. })
            | No::Malformed(_)
            | No::TooLarge { .. }
            | No::Framing(_)
            | No::Unimplemented(_)
            | No::NotFound(_)
            | No::Method
            | No::MediaType(_) => None,
        }
    }

    /// Value of `Retry-After`: whole seconds, at least one.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after().map(|after| (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    fn message(&self) -> String {
        match self {
            No::Refused(refusal) => refusal.to_string(),
            No::TooSlow => "the request's body came too slowly; send it again".into(),
            No::NotAnswered => "the spans were not accepted in time; send them again".into(),
            No::Malformed(text) => text.clone(),
            No::TooLarge { limit } => {
                format!(
                    "the request is larger than {limit} bytes, as sent or after decompression; send smaller batches"
                )
            }
            No::Framing(text) | No::Unimplemented(text) | No::NotFound(text) | No::MediaType(text) => (*text).into(),
            No::Method => "only POST is answered here".into(),
        }
    }

    /// The `google.rpc.Status` that says it.
    pub fn status(&self) -> Status {
        let message = self.message();
        let bad_request = matches!(self, No::Malformed(_)).then(|| ("resource_spans".to_owned(), message.clone()));
        // Without RetryInfo on RESOURCE_EXHAUSTED and on what is final, a sender gives up: as it should.
        Status { code: self.codes().0 as i32, message, retry_after: self.retry_after(), bad_request }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OTLP's specification lists as retryable (RESOURCE_EXHAUSTED only with RetryInfo, which is never sent).
    fn is_sent_again(no: &No) -> (bool, bool) {
        let (grpc, http) = no.codes();
        (matches!(grpc as i32, 1 | 4 | 10 | 11 | 14 | 15), matches!(http.as_u16(), 429 | 502 | 503 | 504))
    }

    fn examples() -> Vec<No> {
        let mut all: Vec<No> = Reason::ALL.iter().map(|&reason| Refusal::passing(reason).into()).collect();
        all.extend(Reason::ALL.iter().map(|&reason| No::Refused(Refusal::Permanent { reason })));
        all.extend([No::TooSlow, No::NotAnswered, No::Malformed("cut".into()), No::TooLarge { limit: 1 }]);
        all.extend([No::Framing("x"), No::Unimplemented("x"), No::NotFound("x"), No::Method, No::MediaType("x")]);
        all
    }

    #[test]
    fn senders_repeat_exactly_what_says_when_on_both_transports() {
        for no in examples() {
            let says_when = no.status().retry_after.is_some();
            assert_eq!(is_sent_again(&no), (says_when, says_when), "{no:?}");
            assert_eq!(no.retry_after_seconds().is_some(), says_when);
        }
    }

    #[test]
    fn every_no_has_a_label_that_is_listed() {
        for no in examples() {
            assert!(No::LABELS.contains(&no.label()), "{no:?}");
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            let refusal = Refusal::RetryAfter { after: Duration::from_millis(millis), reason: Reason::QueueFull };
            assert_eq!(No::from(refusal).retry_after_seconds(), Some(seconds));
        }
    }
}
