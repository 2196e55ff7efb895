//! What the system says of this process, and lets it have. Where it says nothing, nothing is told.

use std::fs;

use crate::telemetry::metrics::{self as all, Page};

/// Ticks of a second in /proc: Linux shows programs 100.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn add(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in brackets, which may hold anything; those behind it are counted from the third on.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(f64::NAN))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().filter(|value| value.is_finite());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        page.add(&all::CPU_SECONDS, &[], (user + system) / TICKS_PER_SECOND);
    }
    if let Some(threads) = field(20) {
        page.add(&all::THREADS, &[], threads);
    }
    if let (Some(start), Some(booted)) = (field(22), booted()) {
        page.add(&all::START_SECONDS, &[], booted + start / TICKS_PER_SECOND);
    }
    if let Some(bytes) = field(23) {
        page.add(&all::PROCESS_VIRTUAL_BYTES, &[], bytes);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    for (metric, name) in [(&all::PROCESS_RESIDENT_BYTES, "VmRSS"), (&all::ANONYMOUS_BYTES, "RssAnon")] {
        if let Some(kib) = kib(name) {
            page.add(metric, &[], kib * 1024.0);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Without the one that reads this.
        page.add(&all::OPEN_FDS, &[], open.count().saturating_sub(1) as f64);
    }
    if let Some(max) = fds_max() {
        page.add(&all::MAX_FDS, &[], max);
    }
}

/// The limit that is in force, the first of the two; none where it is "unlimited".
fn fds_max() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Lets this process open as many files as it may: connections are files, and shells begin programs with 1,024. How many that
/// are; none where nobody says.
#[cfg(unix)]
pub(super) fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if raised.is_ok() { limit.maximum } else { limit.current }
}

/// Nobody counts.
#[cfg(not(unix))]
pub(super) fn raise_open_files() -> Option<u64> {
    None
}

/// When the system started, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
