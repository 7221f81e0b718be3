//! `spanmesh run`, also as bare `spanmesh --config=…`: which configuration a node runs with.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use super::exit::Exit;
use super::{host, output, sources};
use crate::config::{self, Loaded, builtin};

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

#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
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
            output::complain(&format!("{problems}the configuration has {errors} error{plural}\n"));
        }
    }
}

/// Runs a node until it is told to end.
pub async fn run(args: RunArgs) -> ExitCode {
    match settings(&args) {
        Ok(_loaded) => todo!("Node::start"),
        Err(code) => code,
    }
}
