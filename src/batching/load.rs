//! Load accounting: accepted work, fair shares of the queue limits, service rates and retry delays.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sync::atomic::{AtomicUsize, Ordering};
use crate::fair_share;

/// Size of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    /// Bytes of the request and its response.
    pub(super) bytes: usize,
    /// Fused multiply-adds per row.
    pub(super) row_work: usize,
}

impl Size {
    /// Fused multiply-adds of all rows.
    pub(super) fn work(self) -> usize {
        self.rows.saturating_mul(self.row_work)
    }
}

/// Rows and work that are not yet computed, and bytes that have no response yet.
///
/// They are increased only under the queue's lock, so that the check and the claim are atomic. They can decrease at any
/// time.
#[derive(Debug, Default)]
pub(super) struct Load {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    work: AtomicUsize,
}

impl Load {
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn work(&self) -> usize {
        self.work.load(Ordering::Acquire)
    }
}

/// Whether a request of `size` fits within the limit `max`, of which all queues use `all` and its own queue uses
/// `model_queue`, and within the fair share of its queue.
pub(super) fn has_room(size: usize, model_queue: usize, all: usize, max: usize) -> bool {
    fair_share::has_room(size as u64, model_queue as u64, all as u64, max as u64)
}

/// The load of each model's queue.
#[derive(Debug)]
pub(super) struct Loads<K>(HashMap<K, Arc<Load>>);

impl<K: Clone + Eq + Hash> Loads<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// The load of a queue, created if new.
    pub(super) fn model_queue(&mut self, key: &K) -> Arc<Load> {
        if !self.0.contains_key(key) {
            // A load without claims is empty; remove it.
            self.0.retain(|_, load| Arc::strong_count(load) > 1);
        }
        Arc::clone(self.0.entry(key.clone()).or_default())
    }
}

/// One request's part of two [`Load`]s: that of its queue and that of all queues. Dropping it releases the rest.
#[derive(Debug)]
pub(super) struct Claim {
    loads: [Arc<Load>; 2],
    rows: AtomicUsize,
    bytes: AtomicUsize,
    row_work: usize,
}

impl Claim {
    pub(super) fn new(loads: [Arc<Load>; 2], size: Size) -> Self {
        let Size { rows, bytes, row_work } = size;
        for load in &loads {
            load.rows.fetch_add(rows, Ordering::AcqRel);
            load.bytes.fetch_add(bytes, Ordering::AcqRel);
            load.work.fetch_add(size.work(), Ordering::AcqRel);
        }
        Self { loads, rows: AtomicUsize::new(rows), bytes: AtomicUsize::new(bytes), row_work }
    }

    /// Releases `count` rows that are computed; each row is released once.
    pub(super) fn rows_done(&self, count: usize) {
        let update = |left: usize| Some(left.saturating_sub(count));
        if let Ok(left) = self.rows.fetch_update(Ordering::AcqRel, Ordering::Acquire, update) {
            self.give_back(left.min(count), 0);
        }
    }

    /// Releases all that is left.
    pub(super) fn release(&self) {
        self.give_back(self.rows.swap(0, Ordering::AcqRel), self.bytes.swap(0, Ordering::AcqRel));
    }

    fn give_back(&self, rows: usize, bytes: usize) {
        for load in &self.loads {
            load.rows.fetch_sub(rows, Ordering::AcqRel);
            load.bytes.fetch_sub(bytes, Ordering::AcqRel);
            load.work.fetch_sub(rows.saturating_mul(self.row_work), Ordering::AcqRel);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// The weight of a measurement halves in this time.
const HALF_LIFE_SECONDS: f64 = 2.0;
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Retry delay before anything was measured.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_millis(100);

/// Service rate: fused multiply-adds per second of compute time, averaged over recent work.
///
/// Idle time does not count, so the rate stays right after a quiet hour.
#[derive(Debug, Default)]
pub(super) struct ServiceRate {
    last: Option<Instant>,
    work: f64,
    busy_seconds: f64,
}

impl ServiceRate {
    /// Records that one thread did `work` in the time `busy`, until `now`.
    pub(super) fn record(&mut self, now: Instant, work: usize, busy: Duration) {
        let age = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let weight = (-age.as_secs_f64() / HALF_LIFE_SECONDS).exp2();
        self.work = self.work * weight + work as f64;
        self.busy_seconds = self.busy_seconds * weight + busy.as_secs_f64();
        self.last = Some(now);
    }

    /// Seconds per multiply-add on one thread; `None` before anything was measured.
    fn seconds(&self) -> Option<f64> {
        (self.work > 0.0).then(|| self.busy_seconds / self.work)
    }

    /// Time for `work` on `threads` threads, at most 10 s; `None` before anything was measured.
    pub(super) fn time_for(&self, work: usize, threads: usize) -> Option<Duration> {
        let seconds = work as f64 * self.seconds()? / threads as f64;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX).min(RETRY_AFTER_MAX))
    }
}

/// Maximum number of queues whose rate is remembered.
const RATES_MAX: usize = 1024;
/// Seconds per fused multiply-add before anything was measured: half the speed of AVX-512.
const SECONDS_UNKNOWN: f64 = 1.0 / 32e9;

/// Service rates of each queue, and of all queues together.
///
/// Each queue needs its own rate: a multiply-add takes longer where copying rows dominates, or where W does not fit in
/// the caches.
#[derive(Debug)]
pub(super) struct ServiceRates<K> {
    all: ServiceRate,
    by_queue: HashMap<K, ServiceRate>,
}

impl<K: Clone + Eq + Hash> ServiceRates<K> {
    pub(super) fn new() -> Self {
        Self { all: ServiceRate::default(), by_queue: HashMap::new() }
    }

    /// Records that one thread did `work` of a queue in the time `busy`, until `now`.
    pub(super) fn record(&mut self, key: &K, now: Instant, work: usize, busy: Duration) {
        self.all.record(now, work, busy);
        if let Some(model_queue) = self.by_queue.get_mut(key) {
            model_queue.record(now, work, busy);
            return;
        }
        if self.by_queue.len() >= RATES_MAX {
            // Active queues are measured again soon.
            self.by_queue.clear();
        }
        self.by_queue.entry(key.clone()).or_default().record(now, work, busy);
    }

    /// The rate of all queues together.
    pub(super) fn all(&self) -> &ServiceRate {
        &self.all
    }

    /// Seconds per multiply-add of a queue on one thread: measured, else that of all queues, else a constant. Always
    /// above zero.
    pub(super) fn seconds(&self, key: &K) -> f64 {
        let known = self.by_queue.get(key).unwrap_or(&self.all).seconds();
        known.unwrap_or(SECONDS_UNKNOWN).max(f64::MIN_POSITIVE)
    }

    /// Time for `work` of a queue on `threads` threads; `None` before anything was measured.
    pub(super) fn time_for(&self, key: &K, work: usize, threads: usize) -> Option<Duration> {
        self.by_queue.get(key).unwrap_or(&self.all).time_for(work, threads)
    }
}

/// Spacing of retries, as a multiple of each request's compute time. It leaves room for clients that were served and
/// send more requests without a retry delay. With half this value, twice as many retries are rejected again, and the
/// server must receive a large request to reject it.
const RETURNS_APART: u32 = 4;

/// Schedule of retries: rejected clients come back one after the other, each when the work before it should be done.
///
/// Equal retry delays would bring all rejected clients back at once. Most would be rejected again, and receiving a
/// rejected request costs as much as receiving a served one.
#[derive(Debug, Default)]
pub(super) struct RetrySchedule {
    /// The next free retry time; no client has a later one.
    until: Option<Instant>,
}

impl RetrySchedule {
    /// Retry delay of a rejected request with compute time `own`, while work of `ahead` is queued: 1 ms to 10 s.
    pub(super) fn next(&mut self, now: Instant, ahead: Option<Duration>, own: Option<Duration>) -> Duration {
        let (Some(ahead), Some(own)) = (ahead, own) else { return RETRY_AFTER_UNKNOWN };
        let first = now + ahead;
        // Retries beyond the maximum delay are no longer spaced.
        let at = self.until.map_or(first, |until| until.max(first)).min(now + RETRY_AFTER_MAX);
        self.until = Some(at + own.saturating_mul(RETURNS_APART));
        at.saturating_duration_since(now).max(RETRY_AFTER_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_releases_exactly_what_it_took() {
        let [load, a, b] = [(); 3].map(|()| Arc::new(Load::default()));
        let first = Claim::new([Arc::clone(&load), Arc::clone(&a)], Size { rows: 10, bytes: 100, row_work: 7 });
        let second = Claim::new([Arc::clone(&load), Arc::clone(&b)], Size { rows: 5, bytes: 50, row_work: 2 });
        assert_eq!((a.rows(), a.bytes(), b.rows(), b.bytes()), (10, 100, 5, 50));
        first.rows_done(4);
        assert_eq!((load.rows(), load.bytes(), load.work()), (11, 150, 6 * 7 + 5 * 2));
        first.rows_done(100);
        assert_eq!((load.rows(), load.bytes()), (5, 150));
        first.release();
        first.release();
        drop(first);
        assert_eq!((load.rows(), load.bytes()), (5, 50));
        drop(second);
        for load in [load, a, b] {
            assert_eq!((load.rows(), load.bytes(), load.work()), (0, 0, 0));
        }
    }

    #[test]
    fn loads_of_empty_queues_are_removed() {
        let (mut loads, one) = (Loads::new(), Size { rows: 1, bytes: 1, row_work: 1 });
        for key in 0..1_000 {
            let model_queue = loads.model_queue(&key);
            drop(Claim::new([model_queue, Arc::default()], one));
        }
        assert_eq!(loads.0.len(), 1);
        let model_queue = loads.model_queue(&7);
        let kept = Claim::new([model_queue, Arc::default()], one);
        assert_eq!(
            (loads.model_queue(&8).rows(), loads.model_queue(&9).rows(), loads.model_queue(&7).rows()),
            (0, 0, 1)
        );
        drop(kept);
    }

    /// Adds requests of `size` to the queues in turn until none has room for another, and checks what each holds.
    #[track_caller]
    fn check_shares(max: usize, size: usize, expected: &[usize]) {
        let mut queues = vec![0; expected.len()];
        while let Some(model_queue) = (0..queues.len())
            .filter(|model_queue| has_room(size, queues[*model_queue], queues.iter().sum(), max))
            .min_by_key(|model_queue| queues[*model_queue])
        {
            queues[model_queue] += size;
        }
        assert_eq!(queues, expected, "{max} in pieces of {size}");
    }

    #[test]
    fn one_queue_leaves_space_for_others() {
        check_shares(1_000, 1, &[800]);
        check_shares(900, 1, &[400, 400]);
        check_shares(1_024, 64, &[832]);
        check_shares(100, 90, &[90]);
    }

    /// Checks the predicted time after batches of (seconds since the start, work, compute milliseconds).
    #[track_caller]
    fn check_time(batches: &[(u64, usize, u64)], work: usize, threads: usize, expected: Duration) {
        let start = Instant::now();
        let mut rate = ServiceRate::default();
        for (second, done, busy_ms) in batches {
            rate.record(start + Duration::from_secs(*second), *done, Duration::from_millis(*busy_ms));
        }
        let got = rate.time_for(work, threads).expect("measured");
        let (got, expected) = (got.as_secs_f64(), expected.as_secs_f64());
        assert!((got - expected).abs() <= 0.01 * expected, "{got} s, expected {expected} s");
    }

    #[test]
    fn the_estimated_time_is_work_divided_by_rate() {
        check_time(&[(0, 100, 10)], 1_000, 1, Duration::from_millis(100));
        check_time(&[(0, 100, 10)], 1_000, 4, Duration::from_millis(25));
        check_time(&[(0, 100, 10), (0, 100, 30)], 1_000, 1, Duration::from_millis(200));
    }

    #[test]
    fn idle_time_does_not_lower_the_rate() {
        check_time(&[(0, 100, 10), (3_600, 100, 10)], 1_000, 1, Duration::from_millis(100));
    }

    #[test]
    fn old_batches_fade() {
        check_time(&[(0, 100, 10), (30, 100, 50)], 1_000, 1, Duration::from_millis(500));
    }

    #[test]
    fn time_estimates_need_data_and_have_a_maximum() {
        assert_eq!(ServiceRate::default().time_for(1_000, 1), None);
        check_time(&[(0, 1, 10)], 0, 1, Duration::ZERO);
        check_time(&[(0, 1, 60_000)], 65_536, 1, RETRY_AFTER_MAX);
    }

    #[test]
    fn each_queue_has_its_own_rate() {
        let (mut rates, now) = (ServiceRates::new(), Instant::now());
        assert_eq!(rates.seconds(&"new"), SECONDS_UNKNOWN);
        rates.record(&"copies", now, 100, Duration::from_secs(3));
        rates.record(&"computes", now, 300, Duration::from_secs(1));
        assert_eq!((rates.seconds(&"copies"), rates.seconds(&"computes")), (0.03, 1.0 / 300.0));
        assert_eq!(rates.seconds(&"new"), 0.01, "the rate of all queues");
        assert_eq!(rates.time_for(&"copies", 10, 2), Some(Duration::from_millis(150)));
        assert_eq!(rates.all().time_for(10, 2), Some(Duration::from_millis(50)));
        rates.record(&"instant", now, 100, Duration::ZERO);
        assert!(rates.seconds(&"instant") > 0.0);
    }

    #[test]
    fn the_number_of_stored_rates_is_limited() {
        let (mut rates, now) = (ServiceRates::new(), Instant::now());
        for key in 0..3 * RATES_MAX {
            rates.record(&key, now, 1, Duration::from_secs(1));
            assert!(rates.by_queue.len() <= RATES_MAX);
        }
    }

    #[test]
    fn rejected_clients_retry_one_after_another() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut schedule = RetrySchedule::default();
        let times: Vec<Duration> = (0..3).map(|_| schedule.next(now, Some(ms(100)), Some(ms(5)))).collect();
        assert_eq!(times, [ms(100), ms(120), ms(140)]);
        // After a while the earlier clients have retried, and only the current queue counts.
        let later = now + ms(1_000);
        assert_eq!(schedule.next(later, Some(ms(20)), Some(ms(5))), ms(20));
        assert_eq!(schedule.next(later, Some(ms(0)), Some(ms(5))), ms(40), "after the last scheduled retry");
    }

    #[test]
    fn retry_delays_stay_between_1_ms_and_10_s() {
        let (now, mut schedule) = (Instant::now(), RetrySchedule::default());
        assert_eq!(schedule.next(now, None, None), RETRY_AFTER_UNKNOWN);
        assert_eq!(schedule.next(now, Some(Duration::ZERO), Some(Duration::ZERO)), RETRY_AFTER_MIN);
        for _ in 0..100 {
            assert!(schedule.next(now, Some(Duration::from_secs(1)), Some(Duration::from_secs(1))) <= RETRY_AFTER_MAX);
        }
    }
}
