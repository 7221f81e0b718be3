//! What the walker takes, prost takes, and both see the same spans.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use spanmesh::wire::{Limits, select, walk};

fuzz_target!(|data: &[u8]| {
    // Prost refuses messages nested a hundred times, and its limit is not ours: stay below both.
    let limits = Limits { max_value_depth: 20, ..Limits::default() };
    let Ok(walked) = walk(data.to_vec().into(), &limits) else { return };
    let entries = &walked.spans.spans;
    for pair in entries.windows(2) {
        assert!(pair[0].field.end <= pair[1].field.start && pair[0].scope <= pair[1].scope);
    }
    let index = 64 * entries.len() + 64 * (walked.spans.scopes.len() + walked.spans.resources.len());
    assert!(index <= 6 * data.len());

    let kept = select(&walked.spans, |_| true);
    let request = ExportTraceServiceRequest::decode(kept.bytes).expect("what was cut from a walked request");
    let spans = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
    let mut count = 0;
    for (span, entry) in spans.zip(entries) {
        count += 1;
        assert_eq!(span.trace_id, entry.trace_id.0);
        assert_eq!(span.span_id, entry.span_id.0);
        assert!(span.parent_span_id.is_empty() || span.parent_span_id == entry.parent_span_id.0);
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (entry.start.0, entry.end.0));
        assert_eq!(u8::try_from(span.kind).unwrap_or(255), entry.kind);
        let status = span.status.as_ref().map_or(0, |status| status.code);
        assert_eq!(u8::try_from(status).unwrap_or(255), entry.status);
    }
    assert_eq!(count, entries.len());
});
