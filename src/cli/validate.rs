//! `spanmesh validate`: whether a configuration would run, and everything that is wrong with it.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::environment;
use super::exit::Exit;
use super::output::{self, OutputArgs};
use super::run::{self, ConfigArgs};
use crate::config::{Loaded, Problems, Severity};

/// Check a configuration and report every problem in it
///
/// Ends with 0 if it can be run, with 78 if not. Nothing is started, bound or contacted.
#[derive(Args, Debug)]
pub struct ValidateArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Configuration, as with --config, and ahead of those
    #[arg(value_name = "SOURCE", conflicts_with_all = ["cluster", "node", "seed", "export", "listen", "advertise", "bind", "tls_ca", "tls_cert", "tls_key", "insecure_dev"])]
    pub sources: Vec<String>,
    /// Treat warnings as errors
    #[arg(long, help_heading = "Options")]
    pub deny_warnings: bool,
    /// Do not look whether the files it names exist on this machine; where they do not, that is a warning
    #[arg(long, help_heading = "Options")]
    pub no_environment: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape, whether it waits or not")]
pub async fn run(mut args: ValidateArgs) -> ExitCode {
    args.config.config.splice(0..0, args.sources.drain(..));
    match run::load(&args.config) {
        Ok(loaded) => valid(&args, loaded),
        Err(unusable) => {
            if args.output.is_json() {
                output::print_json(&json!({"valid": false, "problems": run::problems_json(&unusable)}));
            } else {
                run::complain(&unusable);
            }
            Exit::Config.into()
        }
    }
}

fn valid(args: &ValidateArgs, loaded: Loaded) -> ExitCode {
    let missing = if args.no_environment { Vec::new() } else { environment::check(&loaded.files) };
    let problems: Problems = loaded.warnings.with(missing);
    let denied = args.deny_warnings && problems.count(Severity::Warning) > 0;
    if args.output.is_json() {
        output::print_json(&json!({"valid": !denied, "problems": problems.to_json()}));
    } else {
        output::complain(&problems.to_string());
        let pipelines: Vec<&str> = loaded.settings.pipelines.keys().map(String::as_str).collect();
        let verdict = if denied { "has warnings" } else { "is valid" };
        output::print(&format!("the configuration {verdict}; pipelines: {}\n", pipelines.join(", ")));
    }
    if denied { Exit::Config.into() } else { Exit::Ok.into() }
}
