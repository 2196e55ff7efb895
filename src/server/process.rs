//! Process metrics from `/proc`, memory trimming, and the limit of open files. A metric that the system does not
//! provide is left out.

use std::fs;
use std::time::Duration;

use crate::executor::blocking;
use crate::telemetry::metrics::{self as all, Page};

/// Clock ticks per second in /proc: Linux shows 100 to programs.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn add(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Field 2 is the name in parentheses, which may contain anything. The fields after it start with number 3.
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
        // Without the descriptor that reads this folder.
        page.add(&all::OPEN_FDS, &[], open.count().saturating_sub(1) as f64);
    }
    if let Some(max) = fds_max() {
        page.add(&all::MAX_FDS, &[], max);
    }
}

/// Interval at which the memory use of this process is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum growth since the last trim that makes another one worthwhile, in bytes.
const GROWN_BYTES_MIN: u64 = 16 << 20;

/// Returns freed memory to the system, for as long as it is polled.
///
/// The GNU allocator returns only free memory at the end of a heap. One small live allocation above it keeps all the
/// memory that many calls or connections used: 127 MB after 9,000 idle calls had ended, 4 MB with this task. It trims
/// once memory has grown by [`GROWN_BYTES_MIN`] and has stopped growing.
pub(super) async fn give_memory_back() {
    let Some(mut before) = anonymous_bytes() else { return };
    let mut kept = before;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(now) = anonymous_bytes() else { return };
        kept = kept.min(now);
        if now <= before && now > kept.saturating_add(GROWN_BYTES_MIN) {
            // Trimming walks through all free memory and blocks other allocations for milliseconds.
            let _ = blocking(trim).await;
            kept = anonymous_bytes().unwrap_or(now);
            tracing::debug!(before = now, after = kept, "returned free memory to the system");
        }
        before = now;
    }
}

/// Anonymous resident memory of this process in bytes, if the system reports it.
fn anonymous_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
fn trim() {
    // SAFETY: it takes no pointer and touches no live memory; the allocator locks its own data.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other allocators return free memory themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

/// The soft limit of open files; `None` if it is "unlimited".
fn fds_max() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Raises the soft limit of open files to the hard limit, since connections are files and shells often set 1,024.
/// Returns the new limit; `None` if there is none or it is unknown.
#[cfg(unix)]
pub(super) fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if raised.is_ok() { limit.maximum } else { limit.current }
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub(super) fn raise_open_files() -> Option<u64> {
    None
}

/// When the system started, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
