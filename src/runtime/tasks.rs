//! Named tasks, and what it means when one ends.
//!
//! A task that nobody waits for can panic, and the node runs on without its membership or its DNS lookups, looking
//! healthy. So every long-lived task is started here, under a name, with a policy: when an essential one ends before
//! it was asked to, whatever the reason, [`Tasks::failed`] says so and the node stops in order and is restarted by
//! whoever runs it. Rejected: restarting the task. Its state is gone with it, and half a restart hides the defect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Runs until it is asked to stop; its early end ends the node.
    Essential,
    /// Ends when its work is done; a panic is logged.
    Finite,
}

/// All tasks of a node. Clones share them.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    tracker: TaskTracker,
    asked_to_stop: CancellationToken,
    aborted: CancellationToken,
    failed: watch::Sender<Option<&'static str>>,
    /// Running tasks by name, to say which did not end.
    running: Mutex<BTreeMap<&'static str, u32>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks(Arc::new(Inner {
            tracker: TaskTracker::new(),
            asked_to_stop: CancellationToken::new(),
            aborted: CancellationToken::new(),
            failed: watch::Sender::new(None),
            running: Mutex::default(),
        }))
    }
}

impl Tasks {
    /// Starts a task. `name` is what logs call it.
    pub fn spawn(&self, name: &'static str, policy: Policy, task: impl Future<Output = ()> + Send + 'static) {
        *self.0.running().entry(name).or_default() += 1;
        let inner = self.0.clone();
        // A task of its own, so that a panic comes back as a value.
        let task = tokio::spawn(task);
        self.0.tracker.spawn(async move {
            let abort = task.abort_handle();
            let ended = tokio::select! {
                ended = task => ended,
                () = inner.aborted.cancelled() => {
                    abort.abort();
                    inner.ended(name);
                    return;
                }
            };
            inner.ended(name);
            let asked = inner.asked_to_stop.is_cancelled();
            match (ended, policy) {
                (Ok(()), Policy::Finite) => {}
                (Ok(()), Policy::Essential) if asked => {}
                (Ok(()), Policy::Essential) => inner.fail(name, "ended early"),
                (Err(_), Policy::Essential) => inner.fail(name, "panicked"),
                (Err(_), Policy::Finite) => tracing::error!(task = name, "a task panicked"),
            }
        });
    }

    /// Cancelled when the node stops; for tasks that end by themselves then.
    pub fn asked_to_stop(&self) -> CancellationToken {
        self.0.asked_to_stop.clone()
    }

    /// Waits until an essential task has ended early, and names it.
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
        self.0.asked_to_stop.cancel();
        self.0.tracker.close();
        if tokio::time::timeout(deadline, self.0.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let late = self.0.running().keys().copied().collect();
        self.0.aborted.cancel();
        self.0.tracker.wait().await;
        late
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeMap<&'static str, u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, name: &'static str) {
        let mut running = self.running();
        if let Some(count) = running.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                running.remove(name);
            }
        }
    }

    fn fail(&self, name: &'static str, how: &'static str) {
        tracing::error!(task = name, "an essential task {how}, the node ends");
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
    async fn an_essential_task_that_ends_or_panics_fails_the_node_and_a_finite_one_does_not() {
        for (policy, panics, fails) in [
            (Policy::Essential, false, true),
            (Policy::Essential, true, true),
            (Policy::Finite, false, false),
            (Policy::Finite, true, false),
        ] {
            let tasks = Tasks::default();
            tasks.spawn("the task", policy, async move { assert!(!panics, "on purpose") });
            if fails {
                assert_eq!(tasks.failed().await, "the task");
            }
            assert_eq!(tasks.stop(Duration::from_secs(10)).await, Vec::<&str>::new());
            assert_eq!(tasks.0.failed.borrow().is_some(), fails);
        }
    }

    #[tokio::test]
    async fn a_stop_is_no_failure_and_names_those_that_did_not_end() {
        let tasks = Tasks::default();
        let asked = tasks.asked_to_stop();
        tasks.spawn("good", Policy::Essential, async move { asked.cancelled().await });
        tasks.spawn("deaf", Policy::Essential, std::future::pending());
        assert_eq!(tasks.stop(Duration::from_millis(20)).await, ["deaf"]);
        assert_eq!(*tasks.0.failed.borrow(), None);
    }
}
