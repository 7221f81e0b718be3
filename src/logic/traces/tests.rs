//! Promises of the buffer. What goes out is held against a walk of its bytes, and every receipt is counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::config::settings::{DedupSettings, PolicyKind, PolicySettings, StatusCode, TailSamplingSettings};
use crate::model::{Holder, SpanEntry, TraceId};
use crate::wire::reader::{put_bytes, put_varint};
use crate::wire::{Limits, walk};

mod bounds;
mod deciding;
mod explaining;
mod late;
mod model;
mod releasing;
mod splitting;

const SECOND: Duration = Duration::from_secs(1);

/// A span as a test says it.
#[derive(Clone, Debug)]
struct Sent {
    trace: u64,
    id: u64,
    parent: u64,
    kind: u8,
    start: u64,
    end: u64,
    status: u8,
    cluster: &'static str,
    scope: &'static str,
    name: String,
    values: Vec<(&'static str, String)>,
}

/// A client span that is nobody's root.
fn span(trace: u64, id: u64) -> Sent {
    Sent {
        trace,
        id,
        parent: 77,
        kind: 3,
        start: 1_000 + id,
        end: 2_000 + id,
        status: 0,
        cluster: "east",
        scope: "http",
        name: "GET /".to_owned(),
        values: Vec::new(),
    }
}

fn root(trace: u64, id: u64) -> Sent {
    Sent { parent: 0, ..span(trace, id) }
}

fn error(trace: u64, id: u64) -> Sent {
    Sent { status: 2, ..span(trace, id) }
}

fn large(trace: u64, id: u64, bytes: usize) -> Sent {
    Sent { name: "x".repeat(bytes), ..span(trace, id) }
}

fn trace_id(n: u64) -> TraceId {
    TraceId((u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_0123_4567_89ab_cdef).to_be_bytes())
}

fn pair(key: &str, value: &str) -> Vec<u8> {
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, value.as_bytes());
    put_bytes(&mut pair, 1, key.as_bytes());
    put_bytes(&mut pair, 2, &any);
    pair
}

impl Sent {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &trace_id(self.trace).0);
        put_bytes(&mut out, 2, &self.id.to_be_bytes());
        if self.parent != 0 {
            put_bytes(&mut out, 4, &self.parent.to_be_bytes());
        }
        put_bytes(&mut out, 5, self.name.as_bytes());
        out.extend([0x30, self.kind, 0x39]);
        out.extend(self.start.to_le_bytes());
        out.push(0x41);
        out.extend(self.end.to_le_bytes());
        for (key, value) in &self.values {
            put_bytes(&mut out, 9, &pair(key, value));
        }
        if self.status != 0 {
            put_bytes(&mut out, 15, &[0x18, self.status]);
        }
        // A field that nobody knows.
        put_varint(&mut out, 100 << 3);
        put_varint(&mut out, self.id);
        out
    }
}

fn request(spans: &[Sent]) -> Spans {
    let mut out = Vec::new();
    for group in spans.chunk_by(|one, next| (one.cluster, one.scope) == (next.cluster, next.scope)) {
        let (mut resource, mut scope, mut name, mut entry) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut resource, 1, &pair("k8s.cluster.name", group[0].cluster));
        put_bytes(&mut resource, 1, &pair("service.name", "shop"));
        put_bytes(&mut name, 1, group[0].scope.as_bytes());
        put_bytes(&mut scope, 1, &name);
        group.iter().for_each(|span| put_bytes(&mut scope, 2, &span.encode()));
        put_bytes(&mut entry, 1, &resource);
        put_bytes(&mut entry, 2, &scope);
        put_bytes(&mut entry, 3, b"https://schema");
        put_bytes(&mut out, 1, &entry);
    }
    let walked = walk(Bytes::from(out), &Limits::default()).unwrap();
    assert_eq!(walked.spans.len(), spans.len());
    walked.spans
}

#[derive(Default)]
struct Heard {
    accepted: u32,
    fates: BTreeMap<String, u32>,
    finished: u32,
}

#[derive(Clone, Default)]
struct Spy(Arc<Mutex<Heard>>);

impl Holder for Spy {
    fn accepted(&self, spans: u32) {
        self.0.lock().unwrap().accepted += spans;
    }

    fn resolved(&self, spans: u32, fate: &Fate, accepted: bool) {
        assert!(accepted);
        *self.0.lock().unwrap().fates.entry(format!("{fate:?}")).or_default() += spans;
    }

    fn finished(&self, _: Fate) {
        self.0.lock().unwrap().finished += 1;
    }
}

/// A span that came out.
#[derive(Clone, Debug, PartialEq)]
struct Out {
    trace: TraceId,
    id: u64,
    cluster: String,
    body: Vec<u8>,
}

impl Out {
    fn attribute(&self, wanted: &str) -> Option<String> {
        use crate::wire::attributes::{Value, span_attributes};
        let found = span_attributes(&self.body).filter(|(key, _)| *key == wanted).last()?;
        Some(match found.1 {
            Value::Str(text) => text.to_owned(),
            Value::Bool(bit) => bit.to_string(),
            other => format!("{other:?}"),
        })
    }
}

struct Rig {
    traces: Traces,
    dedup: Arc<Dedup>,
    spy: Spy,
    batches: u32,
    sent: u32,
    now: Tick,
    out: Vec<Release>,
}

fn bounds() -> Bounds {
    Bounds {
        wait: 10 * SECOND,
        wait_after_root: Duration::ZERO,
        max_bytes: 64 << 20,
        max_traces: 0,
        max_trace_bytes: 8 << 20,
        max_trace_spans: 32_000,
        kept_verdicts: 0,
        dropped_verdicts: 0,
        verdict_time: 600 * SECOND,
        recent_bytes: 1 << 20,
        recent_traces: 100,
    }
}

/// Keeps traces with an error.
fn errors_only() -> Arc<Sampler> {
    Arc::new(Sampler::new(&sampling_settings()))
}

fn sampler(policies: impl IntoIterator<Item = (&'static str, PolicyKind)>) -> Arc<Sampler> {
    let policies = policies.into_iter().map(|(name, kind)| PolicySettings { name: name.to_owned(), kind });
    Arc::new(Sampler::new(&TailSamplingSettings { policies: policies.collect(), ..sampling_settings() }))
}

fn sampling_settings() -> TailSamplingSettings {
    let errors = PolicyKind::StatusCode { status_codes: vec![StatusCode::Error] };
    TailSamplingSettings {
        decision_wait: 10 * SECOND,
        decision_wait_after_root_received: Duration::ZERO,
        num_traces: 0,
        sampled_cache_size: 0,
        non_sampled_cache_size: 0,
        sample_on_first_match: false,
        maximum_trace_size_bytes: 0,
        maximum_trace_spans: 32_000,
        drop_pending_traces_on_shutdown: false,
        max_memory_bytes: 64 << 20,
        dry_run: false,
        marks: SamplingMarks::default(),
        policies: vec![PolicySettings { name: "errors".to_owned(), kind: errors }],
    }
}

impl Rig {
    /// Everything is kept but for what `change` says.
    fn new(change: impl FnOnce(&mut Bounds, &mut Judges)) -> Rig {
        let (mut bounds, mut judges) = (bounds(), Judges { owner: "east/one".to_owned(), ..Judges::default() });
        change(&mut bounds, &mut judges);
        let settings = DedupSettings { wait_duration: 300 * SECOND, max_memory_bytes: 16 << 20 };
        let dedup = Arc::new(Dedup::new(&settings, 5));
        let traces = Traces::new(bounds, Arc::new(judges), Some(dedup.clone()), 42);
        Rig { traces, dedup, spy: Spy::default(), batches: 0, sent: 0, now: Tick::ZERO, out: Vec::new() }
    }

    /// Keeps traces with an error only.
    fn sampling(change: impl FnOnce(&mut Bounds, &mut Judges)) -> Rig {
        Rig::new(|bounds, judges| {
            judges.sampler = Some(errors_only());
            change(bounds, judges);
        })
    }

    fn at(&mut self, seconds: f64) -> &mut Rig {
        self.now = Tick((seconds * 1e9) as u64);
        self
    }

    fn offer(&mut self, spans: &[Sent]) -> &mut Rig {
        let spans = request(spans);
        let all: Vec<u32> = (0..spans.len() as u32).collect();
        self.offer_some(&spans, &all)
    }

    fn offer_some(&mut self, spans: &Spans, indexes: &[u32]) -> &mut Rig {
        let receipt = Receipt::new(indexes.len() as u32, self.spy.clone());
        self.batches += 1;
        self.sent += indexes.len() as u32;
        self.traces.offer(spans, indexes, receipt, self.now, &mut self.out);
        self
    }

    fn advance(&mut self) -> &mut Rig {
        while self.traces.advance(self.now, 7, &mut self.out) {}
        self
    }

    /// What has come out, exported.
    fn exported(&mut self) -> Vec<Out> {
        self.settled(&Fate::Exported)
    }

    fn settled(&mut self, fate: &Fate) -> Vec<Out> {
        let mut all = Vec::new();
        for release in self.out.drain(..) {
            let spans = release.spans;
            let walked = walk(spans.bytes.clone(), &Limits::default()).unwrap().spans;
            assert_eq!(walked.spans, spans.spans);
            assert_eq!(walked.scopes, spans.scopes);
            assert_eq!(walked.resources, spans.resources);
            assert_eq!(release.receipts.iter().map(Receipt::spans).sum::<u32>() as usize, spans.len());
            assert_eq!(release.keys.len(), spans.len());
            self.dedup.settle(&release.keys, fate, self.now);
            release.receipts.into_iter().for_each(|receipt| receipt.resolve(fate.clone()));
            let headers = crate::logic::trace::headers_of(&spans);
            let out = |span: &SpanEntry| Out {
                trace: span.trace_id,
                id: u64::from_be_bytes(span.span_id.0),
                cluster: headers[span.scope as usize].cluster.to_string(),
                body: span.body().of(&spans.bytes).to_vec(),
            };
            all.extend(spans.spans.iter().map(out));
        }
        all
    }

    /// (trace, span) of what has come out, in their order.
    fn ids(&mut self) -> Vec<(u64, u64)> {
        let mut ids: Vec<_> = self.exported().iter().map(|out| (number_of(out.trace), out.id)).collect();
        ids.sort_unstable();
        ids
    }

    fn fate(&self, fate: &str) -> u32 {
        self.spy.0.lock().unwrap().fates.get(fate).copied().unwrap_or_default()
    }

    fn status(&self) -> TracesStatus {
        self.traces.status(self.now)
    }

    fn decided(&self, cause: Cause) -> u64 {
        self.status().decided[cause as usize]
    }

    /// Ends everything, and finds every span's receipt resolved once.
    fn finish(mut self) {
        while self.traces.close(self.now, 13, &mut self.out) {}
        self.exported();
        let heard = self.spy.0.lock().unwrap();
        assert_eq!(heard.fates.values().sum::<u32>(), self.sent);
        assert_eq!((heard.accepted, heard.finished), (self.sent, self.batches));
        assert_eq!(heard.fates.get("Released"), None);
        assert_eq!((self.traces.open_spans, self.traces.open.len()), (0, 0));
        assert_eq!(self.dedup.status(self.now).in_custody, 0);
    }
}

fn number_of(id: TraceId) -> u64 {
    (0..).find(|n| trace_id(*n) == id).unwrap_or_default()
}
