//! `spanmesh load`: sends OTLP spans to a node, or to anything that takes OTLP, and prints what came of them.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::exit::Exit;
use super::output::{OutputArgs, complain, print, print_json};
use crate::load::drive::{self, Plan, Progress, Report};
use crate::load::payload::Shape;
use crate::load::sender::{Compression, Encoding, Protocol, Target};
use crate::runtime::clock::Clock;

/// Send spans at a rate and measure
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Where to: http://HOST:4317 means gRPC, any other port HTTP
    #[arg(long, value_name = "URL")]
    to: String,
    /// Spans a second; 0 sends as fast as answers come
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    rate: u64,
    /// How long to send
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// In place of what the port suggests
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Of the spans; JSON over HTTP only
    #[arg(long, default_value = "proto")]
    encoding: Encoding,
    /// Of the requests
    #[arg(long, default_value = "none")]
    compression: Compression,
    /// Mean encoded bytes of a span
    #[arg(long, default_value_t = 682, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(160..=1_048_576))]
    span_size: u32,
    /// Spans that share a trace id
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    spans_per_trace: u32,
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    spans_per_request: u32,
    /// Connections to open
    #[arg(long, default_value_t = 1, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: u32,
    /// Requests in flight on each connection (HTTP/1.1 opens a connection for each)
    #[arg(long, default_value_t = 8, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    in_flight: u32,
    /// Times that each request is sent: all but the first are duplicates
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    copies: u32,
    /// Longest wait for an answer, in seconds
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Equal seeds send equal spans but for their times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exit with 1 unless every span that was due has been accepted
    #[arg(long)]
    fail_on_error: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// 0 if anything was accepted, 1 if nothing was (or, with `--fail-on-error`, not everything), 2 for a bad target.
pub async fn run(args: LoadArgs) -> ExitCode {
    let timeout = Duration::from_secs(args.timeout);
    let target = match Target::new(&args.to, args.protocol, args.encoding, args.compression, timeout) {
        Ok(target) => target,
        Err(error) => {
            complain(&format!("error: --to {error}\n"));
            return Exit::Usage.into();
        }
    };
    let plan = Plan {
        target,
        rate: args.rate,
        duration: Duration::from_secs(args.seconds),
        shape: Shape::of(args.span_size as usize).spans_per_trace(args.spans_per_trace as usize),
        spans_per_request: args.spans_per_request as usize,
        connections: args.connections as usize,
        in_flight: args.in_flight as usize,
        copies: args.copies,
        seed: args.seed,
    };
    let report = drive_with_progress(plan).await;
    if args.output.is_json() {
        print_json(&report);
    } else {
        print(&text(&report));
    }
    if report.accepted_spans == 0 {
        complain(&format!("error: nothing was accepted; does a node take OTLP at {}?\n", args.to));
    }
    if report.accepted_spans == 0 || (args.fail_on_error && !report.flawless()) {
        return Exit::Failed.into();
    }
    Exit::Ok.into()
}

/// Runs the plan, with a line on the terminal each second; Ctrl-C ends it early, a second one without waiting for answers.
async fn drive_with_progress(plan: Plan) -> Report {
    let clock = Clock::start();
    let progress = Arc::new(Progress::default());
    let (stop, stopped) = watch::channel(false);
    let mut running = std::pin::pin!(drive::run(plan, Arc::clone(&progress), clock, stopped));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let show = std::io::stderr().is_terminal();
    let mut before = 0;
    loop {
        tokio::select! {
            report = &mut running => {
                if show {
                    eprint!("\r\x1b[K");
                }
                return report;
            }
            _ = second.tick() => {
                let accepted = progress.accepted_spans.load(Ordering::Relaxed);
                let failed = progress.failed_spans.load(Ordering::Relaxed);
                if show {
                    let elapsed = clock.now().0 / 1_000_000_000;
                    eprint!("\r\x1b[K{elapsed:>4} s  {:>9} spans/s  {accepted} accepted  {failed} failed", accepted - before);
                }
                before = accepted;
            }
            _ = tokio::signal::ctrl_c() => {
                if stop.send_replace(true) {
                    std::process::exit(130);
                }
            }
        }
    }
}

fn text(r: &Report) -> String {
    let mut lines = vec![
        format!(
            "target          {} ({})",
            r.target,
            format!("{:?}, {:?}, compression {:?}", r.protocol, r.encoding, r.compression).to_lowercase()
        ),
        format!(
            "accepted        {} spans, {:.0} spans/s over {:.1} s",
            r.accepted_spans, r.accepted_spans_per_second, r.seconds
        ),
        format!("requests        {}, {} spans of {:.0} bytes", r.requests, r.spans, r.bytes_per_span),
        format!("rejected        {} spans by partial success", r.rejected_spans),
        format!("failed          {} spans", r.failed_spans),
        format!("unsent          {} spans were due and could not be sent in time", r.unsent_spans),
    ];
    lines.extend(r.errors.iter().map(|(status, count)| format!("                {count} requests: {status}")));
    lines.push(format!(
        "bytes           {:.1} MB encoded, {:.1} MB in bodies",
        r.bytes as f64 / 1e6,
        r.body_bytes as f64 / 1e6
    ));
    for (what, l) in [("latency", &r.latency), ("service time", &r.service_time)] {
        lines.push(format!(
            "{what:<15} p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms
        ));
    }
    lines.join("\n") + "\n"
}
