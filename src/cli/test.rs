//! `spanmesh test`: whether sampling rules keep and drop what they are meant to.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{self, OutputArgs};
use super::run::Unusable;
use super::{host, run, sources};
use crate::config::rule_tests::{self, RuleTests, RulesFrom, Text};
use crate::config::{self, Problem, Problems};
use crate::sampling_tests::{self, MAX_TRACE_BYTES, Outcome, Ran};

/// Run tests of sampling rules: traces in OTLP/JSON, and the verdict and policy expected
///
/// A file is YAML with `tests`: each has a name, `traces` (files of OTLP/JSON) or `otlp` (the same in place), and what is
/// expected, like `expect: {verdict: keep, policy: errors}`. The rules are those of the configuration that the file names
/// (`config: node.yaml`), or its own `processors`. config/tests/sampling.yaml of the source shows every form. Nothing is
/// started, bound or contacted.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 all tests pass, 1 one fails, 2 usage, 78 a file or the configuration is no good")]
pub struct TestArgs {
    /// Files of tests
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<String>,
    /// Configuration in place of what the files name, as with `run`
    #[arg(long, value_name = "SOURCE")]
    pub config: Vec<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[expect(clippy::unused_async, reason = "every command has the same shape, whether it waits or not")]
pub async fn run(args: TestArgs) -> ExitCode {
    let (mut ran, mut unusable) = (Vec::new(), Vec::new());
    for file in &args.files {
        match run_file(file, &args.config) {
            Ok(Ran { outcomes, warnings }) => {
                output::complain(&warnings.to_string());
                ran.push((file.clone(), outcomes));
            }
            Err(why) => unusable.push(why),
        }
    }
    if !unusable.is_empty() {
        return refuse(args.output, &unusable);
    }
    if args.output.is_json() {
        output::print_json(&sampling_tests::json(&ran));
    } else {
        output::print(&sampling_tests::text(&ran));
    }
    let passed = |outcomes: &Vec<Outcome>| outcomes.iter().all(|outcome| outcome.passed);
    if ran.iter().all(|(_, outcomes)| passed(outcomes)) { Exit::Ok.into() } else { Exit::Failed.into() }
}

fn refuse(output: OutputArgs, unusable: &[Unusable]) -> ExitCode {
    if output.is_json() {
        let problems: Vec<_> = unusable.iter().map(run::problems_json).collect();
        let problems: Vec<_> = problems.iter().flat_map(|list| list.as_array().into_iter().flatten()).collect();
        output::print_json(&json!({"schema": 1, "passed": false, "problems": problems}));
    } else {
        for why in unusable {
            output::complain(&match why {
                Unusable::Unreadable(message) => format!("error: {message}\n"),
                Unusable::Problems(problems) => problems.to_string(),
            });
        }
        output::complain("no test was judged\n");
    }
    Exit::Config.into()
}

fn run_file(file: &str, configs: &[String]) -> Result<Ran, Unusable> {
    let env = |name: &str| std::env::var(name).ok();
    let host = host::facts();
    let source = sources::read_file(file).map_err(Unusable::Unreadable)?;
    let tests = rule_tests::read(&source, &env, &host).map_err(Unusable::Problems)?;
    let directory = Path::new(file).parent().unwrap_or(Path::new(""));
    let loaded;
    let settings = match (&tests.rules, configs) {
        (RulesFrom::Here(settings), []) => settings,
        (RulesFrom::Unsaid, []) => return Err(Unusable::Problems(no_rules(&tests))),
        (RulesFrom::Files(files), []) => {
            let paths: Vec<String> = files.iter().map(|file| beside(directory, file)).collect();
            loaded = load(&paths, &env, &host)?;
            &loaded.settings
        }
        (_, configs) => {
            loaded = load(configs, &env, &host)?;
            &loaded.settings
        }
    };
    let rules = tests.select(settings).map_err(Unusable::Problems)?;
    sampling_tests::run(&tests, rules, &|path| traces(&directory.join(path))).map_err(Unusable::Problems)
}

fn no_rules(tests: &RuleTests) -> Problems {
    let problem = Problem::error(RuleTests::start(), "", "the file does not say which rules it tests");
    tests.report(vec![problem.help("give `config: FILE`, the `processors` themselves, or --config")])
}

fn beside(directory: &Path, file: &Text) -> String {
    format!("file:{}", directory.join(&file.text).display())
}

fn load(
    configs: &[String],
    env: &dyn Fn(&str) -> Option<String>,
    host: &config::HostFacts,
) -> Result<config::Loaded, Unusable> {
    let sources = sources::read_all(configs).map_err(Unusable::Unreadable)?;
    config::load(&sources, env, host).map_err(Unusable::Problems)
}

/// Reads no more than one byte over the bound, which is then reported as too many.
fn traces(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TRACE_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
