//! The command line. Each command is a file with its `Args` and `async fn run(args) -> ExitCode`, and a line below.

mod ask;
pub mod certs;
pub mod completions;
pub mod components;
pub mod demo;
mod environment;
pub mod exit;
pub mod host;
pub mod load;
pub mod members;
pub mod output;
pub mod print_config;
pub mod ring;
pub mod run;
mod sources;
pub mod test;
pub mod trace;
pub mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;
use run::RunArgs;

/// A peer-to-peer federated OpenTelemetry trace collector mesh: every trace has one owner, across clusters.
#[derive(Parser, Debug)]
#[command(name = "spanmesh", version, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 ended with unsettled data, 78 bad configuration")]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The bare form, `spanmesh --config=FILE`: how the Collector's charts and operator start their image.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node
    Run(Box<RunArgs>),
    Demo(Box<demo::DemoArgs>),
    Members(members::MembersArgs),
    Ring(ring::RingArgs),
    Trace(trace::TraceArgs),
    Load(Box<load::LoadArgs>),
    Certs(certs::CertsArgs),
    Validate(Box<validate::ValidateArgs>),
    Test(test::TestArgs),
    PrintConfig(Box<print_config::PrintConfigArgs>),
    Components(components::ComponentsArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    async fn run(self) -> ExitCode {
        match self {
            Command::Run(args) => run::run(*args).await,
            Command::Demo(args) => demo::run(*args).await,
            Command::Members(args) => members::run(args).await,
            Command::Ring(args) => ring::run(args).await,
            Command::Trace(args) => trace::run(args).await,
            Command::Load(args) => load::run(*args).await,
            Command::Certs(args) => certs::run(args),
            Command::Validate(args) => validate::run(*args).await,
            Command::Test(args) => test::run(args).await,
            Command::PrintConfig(args) => print_config::run(*args).await,
            Command::Components(args) => components::run(args).await,
            Command::Completions(args) => completions::run(args).await,
        }
    }
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let Cli { command, run } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("error: cannot start: {error}\n"));
            return Exit::Failed.into();
        }
    };
    runtime.block_on(command.unwrap_or(Command::Run(Box::new(run))).run())
}

#[cfg(test)]
mod tests;
