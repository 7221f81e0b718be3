//! The node processes: real ones, of the same binary, that can be killed and started again.
//!
//! No child outlives the demo. It gets a pipe as its standard input and the wish to end when that closes
//! ([`EXIT_WITH_STDIN`]), which works on every system and also when the demo itself is killed; if the demo ends in order,
//! it sends SIGTERM, waits, and kills what is left. Children are in process groups of their own, so that Ctrl-C reaches the
//! demo alone and it can end them in its own order.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{timeout, timeout_at};

use super::files::NodeFiles;
use crate::model::NodeId;
use crate::runtime::stop::EXIT_WITH_STDIN;

/// Within this time a node has heard a signal.
const HEARD: Duration = Duration::from_secs(1);
/// Lines of a log that are shown when a node ends by itself.
const TAIL_LINES: usize = 8;

/// What a node process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// The demo ended it: because it was asked to, or at the end.
    Stopped,
    /// It ended by itself, or not as it should have.
    Ended(String),
}

impl State {
    pub fn label(&self) -> &'static str {
        match self {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Ended(_) => "ended",
        }
    }
}

struct Slot {
    id: NodeId,
    files: NodeFiles,
    child: Option<Child>,
    state: State,
    /// Times that it was killed.
    kills: u32,
}

/// All node processes.
pub struct Nodes {
    /// Program and first arguments.
    command: Vec<OsString>,
    slots: Mutex<Vec<Slot>>,
}

impl Nodes {
    /// Nodes are started as `COMMAND --config FILE`.
    pub fn new(command: Vec<OsString>, nodes: impl IntoIterator<Item = (NodeId, NodeFiles)>) -> Nodes {
        let slot = |(id, files)| Slot { id, files, child: None, state: State::Stopped, kills: 0 };
        Nodes { command, slots: Mutex::new(nodes.into_iter().map(slot).collect()) }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a node; nothing if it runs already.
    pub fn start(&self, number: usize) -> io::Result<()> {
        let mut slots = self.slots();
        let slot = slots.get_mut(number).ok_or(io::ErrorKind::NotFound)?;
        slot.look();
        if slot.state == State::Running {
            return Ok(());
        }
        slot.child = Some(spawn(&self.command, &slot.files)?);
        slot.state = State::Running;
        Ok(())
    }

    pub fn start_all(&self) -> io::Result<()> {
        let count = self.slots().len();
        (0..count).try_for_each(|number| self.start(number))
    }

    /// Kills a node without warning (SIGKILL), as a crash would. False if it does not run.
    pub async fn kill(&self, number: usize) -> bool {
        let child = self.slots().get_mut(number).and_then(|slot| {
            slot.look();
            let child = slot.child.take()?;
            slot.kills += 1;
            slot.state = State::Stopped;
            Some(child)
        });
        let Some(mut child) = child else { return false };
        child.kill().await.is_ok()
    }

    /// Each node's id, state, and how often it was killed.
    pub fn states(&self) -> Vec<(NodeId, State, u32)> {
        let mut slots = self.slots();
        slots.iter_mut().for_each(Slot::look);
        slots.iter().map(|slot| (slot.id.clone(), slot.state.clone(), slot.kills)).collect()
    }

    /// Asks all nodes to end, waits up to `grace`, and kills those that have not. Nodes that did not end well by
    /// themselves are `Ended` afterwards.
    pub async fn stop(&self, grace: Duration) {
        let mut children = Vec::new();
        for (number, slot) in self.slots().iter_mut().enumerate() {
            slot.look();
            if let Some(mut child) = slot.child.take() {
                let pipe = ask_to_end(&mut child);
                children.push((number, child, pipe));
            }
        }
        let deadline = tokio::time::Instant::now() + grace;
        let heard = deadline.min(tokio::time::Instant::now() + HEARD);
        for (number, mut child, pipe) in children {
            let mut ended = timeout_at(heard, child.wait()).await;
            if ended.is_err() {
                drop(pipe);
                ended = timeout_at(deadline, child.wait()).await;
            }
            let state = match ended {
                Ok(Ok(status)) if status.success() => State::Stopped,
                Ok(Ok(status)) => State::Ended(describe(status)),
                Ok(Err(error)) => State::Ended(format!("cannot be waited for: {error}")),
                Err(_) => {
                    let killed = timeout(Duration::from_secs(5), child.kill()).await.is_ok();
                    let how = if killed { "killed" } else { "cannot be killed" };
                    State::Ended(format!("still ran {} s after SIGTERM, {how}", grace.as_secs()))
                }
            };
            if let Some(slot) = self.slots().get_mut(number) {
                slot.state = state;
            }
        }
    }

    /// The end of a node's log.
    pub fn log_tail(&self, number: usize) -> Vec<String> {
        let Some(path) = self.slots().get(number).map(|slot| slot.files.log.clone()) else { return Vec::new() };
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| (*line).to_owned()).collect()
    }
}

impl Slot {
    /// Notices that the process has ended.
    fn look(&mut self) {
        let Some(child) = &mut self.child else { return };
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.state = State::Ended(describe(status));
                self.child = None;
            }
            Err(error) => self.state = State::Ended(format!("cannot be watched: {error}")),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(3) => "ended with unsettled data (exit code 3)".to_owned(),
        _ => status.to_string(),
    }
}

fn spawn(command: &[OsString], files: &NodeFiles) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log = OpenOptions::new().create(true).append(true).open(&files.log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("--config")
        .arg(&files.config)
        .env(EXIT_WITH_STDIN, "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    command.spawn()
}

/// SIGTERM where there is such a thing; elsewhere the closed standard input says it. Gives back the pipe that must stay
/// open until the signal has been heard: a node takes a second request to end for "at once".
fn ask_to_end(child: &mut Child) -> Option<ChildStdin> {
    let pipe = child.stdin.take();
    #[cfg(unix)]
    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
        // It fails if the process has just ended: then there is nothing to ask.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    pipe.filter(|_| cfg!(unix))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::files::Directory;
    use super::*;

    /// One node that does what the shell script says.
    fn nodes(script: &str) -> (Directory, Nodes) {
        let directory = Directory::create(false).unwrap();
        let files = NodeFiles { config: directory.path().join("config"), log: directory.path().join("log") };
        std::fs::write(&files.config, script).unwrap();
        // `sh -c '. "$2"' node --config FILE`: the shell reads its script from the configuration.
        let sh = vec!["sh".into(), "-c".into(), ". \"$2\"".into(), "node".into()];
        let nodes = Nodes::new(sh, [("here/node-0".parse().unwrap(), files)]);
        (directory, nodes)
    }

    fn state(nodes: &Nodes) -> State {
        nodes.states()[0].1.clone()
    }

    async fn log_says(nodes: &Nodes, text: &str) {
        for _ in 0..1_000 {
            if nodes.log_tail(0).iter().any(|line| line.contains(text)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{text:?} is not in the log: {:?}", nodes.log_tail(0));
    }

    /// Ends well when it is asked to, and badly when its standard input closes before that.
    const OBEDIENT: &str = "trap 'echo bye; exit 0' TERM; echo up $1; while read line; do :; done; exit 9";

    #[tokio::test]
    async fn a_node_is_started_once_and_ends_when_it_is_asked_to() {
        let (_directory, nodes) = nodes(OBEDIENT);
        nodes.start_all().unwrap();
        nodes.start(0).unwrap();
        log_says(&nodes, "up --config").await;
        assert_eq!(state(&nodes), State::Running);
        nodes.stop(Duration::from_secs(10)).await;
        assert_eq!(state(&nodes), State::Stopped);
        assert_eq!(nodes.log_tail(0).last().unwrap(), "bye");
    }

    #[tokio::test]
    async fn a_killed_node_says_nothing_more_and_can_be_started_again() {
        let (_directory, nodes) = nodes(OBEDIENT);
        nodes.start(0).unwrap();
        log_says(&nodes, "up").await;
        assert!(nodes.kill(0).await && !nodes.kill(0).await && !nodes.kill(7).await);
        assert_eq!((state(&nodes), nodes.states()[0].2), (State::Stopped, 1));
        assert!(!nodes.log_tail(0).iter().any(|line| line == "bye"));
        nodes.start(0).unwrap();
        assert_eq!(state(&nodes), State::Running);
        nodes.stop(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn a_node_that_ends_by_itself_or_will_not_end_is_told() {
        let (_directory, failing) = nodes("echo broken; exit 3");
        failing.start(0).unwrap();
        log_says(&failing, "broken").await;
        failing.stop(Duration::from_secs(10)).await;
        assert_eq!(state(&failing), State::Ended("ended with unsettled data (exit code 3)".to_owned()));

        let (_directory, stubborn) = nodes("trap '' TERM; echo up; while :; do sleep 0.01; done");
        stubborn.start(0).unwrap();
        log_says(&stubborn, "up").await;
        stubborn.stop(Duration::from_millis(50)).await;
        assert!(matches!(state(&stubborn), State::Ended(why) if why.ends_with("killed")));
    }

    #[tokio::test]
    async fn the_pipe_closes_with_the_demo() {
        let (directory, nodes) = nodes("cat > /dev/null; echo eof $SPANMESH_EXIT_WITH_STDIN > \"$2.end\"");
        nodes.start(0).unwrap();
        let child = nodes.slots()[0].child.as_mut().unwrap().stdin.take();
        drop(child);
        let end = directory.path().join("config.end");
        for _ in 0..1_000 {
            if std::fs::read_to_string(&end).is_ok_and(|text| text == "eof 1\n") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it did not notice");
    }
}
