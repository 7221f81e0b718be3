//! Processors: `batch`, `memory_limiter`, `span_dedup`; the others have files of their own.

use std::time::Duration;

use super::fields::{Fields, join};
use super::{Check, resource, sampling, whole_traces};
use crate::config::problem::Problem;
use crate::config::schema::{BATCH, MEMORY_LIMITER, SPAN_DEDUP};
use crate::config::settings::{BatchSettings, DedupSettings, MemoryLimiterSettings, ProcessorSettings};
use crate::config::tree::{Node, Place};

pub(super) fn read(
    check: &mut Check<'_>,
    name: &str,
    node: &Node,
    at: Place,
    path: Vec<String>,
) -> Option<ProcessorSettings> {
    match name {
        "resource" => Some(ProcessorSettings::Resource(resource::read(check, node, at, path))),
        "span_dedup" => Some(ProcessorSettings::SpanDedup(span_dedup(check, node, at, path))),
        "batch" => Some(ProcessorSettings::Batch(batch(check, node, at, path))),
        "memory_limiter" => memory_limiter(check, node, at, path).map(ProcessorSettings::MemoryLimiter),
        "groupbytrace" => Some(ProcessorSettings::GroupByTrace(whole_traces::group_by_trace(check, node, at, path))),
        "cross_cluster" => Some(ProcessorSettings::CrossCluster(whole_traces::cross_cluster(check, node, at, path))),
        "tail_sampling" => Some(ProcessorSettings::TailSampling(whole_traces::tail_sampling(check, node, at, path))),
        "probabilistic_sampler" => {
            Some(ProcessorSettings::ProbabilisticSampler(sampling::probabilistic(check, node, at, path)))
        }
        _ => None,
    }
}

fn span_dedup(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> DedupSettings {
    let fields = Fields::open(check, node, at, path, &SPAN_DEDUP);
    let range = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    let wait_duration = fields.duration(check, "wait_duration", Duration::from_secs(300), range);
    let bytes = fields.size(check, "max_memory", 256 << 20, (1 << 20, 1 << 40));
    DedupSettings { wait_duration, max_memory_bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
}

fn batch(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> BatchSettings {
    let fields = Fields::open(check, node, at, path, &BATCH);
    let range = (Duration::ZERO, Duration::from_secs(60));
    let timeout = fields.duration(check, "timeout", Duration::from_millis(200), range);
    const MOST: u64 = 1 << 20;
    let size = fields.count(check, "send_batch_size", 8192, (0, MOST));
    let max = fields.count(check, "send_batch_max_size", 0, (0, MOST));
    if max != 0 && max < size {
        let allowed = format!("0 (no limit), or at least send_batch_size, {size}");
        fields.wrong(check, "send_batch_max_size", "smaller than `send_batch_size`", &allowed);
    }
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    BatchSettings { timeout, send_batch_size: count(size), send_batch_max_size: count(max) }
}

/// The Collector's rules: MiB stand before percentages, and the spike limit is a fifth of the limit.
fn memory_limiter(check: &mut Check<'_>, node: &Node, at: Place, path: Vec<String>) -> Option<MemoryLimiterSettings> {
    let fields = Fields::open(check, node, at, path, &MEMORY_LIMITER);
    if fields.get("check_interval").is_some() {
        let range = (Duration::ZERO, Duration::from_secs(3600));
        fields.duration(check, "check_interval", Duration::ZERO, range);
        let path = join(&fields.path_of("check_interval"));
        let message = "`check_interval` has no effect: bytes are counted as they come and go";
        check.say(Problem::note(fields.place("check_interval"), &path, message));
    }
    let limit = mebibytes(check, &fields, "limit_mib").or_else(|| percentage(check, &fields, "limit_percentage"));
    let Some(limit) = limit else {
        if fields.get("limit_mib").is_none() && fields.get("limit_percentage").is_none() {
            fields.missing(check, "limit_mib", "give `limit_mib` or `limit_percentage`");
        }
        return None;
    };
    let spike_key = if fields.get("spike_limit_mib").is_some() { "spike_limit_mib" } else { "spike_limit_percentage" };
    let spike = mebibytes(check, &fields, "spike_limit_mib")
        .or_else(|| percentage(check, &fields, "spike_limit_percentage"))
        .unwrap_or(limit / 5);
    if spike >= limit {
        fields.wrong(
            check,
            spike_key,
            "the spike limit must be smaller than the limit",
            &format!("below {limit} bytes"),
        );
    }
    Some(MemoryLimiterSettings { limit_bytes: limit, soft_limit_bytes: limit.saturating_sub(spike) })
}

/// 0 counts as not given, as in the Collector.
fn mebibytes(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Option<u64> {
    fields.count_given(check, key, (0, 1 << 24)).filter(|n| *n != 0).map(|n| n << 20)
}

fn percentage(check: &mut Check<'_>, fields: &Fields<'_>, key: &'static str) -> Option<u64> {
    fields.get(key)?;
    let percent = fields.read(check, key, (0, String::new()), "a percentage from 1 to 100, like 80 or 80%", |text| {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let legal = digits.bytes().all(|b| b.is_ascii_digit());
        if legal { digits.parse::<u64>().ok().filter(|n| *n <= 100) } else { None }
    });
    if percent == 0 {
        return None;
    }
    if check.host.memory_bytes == 0 {
        fields.wrong(check, key, "the memory of this machine is not known", "use the key that ends in `_mib`");
        return None;
    }
    Some(u64::try_from(u128::from(check.host.memory_bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX))
}
