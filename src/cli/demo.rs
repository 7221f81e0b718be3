//! `spanmesh demo`, and the orders to a running one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::exit::Exit;
use super::output::{OutputArgs, complain, print, print_json};
use crate::demo::ledger::{Ledger, Verdict};
use crate::demo::{self, DemoError, Options, Order};
use crate::runtime::clock::Clock;

/// Run a whole mesh of three clusters on this machine, with traffic, and watch it
///
/// Starts three node processes, a DNS server, a CA, WAN latency between them, services that send OTLP and a backend that
/// checks what comes out. Needs no network, no root and no configuration; Ctrl-C ends all of it.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    order: Option<OrderCommand>,
    /// End after this time of traffic: 20s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Exit with 1 unless every trace came out whole, once, from one node, and all books balance
    #[arg(long)]
    check: bool,
    /// Traces a second, of 15 spans each
    #[arg(long, default_value_t = 50.0, value_name = "N", value_parser = rate)]
    rate: f64,
    /// Equal seeds send equal traces but for their times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what is where to this file, as JSON, once traces flow
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Leave certificates, configurations and logs behind
    #[arg(long)]
    keep_dir: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Subcommand, Debug)]
enum OrderCommand {
    /// Kill a node of the running demo without warning, as a crash would
    Kill {
        /// us-east-1, us-west-2 or eu-west-1
        node: String,
        #[command(flatten)]
        to: ControlArgs,
    },
    /// Start a killed node again, or a running one anew
    Restart {
        /// us-east-1, us-west-2 or eu-west-1
        node: String,
        #[command(flatten)]
        to: ControlArgs,
    },
    /// Cut two nodes off from each other
    Partition {
        /// us-east-1, us-west-2 or eu-west-1
        a: String,
        /// Another of them
        b: String,
        #[command(flatten)]
        to: ControlArgs,
    },
    /// Mend all cuts
    Heal {
        #[command(flatten)]
        to: ControlArgs,
    },
    /// Print the running demo's ledger, as JSON
    Status {
        #[command(flatten)]
        to: ControlArgs,
    },
}

#[derive(Args, Debug)]
struct ControlArgs {
    /// Control of the demo, if not the last one of this user: `control` in its ready file
    #[arg(long, value_name = "URL")]
    control: Option<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 20s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.saturating_mul(millis) {
        0 => Err("no time at all".to_owned()),
        millis @ 1..=604_800_000 => Ok(Duration::from_millis(millis)),
        _ => Err("at most a week".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=2_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!("{text:?} is not a number from 0.1 to 2000")),
    }
}

/// What `-o json` prints at the end.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    #[serde(flatten)]
    ledger: &'a Ledger,
}

pub async fn run(args: DemoArgs) -> ExitCode {
    // Times are told from here: the binary's start, as nearly as it can know it.
    let clock = Clock::start();
    if let Some(order) = args.order {
        return give(order).await;
    }
    let json = args.output.is_json();
    let options = Options {
        duration: args.duration,
        rate: args.rate,
        seed: args.seed,
        ready_file: args.ready_file,
        keep_directory: args.keep_dir,
        alone: args.check,
        screen_on_stderr: json,
    };
    match demo::run(options, clock).await {
        Ok(finished) => {
            if json {
                print_json(&Document { verdict: &finished.verdict, ledger: &finished.ledger });
            }
            if args.check && !finished.verdict.ok {
                return Exit::Failed.into();
            }
            Exit::Ok.into()
        }
        Err(error) => {
            complain(&format!("error: {error}\n"));
            // As a shell tells a command that Ctrl-C ended.
            if matches!(error, DemoError::Interrupted) { ExitCode::from(130) } else { Exit::Failed.into() }
        }
    }
}

async fn give(command: OrderCommand) -> ExitCode {
    let (order, to) = match command {
        OrderCommand::Kill { node, to } => (Order::Kill(node), to),
        OrderCommand::Restart { node, to } => (Order::Restart(node), to),
        OrderCommand::Partition { a, b, to } => (Order::Partition(a, b), to),
        OrderCommand::Heal { to } => (Order::Heal, to),
        OrderCommand::Status { to } => (Order::Status, to),
    };
    match order.send(to.control.as_deref()).await {
        Ok(answer) => {
            match answer["message"].as_str() {
                Some(message) => print(&format!("{message}\n")),
                None => print_json(&answer),
            }
            Exit::Ok.into()
        }
        Err(message) => {
            complain(&format!("error: {message}\n"));
            Exit::Failed.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(line: &str) -> Result<DemoArgs, clap::Error> {
        clap::Parser::try_parse_from(line.split(' ')).map(|cli: Cli| cli.demo)
    }

    #[test]
    fn the_smoke_test_of_the_readme_is_understood() {
        let args = parse("demo --for 20s --check -o json --rate 5.5").unwrap();
        assert_eq!((args.duration, args.check, args.rate), (Some(Duration::from_secs(20)), true, 5.5));
        assert!(args.output.is_json() && args.order.is_none());
        assert!(matches!(parse("demo kill us-west-2").unwrap().order, Some(OrderCommand::Kill { .. })));
        assert!(matches!(
            parse("demo partition a b --control http://x").unwrap().order,
            Some(OrderCommand::Partition { .. })
        ));
        for wrong in [
            "demo --for 0s",
            "demo --for 9999h",
            "demo --for 3x",
            "demo --rate 0",
            "demo --rate nan",
            "demo --check kill x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
