//! The reference payload: OTLP requests whose size and mix are those that all measurements of this project refer to.
//!
//! A request of the full shape has 512 spans of 682 bytes in 10 resources of 10 to 11 attributes, 8 spans a trace
//! spread over the resources, 10 attributes of the HTTP and database conventions a span, 1 to 2 events, 3 % errors.
//! Ids, UUIDs, times and the ids in URLs differ from span to span, everything else comes from small dictionaries, so
//! that compressors find about as much as in real traffic (zstd -1: a factor of 5 to 6).
//!
//! Spans are copied from templates that were written once; only what differs is patched in. Building them with prost
//! would cost more than the node needs to take them, and a load tool must not be the bottleneck. Everything follows
//! from the seed and the time given: equal seeds give equal requests.

use std::sync::Arc;

use super::proto::{put_len_header, varint_len};
use super::rng::Rng;
use super::template::{Instance, Resource, Richness, Template};
use crate::model::UnixNanos;

/// What the spans of a payload are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Mean encoded bytes of a request of 512 spans, per span.
    pub span_bytes: usize,
    /// Spans of a trace; the last trace of a request may have fewer.
    pub spans_per_trace: usize,
    /// Resources of a request of 512 spans; smaller requests have proportionally fewer, but one.
    pub resources: usize,
}

impl Shape {
    /// Smallest span that can be asked for: ids, times and one attribute.
    pub const MIN_SPAN_BYTES: usize = 160;
    /// Largest: the receiver's own limit of one span.
    pub const MAX_SPAN_BYTES: usize = 1 << 20;

    /// 682 bytes a span: 10 attributes and 1 to 2 events.
    pub fn full() -> Shape {
        Shape::of(682)
    }

    /// 260 bytes a span: 5 attributes, no events.
    pub fn small() -> Shape {
        Shape::of(260)
    }

    /// Spans of `span_bytes` in the mean, held between [`Shape::MIN_SPAN_BYTES`] and [`Shape::MAX_SPAN_BYTES`].
    pub fn of(span_bytes: usize) -> Shape {
        Shape {
            span_bytes: span_bytes.clamp(Self::MIN_SPAN_BYTES, Self::MAX_SPAN_BYTES),
            spans_per_trace: 8,
            resources: 10,
        }
    }

    pub fn spans_per_trace(self, spans_per_trace: usize) -> Shape {
        Shape { spans_per_trace: spans_per_trace.max(1), ..self }
    }

    /// How much a span of this size can hold.
    fn richness(&self) -> Richness {
        match self.span_bytes {
            600.. => Richness::Full,
            240.. => Richness::Lean,
            _ => Richness::Bare,
        }
    }
}

/// A span of the request that is being written.
struct Planned {
    span: Instance,
    template: usize,
    resource: usize,
}

impl Planned {
    /// Bytes of the span without its own key and length.
    fn len(&self, templates: &[Template]) -> usize {
        self.span.ids_len() + templates.get(self.template).map_or(0, Template::len)
    }
}

/// Writes requests of one [`Shape`].
pub struct Payload {
    rng: Rng,
    shape: Shape,
    templates: Arc<[Template]>,
    resources: Arc<[Resource]>,
    planned: Vec<Planned>,
}

/// Enough that a compressor does not see the same text eight times in one request.
const TEMPLATES: usize = 512;
/// Spans of the request that the shape's size is meant for.
const REFERENCE_SPANS: usize = 512;

impl Payload {
    pub fn new(seed: u64, shape: Shape) -> Payload {
        let mut rng = Rng::new(seed);
        let resources: Arc<[_]> = (0..shape.resources.max(1)).map(|i| Resource::write(&mut rng, i)).collect();
        let headers: usize = resources.iter().map(Resource::overhead).sum();
        let richness = shape.richness();
        // Lengths around a span (3 bytes) and its ids (37 in the mean: a root has no parent) are not in the template.
        let ids = 38 - 10 / shape.spans_per_trace.max(1);
        let target = shape.span_bytes.saturating_sub(headers / REFERENCE_SPANS + ids + 3);
        let bases: Vec<u64> = (0..TEMPLATES).map(|_| rng.next()).collect();
        let write = |pad| -> Arc<[_]> { bases.iter().map(|seed| Template::write(*seed, richness, pad)).collect() };
        let mean = |templates: &[Template]| templates.iter().map(Template::len).sum::<usize>() / TEMPLATES;
        let pad = target.saturating_sub(mean(&write(0)));
        // Longer texts may have longer lengths before them.
        let excess = mean(&write(pad)).saturating_sub(target);
        let templates = write(pad.saturating_sub(excess));
        Payload { rng, shape, templates, resources, planned: Vec::new() }
    }

    /// Another writer with the same texts and other ids, for a second task.
    pub fn fork(&self, seed: u64) -> Payload {
        Payload {
            rng: Rng::new(seed),
            shape: self.shape.clone(),
            templates: Arc::clone(&self.templates),
            resources: Arc::clone(&self.resources),
            planned: Vec::new(),
        }
    }

    /// One encoded `ExportTraceServiceRequest` of `spans` spans, whose traces ended shortly before `now`.
    pub fn request(&mut self, spans: usize, now: UnixNanos) -> Vec<u8> {
        let resources = (spans * self.resources.len()).div_ceil(REFERENCE_SPANS).clamp(1, self.resources.len());
        self.plan(spans, resources, now);
        let Payload { rng, templates, resources: all, planned, .. } = self;

        let lengths: Vec<usize> = all
            .iter()
            .take(resources)
            .enumerate()
            .map(|(r, _)| planned.iter().filter(|p| p.resource == r).map(|p| field_len(p.len(templates))).sum())
            .collect();
        let total: usize = all.iter().zip(&lengths).map(|(r, spans)| spans + r.overhead() + 16).sum();
        let mut out = Vec::with_capacity(total);
        for (r, (resource, spans)) in all.iter().zip(&lengths).enumerate() {
            let scope_spans = resource.scope.len() + spans + resource.schema_url.len();
            put_len_header(&mut out, 1, resource.resource.len() + field_len(scope_spans));
            out.extend_from_slice(&resource.resource);
            put_len_header(&mut out, 2, scope_spans);
            out.extend_from_slice(&resource.scope);
            for span in planned.iter().filter(|p| p.resource == r) {
                put_len_header(&mut out, 2, span.len(templates));
                if let Some(template) = templates.get(span.template) {
                    template.copy(&span.span, rng, &mut out);
                }
            }
            out.extend_from_slice(&resource.schema_url);
        }
        out
    }

    /// Ids, times and places of the next request's spans: trees in which children lie within their parents.
    fn plan(&mut self, spans: usize, resources: usize, now: UnixNanos) {
        self.planned.clear();
        let per_trace = self.shape.spans_per_trace.max(1);
        while self.planned.len() < spans {
            let first = self.planned.len();
            let trace = id16(&mut self.rng);
            let duration = 5_000_000 + self.rng.below(400_000_000);
            let end = now.0.saturating_sub(self.rng.below(50_000_000));
            for i in 0..per_trace.min(spans - first) {
                let parent = (i > 0).then(|| first + self.rng.below(i as u64) as usize);
                let (parent_id, start, end) = match parent.and_then(|p| self.planned.get(p)).map(|p| &p.span) {
                    None => (None, end.saturating_sub(duration), end),
                    Some(p) => {
                        let slack = (p.end - p.start) / 4;
                        (Some(p.span), p.start + self.rng.below(slack), p.end - self.rng.below(slack))
                    }
                };
                let span = Instance { trace, span: id8(&mut self.rng), parent: parent_id, start, end };
                let template = self.rng.below(self.templates.len() as u64) as usize;
                let resource = (first + i + i / resources) % resources;
                self.planned.push(Planned { span, template, resource });
            }
        }
    }
}

/// Length of a length-delimited field with a key of one byte.
fn field_len(content: usize) -> usize {
    1 + varint_len(content) + content
}

fn id16(rng: &mut Rng) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.next().to_le_bytes());
    id[8..].copy_from_slice(&(rng.next() | 1).to_le_bytes());
    id
}

fn id8(rng: &mut Rng) -> [u8; 8] {
    (rng.next() | 1).to_le_bytes()
}

#[cfg(test)]
mod tests;
