use clap::{CommandFactory, Parser};

use super::*;
use crate::config::{self, HostFacts, Source, schema};

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_bare_form_runs_a_node_with_every_config_in_order() {
    let cli = Cli::try_parse_from(["spanmesh", "--config=/conf/a.yaml", "--config", "yaml:a: b"]).unwrap();
    assert!(cli.command.is_none());
    assert_eq!(cli.run.config.config, ["/conf/a.yaml", "yaml:a: b"]);
    let cli = Cli::try_parse_from(["spanmesh", "run", "--cluster", "a", "--seed", "x:1", "--seed", "y:2"]).unwrap();
    let Some(Command::Run(run)) = cli.command else { panic!() };
    assert_eq!(run.config.flags.seed, ["x:1", "y:2"]);
}

#[test]
fn flags_of_the_built_in_configuration_do_not_go_with_a_file() {
    for line in [
        &["spanmesh", "run", "--config", "a", "--cluster", "b"][..],
        &["spanmesh", "run", "--insecure-dev", "--tls-ca", "b"],
        &["spanmesh", "validate", "a", "--cluster", "b"],
        &["spanmesh", "--config", "a", "validate"],
        &["spanmesh", "--frobnicate"],
    ] {
        let error = Cli::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line:?}");
    }
}

fn shipped() -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let configurations = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    configurations.map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn load(name: &str, text: &str) -> config::Loaded {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let host = HostFacts { hostname: "host".to_owned(), memory_bytes: 1 << 30 };
    config::load(&[source], &|_| None, &host).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_shipped_configuration_is_valid_without_an_environment() {
    let files = shipped();
    assert!(files.len() >= 5);
    for (name, text) in files {
        let loaded = load(&name, &text);
        assert_eq!(loaded.warnings.count(config::Severity::Warning), 0, "{}", loaded.warnings);
        for defaults in [false, true] {
            load(&name, &loaded.expanded.to_yaml(defaults));
        }
    }
}

#[test]
fn the_example_shows_every_key_of_the_language() {
    let (name, text) = shipped().into_iter().find(|(name, _)| name == "example.yaml").unwrap();
    // Keys that exclude one another stand in comments that begin with `#:`.
    let lines: Vec<String> = text.lines().map(|l| l.replacen("#: ", "", 1)).collect();
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut shown: Vec<String> = Vec::new();
    for line in lines.iter().filter(|l| !l.trim_start().starts_with('#')) {
        let body = line.trim_start_matches([' ', '-']);
        let indent = line.len() - body.len();
        let Some((key, rest)) = body.split_once(':') else { continue };
        open.retain(|(depth, _)| *depth < indent);
        open.push((indent, key.to_owned()));
        let path: Vec<&str> = open.iter().map(|(_, key)| key.as_str()).collect();
        shown.push(path.join("."));
        if let Some(inner) = rest.trim().strip_prefix('{') {
            for pair in inner.split(", ") {
                shown.push(format!("{}.{}", path.join("."), pair.split(':').next().unwrap_or("").trim()));
            }
        }
    }
    for scope in schema::SCOPES {
        for key in scope.keys {
            let want = format!("{}.{key}", scope.path.replace("[]", ""));
            let want: Vec<&str> = want.trim_start_matches('.').split('.').collect();
            let found = shown.iter().any(|path| {
                let have: Vec<&str> = path.split('.').collect();
                let same = |(want, have): (&&str, &&str)| *want == "*" || want == have;
                have.len() == want.len() && want.iter().zip(&have).all(same)
            });
            assert!(found, "{name} does not show {}", want.join("."));
        }
    }
}
