//! The keys of a file of tests of sampling rules.

use std::collections::BTreeMap;

use super::fields::{Choice, Fields, join};
use super::{Check, HostFacts};
use crate::config::problem::Problem;
use crate::config::rule_tests::{Expect, ExpectedPolicy, RuleTest, Text, TracesFrom, json_of};
use crate::config::schema::Scope;
use crate::config::tree::{Entry, Node, Value};
use crate::model::TraceId;

static FILE: Scope = Scope { path: "", keys: &["config", "processors", "processor", "tests"], not_yet: &[] };
static TEST: Scope =
    Scope { path: "tests[]", keys: &["name", "traces", "otlp", "expect", "expect_by_trace"], not_yet: &[] };
static EXPECT: Scope = Scope { path: "tests[].expect", keys: &["verdict", "policy"], not_yet: &[] };

const VERDICTS: Choice<bool> = Choice { values: &[("keep", true), ("drop", false)], not_yet: &[] };

/// What a file says, before the rules are looked at.
pub(in crate::config) struct Read<'t> {
    pub configs: Vec<Text>,
    pub processors: Option<&'t Entry>,
    pub processor: Option<Text>,
    pub tests: Vec<RuleTest>,
    pub problems: Vec<Problem>,
}

pub(in crate::config) fn read<'t>(root: &'t Node, host: &HostFacts) -> Read<'t> {
    let (problems, defaults, files, listens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut check = Check { host, problems, defaults, files, listens };
    let fields = Fields::open(&mut check, root, root.at, Vec::new(), &FILE);
    let configs = texts(&mut check, &fields, "config");
    let processor = text(&mut check, &fields, "processor");
    let processors = fields.get("processors").and(fields.entry("processors"));
    if let Some(processors) = processors
        && fields.get("config").is_some()
    {
        let problem = Problem::error(processors.key_at, "", "`config` and `processors` cannot both be given");
        check.say(problem.help("the rules under test are those of one configuration"));
    }
    let items = fields.list(&mut check, "tests");
    if items.is_empty() {
        fields.missing(&mut check, "tests", "a list of `name`, `traces` and `expect`");
    }
    let mut tests: Vec<RuleTest> = Vec::new();
    for (path, item) in items {
        let Some(test) = test(&mut check, path.clone(), item) else { continue };
        if let Some(first) = tests.iter().find(|first| first.name == test.name) {
            let problem = Problem::error(test.place, &join(&path), "two tests of the same name");
            check.say(problem.related(first.place, "the first one"));
        }
        tests.push(test);
    }
    Read { configs, processors, processor, tests, problems: check.problems }
}

fn test(check: &mut Check<'_>, path: Vec<String>, node: &Node) -> Option<RuleTest> {
    let fields = Fields::open(check, node, node.at, path, &TEST);
    let name = text(check, &fields, "name");
    if name.is_none() {
        fields.missing(check, "name", "what the rules are to do, in words");
    }
    let files = texts(check, &fields, "traces");
    let traces = match (fields.get("otlp"), files.is_empty()) {
        (Some(otlp), true) => Some(TracesFrom::Here(json_of(otlp))),
        (None, false) => Some(TracesFrom::Files(files)),
        (Some(_), false) => {
            fields.wrong(check, "otlp", "`traces` and `otlp` cannot both be given", "one of them");
            None
        }
        (None, true) => {
            fields.missing(check, "traces", "a file of OTLP/JSON; or write the spans here, under `otlp`");
            None
        }
    };
    let expect = fields.entry("expect").and_then(|entry| expect(check, entry, fields.path_of("expect")));
    let by_trace = expect_by_trace(check, &fields);
    if fields.get("expect").is_none() && fields.get("expect_by_trace").is_none() {
        fields.missing(check, "expect", "like `expect: {verdict: keep, policy: errors}`");
    }
    let name = name?;
    Some(RuleTest { place: name.place, name: name.text, traces: traces?, expect, by_trace })
}

fn expect(check: &mut Check<'_>, entry: &Entry, path: Vec<String>) -> Option<Expect> {
    let fields = Fields::open(check, &entry.node, entry.key_at, path, &EXPECT);
    if fields.get("verdict").is_none() {
        fields.missing(check, "verdict", "keep or drop");
        return None;
    }
    let keep = fields.choice(check, "verdict", "keep", &VERDICTS);
    let policy = match fields.entry("policy") {
        None => ExpectedPolicy::Any,
        Some(entry) if entry.node.is_null() => ExpectedPolicy::Nobody,
        Some(_) => text(check, &fields, "policy").map_or(ExpectedPolicy::Any, ExpectedPolicy::Named),
    };
    Some(Expect { place: entry.key_at, keep, policy })
}

fn expect_by_trace(check: &mut Check<'_>, fields: &Fields<'_>) -> BTreeMap<TraceId, Expect> {
    let key = "expect_by_trace";
    let mut found = BTreeMap::new();
    let Some(node) = fields.get(key) else { return found };
    let Value::Map(entries) = &node.value else {
        fields.wrong(check, key, "a map is wanted here", "TRACE ID: {verdict: keep}");
        return found;
    };
    for entry in entries {
        let path = fields.path_of(key);
        match entry.key.parse::<TraceId>() {
            Ok(trace) => {
                let path = path.into_iter().chain([entry.key.clone()]).collect();
                if let Some(expect) = expect(check, entry, path)
                    && let Some(first) = found.insert(trace, expect)
                {
                    let problem = Problem::error(entry.key_at, &join(&fields.path_of(key)), "the same trace twice");
                    check.say(problem.related(first.place, "first given here"));
                }
            }
            Err(_) => {
                let problem = Problem::error(entry.key_at, &join(&path), "this is no trace id");
                check.say(problem.allowed("32 hex digits"));
            }
        }
    }
    found
}

fn text(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Option<Text> {
    fields.text(check, key).map(|text| Text { text, place: fields.place(key) })
}

/// One text or a list of them.
fn texts(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Vec<Text> {
    let mut texts = Vec::new();
    for (path, item) in fields.list(check, key) {
        match item.scalar() {
            Some(scalar) if !scalar.text.is_empty() => {
                texts.push(Text { text: scalar.text.clone(), place: item.at });
            }
            _ => check.say(Problem::error(item.at, &join(&path), "the path of a file is wanted here")),
        }
    }
    texts
}
