//! Exit codes, the same for every command: scripts and service managers act on them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The command ran and failed, or a check found something.
    Failed,
    /// The command line makes no sense; clap's own code.
    Usage,
    /// The node ended with data that is not settled.
    Unsettled,
    /// The configuration is no good: sysexits' `EX_CONFIG`. A restart will not help.
    Config,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unsettled => 3,
            Exit::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
