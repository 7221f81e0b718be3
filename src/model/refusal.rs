//! A stage's "no": what the one who offered the spans may do now.
//!
//! The two variants are the decision; [`Reason`] is what logs, metrics and error texts say about it. Receivers turn a
//! refusal into OTLP status codes in one table, links into one frame.

use std::fmt;
use std::time::Duration;

/// Nothing of what was offered has been taken; the offerer still owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Offer it again, not before `after` has passed.
    RetryAfter { after: Duration, reason: Reason },
    /// Never offer it again: the same bytes would be refused again.
    Permanent { reason: Reason },
}

/// Why. The label is stable: it is a metric label and part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node holds as many bytes as it may.
    MemoryLimit,
    /// The queue to the owner or to the backend is full.
    QueueFull,
    /// The node is on its way out.
    ShuttingDown,
    /// No node of the mesh owns traces now (every weight is zero, or no link is up yet).
    NoOwner,
    /// The bytes are not what the protocol allows.
    Malformed,
    /// Larger than the receiver takes.
    TooLarge,
    /// A stage forgot the batch: a defect of ours, reported as a passing fault so that no span is lost by it.
    Internal,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::MemoryLimit,
        Reason::QueueFull,
        Reason::ShuttingDown,
        Reason::NoOwner,
        Reason::Malformed,
        Reason::TooLarge,
        Reason::Internal,
    ];

    /// The stable label, `snake_case`.
    pub fn label(self) -> &'static str {
        match self {
            Reason::MemoryLimit => "memory_limit",
            Reason::QueueFull => "queue_full",
            Reason::ShuttingDown => "shutting_down",
            Reason::NoOwner => "no_owner",
            Reason::Malformed => "malformed",
            Reason::TooLarge => "too_large",
            Reason::Internal => "internal",
        }
    }
}

impl Refusal {
    /// A refusal that passes, with the usual pause before the next try.
    pub fn passing(reason: Reason) -> Refusal {
        Refusal::RetryAfter { after: Duration::from_secs(1), reason }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Refusal::RetryAfter { reason, .. } | Refusal::Permanent { reason } => *reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.reason() {
            Reason::MemoryLimit => "the node holds as much data as its memory limit allows",
            Reason::QueueFull => "the queue to the trace's owner or to the backend is full",
            Reason::ShuttingDown => "the node is shutting down",
            Reason::NoOwner => "no node of the mesh can own traces now",
            Reason::Malformed => "the data is malformed",
            Reason::TooLarge => "the data is larger than the receiver takes",
            Reason::Internal => "the node lost track of the batch",
        };
        f.write_str(text)
    }
}
