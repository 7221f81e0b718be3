//! CPU time per span of everything that touches a request's bytes, on the reference payload.
//!
//! Time is that of this thread's CPU clock: other load on the machine then shows as noise, not as cost. The unit R is
//! prost's decode, encode and drop of the same requests in the same run; ratios to it survive a change of machine,
//! nanoseconds do not. Run with `cargo bench --bench codec`.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use spanmesh::config::settings::{
    ActionKind, AttributeSource, AttributeValue, ProbabilisticSamplerSettings, ResourceAction, ResourceSettings,
    SamplerMode,
};
use spanmesh::load::payload::{Payload, Shape};
use spanmesh::logic::sampler::{Decision, Sampler};
use spanmesh::model::{SpanEntry, Spans, UnixNanos};
use spanmesh::wire::{Limits, ResourceEdits, SpanEdits, edit_resources, json, regroup, rewrite, select, walk};

const SPANS: usize = 512;
const REQUESTS: usize = 16;
const REPETITIONS: usize = 25;
const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

fn main() {
    for (name, shape) in [("full", Shape::full()), ("small", Shape::small())] {
        measure(name, shape);
    }
}

fn measure(name: &str, shape: Shape) {
    let limits = Limits::default();
    let mut payload = Payload::new(1, shape);
    let requests: Vec<Bytes> = (0..REQUESTS).map(|_| Bytes::from(payload.request(SPANS, NOW))).collect();
    let bytes: usize = requests.iter().map(Bytes::len).sum();
    println!("\n{name}: {} B/span, {SPANS} spans per request", bytes / (REQUESTS * SPANS));
    println!("{:<44} {:>9} {:>9}", "", "ns/span", "of R");

    let reference = per_span(&requests, |request| {
        let decoded = ExportTraceServiceRequest::decode(&request[..]).unwrap();
        black_box(decoded.encode_to_vec());
    });
    let row = |what: &str, nanos: f64| println!("{what:<44} {nanos:>9.1} {:>9.4}", nanos / reference);
    row("R: prost decode + encode + drop", reference);
    row(
        "prost decode + drop",
        per_span(&requests, |request| {
            black_box(ExportTraceServiceRequest::decode(&request[..]).unwrap());
        }),
    );
    row("copy", per_span(&requests, |request| drop(black_box(request.to_vec()))));
    row("walk", per_span(&requests, |request| drop(black_box(walk(request.clone(), &limits).unwrap()))));

    let walked: Vec<Spans> = requests.iter().map(|bytes| walk(bytes.clone(), &limits).unwrap().spans).collect();
    let edits = edits();
    for owners in [1, 3, 16, 100] {
        let groups: Vec<(&Spans, Vec<u16>)> = walked.iter().map(|spans| (spans, by_trace(spans, owners))).collect();
        let cut =
            |edits| per_span(&groups, |(spans, group_of)| drop(black_box(regroup(spans, group_of, owners, edits))));
        row(&format!("regroup to {owners}"), cut(None));
        row(&format!("regroup to {owners}, 3 upserts"), cut(Some(&edits)));
    }
    row("edit resources, 3 upserts", per_span(&walked, |spans| drop(black_box(edit_resources(spans, &edits)))));
    row("select every tenth", per_span(&walked, |spans| drop(black_box(select(spans, |i| i % 10 == 0)))));
    for percent in [10.0, 100.0] {
        let sampler = sampler(percent);
        row(
            &format!("probabilistic_sampler, {percent} %"),
            per_span(&walked, |spans| drop(black_box(sampled(spans, &sampler)))),
        );
    }

    let mut texts: Vec<Vec<u8>> = vec![Vec::new(); REQUESTS];
    requests.iter().zip(&mut texts).for_each(|(request, text)| json::encode(request, text).unwrap());
    row("JSON to protobuf", per_span(&texts, |text| drop(black_box(json::decode(text, &limits).unwrap()))));
    row(
        "protobuf to JSON",
        per_span(&requests, |request| {
            let mut text = Vec::new();
            json::encode(request, &mut text).unwrap();
            black_box(text);
        }),
    );

    row("zstd 1", per_span(&requests, |request| drop(black_box(zstd::bulk::compress(request, 1).unwrap()))));
    let packed: Vec<Vec<u8>> = requests.iter().map(|request| zstd::bulk::compress(request, 1).unwrap()).collect();
    row(
        "zstd decompress",
        per_span(&packed, |packed| {
            drop(black_box(zstd::bulk::decompress(packed, 4 << 20).unwrap()));
        }),
    );
}

fn edits() -> ResourceEdits {
    let upsert = |key: &str, value: &str| ResourceAction {
        key: key.into(),
        kind: ActionKind::Upsert(AttributeSource::Value(AttributeValue::String(value.into()))),
    };
    ResourceEdits::compile(&ResourceSettings {
        actions: vec![
            upsert("k8s.cluster.name", "us-east-1"),
            upsert("cloud.region", "us-east-1"),
            upsert("service.name", "checkout"),
        ],
    })
}

fn sampler(percent: f64) -> Sampler {
    Sampler::new(&ProbabilisticSamplerSettings {
        sampling_percentage: percent,
        mode: SamplerMode::Proportional,
        sampling_precision: 4,
        fail_closed: true,
    })
}

/// What is kept, with its threshold written.
fn sampled(spans: &Spans, sampler: &Sampler) -> Spans {
    let decide = |span: &SpanEntry| sampler.decide(&span.trace_id, span.body().of(&spans.bytes));
    let decisions: Vec<Decision> = spans.spans.iter().map(decide).collect();
    rewrite(spans, |index| {
        let decision = &decisions[index];
        decision.keep.then_some(SpanEdits { trace_state: decision.trace_state.as_deref(), attributes: &[] })
    })
}

/// Any function of the trace id that spreads.
fn by_trace(spans: &Spans, owners: u16) -> Vec<u16> {
    let owner = |id: &[u8; 16]| u128::from_le_bytes(*id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 64;
    spans.spans.iter().map(|span| (owner(&span.trace_id.0) % u128::from(owners)) as u16).collect()
}

/// Median over the repetitions, each of which runs over all inputs; the first is not counted.
fn per_span<T>(inputs: &[T], mut run: impl FnMut(&T)) -> f64 {
    let mut repetition = || {
        let start = cpu_nanos();
        inputs.iter().for_each(&mut run);
        (cpu_nanos() - start) as f64 / (inputs.len() * SPANS) as f64
    };
    repetition();
    let mut times: Vec<f64> = (0..REPETITIONS).map(|_| repetition()).collect();
    times.sort_by(f64::total_cmp);
    times[REPETITIONS / 2]
}

fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
