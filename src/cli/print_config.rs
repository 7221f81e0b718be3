//! `spanmesh print-config`: the configuration a node would run with, after merging, substitution and flags.

use std::process::ExitCode;

use clap::Args;

use super::exit::Exit;
use super::output;
use super::run::{self, ConfigArgs};

/// Print the configuration as it would be run: merged, with the environment put in, secrets redacted
///
/// What is printed is a configuration itself.
#[derive(Args, Debug)]
pub struct PrintConfigArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Configuration, as with --config, and ahead of those
    #[arg(value_name = "SOURCE", conflicts_with_all = ["cluster", "node", "seed", "export", "listen", "advertise", "bind", "tls_ca", "tls_cert", "tls_key", "insecure_dev"])]
    pub sources: Vec<String>,
    /// Write every key that has a default, too
    #[arg(long, help_heading = "Options")]
    pub defaults: bool,
}

#[expect(clippy::unused_async, reason = "every command has the same shape, whether it waits or not")]
pub async fn run(mut args: PrintConfigArgs) -> ExitCode {
    args.config.config.splice(0..0, args.sources.drain(..));
    match run::load(&args.config) {
        Ok(loaded) => {
            output::print(&loaded.expanded.to_yaml(args.defaults));
            Exit::Ok.into()
        }
        Err(unusable) => {
            run::complain(&unusable);
            Exit::Config.into()
        }
    }
}
