//! Spans of a batch dropped and edited in one go.
//!
//! The edited bodies are written first, into a scratch buffer, because only then their lengths are known and lengths
//! stand in front. So an edited span is copied twice and walked once. Working out the length beforehand would walk it
//! twice, and that is the dearer of the two.

use std::ops::Range;

use super::key_value::field_len;
use super::reader::put_head;
use super::regroup::{Headers, Output, unknown_of_request};
use super::span_edit::{SpanEdits, write_span};
use crate::model::Spans;

/// The spans for which `edit` gives something, with these edits, as a request of their own. `edit` gets the index of each
/// span once, in order.
pub fn rewrite<'a>(spans: &Spans, mut edit: impl FnMut(usize) -> Option<SpanEdits<'a>>) -> Spans {
    let mut scratch = Vec::new();
    let mut kept = Vec::with_capacity(spans.len());
    for (index, span) in spans.spans.iter().enumerate() {
        let Some(edits) = edit(index) else { continue };
        let body = if edits.is_empty() {
            None
        } else {
            let start = scratch.len();
            write_span(&mut scratch, span.body().of(&spans.bytes), &edits);
            Some(start..scratch.len())
        };
        kept.push(Kept { index, body });
    }
    if kept.is_empty() {
        return Spans::default();
    }
    let mut headers = Headers::new(spans, None);
    let runs = measure(spans, &kept, &mut headers);
    write(spans, &kept, &runs, &mut headers, &scratch)
}

struct Kept {
    index: usize,
    /// Where the edited body is in the scratch buffer; `None`: the span stays as it is.
    body: Option<Range<usize>>,
}

/// Lengths of the bodies of all `ScopeSpans` and `ResourceSpans` that there will be, in the order in which spans call
/// for them.
#[derive(Default)]
struct Runs {
    scopes: Vec<ScopeRun>,
    resources: Vec<usize>,
}

struct ScopeRun {
    resource: usize,
    bytes: usize,
}

fn measure(spans: &Spans, kept: &[Kept], headers: &mut Headers<'_>) -> Runs {
    let mut runs = Runs::default();
    let (mut scope, mut resource) = (None, None);
    for Kept { index, body } in kept {
        let span = &spans.spans[*index];
        if scope != Some(span.scope) {
            scope = Some(span.scope);
            let entry = &spans.scopes[span.scope as usize];
            if resource != Some(entry.resource) {
                resource = Some(entry.resource);
                runs.resources.push(headers.of(spans, entry.resource).all.len());
            }
            let bytes = entry.other_fields.iter().map(|range| range.len()).sum();
            runs.scopes.push(ScopeRun { resource: runs.resources.len() - 1, bytes });
        }
        let len = body.as_ref().map_or(span.field.len(), |body| field_len(body.len()));
        if let Some(run) = runs.scopes.last_mut() {
            run.bytes += len;
        }
    }
    for scope in &runs.scopes {
        runs.resources[scope.resource] += field_len(scope.bytes);
    }
    runs
}

fn write(spans: &Spans, kept: &[Kept], runs: &Runs, headers: &mut Headers<'_>, scratch: &[u8]) -> Spans {
    let request = &*spans.bytes;
    let unknown = unknown_of_request(request);
    let bytes: usize = runs.resources.iter().map(|resource| field_len(*resource)).sum();
    let mut out = Output {
        bytes: Vec::with_capacity(bytes + unknown.iter().map(|range| range.len()).sum::<usize>()),
        resources: Vec::with_capacity(runs.resources.len()),
        scopes: Vec::with_capacity(runs.scopes.len()),
        spans: Vec::with_capacity(kept.len()),
    };
    let (mut scope, mut resource) = (None, None);
    for Kept { index, body } in kept {
        let span = &spans.spans[*index];
        if scope != Some(span.scope) {
            scope = Some(span.scope);
            let entry = &spans.scopes[span.scope as usize];
            if resource != Some(entry.resource) {
                resource = Some(entry.resource);
                put_head(&mut out.bytes, 1, runs.resources[out.resources.len()]);
                let header = headers.of(spans, entry.resource).clone();
                out.resource(&header, &headers.scratch);
            }
            put_head(&mut out.bytes, 2, runs.scopes[out.scopes.len()].bytes);
            out.scope(entry, request);
        }
        match body {
            Some(body) => out.edited_span(span, &scratch[body.clone()]),
            None => out.spans(std::slice::from_ref(span), span.field.of(request)),
        }
    }
    debug_assert_eq!(out.bytes.len(), bytes);
    out.finish(&unknown, request)
}
