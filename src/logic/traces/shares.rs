//! Receipts cut to measure: every share is resolved exactly once, and none stays behind empty.

use std::collections::VecDeque;

use crate::model::Receipt;

/// Receipts of some spans, given out span by span.
#[derive(Default)]
pub(super) struct Shares {
    receipts: VecDeque<Receipt>,
}

impl Shares {
    pub(super) fn push(&mut self, receipt: Receipt) {
        self.receipts.push_back(receipt);
    }

    /// Receipts for `spans` of the spans.
    pub(super) fn take(&mut self, mut spans: u32) -> impl Iterator<Item = Receipt> + '_ {
        std::iter::from_fn(move || {
            if spans == 0 {
                return None;
            }
            let first = self.receipts.front_mut()?;
            if first.spans() > spans {
                let part = first.split(spans);
                spans = 0;
                return Some(part);
            }
            spans -= first.spans();
            self.receipts.pop_front()
        })
    }

    pub(super) fn rest(&mut self) -> impl Iterator<Item = Receipt> + '_ {
        self.receipts.drain(..)
    }
}
