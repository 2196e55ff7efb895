//! How much is accepted and not yet answered, and how fast it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sync::atomic::{AtomicUsize, Ordering};

/// Rows not yet computed and bytes not yet answered, of all requests.
///
/// They rise under the queue's lock alone, so that nothing comes between the check and the claim; they fall anywhere.
#[derive(Debug, Default)]
pub(super) struct Load {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

/// One request's share of the [`Load`]. Dropping it gives back what is left of it.
#[derive(Debug)]
pub(super) struct Claim {
    load: Arc<Load>,
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

impl Claim {
    pub(super) fn new(load: &Arc<Load>, rows: usize, bytes: usize) -> Self {
        load.rows.fetch_add(rows, Ordering::AcqRel);
        load.bytes.fetch_add(bytes, Ordering::AcqRel);
        Self { load: Arc::clone(load), rows: AtomicUsize::new(rows), bytes: AtomicUsize::new(bytes) }
    }

    /// `count` more rows are computed; each row is given back once.
    pub(super) fn rows_done(&self, count: usize) {
        let update = |left: usize| Some(left.saturating_sub(count));
        if let Ok(left) = self.rows.fetch_update(Ordering::AcqRel, Ordering::Acquire, update) {
            self.load.rows.fetch_sub(left.min(count), Ordering::AcqRel);
        }
    }

    /// Gives everything back.
    pub(super) fn release(&self) {
        self.load.rows.fetch_sub(self.rows.swap(0, Ordering::AcqRel), Ordering::AcqRel);
        self.load.bytes.fetch_sub(self.bytes.swap(0, Ordering::AcqRel), Ordering::AcqRel);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// What counts of a measurement halves in this time.
const HALF_LIFE_SECONDS: f64 = 2.0;
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Said before anything was measured.
const RETRY_AFTER_UNKNOWN: Duration = Duration::from_millis(100);

/// Rows per second of computing, over the last seconds of work.
///
/// Idle time does not count: a queue that fills after a quiet hour empties at the speed of the work, not of the hour.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    rows: f64,
    busy_seconds: f64,
}

impl Pace {
    /// One thread computed `rows` in `busy`, until `now`.
    pub(super) fn record(&mut self, now: Instant, rows: usize, busy: Duration) {
        let age = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let weight = (-age.as_secs_f64() / HALF_LIFE_SECONDS).exp2();
        self.rows = self.rows * weight + rows as f64;
        self.busy_seconds = self.busy_seconds * weight + busy.as_secs_f64();
        self.last = Some(now);
    }

    /// How long `threads` take for `rows`; `None` before anything was measured.
    pub(super) fn time_for(&self, rows: usize, threads: usize) -> Option<Duration> {
        if self.rows <= 0.0 {
            return None;
        }
        let seconds = rows as f64 * self.busy_seconds / (self.rows * threads as f64);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX).min(RETRY_AFTER_MAX))
    }
}

/// When those who were refused are to come back: one after the other, each when the work of those before it will be done.
///
/// Told the same time, all would come back together, and nearly all in vain: a refusal costs as much receiving as an answer.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Nobody was told a later time.
    until: Option<Instant>,
}

impl Returns {
    /// How long a refused request is to wait that takes `own`, while what takes `ahead` waits already: 1 ms to 10 s.
    pub(super) fn next(&mut self, now: Instant, ahead: Option<Duration>, own: Option<Duration>) -> Duration {
        let (Some(ahead), Some(own)) = (ahead, own) else { return RETRY_AFTER_UNKNOWN };
        let first = now + ahead;
        // Beyond the longest time that is told, nobody is put in order any more.
        let at = self.until.map_or(first, |until| until.max(first)).min(now + RETRY_AFTER_MAX);
        self.until = Some(at + own);
        at.saturating_duration_since(now).max(RETRY_AFTER_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_gives_back_all_it_took_and_no_more() {
        let load = Arc::new(Load::default());
        let (first, second) = (Claim::new(&load, 10, 100), Claim::new(&load, 5, 50));
        first.rows_done(4);
        assert_eq!((load.rows(), load.bytes()), (11, 150));
        first.rows_done(100);
        assert_eq!((load.rows(), load.bytes()), (5, 150));
        first.release();
        first.release();
        drop(first);
        assert_eq!((load.rows(), load.bytes()), (5, 50));
        drop(second);
        assert_eq!((load.rows(), load.bytes()), (0, 0));
    }

    /// After batches of (seconds since the start, rows, milliseconds of computing).
    #[track_caller]
    fn check_time(batches: &[(u64, usize, u64)], rows: usize, threads: usize, expected: Duration) {
        let start = Instant::now();
        let mut pace = Pace::default();
        for (second, rows, busy_ms) in batches {
            pace.record(start + Duration::from_secs(*second), *rows, Duration::from_millis(*busy_ms));
        }
        let got = pace.time_for(rows, threads).expect("measured");
        let (got, expected) = (got.as_secs_f64(), expected.as_secs_f64());
        assert!((got - expected).abs() <= 0.01 * expected, "{got} s, expected {expected} s");
    }

    #[test]
    fn the_time_is_rows_over_pace() {
        check_time(&[(0, 100, 10)], 1_000, 1, Duration::from_millis(100));
        check_time(&[(0, 100, 10)], 1_000, 4, Duration::from_millis(25));
        check_time(&[(0, 100, 10), (0, 100, 30)], 1_000, 1, Duration::from_millis(200));
    }

    #[test]
    fn a_quiet_hour_does_not_count() {
        check_time(&[(0, 100, 10), (3_600, 100, 10)], 1_000, 1, Duration::from_millis(100));
    }

    #[test]
    fn old_batches_fade() {
        check_time(&[(0, 100, 10), (30, 100, 50)], 1_000, 1, Duration::from_millis(500));
    }

    #[test]
    fn the_time_is_never_silly() {
        assert_eq!(Pace::default().time_for(1_000, 1), None);
        check_time(&[(0, 1, 10)], 0, 1, Duration::ZERO);
        check_time(&[(0, 1, 60_000)], 65_536, 1, RETRY_AFTER_MAX);
    }

    #[test]
    fn the_refused_come_back_one_after_the_other() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut returns = Returns::default();
        let times: Vec<Duration> = (0..3).map(|_| returns.next(now, Some(ms(100)), Some(ms(5)))).collect();
        assert_eq!(times, [ms(100), ms(105), ms(110)]);
        // Later on, those before have come: what waits now is what counts.
        let later = now + ms(1_000);
        assert_eq!(returns.next(later, Some(ms(20)), Some(ms(5))), ms(20));
        assert_eq!(returns.next(later, Some(ms(0)), Some(ms(5))), ms(25), "after the last who was told");
    }

    #[test]
    fn nobody_is_told_a_silly_time() {
        let (now, mut returns) = (Instant::now(), Returns::default());
        assert_eq!(returns.next(now, None, None), RETRY_AFTER_UNKNOWN);
        assert_eq!(returns.next(now, Some(Duration::ZERO), Some(Duration::ZERO)), RETRY_AFTER_MIN);
        for _ in 0..100 {
            assert!(returns.next(now, Some(Duration::from_secs(1)), Some(Duration::from_secs(1))) <= RETRY_AFTER_MAX);
        }
    }
}
