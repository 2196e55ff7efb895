//! What was asked of a version, and how long it took: counters that outlive its stay in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use crate::telemetry::measures::KINDS;
use crate::telemetry::measures::nanoseconds;

/// Counters of one version, by kind of question.
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

/// What they say now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions answered with a result, and their time from arrival to answer.
    pub answered: u64,
    /// See `answered`.
    pub answered_time: Duration,
    /// Questions answered with an error, and their time.
    pub failed: u64,
    /// See `failed`.
    pub failed_time: Duration,
    /// Of those answered: time until their first batch began.
    pub queued: Duration,
    /// Of those answered: time in which the rows of the batches that they were in were copied together, each counted whole.
    pub assembly: Duration,
    /// Of those answered: time of the arithmetic of these batches, each counted whole.
    pub compute: Duration,
    /// Rows computed.
    pub rows: u64,
    /// Batches computed.
    pub batches: u64,
    /// When the last question was answered, in milliseconds since 1970; 0: never.
    pub last_ms: u64,
}

impl Usage {
    /// A question of this kind was answered after `time`, of which it waited `queued`; the batches that it was in took
    /// `assembly` to be copied together and `compute` to be computed.
    ///
    /// # Panics
    /// If there is no such kind.
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

    /// A question of this kind was answered with an error after `time`.
    ///
    /// # Panics
    /// If there is no such kind.
    pub fn failed(&self, kind: usize, time: Duration) {
        self.kinds[kind].failed.fetch_add(1, Ordering::Relaxed);
        self.kinds[kind].failed_ns.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    /// A batch of this kind was computed.
    ///
    /// # Panics
    /// If there is no such kind.
    pub fn batch(&self, kind: usize, rows: usize) {
        self.kinds[kind].rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.kinds[kind].batches.fetch_add(1, Ordering::Relaxed);
    }

    /// When the last question of any kind was answered, if one was.
    pub fn last(&self) -> Option<SystemTime> {
        let last_ms = self.kinds.iter().map(|counters| counters.last_ms.load(Ordering::Relaxed)).max()?;
        (last_ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(last_ms))
    }

    /// What was counted of a kind.
    ///
    /// # Panics
    /// If there is no such kind.
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
