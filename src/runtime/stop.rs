//! Signals: what the operating system asks of a running node.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Set to 1 in the environment: the node ends when its standard input does, so that it never outlives a parent that
/// holds the other end.
pub const EXIT_WITH_STDIN: &str = "SPANMESH_EXIT_WITH_STDIN";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The first SIGTERM or SIGINT: finish what is in hand, then end.
    Drain,
    /// A further one: end at once.
    Now,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals a node answers to. From [`Signals::install`] on they no longer end the process by themselves.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    is_draining: bool,
}

impl Signals {
    pub fn install() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            is_draining: false,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => self.stop(),
            _ = self.interrupt.recv() => self.stop(),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    fn stop(&mut self) -> Asked {
        if std::mem::replace(&mut self.is_draining, true) { Asked::Now } else { Asked::Drain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_stop_signal_drains_and_the_second_ends() {
        let mut signals = Signals::install().unwrap();
        let pid = std::process::id().to_string();
        for (name, asked) in [("-HUP", Asked::Reload), ("-TERM", Asked::Drain), ("-INT", Asked::Now)] {
            assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
            assert_eq!(signals.next().await, asked);
        }
    }
}
