//! `spanmesh members`: who is in the mesh, as one node sees it.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::ask::{AskArgs, cell, duration, list};
use super::exit::Exit;
use super::output;

/// Show the mesh's members as a running node sees them
#[derive(Args, Debug)]
pub struct MembersArgs {
    #[command(flatten)]
    pub ask: AskArgs,
}

/// 0 with the list, 1 if no node answers.
pub async fn run(args: MembersArgs) -> ExitCode {
    match show(&args.ask).await {
        Ok(()) => Exit::Ok.into(),
        Err(exit) => exit.into(),
    }
}

async fn show(ask: &AskArgs) -> Result<(), Exit> {
    let answer = ask.get("/api/v1/members").await?;
    if ask.output.is_json() {
        output::print_json(&answer);
        return Ok(());
    }
    let (ring, links) = (ask.get("/api/v1/ring").await?, ask.get("/api/v1/links").await?);
    output::print(&text(&answer, &ring["ring"], &links));
    Ok(())
}

fn text(answer: &Value, ring: &Value, links: &Value) -> String {
    if answer["mesh"].is_null() {
        return "The node runs alone: its configuration has no mesh connector.\n".to_owned();
    }
    let rows: Vec<_> = list(answer, "members").map(|member| row(member, ring, links)).collect();
    let mut text = output::table(["NODE", "STATE", "FOR", "ADDRESS", "SHARE", "LINK", "CLOCK", "VERSION"], &rows);
    for seed in list(answer, "seeds").filter(|seed| !seed["error"].is_null()) {
        text.push_str(&format!("seed {}: {}\n", cell(&seed["seed"]), cell(&seed["error"])));
    }
    text
}

fn row(member: &Value, ring: &Value, links: &Value) -> [String; 8] {
    let link = list(links, "links").find(|link| link["peer"] == member["id"]);
    let share = list(ring, "members").find(|share| share["id"] == member["id"]);
    let is_me = member["me"] == true;
    [
        format!("{}{}", cell(&member["id"]), if is_me { " *" } else { "" }),
        cell(&member["state"]),
        duration(&member["since_seconds"]),
        cell(&member["address"]),
        share
            .and_then(|share| share["share"].as_f64())
            .map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0)),
        match (is_me, member["linked"] == true) {
            (true, _) => "-",
            (false, true) => "up",
            (false, false) => "down",
        }
        .to_owned(),
        link.and_then(|link| link["clock_offset_seconds"].as_f64()).map_or("-".to_owned(), clock),
        cell(&member["version"]),
    ]
}

/// How far a member's clock is ahead of the asked node's.
fn clock(seconds: f64) -> String {
    if seconds.abs() < 1.0 { format!("{:+.1} ms", seconds * 1e3) } else { format!("{seconds:+.1} s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_listed_with_their_share_and_this_node_is_marked() {
        let answer = json!({"mesh": "default", "members": [
            {"id": "us/a", "state": "active", "since_seconds": 75.0, "address": "10.0.0.1:4319", "me": true, "linked": true, "version": "0.1.0"},
            {"id": "eu/b", "state": "dead", "since_seconds": 3.0, "address": null, "me": false, "linked": false, "version": ""},
        ], "seeds": [{"seed": "dns+x:1", "error": "timed out"}]});
        let ring = json!({"members": [{"id": "us/a", "share": 1.0}]});
        let links = json!({"links": [{"peer": "eu/b", "clock_offset_seconds": -0.0123}]});
        let text = text(&answer, &ring, &links);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NODE    STATE   FOR"), "{text}");
        assert!(lines[1].starts_with("us/a *  active  1m 15s  10.0.0.1:4319  100.0%"), "{text}");
        assert!(lines[2].starts_with("eu/b    dead    3s      -") && lines[2].ends_with("down  -12.3 ms  -"), "{text}");
        assert_eq!(lines[3], "seed dns+x:1: timed out");
    }

    #[test]
    fn a_node_without_a_mesh_says_so() {
        assert!(text(&json!({"mesh": null, "members": []}), &Value::Null, &Value::Null).contains("runs alone"));
    }
}
