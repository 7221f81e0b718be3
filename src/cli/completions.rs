//! `spanmesh completions`: what a shell needs to complete the command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Exit;
use super::{Cli, output};

/// Print a script that completes spanmesh's command line, for a shell to read.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

#[expect(clippy::unused_async, reason = "every command has the same shape, whether it waits or not")]
pub async fn run(args: CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "spanmesh", &mut script);
    output::print(&String::from_utf8_lossy(&script));
    Exit::Ok.into()
}
