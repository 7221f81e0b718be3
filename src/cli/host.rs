//! The facts of this machine that a configuration may depend on: its name, and the memory that this process may use.

use std::fs;
use std::path::Path;

use crate::config::HostFacts;

pub fn facts() -> HostFacts {
    HostFacts { hostname: hostname(), memory_bytes: memory_bytes() }
}

/// `HOSTNAME` is not asked first: a shell may have exported that of another machine.
fn hostname() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let file = || fs::read_to_string("/etc/hostname").ok();
    let name = kernel.or_else(file).or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    name.trim().to_owned()
}

/// The smaller of the machine's memory and the container's limit; 0 if neither is known.
fn memory_bytes() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let limit = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| cgroup_limit(&text));
    match (total, limit) {
        (Some(total), Some(limit)) => total.min(limit),
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => 0,
    }
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of the process's cgroup and those above it (version 2), or version 1's own.
fn cgroup_limit(cgroups: &str) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let root = Path::new("/sys/fs/cgroup");
    let own = cgroups.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    let own = root.join(own.trim_start_matches('/'));
    let limits = own.ancestors().take_while(|p| p.starts_with(root)).filter_map(|p| read(&p.join("memory.max")));
    // Version 1 writes a huge number for "no limit"; the smaller of it and the machine's memory is taken.
    limits.min().or_else(|| read(&root.join("memory/memory.limit_in_bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_memory_is_read_in_bytes() {
        assert_eq!(meminfo_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(meminfo_total("MemFree: 1 kB\n"), None);
    }
}
