//! Tasks that must not end, and what it means when one does.
//!
//! A task that nobody waits for can panic, and the node runs on without its membership or without new links, looking
//! healthy. So what a node cannot be without is started here, under a name: when it ends before it was asked to,
//! whatever the reason, [`Tasks::failed`] says so, and the node stops in order and is restarted by whoever runs it.
//! Rejected: restarting the task. Its state is gone with it, and half a restart hides the defect.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Essential tasks with one end. Clones share them.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    tracker: TaskTracker,
    /// What the tasks themselves end by.
    stop: CancellationToken,
    aborted: CancellationToken,
    failed: watch::Sender<Option<&'static str>>,
    /// By name, to say which did not end.
    running: Mutex<BTreeSet<&'static str>>,
}

impl Tasks {
    /// Tasks that end when `stop` is cancelled, and not before.
    pub fn new(stop: CancellationToken) -> Tasks {
        Tasks(Arc::new(Inner {
            tracker: TaskTracker::new(),
            stop,
            aborted: CancellationToken::new(),
            failed: watch::Sender::new(None),
            running: Mutex::default(),
        }))
    }

    /// Starts a task. `name` is what logs call it, and no other's.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.running().insert(name);
        let inner = self.0.clone();
        // A task of its own, so that a panic comes back as a value.
        let task = tokio::spawn(task);
        self.0.tracker.spawn(async move {
            let abort = task.abort_handle();
            let ended = tokio::select! {
                ended = task => Some(ended),
                () = inner.aborted.cancelled() => None,
            };
            inner.running().remove(name);
            match ended {
                None => abort.abort(),
                Some(Ok(())) if inner.stop.is_cancelled() => {}
                Some(Ok(())) => inner.fail(name, "ended early"),
                Some(Err(_)) => inner.fail(name, "panicked"),
            }
        });
    }

    /// Waits until a task has ended early, and names it.
    pub async fn failed(&self) -> &'static str {
        let mut failed = self.0.failed.subscribe();
        loop {
            if let Some(name) = *failed.borrow_and_update() {
                return name;
            }
            if failed.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Asks all tasks to stop, ends by force those that run when `deadline` has passed, and names them.
    pub async fn stop(&self, deadline: Duration) -> Vec<&'static str> {
        self.0.stop.cancel();
        self.0.tracker.close();
        if tokio::time::timeout(deadline, self.0.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let late = self.0.running().iter().copied().collect();
        self.0.aborted.cancel();
        self.0.tracker.wait().await;
        late
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, name: &'static str, how: &'static str) {
        tracing::error!(task = name, "an essential task {how}");
        self.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(name);
            is_first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_before_it_was_asked_to_is_named() {
        for panics in [false, true] {
            let tasks = Tasks::new(CancellationToken::new());
            tasks.spawn("the task", async move { assert!(!panics, "on purpose") });
            assert_eq!(tasks.failed().await, "the task");
            assert_eq!(tasks.stop(Duration::from_secs(10)).await, Vec::<&str>::new());
        }
    }

    #[tokio::test]
    async fn a_stop_is_no_failure_and_names_those_that_did_not_end() {
        let stop = CancellationToken::new();
        let tasks = Tasks::new(stop.clone());
        tasks.spawn("good", async move { stop.cancelled().await });
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.stop(Duration::from_millis(20)).await, ["deaf"]);
        assert_eq!(*tasks.0.failed.borrow(), None);
    }
}
