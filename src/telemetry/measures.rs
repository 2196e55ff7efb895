//! Counters where things happen: relaxed atomics, so that to count costs nanoseconds and nobody waits for a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Kinds of questions that are told apart.
pub const KINDS: usize = 8;
/// gRPC's codes by number, in words.
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

/// Upper bounds of times: 10 us to 10 s.
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
/// Upper bounds of rows: powers of two up to the largest batch that can be set.
const ROWS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536];
/// Buckets of either, and one for what is larger.
const BUCKETS: usize = 20;
const _: () = assert!(NANOSECONDS.len() < BUCKETS && ROWS.len() < BUCKETS, "one bucket for what is larger");

/// How often sizes came, by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// What one of the unit that is told has of the unit that is counted.
    scale: f64,
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

/// What a [`Histogram`] says now.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramCounts {
    /// Upper bounds, and how many were no larger.
    pub buckets: Vec<(f64, u64)>,
    /// All.
    pub count: u64,
    /// Of all.
    pub sum: f64,
}

impl Histogram {
    /// Of times, told in seconds.
    pub fn of_times() -> Self {
        Self { bounds: NANOSECONDS, scale: 1e9, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Of rows.
    pub fn of_rows() -> Self {
        Self { bounds: ROWS, scale: 1.0, ..Self::of_times() }
    }

    /// Counts one.
    pub fn observe(&self, size: u64) {
        let place = self.bounds.partition_point(|bound| *bound < size);
        self.sum.fetch_add(size, Ordering::Relaxed);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a time.
    pub fn observe_time(&self, time: Duration) {
        self.observe(nanoseconds(time));
    }

    /// What it says now; the count is that of the buckets, whatever is counted meanwhile.
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

/// A time as a whole number.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Methods that are told apart; the last stands for all others: models, jobs, health, what there is not.
pub const METHODS: [&str; 11] = [
    "Encode",
    "Decode",
    "Reconstruct",
    "Score",
    "Impute",
    "EncodeStream",
    "DecodeStream",
    "Train",
    "ModelInfer",
    "ModelStreamInfer",
    "other",
];

/// The place of a name in [`METHODS`].
pub fn method(name: &str) -> usize {
    METHODS.iter().position(|known| *known == name).unwrap_or(METHODS.len() - 1)
}

/// Calls that have ended, by method and code.
#[derive(Debug, Default)]
pub struct Calls([[AtomicU64; CODES.len()]; METHODS.len()]);

impl Calls {
    /// Counts one; what is not in the tables is `other`, and `unknown`.
    pub fn count(&self, method: usize, code: usize) {
        let code = if code < CODES.len() { code } else { 2 };
        self.0[method.min(METHODS.len() - 1)][code].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted: method, code in words, how often. Where there was none nothing is told.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut counts = Vec::new();
        for (method, codes) in METHODS.iter().zip(&self.0) {
            for (code, count) in CODES.iter().zip(codes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    counts.push((*method, *code, count));
                }
            }
        }
        counts
    }
}

/// What is counted of one kind of question about a model.
#[derive(Debug)]
pub struct KindMeasures {
    /// From the rows being there to the result.
    pub request: Histogram,
    /// Of that, until the first batch began.
    pub queue: Histogram,
    /// Of a batch.
    pub assembly: Histogram,
    /// Of a batch.
    pub compute: Histogram,
    /// Of a batch.
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

/// What is counted of one model, of all its versions.
#[derive(Debug, Default)]
pub struct ModelMeasures {
    /// By kind of question.
    pub kinds: [KindMeasures; KINDS],
    /// Calls that named it.
    pub calls: Calls,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The queue has no room.
    QueueFull,
    /// Another bound is reached: loads, jobs, disk.
    NoRoom,
    /// It is more than ever fits.
    TooLarge,
    /// What a caller may have is used up.
    Limited,
    /// Its deadline passed, or would have.
    Deadline,
    /// The server stops.
    Draining,
    /// It is wrong.
    Invalid,
    /// There is no such model, version, alias, job or file.
    Unknown,
    /// The state of things forbids it, or somebody else was faster.
    State,
    /// The result is no finite number.
    NotFinite,
    /// Its caller left.
    Left,
    /// No credential, or one that does not allow it.
    Denied,
    /// There is no such method.
    Unimplemented,
    /// A fault of ours, or a damaged file.
    Fault,
}

impl Cause {
    /// All of them.
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

    /// Of a call that ended with a code for which nobody named a cause: what the transport refuses, mostly.
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

    /// As a label.
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

/// What is counted of a whole server.
#[derive(Debug, Default)]
pub struct ServerMeasures {
    refusals: [AtomicU64; Cause::ALL.len()],
    /// Calls that named no model that there is.
    pub calls: Calls,
    /// Bytes that came over sockets.
    pub received_bytes: AtomicU64,
    /// Bytes that went.
    pub sent_bytes: AtomicU64,
    /// Connections that were accepted.
    pub accepted: AtomicU64,
    /// Connections that were closed.
    pub closed: AtomicU64,
}

impl ServerMeasures {
    /// Counts a refusal.
    pub fn refused(&self, cause: Cause) {
        self.refusals[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often there was that cause.
    pub fn refusals(&self, cause: Cause) -> u64 {
        self.refusals[cause as usize].load(Ordering::Relaxed)
    }
}

/// What is counted of training.
#[derive(Debug, Default)]
pub struct TrainingMeasures {
    /// Rows of all steps: a row counts once an epoch.
    pub rows: AtomicU64,
    /// Jobs that succeeded, with a version or without.
    pub succeeded: AtomicU64,
    /// Jobs that failed.
    pub failed: AtomicU64,
    /// Jobs that were cancelled, or expired.
    pub cancelled: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_once_at_its_bound() {
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
    fn calls_are_counted_where_they_belong() {
        let calls = Calls::default();
        calls.count(method("Train"), 0);
        calls.count(method("Train"), 0);
        calls.count(method("Score"), 99);
        calls.count(method("ListJobs"), 5);
        assert_eq!(calls.counts(), [("Score", "unknown", 1), ("Train", "ok", 2), ("other", "not_found", 1)]);
    }
}
