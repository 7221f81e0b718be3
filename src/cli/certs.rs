//! `spanmesh certs`: a CA and node certificates for trials and small meshes, and a look into any certificate.
//!
//! What is printed on stdout are the paths (or, with `-o json`, everything), so that scripts can use it; what to do next
//! goes to stderr. Nothing is overwritten without `--force`, and with it a file is replaced in one step: running
//! nodes read these files. A node's folder holds all three files that it needs and never the CA's key.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certs::Authority;
use crate::link::tls::{SpiffeId, TrustDomain};
use crate::model::{ClusterName, NodeId, NodeName, UnixNanos};
use crate::runtime::clock::unix_now;

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
/// Modes of files: the public ones and the keys.
const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;
/// Longest file that `show` reads.
const MAX_FILE: u64 = 1 << 20;

/// Make and look at the certificates that nodes prove themselves with.
#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: Command,
    /// Form of what is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text, global = true)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a mesh's certificate authority: ca.pem for every node, and ca-key.pem for you alone.
    Init(InitArgs),
    /// Make a node's certificate and key.
    Issue(IssueArgs),
    /// Show whom a certificate file names, until when, and who signed it.
    Show {
        /// A PEM file with one or more certificates.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Folder to write into; made if it is not there.
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
    /// Name of the mesh's realm, the first part of every node's SPIFFE id.
    #[arg(long, default_value = "mesh.local", value_parser = |text: &str| TrustDomain::new(text))]
    trust_domain: TrustDomain,
    /// How long the CA is valid: a number with s, m, h or d.
    #[arg(long, default_value = "3650d", value_parser = duration)]
    valid_for: Duration,
    /// Replace a CA that is there: certificates of the old one will no longer be accepted.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// The node's cluster, as in its configuration.
    #[arg(long, value_parser = |text: &str| ClusterName::new(text))]
    cluster: ClusterName,
    /// The node's name in its cluster, as in its configuration (default there: the host's name).
    #[arg(long, value_parser = |text: &str| NodeName::new(text))]
    node: NodeName,
    /// Folder of the CA, as given to `init`.
    #[arg(long, default_value = "certs")]
    dir: PathBuf,
    /// Folder to write into. Default: DIR/nodes/CLUSTER/NODE
    #[arg(long)]
    out: Option<PathBuf>,
    /// How long the certificate is valid, at most as long as the CA: a number with s, m, h or d.
    #[arg(long, default_value = "90d", value_parser = duration)]
    valid_for: Duration,
    /// Also name this DNS name or IP address; may be repeated. Links do not need it.
    #[arg(long = "san", value_name = "NAME")]
    also: Vec<String>,
    /// Replace files that are there; a running node takes the new ones up by itself.
    #[arg(long)]
    force: bool,
}

/// What was made, for `-o json`.
#[derive(Serialize)]
struct Made {
    identity: String,
    /// Unix seconds.
    expires_at: u64,
    ca_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_file: Option<PathBuf>,
    key_file: PathBuf,
}

/// One certificate of a file, for `show`.
#[derive(Serialize)]
struct Shown {
    /// SPIFFE id of the node that it names, if it does.
    identity: Option<String>,
    /// Why it names none.
    reason: Option<String>,
    is_ca: bool,
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    /// Unix seconds.
    expires_at: i64,
    expired: bool,
}

/// Runs the command. 0: done; 1: not, with the reason on stderr.
pub fn run(args: CertsArgs) -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    match execute(args, unix_now(), &mut out, &mut err) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if stderr is closed.
            let _ = writeln!(err, "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: CertsArgs, now: UnixNanos, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), String> {
    let (text, value, next) = match args.command {
        Command::Init(init) => made(init_ca(&init, now)?)?,
        Command::Issue(issue) => made(issue_leaf(&issue, now)?)?,
        Command::Show { file } => {
            let shown = show(&file, now)?;
            (listing(&shown), serde_json::to_value(&shown).map_err(|error| error.to_string())?, String::new())
        }
    };
    let written = match args.output {
        Format::Text => out.write_all(text.as_bytes()),
        Format::Json => writeln!(out, "{value:#}"),
    };
    written.and_then(|()| err.write_all(next.as_bytes())).map_err(|error| format!("cannot write the result: {error}"))
}

/// The three forms of a result: paths, JSON, what to do next.
fn made((made, next): (Made, String)) -> Result<(String, serde_json::Value, String), String> {
    let mut paths = String::new();
    for path in [Some(&made.ca_file), made.cert_file.as_ref(), Some(&made.key_file)].into_iter().flatten() {
        let _ = writeln!(paths, "{}", path.display());
    }
    Ok((paths, serde_json::to_value(&made).map_err(|error| error.to_string())?, next))
}

fn init_ca(args: &InitArgs, now: UnixNanos) -> Result<(Made, String), String> {
    let (ca_file, key_file) = (args.dir.join(CA), args.dir.join(CA_KEY));
    let ca = Authority::create(args.trust_domain.as_str(), now, args.valid_for).map_err(|error| error.to_string())?;
    make_folder(&args.dir)?;
    let key = ca.key_pem();
    put(&[(&key_file, &key, SECRET), (&ca_file, ca.cert_pem(), PUBLIC)], args.force)?;
    let next = format!(
        "The CA of trust domain {} is made. Every node gets {}.\nKeep {} to yourself: who has it can make nodes of your \
         mesh.\nNext, for each node: spanmesh certs issue --dir {} --cluster CLUSTER --node NODE\n",
        args.trust_domain,
        ca_file.display(),
        key_file.display(),
        args.dir.display(),
    );
    let identity = format!("spiffe://{}", args.trust_domain);
    Ok((Made { identity, expires_at: ca.not_after(), ca_file, cert_file: None, key_file }, next))
}

fn issue_leaf(args: &IssueArgs, now: UnixNanos) -> Result<(Made, String), String> {
    let node = NodeId { cluster: args.cluster.clone(), node: args.node.clone() };
    let read = |name: &str| {
        let path = args.dir.join(name);
        std::fs::read_to_string(&path).map_err(|error| {
            format!("{}: {error}; make a CA with `spanmesh certs init --dir {}`", path.display(), args.dir.display())
        })
    };
    let ca = Authority::from_pem(&read(CA)?, &read(CA_KEY)?)
        .map_err(|error| format!("{}: {error}", args.dir.join(CA).display()))?;
    let issued = ca.issue(&node, &args.also, now, args.valid_for).map_err(|error| error.to_string())?;
    let default = || args.dir.join("nodes").join(args.cluster.as_str()).join(args.node.as_str());
    let folder = args.out.clone().unwrap_or_else(default);
    make_folder(&folder)?;
    let (ca_file, cert_file, key_file) = (folder.join(CA), folder.join(CERT), folder.join(KEY));
    put(
        &[
            (&key_file, &issued.key_pem, SECRET),
            (&cert_file, &issued.cert_pem, PUBLIC),
            (&ca_file, ca.cert_pem(), PUBLIC),
        ],
        args.force,
    )?;
    let next = format!(
        "Copy {} to the node {node}, and say in its configuration (paths as they are there):\n\n\
         connectors:\n  mesh:\n    cluster: {}\n    node: {}\n    tls:\n      ca_file: {}\n      cert_file: {}\n      \
         key_file: {}\n\n",
        folder.display(),
        args.cluster,
        args.node,
        ca_file.display(),
        cert_file.display(),
        key_file.display(),
    );
    let identity = SpiffeId { trust_domain: ca.trust_domain().clone(), node }.to_string();
    Ok((Made { identity, expires_at: issued.not_after, ca_file, cert_file: Some(cert_file), key_file }, next))
}

fn show(file: &Path, now: UnixNanos) -> Result<Vec<Shown>, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let size = std::fs::metadata(file).map_err(|error| told(&error))?.len();
    if size > MAX_FILE {
        return Err(told(&"it has more than 1 MiB: it is not a certificate file"));
    }
    let bytes = std::fs::read(file).map_err(|error| told(&error))?;
    let mut shown = Vec::new();
    for pem in Pem::iter_from_buffer(&bytes) {
        let pem = pem.map_err(|_| told(&"its PEM is damaged"))?;
        if pem.label == "CERTIFICATE" {
            shown.push(facts(&pem.contents, now).map_err(|error| told(&error))?);
        }
    }
    if shown.is_empty() {
        return Err(told(&"it has no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(shown)
}

fn facts(der: &[u8], now: UnixNanos) -> Result<Shown, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let (identity, reason) = match SpiffeId::of_certificate(der) {
        Ok(id) => (Some(id.to_string()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let validity = certificate.validity();
    let expires_at = validity.not_after.timestamp();
    Ok(Shown {
        identity,
        reason,
        is_ca: certificate.is_ca(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
        expires_at,
        expired: i64::try_from(now.0 / 1_000_000_000).is_ok_and(|now| now > expires_at),
    })
}

fn listing(shown: &[Shown]) -> String {
    let mut text = String::new();
    for (nth, one) in shown.iter().enumerate() {
        let gap = if nth == 0 { "" } else { "\n" };
        let identity = match (&one.identity, &one.reason) {
            (Some(identity), _) => identity.clone(),
            (None, _) if one.is_ca => "none, it is a CA".to_owned(),
            (None, reason) => format!("none: {}", reason.as_deref().unwrap_or_default()),
        };
        let state = if one.expired { " (EXPIRED)" } else { "" };
        let _ = writeln!(
            text,
            "{gap}node      {identity}\nsubject   {}\nissuer    {}\nserial    {}\nfrom      {}\nuntil     {}{state}",
            one.subject, one.issuer, one.serial, one.not_before, one.not_after
        );
    }
    text
}

/// Makes the folder, for its owner only, unless it is there.
fn make_folder(folder: &Path) -> Result<(), String> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Writes all files, or none if one is there already and `force` is not given.
fn put(files: &[(&Path, &str, u32)], force: bool) -> Result<(), String> {
    if let Some((path, ..)) = files.iter().find(|(path, ..)| !force && path.symlink_metadata().is_ok()) {
        return Err(format!("{} is there already; --force replaces it", path.display()));
    }
    for (path, text, mode) in files {
        put_one(path, text, *mode).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// By way of a new file beside it, so that nobody reads half of it, or a key before its mode is set.
fn put_one(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&beside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
    })
}

/// `90d`, `12h`, `30m`, `45s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number with s, m, h or d, like 90d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u64>().ok()).ok_or_else(wrong)?;
    match number.checked_mul(unit) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::MeshSecurity;
    use crate::link::tls::Identities;
    use clap::Parser;
    use tempfile::TempDir;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        certs: CertsArgs,
    }

    /// Exit state, stdout and stderr of `spanmesh certs LINE`, with `{}` standing for the folder.
    fn certs(folder: &TempDir, line: &str) -> (Result<(), String>, String, String) {
        let line = line.replace("{}", folder.path().to_str().unwrap());
        let cli = match Cli::try_parse_from(std::iter::once("certs").chain(line.split(' '))) {
            Ok(cli) => cli,
            Err(error) => return (Err(error.to_string()), String::new(), String::new()),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = execute(cli.certs, unix_now(), &mut out, &mut err);
        (result, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn what_it_makes_is_what_a_node_takes() {
        let folder = TempDir::new().unwrap();
        let (result, out, err) = certs(&folder, "init --dir {}/pki --trust-domain prod.example");
        result.unwrap();
        assert!(out.contains("ca.pem\n") && out.contains("ca-key.pem\n") && err.contains("certs issue"));
        let (result, out, err) = certs(&folder, "issue --dir {}/pki --cluster us-east-1 --node pod-0 -o json");
        result.unwrap();
        assert!(err.contains("cert_file:"));
        let made: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(made["identity"], "spiffe://prod.example/mesh/us-east-1/pod-0");
        let path = |key: &str| PathBuf::from(made[key].as_str().unwrap());
        let security = MeshSecurity::Mtls {
            ca_file: path("ca_file"),
            cert_file: path("cert_file"),
            key_file: path("key_file"),
            reload_interval: Duration::from_secs(30),
        };
        let identities = Identities::load(&security, &"us-east-1/pod-0".parse().unwrap()).unwrap();
        assert_eq!(identities.expires_at(), made["expires_at"].as_u64());
        assert!(!path("ca_file").with_file_name(CA_KEY).exists(), "the CA's key does not travel");
    }

    #[cfg(unix)]
    #[test]
    fn keys_and_folders_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        certs(&folder, "init --dir {}/pki").0.unwrap();
        certs(&folder, "issue --dir {}/pki --cluster c --node n --out {}/n").0.unwrap();
        let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pki"), mode("n")), (0o700, 0o700));
        assert_eq!((mode("pki/ca-key.pem"), mode("n/key.pem")), (SECRET, SECRET));
        assert_eq!(std::fs::read_dir(folder.path().join("n")).unwrap().count(), 3, "nothing else is left behind");
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let folder = TempDir::new().unwrap();
        let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
        certs(&folder, "init --dir {}").0.unwrap();
        let ca = read(CA);
        assert!(certs(&folder, "init --dir {}").0.unwrap_err().contains("--force"));
        assert_eq!(read(CA), ca);
        certs(&folder, "issue --dir {} --cluster c --node n --out {}/n").0.unwrap();
        let cert = read("n/cert.pem");
        assert!(certs(&folder, "issue --dir {} --cluster c --node n --out {}/n").0.unwrap_err().contains("--force"));
        assert_eq!(read("n/cert.pem"), cert);
        certs(&folder, "issue --dir {} --cluster c --node n --out {}/n --force").0.unwrap();
        assert_ne!(read("n/cert.pem"), cert);
    }

    #[test]
    fn a_certificate_is_shown_with_name_end_and_issuer() {
        let folder = TempDir::new().unwrap();
        certs(&folder, "init --dir {}").0.unwrap();
        certs(&folder, "issue --dir {} --cluster c --node n --out {}/n --san n.mesh.test").0.unwrap();
        let (_, out, _) = certs(&folder, "show {}/n/cert.pem");
        assert!(out.contains("spiffe://mesh.local/mesh/c/n") && out.contains("of mesh.local") && out.contains("until"));
        let (_, out, _) = certs(&folder, "show {}/ca.pem");
        assert!(out.contains("it is a CA"));
        let (_, out, _) = certs(&folder, "show {}/n/cert.pem -o json");
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown[0]["identity"], "spiffe://mesh.local/mesh/c/n");
        assert_eq!(shown[0]["expired"], false);
        let error = certs(&folder, "show {}/n/key.pem").0.unwrap_err();
        assert!(error.contains("no certificate") && !error.contains("MI"), "{error}");
    }

    #[test]
    fn mistakes_are_told_with_their_mend() {
        let folder = TempDir::new().unwrap();
        assert!(certs(&folder, "issue --dir {} --cluster c --node n").0.unwrap_err().contains("certs init --dir"));
        assert!(certs(&folder, "issue --dir {} --cluster a/b --node n").0.unwrap_err().contains("a/b"));
        assert!(certs(&folder, "init --dir {} --trust-domain UP").0.unwrap_err().contains("a-z"));
        assert!(certs(&folder, "init --dir {} --valid-for 9999999d").0.unwrap_err().contains("9999"));
        for bad in ["", "d", "5", "5w", "-1d", "0d", "99999999999999999999d", "5ä"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("36h"), Ok(Duration::from_secs(129_600)));
    }
}
