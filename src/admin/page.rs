//! The status page: plain HTML made here, readable without script, style or sight.
//!
//! Every figure stands in a table with a caption and header cells; states are words, colour only repeats them. It does
//! not reload by itself, which takes the page away from under whoever reads it slowly.

use std::fmt::{Display, Write};

use super::status::{NodeState, NodeStatus};
use crate::link::status::MeshStatus;
use crate::logic::cross_cluster::quantile;
use crate::logic::traces::Cause;
use crate::pipeline::AssembleStatus;

pub(super) const STYLE: &str = include_str!("style.css");

pub(super) fn render(status: &NodeStatus) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    let name = node_name(status);
    page.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">");
    page.raw("<link rel=\"stylesheet\" href=\"style.css\"><title>");
    page.text(format_args!("{name} - spanmesh"));
    page.raw("</title></head><body><main>\n<h1>");
    page.text(&name);
    page.raw("</h1>\n<p class=\"summary\">");
    page.text(summary(status));
    page.raw("</p>\n");
    for warning in warnings(status) {
        page.raw("<p class=\"warning\"><strong>Warning:</strong> ");
        page.text(warning);
        page.raw("</p>\n");
    }
    page.raw("<p><a href=\"\">Refresh</a> · JSON: <a href=\"api/v1/status\">status</a> ");
    page.raw("<a href=\"api/v1/members\">members</a> <a href=\"api/v1/ring\">ring</a> ");
    page.raw("<a href=\"api/v1/links\">links</a> <a href=\"api/v1/ledger\">ledger</a></p>\n");
    page.raw("<p><a href=\"trace\">Look up a trace</a></p>\n");
    ledger(&mut page, status);
    if let Some(mesh) = &status.mesh {
        members(&mut page, mesh);
        links(&mut page, mesh);
        seeds(&mut page, mesh);
    }
    flow(&mut page, status);
    status.traces.iter().for_each(|traces| whole_traces(&mut page, traces));
    process(&mut page, status);
    page.raw("</main></body></html>\n");
    page.0
}

fn node_name(status: &NodeStatus) -> String {
    format!("{}/{}", status.node.cluster, status.node.node)
}

/// One sentence that says whether there is anything to do.
fn summary(status: &NodeStatus) -> String {
    let ledger = if status.ledger.balanced { "the ledger balances" } else { "THE LEDGER DOES NOT BALANCE" };
    let state = status.node.state.label();
    match &status.mesh {
        None => format!("{state}, running alone; {ledger}."),
        Some(mesh) => {
            let live = mesh.members.iter().filter(|member| member.state == "active").count();
            let down = mesh.links.iter().filter(|link| !link.connected).count();
            let nodes = if live == 1 { "node" } else { "nodes" };
            let links = if down == 1 { "link" } else { "links" };
            format!("{state}, mesh {}: {live} {nodes} active, {down} {links} down; {ledger}.", mesh.mesh)
        }
    }
}

fn warnings(status: &NodeStatus) -> Vec<String> {
    let mut all = status.node.warnings.clone();
    if status.node.insecure {
        all.push("insecure_dev is on: anybody may join this mesh as anybody. For trials only.".into());
    }
    if status.node.state == NodeState::Draining {
        all.push("this node is on its way out.".into());
    }
    if status.ledger.released > 0 {
        all.push(format!("{} spans were forgotten by a stage: a defect, please report it.", status.ledger.released));
    }
    if let Some(mesh) = &status.mesh
        && mesh.identity_mismatches > 0
    {
        let times = mesh.identity_mismatches;
        all.push(format!("{times} times a peer said it was another node than its certificate names."));
    }
    all
}

fn ledger(page: &mut Page, status: &NodeStatus) {
    let ledger = &status.ledger;
    let mut rows = vec![
        ["received from senders".to_owned(), ledger.received_local.to_string()],
        ["received from peers".to_owned(), ledger.received_peer.to_string()],
        ["forwarded to their owner".to_owned(), ledger.forwarded.to_string()],
        ["exported".to_owned(), ledger.exported.to_string()],
        ["dropped as duplicates".to_owned(), ledger.duplicate.to_string()],
        ["dropped by sampling".to_owned(), ledger.sampled_out.to_string()],
    ];
    rows.extend(ledger.dropped.iter().map(|(reason, spans)| [format!("dropped: {reason}"), spans.to_string()]));
    rows.push(["in flight".to_owned(), ledger.in_flight.to_string()]);
    rows.push(["refused, still with their sender".to_owned(), ledger.refused.to_string()]);
    page.table("Ledger: every span's fate since the start", ["Fate", "Spans"], rows);
}

fn members(page: &mut Page, mesh: &MeshStatus) {
    let share = |id: &str| mesh.ring.members.iter().find(|share| share.id == id).map_or(0.0, |share| share.share);
    let rows = mesh.members.iter().map(|member| {
        [
            if member.me { format!("{} (this node)", member.id) } else { member.id.clone() },
            member.state.to_owned(),
            duration(member.since_seconds),
            member.address.map_or_else(|| "dials out only".into(), |address| address.to_string()),
            format!("{:.1} %", share(&member.id) * 100.0),
            member.version.clone(),
        ]
    });
    let caption = format!("Members, ring {}", mesh.ring.version);
    page.table(&caption, ["Node", "State", "For", "Address", "Share of traces", "Version"], rows);
}

fn links(page: &mut Page, mesh: &MeshStatus) {
    let rows = mesh.links.iter().map(|link| {
        [
            link.peer.clone(),
            if link.connected { "connected" } else { "down" }.to_owned(),
            link.rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt:.1} ms")),
            link.clock_offset_seconds.map_or_else(|| "-".into(), |offset| format!("{:+.1} ms", offset * 1e3)),
            bytes(link.queue_bytes),
            link.sent_spans.to_string(),
            link.received_spans.to_string(),
            link.last_error.clone().unwrap_or_default(),
        ]
    });
    let head = ["Peer", "State", "Round trip", "Its clock", "Queued", "Spans sent", "Spans received", "Last error"];
    page.table("Links", head, rows);
}

fn seeds(page: &mut Page, mesh: &MeshStatus) {
    let rows = mesh.seeds.iter().map(|seed| {
        let addresses: Vec<String> = seed.addresses.iter().map(ToString::to_string).collect();
        [seed.seed.clone(), addresses.join(" "), seed.error.clone().unwrap_or_default()]
    });
    page.table("Seeds", ["Seed", "Addresses", "Last error"], rows);
}

fn flow(page: &mut Page, status: &NodeStatus) {
    let rows = status.receivers.iter().flat_map(|receiver| {
        receiver.transports.iter().map(|transport| {
            [
                format!("{} {}", receiver.id, transport.transport),
                transport.endpoint.map_or_else(|| "-".into(), |endpoint| endpoint.to_string()),
                transport.accepted_spans_total.to_string(),
                transport.refused_spans_total.values().sum::<u64>().to_string(),
                transport.rejected_spans_total.to_string(),
                transport.failed_requests_total.values().sum::<u64>().to_string(),
            ]
        })
    });
    let head = ["Receiver", "Endpoint", "Accepted spans", "Refused spans", "Rejected spans", "Failed requests"];
    page.table("Receivers", head, rows);
    let rows = status.exporters.iter().map(|exporter| {
        [
            exporter.id.clone(),
            exporter.sent_spans.to_string(),
            exporter.send_failed_spans.to_string(),
            format!("{} of {}", bytes(exporter.queue_bytes), bytes(exporter.queue_capacity_bytes)),
            exporter.last_error.clone().unwrap_or_default(),
        ]
    });
    page.table("Exporters", ["Exporter", "Sent spans", "Failed spans", "Queue", "Last error"], rows);
    let rows = status.dedup.iter().map(|dedup| {
        [
            format!("{} in {}", dedup.id, dedup.pipeline),
            dedup.status.duplicates.to_string(),
            format!("{:.0} s", dedup.status.window_seconds),
            format!("{:.0} %", dedup.status.load_ratio * 100.0),
            format!("{:.1e}", dedup.status.error_ratio),
        ]
    });
    let head = ["Stage", "Duplicates", "Window", "Filter load", "Chance that a fresh span is dropped"];
    page.table("Dedup", head, rows);
}

fn whole_traces(page: &mut Page, status: &AssembleStatus) {
    let traces = &status.traces;
    let limit = bytes(traces.limit_bytes);
    let mut rows = vec![
        ["open traces".to_owned(), format!("{} of {} spans", traces.open_traces, traces.open_spans)],
        ["held, with what can still be shown".to_owned(), format!("{} of {limit}", bytes(traces.held_bytes))],
        ["oldest open trace".to_owned(), duration(traces.oldest_seconds)],
        ["latest decision".to_owned(), format!("{:.3} s after it was due", traces.latest_decision_seconds)],
        ["kept".to_owned(), format!("{} of {} spans", traces.kept_traces, traces.kept_spans)],
        ["dropped".to_owned(), format!("{} of {} spans", traces.dropped_traces, traces.dropped_spans)],
        ["duplicates".to_owned(), format!("{} spans", traces.duplicates)],
        ["late, and kept as their trace".to_owned(), format!("{} spans", traces.late_kept_spans)],
        ["late, and dropped as their trace".to_owned(), format!("{} spans", traces.late_dropped_spans)],
        ["kept, and waiting for exporters".to_owned(), bytes(status.waiting_bytes)],
        ["refused, still with their sender".to_owned(), format!("{} spans", status.refused_spans)],
        ["verdicts remembered for".to_owned(), duration(traces.verdicts_seconds)],
    ];
    if traces.would_drop_traces > 0 {
        let would = format!("{} of {} spans", traces.would_drop_traces, traces.would_drop_spans);
        rows.push(["kept for dry_run only".to_owned(), would]);
    }
    let decided = Cause::ALL.into_iter().zip(traces.decided);
    rows.extend(decided.map(|(cause, count)| [format!("decided: {}", cause.label()), count.to_string()]));
    page.table(&format!("Whole traces of {}", status.pipeline), ["Fact", "Value"], rows);

    let rows = status.policies.iter().map(|policy| {
        [
            policy.name.clone(),
            policy.kind.to_owned(),
            policy.sampled.to_string(),
            policy.not_sampled.to_string(),
            policy.dropped.to_string(),
            policy.decided_traces.to_string(),
        ]
    });
    let head = ["Policy", "Type", "Kept", "Not kept", "Dropped", "Decided the verdict"];
    page.table(&format!("Policies of {}, in traces", status.pipeline), head, rows);

    let seconds = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{:.1} ms", value * 1_000.0));
    let rows = status.cross_cluster.iter().flat_map(|cross_cluster| &cross_cluster.edges).map(|edge| {
        [
            format!("{} to {}", edge.source_cluster, edge.target_cluster),
            edge.request.count.to_string(),
            edge.failed.to_string(),
            seconds(quantile(&edge.request.buckets, 0.5)),
            seconds(quantile(&edge.request.buckets, 0.99)),
            seconds(quantile(&edge.network.buckets, 0.5)),
            seconds(quantile(&edge.network.buckets, 0.99)),
        ]
    });
    let head = ["Call", "Calls", "Failed", "p50", "p99", "Network p50", "Network p99"];
    page.table(&format!("Calls between clusters, as {} saw them", status.pipeline), head, rows);
    let rows = status.cross_cluster.iter().flat_map(|cross_cluster| &cross_cluster.without_parent);
    let rows = rows.map(|(cluster, reason, spans)| [cluster.clone(), (*reason).to_owned(), spans.to_string()]);
    page.table("Spans whose context was lost on the way", ["Cluster", "Reason", "Spans"], rows);
}

fn process(page: &mut Page, status: &NodeStatus) {
    let (process, budget) = (&status.process, &status.budget);
    let limit = budget.limit_bytes.map_or_else(|| "no limit".into(), bytes);
    let rows = [
        ["version".to_owned(), status.node.version.to_owned()],
        ["up for".to_owned(), duration(status.node.uptime_seconds)],
        ["CPU time".to_owned(), duration(process.cpu_seconds)],
        ["resident memory".to_owned(), bytes(process.resident_bytes)],
        ["bytes of spans held".to_owned(), format!("{} of {limit}", bytes(budget.held_bytes))],
        ["most held so far".to_owned(), bytes(budget.peak_bytes)],
    ];
    page.table("Process", ["Fact", "Value"], rows);
}

pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..120 => format!("{seconds:.1} s"),
        120..7_200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
    }
}

pub(super) struct Page(pub(super) String);

impl Page {
    /// Markup of ours.
    pub(super) fn raw(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Anything else: escaped.
    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// Nothing at all if there are no rows.
    pub(super) fn table<const N: usize>(
        &mut self,
        caption: &str,
        head: [&'static str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return;
        }
        // Scrolls sideways on a narrow screen: reachable by keyboard, so it needs a name.
        self.raw("<div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"");
        self.text(caption);
        self.raw("\"><table><caption>");
        self.text(caption);
        self.raw("</caption><thead><tr>");
        for cell in head {
            self.raw("<th scope=\"col\">");
            self.text(cell);
            self.raw("</th>");
        }
        self.raw("</tr></thead><tbody>\n");
        for row in rows {
            self.raw("<tr>");
            for (at, cell) in row.into_iter().enumerate() {
                self.raw(if at == 0 { "<th scope=\"row\">" } else { "<td>" });
                self.text(cell);
                self.raw(if at == 0 { "</th>" } else { "</td>" });
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody></table></div>\n");
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if c.is_control() => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
