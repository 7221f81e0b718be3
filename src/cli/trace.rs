//! `spanmesh trace`: what became of a trace, asked of any node.

mod text;
mod waterfall;

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::ask::AskArgs;
use super::exit::Exit;
use super::output;
use crate::admin::trace::{State, TraceAnswer};
use crate::model::TraceId;

/// Show what became of a trace: its owner, whether it was kept, and why
///
/// Any node can be asked: it asks the trace's owner, and the other members if that does not know it. Only what is in
/// memory is known: open traces, those decided lately, and verdicts for longer.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 the trace is known, 1 it is not or its owner cannot be asked, 2 usage")]
pub struct TraceArgs {
    /// 32 hex digits
    #[arg(value_name = "ID")]
    trace_id: TraceId,
    /// Show its spans, as far as they are still in memory
    #[arg(long)]
    spans: bool,
    /// Show the spans with service names and attributes; only a node on this machine tells them
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    ask: AskArgs,
}

/// 0 if anybody knows the trace, 1 if nobody does or no node answers.
pub async fn run(args: TraceArgs) -> ExitCode {
    match show(&args).await {
        Ok(()) => Exit::Ok.into(),
        Err(exit) => exit.into(),
    }
}

async fn show(args: &TraceArgs) -> Result<(), Exit> {
    let TraceArgs { trace_id, spans, values, ask } = args;
    let spans = *spans || *values;
    let answer = ask.get(&format!("/api/v1/traces/{trace_id}?spans={spans}&values={values}")).await?;
    let read = TraceAnswer::deserialize(&answer).map_err(|error| {
        output::complain(&format!("error: this answer is of another version of spanmesh: {error}\n"));
        Exit::Failed
    })?;
    if ask.output.is_json() {
        output::print_json(&answer);
    } else {
        output::print(&text::facts(&read));
        if let Some(details) = &read.details
            && let Some(timeline) = &details.timeline
        {
            output::print(&format!("\n{}", waterfall::picture(timeline, details.left_out, width())));
        }
    }
    if read.state == State::Unknown { Err(Exit::Failed) } else { Ok(()) }
}

/// Columns to write in: what `COLUMNS` says, else the terminal's, else 100.
fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let seen = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    told.or_else(seen).filter(|columns| *columns > 0).unwrap_or(100).clamp(60, 240)
}

#[cfg(test)]
mod tests;
