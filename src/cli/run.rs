//! `spanmesh run`, also as bare `spanmesh --config=…`: which configuration a node runs with, and its life.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::exit::Exit;
use super::{host, output, sources};
use crate::config::{self, Loaded, builtin};
use crate::node::{Addresses, Node};
use crate::runtime::stop::{Asked, EXIT_WITH_STDIN, Signals};
use crate::telemetry::logs;

/// Where the configuration comes from. Shared by `run`, `validate` and `print-config`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration: PATH, file:PATH, yaml:TEXT, env:NAME or - (standard input); of several, later ones stand over
    /// earlier ones. Without it a built-in configuration is used, adjusted by the flags below
    #[arg(long, value_name = "SOURCE")]
    pub config: Vec<String>,
    #[command(flatten)]
    pub flags: FlagArgs,
}

/// Adjustments of the built-in configuration.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Built-in configuration (without --config)")]
pub struct FlagArgs {
    /// Name of the cluster this node runs in [env: SPANMESH_CLUSTER]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub cluster: Option<String>,
    /// Stable name of this node in its cluster; default: the host's name [env: SPANMESH_NODE]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub node: Option<String>,
    /// Where other nodes may be found: dns+HOST:PORT, dnssrv+_mesh._udp.HOST or HOST:PORT; repeatable
    /// [env: SPANMESH_SEEDS, with commas]
    #[arg(long, value_name = "SEED", conflicts_with = "config")]
    pub seed: Vec<String>,
    /// Backend of the traces this node owns: http(s)://HOST:4317 or grpc(s)://HOST:PORT is OTLP/gRPC, any other
    /// http(s):// URL is OTLP/HTTP; default: print them [env: SPANMESH_EXPORT]
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub export: Option<String>,
    /// UDP address of the mesh; default: 0.0.0.0:4319, with --insecure-dev 127.0.0.1:4319 [env: SPANMESH_LISTEN]
    #[arg(long, value_name = "IP:PORT", conflicts_with = "config")]
    pub listen: Option<String>,
    /// HOST:PORT that other nodes dial, or none; default: what they see [env: SPANMESH_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    pub advertise: Option<String>,
    /// IP that OTLP (4317, 4318), health (13133) and metrics (8888) are served at; default: 127.0.0.1
    /// [env: SPANMESH_BIND]
    #[arg(long, value_name = "IP", conflicts_with = "config")]
    pub bind: Option<String>,
    /// Certificates of the mesh's CA [env: SPANMESH_TLS_CA]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub tls_ca: Option<String>,
    /// Certificate of this node [env: SPANMESH_TLS_CERT]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub tls_cert: Option<String>,
    /// Its private key [env: SPANMESH_TLS_KEY]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub tls_key: Option<String>,
    /// Let anybody join as anybody, for trials [env: SPANMESH_INSECURE_DEV=true]
    #[arg(long, conflicts_with_all = ["config", "tls_ca", "tls_cert", "tls_key"])]
    pub insecure_dev: bool,
}

impl FlagArgs {
    /// The flags that were given, by the name of their variable.
    fn given(&self) -> BTreeMap<&'static str, String> {
        let seeds = (!self.seed.is_empty()).then(|| self.seed.join(","));
        let insecure = self.insecure_dev.then(|| "true".to_owned());
        let given = [
            ("SPANMESH_CLUSTER", &self.cluster),
            ("SPANMESH_NODE", &self.node),
            ("SPANMESH_SEEDS", &seeds),
            ("SPANMESH_EXPORT", &self.export),
            ("SPANMESH_LISTEN", &self.listen),
            ("SPANMESH_ADVERTISE", &self.advertise),
            ("SPANMESH_BIND", &self.bind),
            ("SPANMESH_TLS_CA", &self.tls_ca),
            ("SPANMESH_TLS_CERT", &self.tls_cert),
            ("SPANMESH_TLS_KEY", &self.tls_key),
            ("SPANMESH_INSECURE_DEV", &insecure),
        ];
        given.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))).collect()
    }
}

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write the addresses taken, as JSON, to this file once the node is ready
    #[arg(long, value_name = "FILE", help_heading = "Options")]
    pub ready_file: Option<PathBuf>,
    /// Longest time to deliver what is in hand after SIGTERM; keep it below Kubernetes' grace period
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = grace, help_heading = "Options")]
    pub grace: Duration,
}

fn grace(text: &str) -> Result<Duration, String> {
    config::units::duration(text).ok_or_else(|| "not a duration: use units, such as 50s or 1m30s".to_owned())
}

const NO_CLUSTER: &str =
    "no configuration: give --config FILE, or --cluster NAME (or SPANMESH_CLUSTER) for the built-in one";

/// Why there is no configuration.
pub enum Unusable {
    /// A source could not be read.
    Unreadable(String),
    Problems(config::Problems),
}

/// Reads the sources, or takes the built-in configuration, and checks it. Prints nothing.
pub fn load(args: &ConfigArgs) -> Result<Loaded, Unusable> {
    let env = |name: &str| std::env::var(name).ok();
    let host = host::facts();
    if args.config.is_empty() {
        let builtin = builtin::builtin(&args.flags.given(), &env, host.memory_bytes > 0);
        if !builtin.variables.contains_key("SPANMESH_CLUSTER") {
            return Err(Unusable::Unreadable(NO_CLUSTER.to_owned()));
        }
        let variable = |name: &str| builtin.variables.get(name).cloned();
        return config::load(&builtin.sources, &variable, &host).map_err(Unusable::Problems);
    }
    let sources = sources::read_all(&args.config).map_err(Unusable::Unreadable)?;
    config::load(&sources, &env, &host).map_err(Unusable::Problems)
}

/// [`load`], with everything that is to be said about it on standard error. `Err` is the code to end with.
pub fn settings(args: &RunArgs) -> Result<Loaded, ExitCode> {
    match load(&args.config) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                output::complain(&loaded.warnings.to_string());
            }
            Ok(loaded)
        }
        Err(unusable) => {
            complain(&unusable);
            Err(Exit::Config.into())
        }
    }
}

/// Says on standard error why there is no configuration.
pub fn complain(unusable: &Unusable) {
    match unusable {
        Unusable::Unreadable(message) => output::complain(&format!("error: {message}\n")),
        Unusable::Problems(problems) => {
            let errors = problems.count(config::Severity::Error);
            let plural = if errors == 1 { "" } else { "s" };
            let text = problems.to_string();
            let flags = flags_in(&text);
            output::complain(&format!("{text}{flags}the configuration has {errors} error{plural}\n"));
        }
    }
}

/// Which flags the variables are that a text about the built-in configuration names: its reader has given flags.
fn flags_in(text: &str) -> String {
    let is_named = |variable: &&str| text.contains(&format!("${{env:{variable}"));
    let flag = |variable: &str| match variable.trim_start_matches("SPANMESH_") {
        "SEEDS" => "--seed".to_owned(),
        name => format!("--{}", name.to_lowercase().replace('_', "-")),
    };
    let line = |variable: &str| format!("note: {variable} is what {} says, or the variable itself\n", flag(variable));
    builtin::VARIABLES.into_iter().filter(is_named).map(line).collect()
}

/// The same as a list of objects.
pub fn problems_json(unusable: &Unusable) -> Value {
    match unusable {
        Unusable::Unreadable(message) => json!([{"severity": "error", "path": "", "message": message}]),
        Unusable::Problems(problems) => problems.to_json(),
    }
}

/// Runs a node until it is told to end.
pub async fn run(args: RunArgs) -> ExitCode {
    let loaded = match settings(&args) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let telemetry = &loaded.settings.telemetry;
    if let Err(error) = logs::init(&telemetry.log_level, telemetry.log_format) {
        output::complain(&format!("error: {error}\n"));
        return Exit::Config.into();
    }
    // Before anything is started, so that no signal is missed.
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("cannot wait for signals: {error}")),
    };
    let warnings = loaded.warnings.iter().map(|warning| warning.message.clone()).collect();
    let node = match Node::start(loaded.settings, warnings).await {
        Ok(node) => node,
        Err(error) => return failed(&error.to_string()),
    };
    let addresses = node.addresses();
    log_ready(&addresses);
    if let Some(path) = &args.ready_file
        && let Err(error) = write_ready_file(path, &addresses)
    {
        tracing::error!("{}: {error}", path.display());
    }
    // systemd's notification; without its variable in the environment nothing happens.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let failed = tokio::select! {
        () = until_asked(&mut signals, &args) => None,
        part = node.failed() => Some(part),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(grace = ?args.grace, "asked to stop; asked once more, the node ends at once and loses what is in hand");
    tokio::select! {
        stopped = node.stop(args.grace) => match stopped.unsettled_spans {
            0 => failed.map_or(Exit::Ok, |_| Exit::Failed).into(),
            spans => {
                tracing::error!(spans, "ended with spans that could not be delivered");
                Exit::Unsettled.into()
            }
        },
        () = asked_again(&mut signals) => {
            tracing::error!("asked to stop at once: what is in hand is lost");
            // No destructors: they would report every batch in hand as forgotten.
            std::process::exit(Exit::Unsettled.code().into())
        }
    }
}

/// One field an address: what is not served is left out.
fn log_ready(addresses: &Addresses) {
    let Addresses { otlp_grpc, otlp_http, mesh, admin, metrics, health } = addresses;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        otlp_grpc = otlp_grpc.map(tracing::field::display),
        otlp_http = otlp_http.map(tracing::field::display),
        mesh = mesh.map(tracing::field::display),
        admin = admin.map(tracing::field::display),
        metrics = metrics.map(tracing::field::display),
        health = health.map(tracing::field::display),
        "ready"
    );
}

fn failed(message: &str) -> ExitCode {
    tracing::error!("{message}");
    Exit::Failed.into()
}

/// Waits for the first request to end: a signal, or the end of standard input where that was asked for.
async fn until_asked(signals: &mut Signals, args: &RunArgs) {
    let with_stdin = std::env::var_os(EXIT_WITH_STDIN).is_some_and(|value| value == "1");
    let (ended, heard) = oneshot::channel::<()>();
    let input_ended = async {
        // Without the thread nobody sends.
        if !with_stdin || heard.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    if with_stdin {
        // A thread of its own: tokio's would hold up the end of the process until its read returned.
        std::thread::spawn(move || {
            // What is written to it means nothing; only its end does.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            let _ = ended.send(());
        });
    }
    tokio::pin!(input_ended);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Drain | Asked::Now => return,
                Asked::Reload => look_again(args),
            },
            () = &mut input_ended => return,
        }
    }
}

/// The first signal may still come where the end of standard input began the stop: only a further one means now.
async fn asked_again(signals: &mut Signals) {
    while signals.next().await != Asked::Now {}
}

/// SIGHUP. Certificates are read again by themselves; for everything else the node says what a restart would find.
fn look_again(args: &RunArgs) {
    match load(&args.config) {
        Ok(_) => tracing::warn!("the configuration is valid; a changed one is not supported yet without a restart"),
        Err(unusable) => {
            complain(&unusable);
            tracing::error!("the configuration has become invalid: the node goes on with the one it started with");
        }
    }
}

/// Written beside and moved into place, so that whoever waits for it never reads half of it.
fn write_ready_file(path: &Path, addresses: &Addresses) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, serde_json::to_vec_pretty(addresses)?)?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_built_in_configuration_are_told_as_flags() {
        let told = flags_in("1 |  cluster: ${env:SPANMESH_CLUSTER}, seeds: ${env:SPANMESH_SEEDS:-}");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("SPANMESH_CLUSTER is what --cluster says") && lines[1].contains("--seed says"));
        assert_eq!(flags_in("cluster: x"), "");
    }
}
