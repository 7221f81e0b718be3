//! A trace as policies see it: what they ask is found out when the first of them asks, and once.

use std::cell::OnceCell;

use super::questions::{Answers, QuestionId, Questions, headers, resources};
use super::tracestate::randomness;
use crate::logic::cross_cluster::Links;
use crate::logic::trace::TraceView;
use crate::model::{Tick, TraceId};

/// One trace that is to be decided now.
pub(super) struct Case<'a> {
    trace: &'a TraceView<'a>,
    links: &'a Links,
    pub(super) now: Tick,
    questions: &'a Questions,
    outline: OnceCell<Outline>,
    answers: OnceCell<Answers<'a>>,
    randomness: OnceCell<u64>,
}

/// What the walk had found out about the spans already.
#[derive(Clone, Copy)]
struct Outline {
    /// A bit for each status code that a span has.
    statuses: u8,
    millis: u64,
}

impl<'a> Case<'a> {
    pub(super) fn new(trace: &'a TraceView<'a>, links: &'a Links, now: Tick, questions: &'a Questions) -> Case<'a> {
        let (outline, answers, randomness) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Case { trace, links, now, questions, outline, answers, randomness }
    }

    pub(super) fn id(&self) -> &TraceId {
        &self.trace.id
    }

    pub(super) fn spans(&self) -> u64 {
        self.trace.spans.len() as u64
    }

    /// Encoded bytes of the spans, and of resources and scopes, each once.
    pub(super) fn bytes(&self) -> u64 {
        let headers = headers(self.trace);
        let scopes: u64 = headers.iter().map(|header| header.scope_fields.len() as u64).sum();
        let resources = resources(&headers).into_iter().map(|(fields, body)| (fields.len() + body.len()) as u64);
        self.trace.bytes() + scopes + resources.sum::<u64>()
    }

    /// A bit for each OTLP status code that a span has.
    pub(super) fn statuses(&self) -> u8 {
        self.outline().statuses
    }

    /// From the earliest start to the latest end in whole milliseconds; 0 if that is not after the start.
    pub(super) fn millis(&self) -> u64 {
        self.outline().millis
    }

    fn outline(&self) -> Outline {
        *self.outline.get_or_init(|| {
            let (mut statuses, mut start, mut end) = (0, u64::MAX, 0);
            for span in &self.trace.spans {
                statuses |= 1_u8.checked_shl(u32::from(span.status)).unwrap_or_default();
                end = end.max(span.end.0);
                // 0 says that it is not known, not that it was in 1970.
                if span.start.0 > 0 {
                    start = start.min(span.start.0);
                }
            }
            Outline { statuses, millis: end.saturating_sub(start) / 1_000_000 }
        })
    }

    fn answers(&self) -> &Answers<'a> {
        self.answers.get_or_init(|| self.questions.ask(self.trace))
    }

    pub(super) fn answer(&self, question: QuestionId) -> bool {
        self.answers().yes(question)
    }

    /// The trace's 56 bits of randomness, explicit or of its id.
    pub(super) fn randomness(&self) -> u64 {
        *self.randomness.get_or_init(|| randomness(&self.trace.id, self.answers().trace_states()))
    }

    /// Whether any call between clusters begins and ends in a cluster that fits.
    pub(super) fn crosses(&self, source: impl Fn(&str) -> bool, target: impl Fn(&str) -> bool) -> bool {
        let cluster = |span: u32| self.trace.spans.get(span as usize).map(|span| &*span.header.cluster);
        self.links
            .crossings
            .iter()
            .any(|edge| cluster(edge.caller).is_some_and(&source) && cluster(edge.callee).is_some_and(&target))
    }
}
