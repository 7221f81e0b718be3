use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::*;

const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

fn decode(bytes: &[u8]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(bytes).unwrap()
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<&Span> {
    request.resource_spans.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect()
}

#[test]
fn spans_are_as_large_as_the_shape_says() {
    let shapes = [
        (Shape::full(), 682),
        (Shape::small(), 260),
        (Shape::of(600), 600),
        (Shape::of(2_000), 2_000),
        (Shape::of(200), 200),
    ];
    for (shape, wanted) in shapes {
        let mut payload = Payload::new(1, shape);
        let bytes: usize = (0..8).map(|_| payload.request(512, NOW).len()).sum();
        let mean = bytes / (8 * 512);
        assert!(mean.abs_diff(wanted) <= 3, "{mean} bytes a span instead of {wanted}");
    }
    let least = Payload::new(1, Shape::of(0)).request(512, NOW).len() / 512;
    assert!(least <= Shape::MIN_SPAN_BYTES + 8, "{least}");
}

#[test]
fn a_full_request_has_the_reference_mix() {
    let request = decode(&Payload::new(7, Shape::full()).request(512, NOW));
    assert_eq!(request.resource_spans.len(), 10);
    for resource in &request.resource_spans {
        let attributes = resource.resource.as_ref().unwrap().attributes.len();
        assert!((10..=11).contains(&attributes));
        assert_eq!(resource.scope_spans.len(), 1);
        assert!(!resource.scope_spans[0].schema_url.is_empty());
        assert!((40..=64).contains(&resource.scope_spans[0].spans.len()));
    }
    let spans = spans(&request);
    assert_eq!(spans.len(), 512);
    assert!(spans.iter().all(|s| s.attributes.len() == 10 && (1..=2).contains(&s.events.len())));
    assert!(spans.iter().all(|s| s.events.iter().all(|e| (1..=3).contains(&e.attributes.len()))));
    let errors = spans.iter().filter(|s| s.status.as_ref().is_some_and(|s| s.code == 2)).count();
    assert!((3..=35).contains(&errors), "{errors} errors of 512");
}

#[test]
fn a_trace_is_a_tree_whose_children_lie_within_their_parents() {
    let bytes = Payload::new(3, Shape::full().spans_per_trace(5)).request(103, NOW);
    let request = decode(&bytes);
    let all: BTreeMap<&[u8], &Span> = spans(&request).into_iter().map(|s| (s.span_id.as_slice(), s)).collect();
    assert_eq!(all.len(), 103, "span ids are unique");
    let roots = all.values().filter(|s| s.parent_span_id.is_empty()).count();
    assert_eq!(roots, 21, "20 traces of five spans and one of three");
    for span in all.values() {
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert!(span.start_time_unix_nano < span.end_time_unix_nano && span.end_time_unix_nano <= NOW.0);
        for event in &span.events {
            assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano));
        }
        if !span.parent_span_id.is_empty() {
            let parent = all[span.parent_span_id.as_slice()];
            assert_eq!(parent.trace_id, span.trace_id);
            assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
            assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
        }
    }
}

#[test]
fn equal_seeds_give_equal_requests_and_later_requests_new_ids() {
    let (mut a, mut b) = (Payload::new(9, Shape::small()), Payload::new(9, Shape::small()));
    let first = a.request(64, NOW);
    assert_eq!(first, b.request(64, NOW));
    assert_ne!(first, a.request(64, NOW));
    assert_ne!(first, Payload::new(10, Shape::small()).request(64, NOW));
    assert!(spans(&decode(&a.request(0, NOW))).is_empty());
}

#[test]
fn it_compresses_about_as_well_as_real_traffic() {
    let bytes = Payload::new(1, Shape::full()).request(512, NOW);
    let ratio = bytes.len() as f64 / zstd::bulk::compress(&bytes, 1).unwrap().len() as f64;
    assert!((4.5..=7.0).contains(&ratio), "zstd -1 by a factor of {ratio:.2}");
}
