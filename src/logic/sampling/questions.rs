//! What policies ask of spans' bodies and of resources, answered in one pass.
//!
//! Each policy by itself would walk all spans again, and most attributes are nobody's business. So the questions of all
//! policies, however deep they stand in each other, are collected when they are compiled; a trace is read when the first
//! policy asks, once, and answers all of them. A value is looked at only if its key is asked for. A resource is read
//! once for each header that the trace has, not for each span.
//!
//! A question is about the whole trace: does any span, or any resource above one, fit? That is what makes the answer the
//! same for any order of the spans. Of a key that comes twice in one span or resource the first one counts, as in the
//! Collector's `Map.Get`; of a trace state or flags that come twice the last one, as protobuf has it.

use smallvec::{SmallVec, smallvec};

use super::text::Texts;
use crate::logic::trace::{Header, SpanView, TraceView};
use crate::wire::attributes::{Attribute, SpanField, Value, resource_fields, span_fields, trace_state};

/// Most members of a tracestate (W3C Trace Context).
const MAX_MEMBERS: usize = 32;
/// The W3C trace flag.
const SAMPLED: u32 = 1;

/// What an attribute's value has to be.
pub(super) enum Test {
    /// A string among these. An empty one counts in a resource only.
    Text(Texts),
    /// An integer or a double within these bounds.
    Number {
        min: Option<i64>,
        max: Option<i64>,
    },
    Bool(bool),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Resource,
    Span,
}

impl Test {
    fn holds(&self, value: Value<'_>, place: Place) -> bool {
        match (self, value) {
            (Test::Text(texts), Value::Str(text)) => {
                (!text.is_empty() || place == Place::Resource) && texts.contain(text)
            }
            (Test::Number { min, max }, Value::Int(value)) => {
                min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
            }
            (Test::Number { min, max }, Value::Double(value)) => {
                // Rounded towards the bound's side the comparison of whole numbers is that of the exact ones; a cast
                // stops at the ends of its range.
                !value.is_nan()
                    && min.is_none_or(|min| value.floor() as i128 >= i128::from(min))
                    && max.is_none_or(|max| value.ceil() as i128 <= i128::from(max))
            }
            (Test::Bool(wanted), Value::Bool(value)) => *wanted == value,
            _ => false,
        }
    }
}

/// Where a question's answer is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuestionId(usize);

struct Key {
    name: Box<[u8]>,
    questions: Vec<(QuestionId, Test)>,
}

struct StateQuestion {
    id: QuestionId,
    key: Box<str>,
    values: Texts,
}

/// All questions of a sampler.
#[derive(Default)]
pub(super) struct Questions {
    /// By length and name.
    keys: Vec<Key>,
    /// A bit for each length that a key has, the last one for all that are longer.
    lengths: u64,
    trace_states: Vec<StateQuestion>,
    flags: Option<QuestionId>,
    /// Whether somebody needs the trace states of all spans.
    randomness: bool,
    count: usize,
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

impl Questions {
    fn next(&mut self) -> QuestionId {
        self.count += 1;
        QuestionId(self.count - 1)
    }

    /// Has any span or resource an attribute of this key that fits?
    pub(super) fn attribute(&mut self, key: &str, test: Test) -> QuestionId {
        let (id, name) = (self.next(), key.as_bytes());
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.keys.insert(at, Key { name: name.into(), questions: Vec::new() });
                self.lengths |= length_bit(name);
                at
            }
        };
        self.keys[at].questions.push((id, test));
        id
    }

    /// Has any span a member of this key and one of these values in its tracestate?
    pub(super) fn trace_state(&mut self, key: &str, values: Texts) -> QuestionId {
        let id = self.next();
        self.trace_states.push(StateQuestion { id, key: key.into(), values });
        id
    }

    /// Has any span the sampled flag?
    pub(super) fn sampled_flag(&mut self) -> QuestionId {
        let id = self.flags.unwrap_or_else(|| self.next());
        self.flags = Some(id);
        id
    }

    /// Which randomness does the trace have?
    pub(super) fn randomness(&mut self) {
        self.randomness = true;
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.keys.binary_search_by(|key| (key.name.len(), &*key.name).cmp(&(name.len(), name)))
    }

    #[inline]
    fn key(&self, name: &[u8]) -> Option<usize> {
        if self.lengths & length_bit(name) == 0 { None } else { self.find(name).ok() }
    }

    /// Reads the trace.
    pub(super) fn ask<'a>(&self, trace: &TraceView<'a>) -> Answers<'a> {
        let mut reading = Reading {
            questions: self,
            answers: Answers { yes: smallvec![0; self.count.div_ceil(64)], states: SmallVec::new() },
            open: self.count,
            read_last: smallvec![0; self.keys.len()],
            place: 0,
        };
        if !self.keys.is_empty() {
            for (_, resource) in resources(&headers(trace)) {
                reading.resource(resource);
            }
        }
        for span in &trace.spans {
            if reading.open > 0 {
                reading.span(span);
            } else if self.randomness {
                reading.note_state(trace_state(span.body));
            } else {
                break;
            }
        }
        reading.answers
    }
}

/// The headers of a trace, each once.
pub(super) fn headers<'a>(trace: &TraceView<'a>) -> SmallVec<[&'a Header; 8]> {
    let mut headers: SmallVec<[&Header; 8]> = SmallVec::new();
    for span in &trace.spans {
        if headers.last().is_none_or(|last| !std::ptr::eq(*last, span.header)) {
            headers.push(span.header);
        }
    }
    // The order is that of addresses and means nothing: it only brings the same ones together.
    headers.sort_unstable_by_key(|header| std::ptr::from_ref(*header));
    headers.dedup_by(|one, other| std::ptr::eq(*one, *other));
    headers
}

/// The resources of some headers, each once, as their other fields and their bodies. Thousands of scopes may stand below one
/// large resource, which they share.
pub(super) fn resources<'a>(headers: &[&'a Header]) -> SmallVec<[(&'a [u8], &'a [u8]); 8]> {
    let of = |header: &&'a Header| (&*header.resource_fields, header.resource.as_deref().unwrap_or_default());
    let mut resources: SmallVec<[(&[u8], &[u8]); 8]> = headers.iter().map(of).collect();
    let place = |(fields, body): &(&[u8], &[u8])| (body.as_ptr(), body.len(), fields.as_ptr(), fields.len());
    resources.sort_unstable_by_key(place);
    resources.dedup_by_key(|resource| place(resource));
    resources
}

/// What was found in a trace.
pub(super) struct Answers<'a> {
    yes: SmallVec<[u64; 2]>,
    /// Trace states, where randomness was asked for.
    states: SmallVec<[&'a str; 4]>,
}

impl<'a> Answers<'a> {
    pub(super) fn yes(&self, question: QuestionId) -> bool {
        self.yes[question.0 / 64] & 1 << (question.0 % 64) != 0
    }

    /// Those that are not empty.
    pub(super) fn trace_states(&self) -> impl Iterator<Item = &'a str> {
        self.states.iter().copied()
    }
}

struct Reading<'q, 'a> {
    questions: &'q Questions,
    answers: Answers<'a>,
    /// Questions without a yes.
    open: usize,
    /// Of each key the place where it was seen last.
    read_last: SmallVec<[u32; 8]>,
    /// Number of the resource or span that is read; a trace has less than 2^32 of both.
    place: u32,
}

impl<'a> Reading<'_, 'a> {
    fn answer(&mut self, question: QuestionId) {
        self.answers.yes[question.0 / 64] |= 1 << (question.0 % 64);
        self.open -= 1;
    }

    fn resource(&mut self, resource: &[u8]) {
        self.place += 1;
        for attribute in resource_fields(resource) {
            self.attribute(&attribute, Place::Resource);
        }
    }

    fn span(&mut self, span: &SpanView<'a>) {
        self.place += 1;
        if let Some(crossing) = span.crossing {
            self.value(b"cross_cluster.source", Value::Str(crossing.source));
            self.value(b"cross_cluster.target", Value::Str(crossing.target));
        }
        let (mut state, mut flags) = ("", 0);
        for field in span_fields(span.body) {
            match field {
                SpanField::Attribute(attribute) => self.attribute(&attribute, Place::Span),
                SpanField::TraceState(text) => state = text,
                SpanField::Flags(bits) => flags = bits,
            }
        }
        if let Some(question) = self.questions.flags
            && flags & SAMPLED != 0
            && !self.answers.yes(question)
        {
            self.answer(question);
        }
        self.note_state(state);
    }

    fn note_state(&mut self, text: &'a str) {
        if text.is_empty() {
            return;
        }
        for question in &self.questions.trace_states {
            let fits = || member(text, &question.key).is_some_and(|value| question.values.contain(value));
            if !self.answers.yes(question.id) && fits() {
                self.answer(question.id);
            }
        }
        if self.questions.randomness {
            self.answers.states.push(text);
        }
    }

    #[inline(always)]
    fn attribute(&mut self, attribute: &Attribute<'_>, place: Place) {
        if let Some(key) = self.questions.key(attribute.key) {
            self.found(key, place, || attribute.value());
        }
    }

    /// An attribute of a span that is not in its body and stands in front of those that are.
    fn value(&mut self, name: &[u8], value: Value<'_>) {
        if let Some(key) = self.questions.key(name) {
            self.found(key, Place::Span, || value);
        }
    }

    fn found<'v>(&mut self, key: usize, place: Place, value: impl FnOnce() -> Value<'v>) {
        if std::mem::replace(&mut self.read_last[key], self.place) == self.place {
            return;
        }
        let value = value();
        for (question, test) in &self.questions.keys[key].questions {
            if !self.answers.yes(*question) && test.holds(value, place) {
                self.answer(*question);
            }
        }
    }
}

/// The value of a member of a tracestate. One that is not legal has none: too many members, one without a value, or this
/// key twice.
fn member<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    let mut found = None;
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    for (number, member) in members.enumerate() {
        let (key, value) = member.split_once('=')?;
        if number >= MAX_MEMBERS || key == wanted && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_tracestate_is_found_if_the_tracestate_is_legal() {
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        let table = [
            ("a=1,b=2", "b", Some("2")),
            (" a=1 ,\tb=2 , ", "b", Some("2")),
            ("a=1", "b", None),
            ("", "a", None),
            ("a=1,a=2", "a", None),
            ("a=1,b", "a", None),
            ("t@v=1", "t@v", Some("1")),
            (&many[..32].join(","), "k31", Some("v")),
            (&many.join(","), "k0", None),
        ];
        for (text, key, expected) in table {
            assert_eq!(member(text, key), expected, "{text:?} {key}");
        }
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let between = |min, max, value| Test::Number { min, max }.holds(value, Place::Span);
        let double = |min, max, value| between(min, max, Value::Double(value));
        assert!(double(Some(5), Some(5), 5.0) && double(Some(5), None, 5.5) && double(None, Some(6), 5.5));
        assert!(!double(Some(5), None, 4.999) && !double(None, Some(5), 5.001));
        assert!(!double(Some(1), None, f64::NAN) && !double(None, None, f64::NAN));
        assert!(double(Some(i64::MAX), None, f64::INFINITY) && !double(None, Some(i64::MAX), f64::INFINITY));
        assert!(double(None, Some(i64::MIN), f64::NEG_INFINITY) && !double(Some(i64::MIN), None, -1e300));
        // The nearest double is one more.
        assert!(!double(None, Some((1 << 53) + 1), ((1_u64 << 53) + 2) as f64));
        assert!(between(Some(i64::MIN), Some(i64::MAX), Value::Int(0)));
        for value in [Value::Str("5"), Value::Bool(true), Value::Other] {
            assert!(!between(None, None, value));
        }
    }
}
