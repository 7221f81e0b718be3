//! Files of tests of sampling rules (`spanmesh test`): traces, and the verdict that is expected on each.
//!
//! They are YAML read like a configuration, so every mistake is reported with its place, and the rules under test come
//! from a whole configuration: the one that runs, or, in a file that stands alone, its `processors` put into the
//! smallest configuration that can hold them. Both go through the same check, so a test cannot pass on rules that a node
//! would refuse. Rejected: a language of its own for the rules under test, which would drift from the one that runs.
//!
//! Only `processors` are substituted: a `$` in a trace is what the sender wrote.

mod inline;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use inline::json_of;
pub use select::Selected;

use super::problem::{Problem, Problems, Severity, Source, Sources};
use super::tree::{Entry, Node, Place, Scalar, Value};
use super::{HostFacts, Settings, check, substitute, yaml};
use crate::model::TraceId;

/// A value of the file and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    pub place: Place,
}

/// One file of tests.
#[derive(Debug)]
pub struct RuleTests {
    pub rules: RulesFrom,
    /// Which `tail_sampling` is meant, by its id.
    pub processor: Option<Text>,
    pub tests: Vec<RuleTest>,
    sources: Arc<Sources>,
}

/// Where the rules are.
#[derive(Debug)]
pub enum RulesFrom {
    /// In these configurations, merged; paths are relative to the file.
    Files(Vec<Text>),
    /// In the file itself.
    Here(Box<Settings>),
    /// The file does not say.
    Unsaid,
}

#[derive(Debug)]
pub struct RuleTest {
    pub name: String,
    pub place: Place,
    pub traces: TracesFrom,
    /// Of each trace that `by_trace` does not name.
    pub expect: Option<Expect>,
    pub by_trace: BTreeMap<TraceId, Expect>,
}

/// Where the traces of a test are.
#[derive(Debug)]
pub enum TracesFrom {
    /// In these files of OTLP/JSON, taken together; paths are relative to the file.
    Files(Vec<Text>),
    Here(InlineTraces),
}

/// OTLP that is written in the file itself, as JSON.
#[derive(Debug, Default)]
pub struct InlineTraces {
    pub json: String,
    /// Where a value of the JSON stands in the file: its first byte and its place, ascending.
    places: Vec<(usize, Place)>,
}

impl InlineTraces {
    /// Where what the JSON says at `byte` stands in the file.
    pub fn place(&self, byte: usize) -> Place {
        let after = self.places.partition_point(|(start, _)| *start <= byte);
        self.places.get(after.saturating_sub(1)).map_or_else(Place::default, |(_, place)| *place)
    }
}

/// The verdict that a test wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    pub place: Place,
    pub keep: bool,
    pub policy: ExpectedPolicy,
}

/// Which policy is to have said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPolicy {
    /// No matter which.
    Any,
    /// `policy: null`: none did.
    Nobody,
    Named(Text),
}

impl RuleTests {
    /// A report of problems of this file.
    pub fn report(&self, problems: Vec<Problem>) -> Problems {
        Problems::new(problems, self.sources.clone())
    }

    /// Where the file begins: for what is missing in it.
    pub fn start() -> Place {
        Place { source: 0, line: 1, column: 1, end_line: 1, end_column: 1 }
    }
}

/// Reads a file of tests, and checks the processors in it.
///
/// # Errors
/// With every problem found.
pub fn read(source: &Source, env: &dyn Fn(&str) -> Option<String>, host: &HostFacts) -> Result<RuleTests, Problems> {
    let parsed = yaml::parse(0, &source.text);
    let sources = Arc::new(Sources { list: vec![source.clone()], secrets: parsed.secrets });
    let mut problems = parsed.problems;
    let Some(root) = parsed.root else { return Err(Problems::new(problems, sources)) };
    let mut read = check::rule_tests(&root, host);
    problems.append(&mut read.problems);
    let rules = match read.processors {
        Some(processors) => {
            let settings = alone(processors, env, host, &mut problems);
            settings.map_or(RulesFrom::Unsaid, |settings| RulesFrom::Here(Box::new(settings)))
        }
        None if read.configs.is_empty() => RulesFrom::Unsaid,
        None => RulesFrom::Files(read.configs),
    };
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Problems::new(problems, sources));
    }
    Ok(RuleTests { rules, processor: read.processor, tests: read.tests, sources })
}

/// Checks the processors of a file as those of the only pipeline of a configuration.
fn alone(
    processors: &Entry,
    env: &dyn Fn(&str) -> Option<String>,
    host: &HostFacts,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let at = processors.key_at;
    let node = |value: Value| Node { at, value, secret: false };
    let entry = |key: &str, node: Node| Entry { key: key.to_owned(), key_at: at, node };
    let map = |entries: Vec<Entry>| node(Value::Map(entries));
    let scalar = |text: &str| node(Value::Scalar(Scalar::plain(text)));
    let list = |items: Vec<Node>| node(Value::List(items));

    let ids = processors.node.entries().unwrap_or_default().iter().map(|processor| scalar(&processor.key)).collect();
    let pipeline = map(vec![
        entry("receivers", list(vec![scalar("otlp")])),
        entry("processors", list(ids)),
        entry("exporters", list(vec![scalar("debug")])),
    ]);
    let otlp = map(vec![entry("protocols", map(vec![entry("grpc", scalar(""))]))]);
    let mut whole = map(vec![
        entry("receivers", map(vec![entry("otlp", otlp)])),
        processors.clone(),
        entry("exporters", map(vec![entry("debug", scalar(""))])),
        entry("service", map(vec![entry("pipelines", map(vec![entry("traces", pipeline)]))])),
    ]);
    substitute::substitute(&mut whole, env, problems);
    let checked = check::check(&whole, host);
    // What is to be said of the parts around is nobody's concern.
    let concerns = |problem: &Problem| problem.severity == Severity::Error || problem.path.starts_with("processors");
    problems.extend(checked.problems.into_iter().filter(concerns));
    checked.settings
}
