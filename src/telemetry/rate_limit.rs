//! Rate limits in one atomic number: the generic cell rate algorithm (GCRA; ITU-T I.371).
//!
//! Three other places differ: the token bucket of `server/frames.rs` also earns tokens with sent bytes, and
//! `batching/load.rs` and `server/write_coalescer.rs` measure rates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// How many events a [`RateLimit`] admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    /// At least `interval_ns`.
    burst_ns: u64,
}

impl Rate {
    /// `count` events per second; a burst of one second's events is allowed. 0 counts as 1, and more than 10^9 as 10^9.
    pub fn per_second(count: u64) -> Self {
        Self { interval_ns: (SECOND_NS / count.max(1)).max(1), burst_ns: SECOND_NS }
    }

    /// One event per `interval`, without a burst.
    pub const fn one_per(interval: Duration) -> Self {
        let interval_ns = interval.as_nanos() as u64;
        Self { interval_ns, burst_ns: interval_ns }
    }
}

/// The use of one rate limit. A new one admits a whole burst.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// When the admitted events would all be over if they were evenly spaced.
    until_ns: AtomicU64,
}

impl RateLimit {
    /// Nothing admitted yet.
    pub const fn new() -> Self {
        Self { until_ns: AtomicU64::new(0) }
    }

    /// Admits one event within `rate`. `now_ns` is the time in nanoseconds since any fixed moment.
    ///
    /// # Errors
    /// The delay until an event is admitted, if the rate is exceeded now.
    pub fn admit(&self, rate: Rate, now_ns: u64) -> Result<(), Duration> {
        let Rate { interval_ns, burst_ns } = rate;
        let next = |until: u64| {
            let until = until.max(now_ns).saturating_add(interval_ns);
            (until <= now_ns.saturating_add(burst_ns)).then_some(until)
        };
        let admitted = self.until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        admitted.map(|_| ()).map_err(|until| {
            let free_at = (until + interval_ns).saturating_sub(burst_ns);
            Duration::from_nanos(free_at.saturating_sub(now_ns).max(1))
        })
    }

    /// Whether a whole burst would be admitted, as by a new limit.
    pub fn is_unused(&self, now_ns: u64) -> bool {
        self.until_ns.load(Ordering::Relaxed) <= now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_limited_with_a_retry_delay() {
        let (limit, ten) = (RateLimit::new(), Rate::per_second(10));
        let start = 5 * SECOND_NS;
        for _ in 0..10 {
            limit.admit(ten, start).expect("the burst of a second");
        }
        let wait = limit.admit(ten, start).expect_err("the eleventh");
        assert_eq!(wait, Duration::from_millis(100));
        limit.admit(ten, start + 100_000_000).expect("after that");
        limit.admit(ten, start + 100_000_000).expect_err("one only");
        for _ in 0..10 {
            limit.admit(ten, start + 3 * SECOND_NS).expect("after a pause, a burst of one second and no more");
        }
        limit.admit(ten, start + 3 * SECOND_NS).expect_err("no more");
        let other = RateLimit::new();
        other.admit(Rate::per_second(1), 0).expect("the first");
        assert_eq!(other.admit(Rate::per_second(1), 0), Err(Duration::from_secs(1)));
    }

    #[test]
    fn a_pause_earns_at_most_one_second_of_the_rate() {
        let limit = RateLimit::new();
        let admitted =
            |now_ms: u64| (0..100).filter(|_| limit.admit(Rate::per_second(10), now_ms * 1_000_000).is_ok()).count();
        assert_eq!(admitted(0), 10);
        assert_eq!(admitted(250), 2);
        assert_eq!(admitted(1250), 10);
        assert_eq!(admitted(24 * 3_600_000), 10);
    }

    #[test]
    fn rates_that_have_no_interval_are_clamped() {
        assert_eq!(Rate::per_second(0), Rate::per_second(1));
        assert_eq!(Rate::per_second(u64::MAX), Rate::per_second(SECOND_NS));
    }
}
