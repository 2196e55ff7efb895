//! Request counters of a version. They survive its eviction from memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use crate::telemetry::measures::KINDS;
use crate::telemetry::measures::nanoseconds;

/// Counters of one version, by request kind.
#[derive(Debug, Default)]
pub struct Usage {
    kinds: [Counters; KINDS],
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    answered_ns: AtomicU64,
    failed: AtomicU64,
    failed_ns: AtomicU64,
    queued_ns: AtomicU64,
    assembly_ns: AtomicU64,
    compute_ns: AtomicU64,
    rows: AtomicU64,
    batches: AtomicU64,
    last_ms: AtomicU64,
}

/// A snapshot of the counters of one request kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered with a result.
    pub answered: u64,
    /// Total time of these requests, from arrival to response.
    pub answered_time: Duration,
    /// Requests answered with an error.
    pub failed: u64,
    /// Total time of the failed requests.
    pub failed_time: Duration,
    /// Of the `answered` requests: total time until their first batch began.
    pub queued: Duration,
    /// Of the `answered` requests: total time to assemble their batches. Each batch counts in full for each of its
    /// requests.
    pub assembly: Duration,
    /// Of the `answered` requests: total compute time of these batches, counted in the same way.
    pub compute: Duration,
    /// Rows computed.
    pub rows: u64,
    /// Batches computed.
    pub batches: u64,
    /// When the last request was answered with a result, in milliseconds since 1970; 0: never.
    pub last_ms: u64,
}

impl Usage {
    /// Counts a request of this kind that was answered after `time`. It waited `queued` in the queue; its batches took
    /// `assembly` to assemble and `compute` to compute.
    ///
    /// # Panics
    /// If `kind` is not below [`KINDS`].
    pub fn answered(&self, kind: usize, time: Duration, queued: Duration, assembly: Duration, compute: Duration) {
        let counters = &self.kinds[kind];
        counters.answered.fetch_add(1, Ordering::Relaxed);
        counters.answered_ns.fetch_add(nanoseconds(time), Ordering::Relaxed);
        counters.queued_ns.fetch_add(nanoseconds(queued), Ordering::Relaxed);
        counters.assembly_ns.fetch_add(nanoseconds(assembly), Ordering::Relaxed);
        counters.compute_ns.fetch_add(nanoseconds(compute), Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        counters.last_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts a request of this kind that failed after `time`.
    ///
    /// # Panics
    /// If `kind` is not below [`KINDS`].
    pub fn failed(&self, kind: usize, time: Duration) {
        self.kinds[kind].failed.fetch_add(1, Ordering::Relaxed);
        self.kinds[kind].failed_ns.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    /// Counts a computed batch of this kind.
    ///
    /// # Panics
    /// If `kind` is not below [`KINDS`].
    pub fn batch(&self, kind: usize, rows: usize) {
        self.kinds[kind].rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.kinds[kind].batches.fetch_add(1, Ordering::Relaxed);
    }

    /// When the last request of any kind was answered with a result.
    pub fn last(&self) -> Option<SystemTime> {
        let last_ms = self.kinds.iter().map(|counters| counters.last_ms.load(Ordering::Relaxed)).max()?;
        (last_ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(last_ms))
    }

    /// The counters of one kind.
    ///
    /// # Panics
    /// If `kind` is not below [`KINDS`].
    pub fn counts(&self, kind: usize) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.kinds[kind];
        Counts {
            answered: of(&counters.answered),
            answered_time: Duration::from_nanos(of(&counters.answered_ns)),
            failed: of(&counters.failed),
            failed_time: Duration::from_nanos(of(&counters.failed_ns)),
            queued: Duration::from_nanos(of(&counters.queued_ns)),
            assembly: Duration::from_nanos(of(&counters.assembly_ns)),
            compute: Duration::from_nanos(of(&counters.compute_ns)),
            rows: of(&counters.rows),
            batches: of(&counters.batches),
            last_ms: of(&counters.last_ms),
        }
    }
}
