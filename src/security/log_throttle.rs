//! Rate limit for warnings that clients can cause at will.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shortest time between two warnings of one kind.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// The rate limit of one kind of warning.
#[derive(Debug)]
pub struct LogThrottle {
    /// Time of the last warning in ms after [`start`], plus 1; 0: none yet.
    at_ms: AtomicU64,
    unsaid: AtomicU64,
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
        Self { at_ms: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Calls `say` with the number of warnings suppressed since the last one; within [`INTERVAL`] of that, only counts.
    pub fn once(&self, say: impl FnOnce(u64)) {
        self.once_at(now_ns() / 1_000_000, say);
    }

    fn once_at(&self, now_ms: u64, say: impl FnOnce(u64)) {
        let last = self.at_ms.load(Ordering::Relaxed);
        let is_soon = last > 0 && now_ms + 1 < last + INTERVAL.as_millis() as u64;
        if is_soon || self.at_ms.compare_exchange(last, now_ms + 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        say(self.unsaid.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_logs_one_line_per_minute_with_a_count() {
        let (throttle, mut logged) = (LogThrottle::never(), Vec::new());
        for ms in 0..60_002 {
            throttle.once_at(ms, |suppressed| logged.push((ms, suppressed)));
        }
        assert_eq!(logged, [(0, 0), (60_000, 59_999)]);
    }
}
