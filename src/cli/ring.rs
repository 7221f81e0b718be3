//! `spanmesh ring`: which node owns which share of the traces, and who owns one of them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::ask::{AskArgs, cell, list};
use super::exit::Exit;
use super::output;
use crate::model::TraceId;

/// Show who owns which share of the traces, or who owns one
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RingArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Show which node owns a trace
    Owner(OwnerArgs),
}

#[derive(Args, Debug)]
struct OwnerArgs {
    /// 32 hex digits
    trace_id: TraceId,
    #[command(flatten)]
    ask: AskArgs,
}

/// 0 with the answer; 1 if no node answers, or if nobody owns the trace.
pub async fn run(args: RingArgs) -> ExitCode {
    let shown = match args.what {
        None => shares(&args.ask).await,
        Some(What::Owner(owner)) => owner_of(&owner.ask, owner.trace_id).await,
    };
    match shown {
        Ok(()) => Exit::Ok.into(),
        Err(exit) => exit.into(),
    }
}

async fn shares(ask: &AskArgs) -> Result<(), Exit> {
    let answer = ask.get("/api/v1/ring").await?;
    if ask.output.is_json() {
        output::print_json(&answer);
    } else {
        output::print(&shares_text(&answer));
    }
    Ok(())
}

fn shares_text(answer: &Value) -> String {
    let ring = &answer["ring"];
    if ring.is_null() {
        return "The node runs alone and owns every trace: its configuration has no mesh connector.\n".to_owned();
    }
    let rows: Vec<_> = list(ring, "members")
        .map(|share| {
            let part = share["share"].as_f64().unwrap_or_default();
            [cell(&share["id"]), cell(&share["slots"]), format!("{:.2}%", part * 100.0)]
        })
        .collect();
    let table = output::table(["NODE", "SLOTS", "SHARE"], &rows);
    format!("mesh {}, ring {}\n{table}", cell(&answer["mesh"]), cell(&ring["version"]))
}

async fn owner_of(ask: &AskArgs, trace_id: TraceId) -> Result<(), Exit> {
    let answer = ask.get(&format!("/api/v1/ring/owner/{trace_id}")).await?;
    if ask.output.is_json() {
        output::print_json(&answer);
    } else if !answer["owner"].is_null() {
        output::print(&owner_text(&answer));
    }
    if answer["owner"].is_null() {
        output::complain("nobody owns traces now: no member has a weight above zero\n");
        return Err(Exit::Failed);
    }
    Ok(())
}

fn owner_text(answer: &Value) -> String {
    let me = if answer["me"] == true { " (this node)" } else { "" };
    let (owner, slot, ring) = (cell(&answer["owner"]), cell(&answer["slot"]), cell(&answer["ring_version"]));
    format!("{owner}{me}, by slot {slot} of ring {ring}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_and_owners_are_one_line_each() {
        let answer = json!({"mesh": "default", "ring": {"version": "00ff", "members": [
            {"id": "us/a", "slots": 49152, "share": 0.75}, {"id": "eu/b", "slots": 16384, "share": 0.25}]}});
        let text = shares_text(&answer);
        assert_eq!(text, "mesh default, ring 00ff\nNODE  SLOTS  SHARE\nus/a  49152  75.00%\neu/b  16384  25.00%\n");
        let owner = json!({"owner": "eu/b", "slot": 7, "me": true, "ring_version": "00ff"});
        assert_eq!(owner_text(&owner), "eu/b (this node), by slot 7 of ring 00ff\n");
    }
}
