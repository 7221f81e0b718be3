//! How much memory there is, and what this process uses of the machine: from cgroups and `/proc`.
//!
//! In a container the machine's RAM is the wrong figure: what ends the process is its cgroup's limit, or that of any
//! group above it. So the smallest limit on the way to the root counts, of cgroup v1 and v2 alike.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Bytes this process may use: the smallest cgroup limit, at most the machine's RAM. `None` if neither can be read
/// (not Linux, no `/proc`).
pub fn available_bytes() -> Option<u64> {
    available_below(Path::new("/"))
}

fn available_below(root: &Path) -> Option<u64> {
    let ram = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| group_limit(root, line)).chain(ram).min()
}

/// The smallest limit on the way from the group that `line` of `/proc/self/cgroup` names up to the root.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        (root.join("sys/fs/cgroup"), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    // Inside a container the path may be the host's, which is not mounted here: then only the root answers.
    let group = mount.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|group| group.starts_with(&mount));
    // "max" of v2 is no number; v1's "no limit" is a number beyond any RAM.
    groups.filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()).min()
}

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    /// User and system time of all threads since the start.
    pub cpu: Duration,
    pub open_files: u64,
}

/// Zeroes where the system does not say.
pub fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Usage {
        resident_bytes: kilobytes(&status, "VmRSS:").unwrap_or_default(),
        cpu: cpu_time(&stat).unwrap_or_default(),
        open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
    }
}

/// Value of the line `name  123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
}

/// Fields 14 and 15 of `/proc/self/stat`, in ticks of 10 ms: USER_HZ is 100 on every Linux there is.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name in field 2 may hold anything, parentheses too; what follows the last one is numbers.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut fields = numbers.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks.saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const RAM: (&str, &str) = ("proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_a_limit_the_ram_counts() {
        let root = machine(&[RAM, ("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")]);
        assert_eq!(available_below(root.path()), Some(16_000 * 1_024));
    }

    #[test]
    fn the_smallest_limit_up_to_the_root_counts_in_version_two() {
        let root = machine(&[
            RAM,
            ("proc/self/cgroup", "0::/pods/a\n"),
            ("sys/fs/cgroup/pods/a/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "4096000\n"),
        ]);
        assert_eq!(available_below(root.path()), Some(4_096_000));
    }

    #[test]
    fn version_one_and_a_path_of_the_host_are_understood() {
        let root = machine(&[
            RAM,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n"),
        ]);
        assert_eq!(available_below(root.path()), Some(2_097_152));
    }

    #[test]
    fn a_machine_that_says_nothing_gives_nothing() {
        assert_eq!(available_below(machine(&[]).path()), None);
    }

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "42 (a) b) c) S 1 1 1 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time("nonsense"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage();
        assert!(usage.resident_bytes > 1 << 20 && usage.open_files >= 3, "{usage:?}");
        assert!(available_bytes().unwrap() > 64 << 20);
    }
}
