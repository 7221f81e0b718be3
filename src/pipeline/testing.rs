//! Doubles for tests of stages: the sender's side of a receipt, and an end that keeps what it gets.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::Consume;
use crate::model::{Batch, Budget, Fate, Holder, Receipt, Refusal};

/// A sender: hears what becomes of its spans.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    heard: watch::Sender<Heard>,
    budget: Budget,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) answer: Option<Result<(), Refusal>>,
    pub(crate) fates: Vec<(u32, Fate)>,
    pub(crate) finished: Option<Fate>,
}

impl Watched {
    pub(crate) fn receipt(&self, spans: u32) -> Receipt {
        Receipt::new(spans, self.clone())
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn answer(&self) -> Option<Result<(), Refusal>> {
        self.heard.borrow().answer.clone()
    }

    pub(crate) fn finished(&self) -> Option<Fate> {
        self.heard.borrow().finished.clone()
    }

    pub(crate) fn fates(&self) -> Vec<(u32, Fate)> {
        self.heard.borrow().fates.clone()
    }

    /// Waits for the end.
    pub(crate) async fn fate(&self) -> Fate {
        let mut heard = self.heard.subscribe();
        heard.wait_for(|heard| heard.finished.is_some()).await.unwrap().finished.clone().unwrap()
    }

    /// Waits for the answer.
    pub(crate) async fn answered(&self) -> Result<(), Refusal> {
        let mut heard = self.heard.subscribe();
        heard.wait_for(|heard| heard.answer.is_some()).await.unwrap().answer.clone().unwrap()
    }
}

impl Holder for Watched {
    fn resolved(&self, spans: u32, fate: &Fate, _accepted: bool) {
        self.heard.send_modify(|heard| heard.fates.push((spans, fate.clone())));
    }

    fn answered(&self, answer: Result<(), Refusal>) {
        self.heard.send_modify(|heard| assert!(heard.answer.replace(answer).is_none(), "answered twice"));
    }

    fn finished(&self, worst: Fate) {
        self.heard.send_modify(|heard| assert!(heard.finished.replace(worst).is_none(), "finished twice"));
    }
}

/// An end that keeps batches, accepted or not, until the test says what becomes of them.
#[derive(Default)]
pub(crate) struct End {
    kept: Mutex<Vec<Batch>>,
    arrived: watch::Sender<usize>,
    refused: watch::Sender<usize>,
    /// Take custody at once, as a queue does.
    pub(crate) accepting: AtomicBool,
    /// Refuse at once with this.
    pub(crate) refusing: Mutex<Option<Refusal>>,
}

impl End {
    pub(crate) fn new() -> Arc<End> {
        Arc::default()
    }

    pub(crate) fn take(&self) -> Vec<Batch> {
        std::mem::take(&mut self.kept.lock().unwrap())
    }

    /// Waits until `count` batches have come in all.
    pub(crate) async fn wait_for(&self, count: usize) {
        self.arrived.subscribe().wait_for(|&arrived| arrived >= count).await.unwrap();
    }

    /// Waits until `count` batches were refused in all.
    pub(crate) async fn wait_for_refusals(&self, count: usize) {
        self.refused.subscribe().wait_for(|&refused| refused >= count).await.unwrap();
    }
}

impl Consume for End {
    fn consume(&self, mut batch: Batch) {
        if let Some(refusal) = self.refusing.lock().unwrap().clone() {
            batch.receipt.resolve(Fate::Refused(refusal));
            self.refused.send_modify(|refused| *refused += 1);
            return;
        }
        if self.accepting.load(Relaxed) {
            batch.receipt.accept();
        }
        self.kept.lock().unwrap().push(batch);
        self.arrived.send_modify(|arrived| *arrived += 1);
    }
}
