//! Metrics of the trace buffers: the rest of the table.
//!
//! What the Collector's `tail_sampling` counts has its names and labels (`documentation.md` of its
//! `tailsamplingprocessor`), for pipelines that sample. Its `sampling_trace_dropped_too_early` is not among them: nothing
//! is dropped undecided here, and `spanmesh_traces_decided_total` says by cause what was decided early.

use super::Samples;
use super::table::{BYTES, Metric, SECONDS, counter, gauge};
use crate::admin::status::NodeStatus;
use crate::logic::sampling::PolicyStatus;
use crate::logic::traces::{Cause, TracesStatus};
use crate::pipeline::AssembleStatus;

const PIPELINE: &[&str] = &["pipeline"];
const POLICY: &[&str] = &["pipeline", "policy"];

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "otelcol_processor_tail_sampling_sampling_traces_on_memory",
        None,
        "Open traces of pipelines that sample them",
        PIPELINE,
        |s, out| sampled(s, out, |t| t.open_traces),
    ),
    counter(
        "otelcol_processor_tail_sampling_new_trace_id_received",
        None,
        "Traces begun in pipelines that sample them",
        PIPELINE,
        |s, out| sampled(s, out, |t| t.new_traces),
    ),
    counter(
        "otelcol_processor_tail_sampling_count_traces_sampled",
        None,
        "What each policy that was asked said of a trace",
        &["pipeline", "policy", "sampled", "decision"],
        |s, out| {
            for traces in &s.traces {
                for policy in &traces.policies {
                    out.add([&traces.pipeline, &policy.name, "true", "sampled"], policy.sampled);
                    out.add([&traces.pipeline, &policy.name, "false", "not_sampled"], policy.not_sampled);
                    out.add([&traces.pipeline, &policy.name, "false", "dropped"], policy.dropped);
                }
            }
        },
    ),
    counter(
        "otelcol_processor_tail_sampling_global_count_traces_sampled",
        None,
        "Traces decided, by whether they were kept",
        &["pipeline", "sampled"],
        |s, out| {
            for traces in sampling(s) {
                out.add([&traces.pipeline, "true"], traces.traces.kept_traces);
                out.add([&traces.pipeline, "false"], traces.traces.dropped_traces);
            }
        },
    ),
    counter(
        "otelcol_processor_tail_sampling_early_releases_from_cache_decision",
        None,
        "Spans that came after their trace's verdict and followed it",
        &["pipeline", "sampled"],
        |s, out| {
            for traces in sampling(s) {
                out.add([&traces.pipeline, "true"], traces.traces.late_kept_spans);
                out.add([&traces.pipeline, "false"], traces.traces.late_dropped_spans);
            }
        },
    ),
    gauge("spanmesh_traces_open", None, "Traces that wait for their decision", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.open_traces);
    }),
    gauge("spanmesh_traces_open_spans", None, "Spans of open traces", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.open_spans);
    }),
    gauge("spanmesh_traces_held", BYTES, "Memory of the trace buffer", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.held_bytes);
    }),
    gauge("spanmesh_traces_held_limit", BYTES, "Most memory of the trace buffer", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.limit_bytes);
    }),
    gauge("spanmesh_traces_waiting", BYTES, "Kept spans that no exporter has taken yet", PIPELINE, |s, out| {
        whole(s, out, |t| t.waiting_bytes);
    }),
    counter(
        "spanmesh_traces_refused_spans",
        None,
        "Spans refused because the trace buffer was full of what exporters do not take",
        PIPELINE,
        |s, out| whole(s, out, |t| t.refused_spans),
    ),
    gauge("spanmesh_traces_oldest", SECONDS, "Age of the oldest open trace", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.oldest_seconds);
    }),
    gauge("spanmesh_traces_late", SECONDS, "By how much the next decision is late", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.late_seconds);
    }),
    gauge("spanmesh_traces_late_peak", SECONDS, "The most that a decision was late", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.latest_decision_seconds);
    }),
    counter("spanmesh_traces_begun", None, "Traces begun", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.new_traces);
    }),
    counter("spanmesh_traces_decided", None, "Traces decided, by why it was then", &["pipeline", "cause"], |s, out| {
        for traces in &s.traces {
            for (cause, count) in Cause::ALL.into_iter().zip(traces.traces.decided) {
                out.add([&traces.pipeline, cause.label()], count);
            }
        }
    }),
    counter("spanmesh_traces_verdicts", None, "Traces decided, by verdict", &["pipeline", "verdict"], |s, out| {
        for traces in &s.traces {
            out.add([&traces.pipeline, "kept"], traces.traces.kept_traces);
            out.add([&traces.pipeline, "dropped"], traces.traces.dropped_traces);
        }
    }),
    counter(
        "spanmesh_traces_verdict_spans",
        None,
        "Spans of decided traces, by verdict",
        &["pipeline", "verdict"],
        |s, out| {
            for traces in &s.traces {
                out.add([&traces.pipeline, "kept"], traces.traces.kept_spans);
                out.add([&traces.pipeline, "dropped"], traces.traces.dropped_spans);
            }
        },
    ),
    counter(
        "spanmesh_traces_late_spans",
        None,
        "Spans that came after the verdict, by the verdict that they followed",
        &["pipeline", "verdict"],
        |s, out| {
            for traces in &s.traces {
                out.add([&traces.pipeline, "kept"], traces.traces.late_kept_spans);
                out.add([&traces.pipeline, "dropped"], traces.traces.late_dropped_spans);
            }
        },
    ),
    counter("spanmesh_traces_would_drop", None, "Traces kept for dry_run only", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.would_drop_traces);
    }),
    counter("spanmesh_traces_would_drop_spans", None, "Spans kept for dry_run only", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.would_drop_spans);
    }),
    counter("spanmesh_traces_duplicates", None, "Duplicate spans found in the trace buffer", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.duplicates);
    }),
    gauge(
        "spanmesh_traces_remembered_verdicts",
        None,
        "Verdicts that late spans can follow",
        &["pipeline", "verdict"],
        |s, out| {
            for traces in &s.traces {
                out.add([&traces.pipeline, "kept"], traces.traces.kept_verdicts);
                out.add([&traces.pipeline, "dropped"], traces.traces.dropped_verdicts);
            }
        },
    ),
    gauge("spanmesh_traces_remembered", SECONDS, "How far back all verdicts are remembered", PIPELINE, |s, out| {
        whole(s, out, |t| t.traces.verdicts_seconds);
    }),
    counter("spanmesh_policy_decided_traces", None, "Traces whose verdict bears a policy's name", POLICY, |s, out| {
        policies(s, out, |p| p.decided_traces);
    }),
    counter("spanmesh_policy_decided_spans", None, "Their spans", POLICY, |s, out| {
        policies(s, out, |p| p.decided_spans);
    }),
];

fn whole<V: Into<super::Value>>(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&AssembleStatus) -> V) {
    status.traces.iter().for_each(|traces| out.add([&traces.pipeline], value(traces)));
}

/// Buffers that sample: the Collector's names are those of `tail_sampling`.
fn sampling(status: &NodeStatus) -> impl Iterator<Item = &AssembleStatus> {
    status.traces.iter().filter(|traces| !traces.policies.is_empty())
}

fn sampled(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&TracesStatus) -> u64) {
    sampling(status).for_each(|traces| out.add([&traces.pipeline], value(&traces.traces)));
}

fn policies(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&PolicyStatus) -> u64) {
    for traces in &status.traces {
        traces.policies.iter().for_each(|policy| out.add([&traces.pipeline, &policy.name], value(policy)));
    }
}
