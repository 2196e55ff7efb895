//! Rate limit for warnings that clients can cause at will.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::telemetry::rate_limit::{Rate, RateLimit};

/// At most one warning of a kind per minute.
const RATE: Rate = Rate::one_per(Duration::from_mins(1));

/// The rate limit of one kind of warning.
#[derive(Debug)]
pub struct LogThrottle {
    limit: RateLimit,
    suppressed: AtomicU64,
}

/// Origin of the process clock: the first call of this function.
pub fn start() -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START
}

/// Nanoseconds since [`start`].
pub fn now_ns() -> u64 {
    u64::try_from(start().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl LogThrottle {
    /// No warning yet.
    pub const fn never() -> Self {
        Self { limit: RateLimit::new(), suppressed: AtomicU64::new(0) }
    }

    /// Calls `log` with the number of warnings suppressed since the last one; within a minute of that, only counts.
    pub fn once(&self, log: impl FnOnce(u64)) {
        self.once_at(now_ns(), log);
    }

    fn once_at(&self, now_ns: u64, log: impl FnOnce(u64)) {
        match self.limit.admit(RATE, now_ns) {
            Ok(()) => log(self.suppressed.swap(0, Ordering::Relaxed)),
            Err(_) => _ = self.suppressed.fetch_add(1, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_logs_one_line_per_minute_with_a_count() {
        let (throttle, mut logged) = (LogThrottle::never(), Vec::new());
        for ms in 0..60_002 {
            throttle.once_at(ms * 1_000_000, |suppressed| logged.push((ms, suppressed)));
        }
        assert_eq!(logged, [(0, 0), (60_000, 59_999)]);
    }
}
