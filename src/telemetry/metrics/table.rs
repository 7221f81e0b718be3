//! The table of metrics: name, kind, unit, help, labels, and where the samples are read from. Those of whole traces are
//! in [`super::traces`].

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::Samples;
use crate::admin::status::{NodeState, NodeStatus};
use crate::export::ExporterStatus;
use crate::link::status::{LinkStatus, MeshStatus};
use crate::receive::otlp::TransportStatus;

/// One metric family. The format adds `_total` to counters and the unit to the name.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) unit: Option<Unit>,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) samples: fn(&NodeStatus, &mut Samples<'_>),
}

pub(super) const fn counter(
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&NodeStatus, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: MetricType::Counter, unit, help, labels, samples }
}

pub(super) const fn gauge(
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&NodeStatus, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: MetricType::Gauge, unit, help, labels, samples }
}

pub(super) const BYTES: Option<Unit> = Some(Unit::Bytes);
pub(super) const SECONDS: Option<Unit> = Some(Unit::Seconds);
const RECEIVER: &[&str] = &["receiver", "transport"];
const EXPORTER: &[&str] = &["exporter"];
const STAGE: &[&str] = &["pipeline", "processor"];
const PEER: &[&str] = &["peer"];

pub(super) const METRICS: &[Metric] = &[
    // --- receivers ---
    counter("otelcol_receiver_accepted_spans", None, "Spans taken from senders", RECEIVER, |s, out| {
        receivers(s, out, |t| t.accepted_spans_total);
    }),
    counter(
        "otelcol_receiver_refused_spans",
        None,
        "Spans not taken and left with their sender",
        RECEIVER,
        |s, out| {
            receivers(s, out, |t| t.refused_spans_total.values().sum());
        },
    ),
    counter(
        "spanmesh_receiver_rejected_spans",
        None,
        "Invalid spans left out of requests that were taken, told in partial_success",
        RECEIVER,
        |s, out| receivers(s, out, |t| t.rejected_spans_total),
    ),
    counter("spanmesh_receiver_requests", None, "Requests begun", RECEIVER, |s, out| {
        receivers(s, out, |t| t.requests_total);
    }),
    counter(
        "spanmesh_receiver_failed_requests",
        None,
        "Requests answered with an error, by reason",
        &["receiver", "transport", "reason"],
        |s, out| {
            for receiver in &s.receivers {
                for transport in &receiver.transports {
                    for (reason, count) in &transport.failed_requests_total {
                        out.add([&receiver.id, transport.transport, reason], *count);
                    }
                }
            }
        },
    ),
    counter("spanmesh_receiver_received", BYTES, "Request bodies as sent, before decompression", RECEIVER, |s, out| {
        receivers(s, out, |t| t.bytes_total);
    }),
    gauge("spanmesh_receiver_connections", None, "Open connections", RECEIVER, |s, out| {
        receivers(s, out, |t| t.connections.as_ref().map_or(0, |c| c.open));
    }),
    counter(
        "spanmesh_receiver_connections_turned_away",
        None,
        "Connections closed at once because the port's cap was reached",
        RECEIVER,
        |s, out| receivers(s, out, |t| t.connections.as_ref().map_or(0, |c| c.over_cap_total)),
    ),
    // --- pipelines ---
    counter("spanmesh_pipeline_incoming_spans", None, "Spans offered to a pipeline", &["pipeline"], |s, out| {
        s.pipelines.iter().for_each(|p| out.add([&p.id], p.incoming_spans));
    }),
    counter(
        "spanmesh_pipeline_memory_limited_spans",
        None,
        "Spans refused by a pipeline's memory_limiter",
        &["pipeline"],
        |s, out| s.pipelines.iter().for_each(|p| out.add([&p.id], p.memory_limited_spans)),
    ),
    counter(
        "spanmesh_sampler_dropped_spans",
        None,
        "Spans dropped by a pipeline's probabilistic_sampler",
        &["pipeline"],
        |s, out| s.pipelines.iter().for_each(|p| out.add([&p.id], p.sampled_out_spans)),
    ),
    counter(
        "spanmesh_sampler_error_spans",
        None,
        "Spans that a probabilistic_sampler met with sampling information that is malformed, untrue or in its way",
        &["pipeline"],
        |s, out| s.pipelines.iter().for_each(|p| out.add([&p.id], p.sampling_error_spans)),
    ),
    counter(
        "spanmesh_resource_left_out_actions",
        None,
        "Actions of resource processors left out, once for each resource that they would have made too large",
        &["pipeline"],
        |s, out| s.pipelines.iter().for_each(|p| out.add([&p.id], p.resource_actions_left_out)),
    ),
    gauge("spanmesh_pipeline_batching_spans", None, "Spans waiting in batch stages", &["pipeline"], |s, out| {
        s.pipelines.iter().for_each(|p| out.add([&p.id], p.batching_spans));
    }),
    // --- dedup ---
    counter("spanmesh_dedup_duplicates", None, "Spans dropped as true duplicates", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.duplicates));
    }),
    counter("spanmesh_dedup_admitted", None, "Spans seen for the first time", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.admitted));
    }),
    gauge("spanmesh_dedup_custody_spans", None, "Spans in custody, matched exactly", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.in_custody));
    }),
    gauge("spanmesh_dedup_remembered_spans", None, "Settled spans the filters remember", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.remembered));
    }),
    gauge("spanmesh_dedup_filter", BYTES, "Memory of the filters", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.filter_bytes));
    }),
    gauge("spanmesh_dedup_load_ratio", None, "Fill of the newest filters, of their design load", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.load_ratio));
    }),
    gauge(
        "spanmesh_dedup_error_ratio",
        None,
        "Estimated chance that a fresh span is dropped as a duplicate",
        STAGE,
        |s, out| s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.error_ratio)),
    ),
    gauge("spanmesh_dedup_window", SECONDS, "How far back settled spans are remembered now", STAGE, |s, out| {
        s.dedup.iter().for_each(|d| out.add([&d.pipeline, &d.id], d.status.window_seconds));
    }),
    // --- exporters ---
    counter("otelcol_exporter_sent_spans", None, "Spans delivered to the backend", EXPORTER, |s, out| {
        exporters(s, out, |e| e.sent_spans);
    }),
    counter("otelcol_exporter_send_failed_spans", None, "Spans given up after custody", EXPORTER, |s, out| {
        exporters(s, out, |e| e.send_failed_spans);
    }),
    counter("otelcol_exporter_enqueue_failed_spans", None, "Spans refused by a full queue", EXPORTER, |s, out| {
        exporters(s, out, |e| e.enqueue_failed_spans);
    }),
    counter(
        "spanmesh_exporter_rejected_spans",
        None,
        "Spans rejected by the backend in a partial success; part of send_failed",
        EXPORTER,
        |s, out| exporters(s, out, |e| e.rejected_spans),
    ),
    counter(
        "spanmesh_exporter_possible_duplicate_spans",
        None,
        "Spans sent again after a try whose end nobody knows",
        EXPORTER,
        |s, out| exporters(s, out, |e| e.possible_duplicate_spans),
    ),
    gauge("otelcol_exporter_queue_size", None, "Bytes not yet settled", EXPORTER, |s, out| {
        exporters(s, out, |e| e.queue_bytes);
    }),
    gauge("otelcol_exporter_queue_capacity", None, "Bytes the queue takes", EXPORTER, |s, out| {
        exporters(s, out, |e| e.queue_capacity_bytes);
    }),
    gauge("spanmesh_exporter_in_flight_requests", None, "Requests under way", EXPORTER, |s, out| {
        exporters(s, out, |e| e.in_flight_requests);
    }),
    // --- ledger ---
    counter("spanmesh_ledger_received_spans", None, "Spans taken into custody, by where from", &["from"], |s, out| {
        out.add(["sender"], s.ledger.received_local);
        out.add(["peer"], s.ledger.received_peer);
    }),
    counter("spanmesh_ledger_settled_spans", None, "Spans in custody that met their fate", &["fate"], |s, out| {
        out.add(["forwarded"], s.ledger.forwarded);
        out.add(["exported"], s.ledger.exported);
        out.add(["duplicate"], s.ledger.duplicate);
        out.add(["sampled_out"], s.ledger.sampled_out);
        s.ledger.dropped.iter().for_each(|(reason, spans)| out.add([reason], *spans));
        out.add(["released"], s.ledger.released);
    }),
    counter("spanmesh_ledger_refused_spans", None, "Spans never taken into custody", &[], |s, out| {
        out.add([], s.ledger.refused);
    }),
    gauge("spanmesh_ledger_in_flight_spans", None, "Spans in custody without a fate yet", &[], |s, out| {
        out.add([], s.ledger.in_flight);
    }),
    gauge("spanmesh_ledger_balanced", None, "1 if the counts of the ledger add up", &[], |s, out| {
        out.add([], u64::from(s.ledger.balanced));
    }),
    // --- the mesh ---
    gauge("spanmesh_members", None, "Members as this node sees them", &["state"], |s, out| {
        if let Some(mesh) = &s.mesh {
            for state in ["active", "suspect", "leaving", "dead"] {
                out.add([state], mesh.members.iter().filter(|member| member.state == state).count() as u64);
            }
        }
    }),
    gauge("spanmesh_ring_share_ratio", None, "Share of all traces that a node owns", &["node"], |s, out| {
        if let Some(mesh) = &s.mesh {
            mesh.ring.members.iter().for_each(|share| out.add([&share.id], share.share));
        }
    }),
    gauge(
        "spanmesh_ring_info",
        None,
        "The ring in force; equal on nodes that agree",
        &["mesh", "version"],
        |s, out| {
            if let Some(mesh) = &s.mesh {
                out.add([&mesh.mesh, &mesh.ring.version], 1);
            }
        },
    ),
    counter("spanmesh_ring_changes", None, "Rings put in force", &[], |s, out| {
        mesh(s, out, |m| m.ring.changes);
    }),
    gauge("spanmesh_link_up", None, "1 if the link to a peer is up", PEER, |s, out| {
        links(s, out, |l| Some(u64::from(l.connected)));
    }),
    gauge("spanmesh_link_rtt", SECONDS, "Round trip time of the link's path", PEER, |s, out| {
        links(s, out, |l| l.rtt_ms.map(|rtt| rtt / 1_000.0));
    }),
    gauge("spanmesh_link_clock_offset", SECONDS, "The peer's clock minus this node's, estimated", PEER, |s, out| {
        links(s, out, |l| l.clock_offset_seconds);
    }),
    gauge("spanmesh_link_clock_error", SECONDS, "Most that the estimated clock offset is wrong by", PEER, |s, out| {
        links(s, out, |l| l.clock_offset_error_seconds);
    }),
    gauge("spanmesh_link_path_mtu", BYTES, "UDP payload that the link's path takes", PEER, |s, out| {
        links(s, out, |l| l.path_mtu.map(u64::from));
    }),
    gauge("spanmesh_link_queue", BYTES, "Spans waiting and under way, not compressed", PEER, |s, out| {
        links(s, out, |l| Some(l.queue_bytes));
    }),
    counter("spanmesh_link_sent_spans", None, "Spans sent and accepted by the peer", PEER, |s, out| {
        links(s, out, |l| Some(l.sent_spans));
    }),
    counter("spanmesh_link_sent", BYTES, "Bytes of spans sent, as they went over the wire", PEER, |s, out| {
        links(s, out, |l| Some(l.sent_wire_bytes));
    }),
    counter("spanmesh_link_sent_raw", BYTES, "The same before compression", PEER, |s, out| {
        links(s, out, |l| Some(l.sent_raw_bytes));
    }),
    counter("spanmesh_link_received_spans", None, "Spans taken from the peer", PEER, |s, out| {
        links(s, out, |l| Some(l.received_spans));
    }),
    counter("spanmesh_link_received", BYTES, "Bytes of spans received, as they came", PEER, |s, out| {
        links(s, out, |l| Some(l.received_wire_bytes));
    }),
    counter("spanmesh_link_refused_batches", None, "Batches that one side refused", &["peer", "by"], |s, out| {
        for link in s.mesh.iter().flat_map(|mesh| &mesh.links) {
            out.add([&link.peer, "peer"], link.refused_by_peer);
            out.add([&link.peer, "here"], link.refused_here);
        }
    }),
    counter("spanmesh_link_unanswered_batches", None, "Batches that came back without an answer", PEER, |s, out| {
        links(s, out, |l| Some(l.unanswered));
    }),
    counter("spanmesh_link_bad_streams", None, "Streams that broke the protocol or a deadline", PEER, |s, out| {
        links(s, out, |l| Some(l.bad_streams));
    }),
    counter("spanmesh_link_reconnects", None, "Connections after the first", PEER, |s, out| {
        links(s, out, |l| Some(l.reconnects));
    }),
    gauge("spanmesh_link_sent_packets", None, "UDP packets sent on the link's present connection", PEER, |s, out| {
        links(s, out, |l| l.sent_packets);
    }),
    gauge("spanmesh_link_lost_packets", None, "Those of them that were lost", PEER, |s, out| {
        links(s, out, |l| l.lost_packets);
    }),
    gauge("spanmesh_parked", BYTES, "Spans in custody without a place to go", &[], |s, out| {
        mesh(s, out, |m| m.parked_bytes);
    }),
    counter("spanmesh_hop_limit_spans", None, "Spans kept because they had been sent on too often", &[], |s, out| {
        mesh(s, out, |m| m.hop_limit_spans);
    }),
    counter("spanmesh_rerouted_spans", None, "Spans that found another owner while they waited", &[], |s, out| {
        mesh(s, out, |m| m.rerouted_spans);
    }),
    counter("spanmesh_identity_mismatches", None, "Peers that were not whom they said they are", &[], |s, out| {
        mesh(s, out, |m| m.identity_mismatches);
    }),
    counter("spanmesh_handshakes_failed", None, "Handshakes with peers that failed", &[], |s, out| {
        mesh(s, out, |m| m.handshakes_failed);
    }),
    counter("spanmesh_dials_failed", None, "Tries to reach an address that failed", &[], |s, out| {
        mesh(s, out, |m| m.dials_failed);
    }),
    counter(
        "spanmesh_cluster_name_conflicts",
        None,
        "Spans of local senders whose resource named another cluster, kept beside this node's",
        &[],
        |s, out| mesh(s, out, |m| m.cluster_conflict_spans),
    ),
    gauge("spanmesh_seed_addresses", None, "Addresses of a seed's last good answer", &["seed"], |s, out| {
        for seed in s.mesh.iter().flat_map(|mesh| &mesh.seeds) {
            out.add([&seed.seed], seed.addresses.len() as u64);
        }
    }),
    counter("spanmesh_seed_lookup_failures", None, "Lookups of a seed that failed", &["seed"], |s, out| {
        for seed in s.mesh.iter().flat_map(|mesh| &mesh.seeds) {
            out.add([&seed.seed], seed.failures_total);
        }
    }),
    gauge(
        "spanmesh_certificate_expiry_timestamp",
        SECONDS,
        "End of the certificate in use, Unix time",
        &[],
        |s, out| {
            if let Some(expires) = s.mesh.as_ref().and_then(|mesh| mesh.certificate_expires) {
                out.add([], expires);
            }
        },
    ),
    // --- the node ---
    gauge("spanmesh_build_info", None, "Version of this binary", &["version"], |s, out| {
        out.add([s.node.version], 1);
    }),
    gauge("spanmesh_node_info", None, "Who this node is", &["node_cluster", "node"], |s, out| {
        out.add([&s.node.cluster, &s.node.node], 1);
    }),
    gauge("spanmesh_node_state", None, "1 for the state the node is in", &["state"], |s, out| {
        for state in [NodeState::Starting, NodeState::Ready, NodeState::Draining] {
            out.add([state.label()], u64::from(s.node.state == state));
        }
    }),
    gauge("spanmesh_insecure", None, "1 if anybody may join as anybody (insecure_dev)", &[], |s, out| {
        out.add([], u64::from(s.node.insecure));
    }),
    gauge("spanmesh_held", BYTES, "Spans held by this node", &[], |s, out| {
        out.add([], s.budget.held_bytes);
    }),
    gauge("spanmesh_held_peak", BYTES, "Most held at once since the start", &[], |s, out| {
        out.add([], s.budget.peak_bytes);
    }),
    gauge("spanmesh_held_limit", BYTES, "Local senders are refused above this", &[], |s, out| {
        if let Some(limit) = s.budget.limit_bytes {
            out.add([], limit);
        }
    }),
    gauge("spanmesh_uptime", SECONDS, "Since the start", &[], |s, out| {
        out.add([], s.node.uptime_seconds);
    }),
    counter("process_cpu", SECONDS, "User and system time of all threads", &[], |s, out| {
        out.add([], s.process.cpu_seconds);
    }),
    gauge("process_resident_memory", BYTES, "Resident memory", &[], |s, out| {
        out.add([], s.process.resident_bytes);
    }),
    gauge("process_open_fds", None, "Open file descriptors", &[], |s, out| {
        out.add([], s.process.open_files);
    }),
    gauge("process_start_time", SECONDS, "Unix time of the start", &[], |s, out| {
        out.add([], s.node.started_at);
    }),
];

fn receivers(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&TransportStatus) -> u64) {
    for receiver in &status.receivers {
        for transport in &receiver.transports {
            out.add([&receiver.id, transport.transport], value(transport));
        }
    }
}

fn exporters(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&ExporterStatus) -> u64) {
    status.exporters.iter().for_each(|exporter| out.add([&exporter.id], value(exporter)));
}

fn mesh(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&MeshStatus) -> u64) {
    if let Some(mesh) = &status.mesh {
        out.add([], value(mesh));
    }
}

fn links<V: Into<super::Value>>(status: &NodeStatus, out: &mut Samples<'_>, value: fn(&LinkStatus) -> Option<V>) {
    for link in status.mesh.iter().flat_map(|mesh| &mesh.links) {
        if let Some(value) = value(link) {
            out.add([link.peer.as_str()], value);
        }
    }
}
