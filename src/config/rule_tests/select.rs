//! Which `tail_sampling` of a configuration a file of tests is about, and whether it knows the policies expected.

use super::{ExpectedPolicy, RuleTests, Text};
use crate::config::problem::{Problem, Problems};
use crate::config::settings::{ProcessorSettings, Settings, TailSamplingSettings};
use crate::config::suggest::nearest;

/// The rules under test.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'s> {
    pub sampling: &'s TailSamplingSettings,
    /// The pipeline writes `cross_cluster.source` and `.target` before the policies look.
    pub write_crossings: bool,
}

impl RuleTests {
    /// Finds the rules that this file is about in `settings`.
    ///
    /// # Errors
    /// If there are none or several, or if a test expects a policy that they do not have.
    pub fn select<'s>(&self, settings: &'s Settings) -> Result<Selected<'s>, Problems> {
        let found: Vec<(&str, &TailSamplingSettings)> = settings
            .processors
            .iter()
            .filter_map(|(id, processor)| match processor {
                ProcessorSettings::TailSampling(sampling) => Some((id.as_str(), sampling)),
                _ => None,
            })
            .collect();
        let known = found.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ");
        let wrong = |problem: Problem| Err(self.report(vec![problem]));
        let (id, sampling) = match (&self.processor, found.as_slice()) {
            (_, []) => {
                let message = "the configuration has no `tail_sampling` in a pipeline: there is nothing to test";
                return wrong(Problem::error(RuleTests::start(), "", message));
            }
            (Some(wanted), _) => match found.iter().find(|(id, _)| *id == wanted.text) {
                Some(found) => *found,
                None => {
                    let near = nearest(&wanted.text, found.iter().map(|(id, _)| *id)).map(str::to_owned);
                    let message = format!("no pipeline has a `tail_sampling` with the id `{}`", shown(wanted));
                    let problem = Problem::error(wanted.place, "processor", message);
                    return wrong(problem.allowed(known).suggest(near));
                }
            },
            (None, [only]) => *only,
            (None, _) => {
                let message = "the configuration has several `tail_sampling`: say with `processor` which one is meant";
                return wrong(Problem::error(RuleTests::start(), "", message).allowed(known));
            }
        };
        let problems = self.unknown_policies(sampling);
        if !problems.is_empty() {
            return Err(self.report(problems));
        }
        let writes = |other: &String| matches!(settings.processors.get(other), Some(ProcessorSettings::CrossCluster(c)) if c.write_attributes);
        let write_crossings = settings
            .pipelines
            .values()
            .any(|pipeline| pipeline.processors.iter().any(|p| p == id) && pipeline.processors.iter().any(writes));
        Ok(Selected { sampling, write_crossings })
    }

    fn unknown_policies(&self, sampling: &TailSamplingSettings) -> Vec<Problem> {
        let names = || sampling.policies.iter().map(|policy| policy.name.as_str());
        let expectations = self.tests.iter().flat_map(|test| test.expect.iter().chain(test.by_trace.values()));
        expectations
            .filter_map(|expect| match &expect.policy {
                ExpectedPolicy::Named(name) if !names().any(|known| known == name.text) => {
                    let near = nearest(&name.text, names()).map(str::to_owned);
                    let problem = Problem::error(name.place, "", format!("there is no policy `{}`", shown(name)));
                    Some(problem.allowed(names().collect::<Vec<_>>().join(", ")).suggest(near))
                }
                _ => None,
            })
            .collect()
    }
}

fn shown(text: &Text) -> String {
    text.text.chars().take(80).collect::<String>().escape_debug().to_string()
}
