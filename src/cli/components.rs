//! `spanmesh components`: what this binary can be configured with.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use super::output::{self, OutputArgs};
use crate::config::schema::COMPONENTS;
use crate::config::schema::traces::POLICIES;

/// List the components of this build and the policies of tail_sampling, with their stability
#[derive(Args, Debug)]
pub struct ComponentsArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape, whether it waits or not")]
pub async fn run(args: ComponentsArgs) -> ExitCode {
    if args.output.is_json() {
        let list: Vec<Value> = COMPONENTS
            .iter()
            .map(|c| {
                json!({"kind": c.kind.noun(), "name": c.name, "alias": c.alias, "stability": c.stability, "about": c.about})
            })
            .collect();
        let policies: Vec<Value> =
            POLICIES.iter().map(|(name, about)| json!({"name": name, "stability": "alpha", "about": about})).collect();
        output::print_json(&json!({"version": env!("CARGO_PKG_VERSION"), "components": list, "policies": policies}));
    } else {
        let policies = POLICIES.iter().map(|(name, about)| ["policy", name, "alpha", about].map(str::to_owned));
        let rows: Vec<[String; 4]> = COMPONENTS
            .iter()
            .map(|c| {
                let alias = c.alias.map(|alias| format!(" ({alias})")).unwrap_or_default();
                [c.kind.noun().to_owned(), format!("{}{alias}", c.name), c.stability.to_owned(), c.about.to_owned()]
            })
            .chain(policies)
            .collect();
        output::print(&output::table(["KIND", "NAME", "STABILITY", "WHAT IT DOES"], &rows));
    }
    Exit::Ok.into()
}
