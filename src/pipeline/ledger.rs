//! The ledger: every span's fate, counted where it is decided, so that the counts can be held against each other.
use std::sync::Arc;

use serde::Serialize;

use crate::model::{Receipt, Refusal};

/// Where spans came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A sender beside this node.
    Local,
    /// Another node.
    Peer,
}

/// The counts of one node since its start, in spans.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LedgerStatus {
    pub received_local: u64,
    pub received_peer: u64,
    pub refused: u64,
    pub forwarded: u64,
    pub exported: u64,
    pub duplicate: u64,
    /// By [`crate::model::DropReason::label`].
    pub dropped: std::collections::BTreeMap<&'static str, u64>,
    /// Accepted and then forgotten by a stage: a defect.
    pub released: u64,
    /// Accepted and not yet resolved, counted on its own and not computed from the others.
    pub in_flight: u64,
    /// `received_local + received_peer == forwarded + exported + duplicate + dropped + released + in_flight`
    pub balanced: bool,
}

#[derive(Default)]
pub struct Ledger {}

impl Ledger {
    /// A receipt for spans that have just come in. `answered` is called once, when they are accepted or refused.
    pub fn open(
        self: &Arc<Self>,
        _spans: u32,
        _from: Source,
        _answered: impl FnOnce(Result<(), Refusal>) + Send + 'static,
    ) -> Receipt {
        todo!()
    }

    pub fn status(&self) -> LedgerStatus {
        todo!()
    }
}
