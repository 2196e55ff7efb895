//! Counters and histograms of relaxed atomics: counting takes nanoseconds and never waits for a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::methods::{Kind, Method, Operation};

/// Number of request kinds that have counters of their own: one per operation.
pub const KINDS: usize = Operation::ALL.len();
/// Names of the gRPC status codes, indexed by code.
pub const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Upper bounds of the time buckets, in nanoseconds: 10 us to 10 s.
const NANOSECONDS: &[u64] = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper bounds of the row buckets: powers of two up to the largest batch that can be configured.
const ROWS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536];
/// Buckets of a histogram, including one for values above the largest bound.
const BUCKETS: usize = 20;
const _: () = assert!(NANOSECONDS.len() < BUCKETS && ROWS.len() < BUCKETS, "one bucket for what is larger");

/// A histogram with fixed bucket bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// Counted units per reported unit: 1e9 where nanoseconds are reported as seconds.
    scale: f64,
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// A snapshot of a [`Histogram`].
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramCounts {
    /// Upper bounds in the reported unit, each with the cumulative count of values up to it.
    pub buckets: Vec<(f64, u64)>,
    /// Number of all values.
    pub count: u64,
    /// Sum of all values, in the reported unit.
    pub sum: f64,
}

impl Histogram {
    /// A histogram of times, reported in seconds.
    pub fn of_times() -> Self {
        Self { bounds: NANOSECONDS, scale: 1e9, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    /// A histogram of row counts.
    pub fn of_rows() -> Self {
        Self { bounds: ROWS, scale: 1.0, ..Self::of_times() }
    }

    /// Counts one value, in the counted unit.
    pub fn observe(&self, size: u64) {
        let place = self.bounds.partition_point(|bound| *bound < size);
        self.sum.fetch_add(size, Ordering::Relaxed);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one time.
    pub fn observe_time(&self, time: Duration) {
        self.observe(nanoseconds(time));
    }

    /// A snapshot. Its count is the sum of the buckets that it read, also while other threads count.
    pub fn counts(&self) -> HistogramCounts {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (place, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(place) {
                buckets.push((*bound as f64 / self.scale, count));
            }
        }
        HistogramCounts { buckets, count, sum: self.sum.load(Ordering::Relaxed) as f64 / self.scale }
    }
}

/// A time in whole nanoseconds, saturated at `u64::MAX`.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a method has counters of its own. All others share one set of counters: models, jobs, health.
fn has_counters(method: Method) -> bool {
    match method.kind() {
        Kind::Rows(_) | Kind::AnyRows | Kind::RowsStream | Kind::Train => true,
        Kind::Jobs | Kind::ReadModels | Kind::CreateVersion | Kind::ManageModels | Kind::Describe | Kind::Health => {
            false
        }
    }
}

/// Index of the counters that methods without counters of their own share.
const OTHER: usize = Method::ALL.len();

/// Ended calls, by method and status code.
#[derive(Debug)]
pub struct Calls([[AtomicU64; CODES.len()]; OTHER + 1]);

impl Default for Calls {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Default::default()))
    }
}

impl Calls {
    /// Counts one call. An unknown method counts as `other`, a code outside of [`CODES`] as `unknown`.
    pub fn count(&self, method: Option<Method>, code: usize) {
        let code = if code < CODES.len() { code } else { 2 };
        let place = method.filter(|method| has_counters(*method)).map_or(OTHER, |method| method as usize);
        self.0[place][code].fetch_add(1, Ordering::Relaxed);
    }

    /// Method, name of the code, and count, for each pair with a count above 0.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts = Vec::new();
        for (method, codes) in Method::ALL.map(Method::name).into_iter().chain(["other"]).zip(&self.0) {
            for (code, count) in CODES.iter().zip(codes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    counts.push((method, *code, count));
                }
            }
        }
        counts
    }
}

/// Histograms of one request kind of a model.
#[derive(Debug)]
pub struct KindMeasures {
    /// Time from the complete rows to the result.
    pub request: Histogram,
    /// The part of that time until the first batch began.
    pub queue: Histogram,
    /// Time to copy the rows of one batch together.
    pub assembly: Histogram,
    /// Time of the arithmetic of one batch.
    pub compute: Histogram,
    /// Rows of one batch.
    pub batch_rows: Histogram,
}

impl Default for KindMeasures {
    fn default() -> Self {
        Self {
            request: Histogram::of_times(),
            queue: Histogram::of_times(),
            assembly: Histogram::of_times(),
            compute: Histogram::of_times(),
            batch_rows: Histogram::of_rows(),
        }
    }
}

/// Counters of one model, over all its versions.
#[derive(Debug, Default)]
pub struct ModelMeasures {
    /// Histograms by request kind.
    pub kinds: [KindMeasures; KINDS],
    /// Ended calls that named this model.
    pub calls: Calls,
}

/// Why a call, or a part of it, was refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The queue is full.
    QueueFull,
    /// Another limit is reached: loads, jobs, disk.
    NoRoom,
    /// The request is larger than the limit, so a retry cannot succeed.
    TooLarge,
    /// The caller's quota is used up.
    Limited,
    /// The deadline passed, or would pass before the result.
    Deadline,
    /// The server is shutting down.
    Draining,
    /// The request is invalid.
    Invalid,
    /// The model, version, alias, job or file does not exist.
    Unknown,
    /// The current state forbids it, or a concurrent change came first.
    State,
    /// A result is not finite.
    NotFinite,
    /// The caller cancelled or disconnected.
    Left,
    /// The credential is missing, invalid, or does not allow the call.
    Denied,
    /// The method does not exist.
    Unimplemented,
    /// An internal error, or a damaged file.
    Fault,
}

impl Cause {
    /// All causes, in the order of the variants.
    pub const ALL: [Self; 14] = [
        Self::QueueFull,
        Self::NoRoom,
        Self::TooLarge,
        Self::Limited,
        Self::Deadline,
        Self::Draining,
        Self::Invalid,
        Self::Unknown,
        Self::State,
        Self::NotFinite,
        Self::Left,
        Self::Denied,
        Self::Unimplemented,
        Self::Fault,
    ];

    /// The cause for a status code where no layer recorded one, mostly for refusals of the transport. `None` for OK.
    pub fn of_code(code: usize) -> Option<Self> {
        Some(match CODES.get(code).copied().unwrap_or_default() {
            "ok" => return None,
            "cancelled" => Self::Left,
            "invalid_argument" => Self::Invalid,
            "deadline_exceeded" => Self::Deadline,
            "not_found" => Self::Unknown,
            "resource_exhausted" => Self::TooLarge,
            "failed_precondition" | "aborted" | "already_exists" => Self::State,
            "out_of_range" => Self::NotFinite,
            "unavailable" => Self::Draining,
            "permission_denied" | "unauthenticated" => Self::Denied,
            "unimplemented" => Self::Unimplemented,
            _ => Self::Fault,
        })
    }

    /// The value of the metric label `cause`.
    pub fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NoRoom => "no_room",
            Self::TooLarge => "too_large",
            Self::Limited => "limited",
            Self::Deadline => "deadline",
            Self::Draining => "draining",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::State => "state",
            Self::NotFinite => "not_finite",
            Self::Left => "left",
            Self::Denied => "denied",
            Self::Unimplemented => "unimplemented",
            Self::Fault => "fault",
        }
    }
}

/// Counters of the whole server.
#[derive(Debug, Default)]
pub struct ServerMeasures {
    refusals: [AtomicU64; Cause::ALL.len()],
    /// Ended calls that named no existing model.
    pub calls: Calls,
    /// Bytes received over client sockets.
    pub received_bytes: AtomicU64,
    /// Bytes sent over client sockets.
    pub sent_bytes: AtomicU64,
    /// Accepted connections.
    pub accepted: AtomicU64,
    /// Closed connections.
    pub closed: AtomicU64,
}

impl ServerMeasures {
    /// Counts a refusal.
    pub fn refused(&self, cause: Cause) {
        self.refusals[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Number of refusals with this cause.
    pub fn refusals(&self, cause: Cause) -> u64 {
        self.refusals[cause as usize].load(Ordering::Relaxed)
    }
}

/// Counters of training.
#[derive(Debug, Default)]
pub struct TrainingMeasures {
    /// Rows of all training steps: a row counts once per epoch.
    pub rows: AtomicU64,
    /// Jobs that succeeded, with or without a published version.
    pub succeeded: AtomicU64,
    /// Jobs that failed.
    pub failed: AtomicU64,
    /// Jobs that were cancelled or expired.
    pub cancelled: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::of_times();
        for ns in [0, 10_000, 10_001, u64::MAX / 4, 10_000_000_000] {
            histogram.observe(ns);
        }
        let counts = histogram.counts();
        assert_eq!((counts.buckets[0], counts.buckets[1]), ((1e-5, 2), (2.5e-5, 3)));
        assert_eq!((counts.buckets.last().copied(), counts.count), (Some((10.0, 4)), 5));
        let rows = Histogram::of_rows();
        rows.observe(65_537);
        assert_eq!((rows.counts().count, rows.counts().sum), (1, 65_537.0));
        assert!(rows.counts().buckets.iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn calls_are_counted_by_method_and_status() {
        let calls = Calls::default();
        calls.count(Some(Method::Train), 0);
        calls.count(Some(Method::Train), 0);
        calls.count(Some(Method::Score), 99);
        calls.count(Some(Method::ListJobs), 5);
        assert_eq!(calls.counts(), [("Score", "unknown", 1), ("Train", "ok", 2), ("other", "not_found", 1)]);
    }
}
