//! The trace buffer: spans of 682 bytes in batches of 512, offered and decided as on a node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spanmesh::config::settings::{DedupSettings, SamplingMarks, TailSamplingSettings};
use spanmesh::logic::dedup::Dedup;
use spanmesh::logic::sampling::Sampler;
use spanmesh::logic::traces::{Bounds, Judges, Release, Traces};
use spanmesh::model::{Fate, Holder, Receipt, Spans, Tick};
use spanmesh::wire::{Limits, walk};

use super::{BATCH, cpu, key};

/// Spans in a steady stream, of which as many as [`WINDOW`] are open.
const SPANS: u64 = 3_000_000;
const WINDOW: u64 = 500_000;
const RATE: u64 = 100_000;
/// Traces decided in one call.
const AT_ONCE: usize = 64;

struct Nobody;

impl Holder for Nobody {}

/// What comes in: `spans_per_trace` spans of a trace, which come in `parts` batches that follow each other.
struct Shape {
    span_bytes: usize,
    spans_per_trace: u64,
    parts: u64,
}

pub(crate) fn measure() {
    println!(
        "\ntrace buffer: {SPANS} spans in batches of {BATCH}, {WINDOW} of them open, {AT_ONCE} traces decided at a time"
    );
    println!(
        "{:>44} {:>9} {:>10} {:>8} {:>10} {:>12} {:>11} {:>11}",
        "", "offer ns", "decide ns", "sum ns", "held/span", "beyond 1.1x", "longest ms", "offer ms"
    );
    let full = |spans_per_trace, parts| Shape { span_bytes: 682, spans_per_trace, parts };
    stream("8 spans a trace, in one batch, kept", &full(8, 1), true, u64::MAX);
    stream("8 spans a trace, in one batch, dropped", &full(8, 1), false, u64::MAX);
    stream("8 spans a trace, in four batches, dropped", &full(8, 4), false, u64::MAX);
    stream("1 span a trace, dropped", &full(1, 1), false, u64::MAX);
    stream("8 spans of 260 bytes a trace, dropped", &Shape { span_bytes: 260, ..full(8, 1) }, false, u64::MAX);
    stream("32,000 spans a trace, kept", &full(32_000, 125), true, u64::MAX);
    stream("8 spans a trace, kept, half the memory", &full(8, 1), true, 190 << 20);
    stream("8 spans a trace, dropped, half the memory", &full(8, 1), false, 190 << 20);
}

fn stream(name: &str, shape: &Shape, keep: bool, max_bytes: u64) {
    let wait = Duration::from_secs(WINDOW / RATE);
    let bounds = Bounds {
        wait,
        wait_after_root: Duration::ZERO,
        max_bytes: max_bytes.min(8 << 30),
        max_traces: 0,
        max_trace_bytes: u64::MAX,
        max_trace_spans: u32::MAX,
        kept_verdicts: 0,
        dropped_verdicts: 0,
        verdict_time: Duration::from_secs(600),
        recent_bytes: 4 << 20,
        recent_traces: 1_000,
    };
    let settings = DedupSettings { wait_duration: Duration::from_secs(300), max_memory_bytes: 256 << 20 };
    let dedup = Arc::new(Dedup::new(&settings, 7));
    // No policy wants a trace.
    let nobody = TailSamplingSettings {
        decision_wait: wait,
        decision_wait_after_root_received: Duration::ZERO,
        num_traces: 0,
        sampled_cache_size: 0,
        non_sampled_cache_size: 0,
        sample_on_first_match: false,
        maximum_trace_size_bytes: 0,
        maximum_trace_spans: u32::MAX,
        drop_pending_traces_on_shutdown: false,
        max_memory_bytes: u64::MAX,
        dry_run: false,
        marks: SamplingMarks::default(),
        policies: Vec::new(),
    };
    let sampler = (!keep).then(|| Arc::new(Sampler::new(&nobody)));
    let mut traces = Traces::new(bounds, Arc::new(Judges { sampler, ..Judges::default() }), Some(dedup.clone()), 42);
    let template = Template::new(shape);
    let (mut offer, mut decide, mut longest, mut longest_offer) = (Vec::new(), Vec::new(), 0f64, 0f64);
    let (mut held, mut decided) = (0.0, 0);
    let indexes: Vec<u32> = (0..BATCH as u32).collect();
    let mut out: Vec<Release> = Vec::new();
    for first in (0..SPANS).step_by(BATCH as usize) {
        let spans = template.batch(shape, first);
        let now = Tick(first * 1_000_000_000 / RATE);
        let receipt = Receipt::new(BATCH as u32, Nobody);
        let (time, ()) = cpu(|| traces.offer(&spans, &indexes, receipt, now, &mut out));
        offer.push(time / BATCH as f64);
        longest_offer = longest_offer.max(time / 1e6);
        let before = traces.status(now);
        let (mut time, mut more) = (0.0, true);
        while more {
            let (once, left) = cpu(|| traces.advance(now, AT_ONCE, &mut out));
            longest = longest.max(once / 1e6);
            time += once;
            more = left;
        }
        let after = traces.status(now);
        let spans = before.open_spans - after.open_spans;
        decided += spans;
        if spans > 0 {
            decide.push((time, spans));
        }
        for release in out.drain(..) {
            dedup.settle(&release.keys, &Fate::Exported, now);
            release.receipts.into_iter().for_each(|receipt| receipt.resolve(Fate::Exported));
        }
        if first > SPANS / 2 {
            let encoded = template.span_bytes * after.open_spans as f64;
            held = f64::max(held, (after.held_bytes as f64 - encoded * 1.1) / after.open_spans as f64);
        }
    }
    assert!(decided + WINDOW * 2 > SPANS || max_bytes < 1 << 30, "{decided}");
    let late = offer.split_off(offer.len() / 2);
    // Not the median: under pressure some offers decide traces, and others do not.
    let offer = late.iter().sum::<f64>() / late.len() as f64;
    let late = decide.split_off(decide.len() / 2);
    let spans: u64 = late.iter().map(|(_, spans)| spans).sum();
    let decide = late.iter().map(|(time, _)| time).sum::<f64>() / spans.max(1) as f64;
    println!(
        "{name:>44} {offer:>9.1} {decide:>10.1} {:>8.1} {:>10.1} {held:>12.1} {longest:>11.2} {longest_offer:>11.2}",
        offer + decide,
        held + template.span_bytes * 1.1,
    );
    traces.close(Tick(u64::MAX), usize::MAX, &mut out);
    out.drain(..).flat_map(|release| release.receipts).for_each(|receipt| receipt.resolve(Fate::Exported));
}

/// A request whose ids are put in for each batch.
struct Template {
    spans: Spans,
    /// Of the whole request, for each span.
    span_bytes: f64,
}

fn put(out: &mut Vec<u8>, number: u8, body: &[u8]) {
    out.push(number << 3 | 2);
    let mut len = body.len();
    while len > 0x7f {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
}

impl Template {
    fn new(shape: &Shape) -> Template {
        const RESOURCES: u64 = 10;
        let attribute = |key: &str, value: &str| {
            let (mut any, mut pair) = (Vec::new(), Vec::new());
            put(&mut any, 1, value.as_bytes());
            put(&mut pair, 1, key.as_bytes());
            put(&mut pair, 2, &any);
            pair
        };
        let mut request = Vec::new();
        for resource in 0..RESOURCES {
            let mut attributes = Vec::new();
            for (key, value) in
                [("k8s.cluster.name", "us-east-1".to_owned()), ("service.name", format!("service-{resource}"))]
            {
                put(&mut attributes, 1, &attribute(key, &value));
            }
            for more in 0..8 {
                put(&mut attributes, 1, &attribute(&format!("resource.attribute.{more}"), &format!("value-{more}")));
            }
            let mut scope = Vec::new();
            let spans = (BATCH - resource).div_ceil(RESOURCES);
            for n in 0..spans {
                let mut span = Vec::new();
                put(&mut span, 1, &[1; 16]);
                put(&mut span, 2, &(n + resource * BATCH + 1).to_le_bytes());
                put(&mut span, 4, &[2; 8]);
                put(&mut span, 5, b"GET /cart");
                span.extend([0x30, 2, 0x39]);
                span.extend(1_700_000_000_000_000_000_u64.to_le_bytes());
                span.push(0x41);
                span.extend(1_700_000_000_100_000_000_u64.to_le_bytes());
                let headers = 400 * RESOURCES as usize / BATCH as usize;
                let mut key = 0;
                while span.len() + headers + 60 < shape.span_bytes {
                    put(&mut span, 9, &attribute(&format!("attribute.{key:02}"), "some value of a span attribute"));
                    key += 1;
                }
                let pad = shape.span_bytes.saturating_sub(span.len() + headers + 20);
                put(&mut span, 9, &attribute("pad", &"x".repeat(pad)));
                put(&mut scope, 2, &span);
            }
            let mut entry = Vec::new();
            put(&mut entry, 1, &attributes);
            put(&mut entry, 2, &scope);
            put(&mut request, 1, &entry);
        }
        let bytes = request.len() as f64;
        let spans = walk(Bytes::from(request), &Limits::default()).unwrap().spans;
        assert_eq!(spans.len() as u64, BATCH);
        Template { spans, span_bytes: bytes / BATCH as f64 }
    }

    /// The batch whose first span is this one of the stream.
    fn batch(&self, shape: &Shape, first: u64) -> Spans {
        let mut bytes = self.spans.bytes.to_vec();
        let mut spans = self.spans.clone();
        let here = (shape.spans_per_trace / shape.parts).max(1);
        for (span, n) in spans.spans.iter_mut().zip(first..) {
            // Traces of one group of `parts` batches go on from batch to batch.
            let (batch, within) = (first / BATCH, n - first);
            let trace = key(((batch / shape.parts) << 32) | (within / here)).to_le_bytes();
            let id = (key(n) as u64).to_le_bytes();
            let at = span.body().start as usize;
            bytes[at + 2..at + 18].copy_from_slice(&trace);
            bytes[at + 20..at + 28].copy_from_slice(&id);
            (span.trace_id.0, span.span_id.0) = (trace, id);
        }
        spans.bytes = Bytes::from(bytes);
        spans
    }
}
