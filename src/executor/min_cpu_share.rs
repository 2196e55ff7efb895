//! The minimum CPU share of training, under any serving load.
//!
//! Training runs at the lowest priority, so busy serving threads would leave it almost no CPU time. A thread may not
//! raise its own priority again, so serving threads must yield. They periodically read the scheduler's statistics of
//! the training threads. If those ran for less than their share of the time in which they were runnable, serving
//! threads pause for the missing time.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two reads of the scheduler statistics.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Limit of one pause, and of all pauses per core: this factor times the share of the time between two reads. It bounds
/// the cost for serving when other processes take the freed core and training cannot use it.
const PAUSES_PER_SHARE: f64 = 2.0;

/// Limit, per core, of the time that the statistics do not cover yet: a longer wait does not count in full.
const UNHEARD_MAX: Duration = Duration::from_secs(1);
/// Limit of the remembered debt, as a multiple of what can be paid between two reads.
const MISSING_LOOKS_MAX: f64 = 4.0;
/// Share of the debt that is kept when a read shows no activity of any thread: the debt of sleeping threads fades
/// within a second.
const KEPT_UNHEARD: f64 = 0.8;

/// The minimum CPU share of training, and the watched training threads.
///
/// [`MinCpuShare::default`] has no share: training gets what serving leaves. The same holds on systems without
/// per-thread scheduler statistics.
#[derive(Debug, Default)]
pub struct MinCpuShare {
    share: f64,
    cores: usize,
    /// Number of clocks. It is mostly 0, and then nothing is locked.
    watched: AtomicUsize,
    /// Serving threads that pause now.
    pausing: AtomicUsize,
    /// Total pause time of all serving threads, in nanoseconds.
    paused_ns: AtomicU64,
    state: Mutex<ShareState>,
}

#[derive(Debug, Default)]
struct ShareState {
    clocks: Vec<Clock>,
    looked: Option<Instant>,
    debt: Debt,
}

impl MinCpuShare {
    /// Training gets at least `share`, 0 to 1, of the time in which it is runnable, on `cores` cores.
    ///
    /// # Panics
    /// If `share` is not within 0 to 1.
    pub fn new(share: f64, cores: usize) -> Self {
        assert!((0.0..=1.0).contains(&share), "a share of 0 to 1, got {share}");
        Self { share, cores, ..Self::default() }
    }

    /// With one pause of length `debt` to be paid.
    #[cfg(test)]
    pub(crate) fn in_debt(debt: Duration) -> Self {
        let seconds = debt.as_secs_f64();
        let state = ShareState {
            // In the future, so that no thread reads the statistics again.
            looked: Some(Instant::now() + Duration::from_hours(1)),
            debt: Debt { payable: seconds, pause_max: seconds, ..Debt::default() },
            ..ShareState::default()
        };
        Self { watched: AtomicUsize::new(1), state: Mutex::new(state), ..Self::default() }
    }

    /// Registers this thread as a training thread until it ends.
    pub(super) fn watch_this_thread(&self) {
        static WARNED: Once = Once::new();
        if self.share == 0.0 {
            return;
        }
        match Clock::of_this_thread() {
            Ok(clock) => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                // Remove the clocks of ended threads: without serving load, no read has removed them.
                state.clocks.retain_mut(|clock| clock.since_last().is_some());
                state.clocks.push(clock);
                self.watched.store(state.clocks.len(), Ordering::Release);
            }
            Err(error) => WARNED.call_once(|| {
                tracing::warn!(%error, "no scheduler statistics of threads: training gets only what serving leaves");
            }),
        }
    }

    /// Whether serving threads owe training a pause, or pause now. Optional work is then skipped.
    pub fn is_owed(&self, now: Instant) -> bool {
        // The order matters: a paying thread sets `pausing` before its debt disappears. While another thread holds the
        // state, assume a debt.
        self.watched.load(Ordering::Acquire) > 0
            && (self.looked(now).is_none_or(|state| state.debt.payable > 0.0)
                || self.pausing.load(Ordering::Acquire) > 0)
    }

    /// Pauses this serving thread, between two batches, if training is owed time.
    pub fn give_way(&self, now: Instant) {
        if self.watched.load(Ordering::Acquire) == 0 {
            return;
        }
        let pause = self.looked(now).map_or(Duration::ZERO, |mut state| {
            let pause = state.debt.pay();
            if pause > Duration::ZERO {
                // Under the lock: `is_owed` always sees either the debt or the pause.
                self.pausing.fetch_add(1, Ordering::AcqRel);
            }
            pause
        });
        if pause > Duration::ZERO {
            let began = Instant::now();
            thread::sleep(pause);
            self.pausing.fetch_sub(1, Ordering::AcqRel);
            // Sleeping takes longer than requested: count the real time.
            let slept_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.paused_ns.fetch_add(slept_ns, Ordering::Relaxed);
        }
    }

    /// Total time that serving threads have paused for training, summed over threads.
    pub fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused_ns.load(Ordering::Relaxed))
    }

    /// The state, at most [`LOOK_EVERY`] old; `None` while another thread holds it.
    fn looked(&self, now: Instant) -> Option<MutexGuard<'_, ShareState>> {
        let mut guard = match self.state.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let ShareState { clocks, looked, debt } = &mut *guard;
        let since = looked.map_or(LOOK_EVERY, |looked| now.saturating_duration_since(looked));
        if since >= LOOK_EVERY {
            *looked = Some(now);
            let mut times = Times::default();
            clocks.retain_mut(|clock| {
                clock.since_last().is_some_and(|since_last| {
                    times.ran += since_last.ran;
                    times.waited += since_last.waited;
                    true
                })
            });
            self.watched.store(clocks.len(), Ordering::Release);
            debt.look(self.share, self.cores, times, since);
        }
        Some(guard)
    }
}

/// CPU time owed to training, in seconds.
#[derive(Debug, Default)]
struct Debt {
    /// Missing time compared with the share. Surplus time is not kept.
    missing: f64,
    /// Time on all cores that the statistics do not cover yet: the system counts a wait only when it ends.
    unheard: f64,
    /// The part of `missing` that may be paid before the next read.
    payable: f64,
    /// Longest pause.
    pause_max: f64,
}

impl Debt {
    /// Updates the debt: in the last `since`, all training threads together ran and waited for `times`.
    fn look(&mut self, share: f64, cores: usize, times: Times, since: Duration) {
        self.pause_max = PAUSES_PER_SHARE * share * since.min(LOOK_EVERY).as_secs_f64();
        let most = self.pause_max * cores as f64;
        // Limited to the cores' time: with more threads than cores, threads also wait for each other.
        let heard = self.unheard + since.as_secs_f64() * cores as f64;
        let could_run = (times.ran + times.waited).as_secs_f64().min(heard);
        self.unheard = (heard - could_run).min(UNHEARD_MAX.as_secs_f64() * cores as f64);
        self.missing = if could_run > 0.0 {
            (self.missing + share * could_run - times.ran.as_secs_f64()).clamp(0.0, MISSING_LOOKS_MAX * most)
        } else {
            // The threads wait or sleep: the statistics do not tell which.
            self.missing * KEPT_UNHEARD
        };
        self.payable = self.missing.min(most);
    }

    /// Takes one serving thread's pause from the debt.
    fn pay(&mut self) -> Duration {
        let pause = self.payable.min(self.pause_max);
        self.payable -= pause;
        Duration::from_secs_f64(pause)
    }
}

/// How long threads ran, and how long they were runnable but waited for a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    ran: Duration,
    waited: Duration,
}

/// Reads the scheduler statistics of one thread.
#[derive(Debug)]
struct Clock {
    /// Stays bound to the thread; unreadable after it has ended.
    schedstat: File,
    last: Times,
}

impl Clock {
    /// Format: `proc_pid_schedstat` in the kernel's `Documentation/scheduler/sched-stats`.
    fn of_this_thread() -> io::Result<Self> {
        let mut clock = Self { schedstat: File::open("/proc/thread-self/schedstat")?, last: Times::default() };
        clock.last = clock.read()?;
        Ok(clock)
    }

    fn read(&mut self) -> io::Result<Times> {
        let mut text = String::with_capacity(64);
        self.schedstat.rewind()?;
        self.schedstat.read_to_string(&mut text)?;
        let mut numbers =
            text.split_ascii_whitespace().map_while(|number| number.parse().ok()).map(Duration::from_nanos);
        match (numbers.next(), numbers.next()) {
            (Some(ran), Some(waited)) => Ok(Times { ran, waited }),
            _ => Err(io::Error::other(format!("expected nanoseconds that the thread ran and waited, got {text:?}"))),
        }
    }

    /// The times since the last call; `None` if the thread has ended.
    fn since_last(&mut self) -> Option<Times> {
        let now = self.read().ok()?;
        let last = std::mem::replace(&mut self.last, now);
        Some(Times { ran: now.ran.saturating_sub(last.ran), waited: now.waited.saturating_sub(last.waited) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::eventually::eventually_blocking;

    const MS: Duration = Duration::from_millis(1);
    const SHARE: f64 = 0.05;

    fn paid(debt: &mut Debt) -> Vec<u128> {
        let pauses = std::iter::repeat_with(|| debt.pay()).take_while(|pause| *pause > Duration::ZERO);
        pauses.take(100).map(|pause| pause.as_micros()).collect()
    }

    /// Checks the pauses, in microseconds, after one read of threads that ran and waited for these milliseconds.
    #[track_caller]
    fn check_pauses(cores: usize, ran_ms: u32, waited_ms: u32, expected: &[u128]) {
        let mut debt = Debt::default();
        debt.look(SHARE, cores, Times { ran: ran_ms * MS, waited: waited_ms * MS }, LOOK_EVERY);
        assert_eq!(paid(&mut debt), expected);
    }

    #[test]
    fn serving_pauses_for_the_missing_training_time() {
        check_pauses(1, 0, 40, &[2000]);
        check_pauses(1, 1, 39, &[1000]);
        // Threads with enough time, and threads without work.
        check_pauses(1, 2, 38, &[]);
        check_pauses(1, 40, 0, &[]);
        check_pauses(1, 0, 0, &[]);
    }

    #[test]
    fn many_waiting_threads_get_a_limited_number_of_pauses() {
        check_pauses(16, 0, 16 * 40, &[4000; 8]);
        // The same limit for any number of threads that wait for each other.
        check_pauses(16, 0, 1000 * 40, &[4000; 8]);
        check_pauses(2, 4, 1000 * 40, &[]);
    }

    #[test]
    fn the_debt_is_limited() {
        let most = LOOK_EVERY.mul_f64(PAUSES_PER_SHARE * SHARE).as_micros();
        let mut debt = Debt::default();
        for round in 0..1000 {
            // A wait of a second, counted when it ended, after a late read.
            let waited = if round % 10 == 0 { 1000 } else { 40 };
            debt.look(SHARE, 1, Times { ran: Duration::ZERO, waited: waited * MS }, waited * MS);
            assert!(paid(&mut debt).iter().sum::<u128>() <= most);
        }
        debt.look(SHARE, 1, Times { ran: 40 * MS, waited: Duration::ZERO }, LOOK_EVERY);
        assert_eq!(paid(&mut debt), [0_u128; 0], "paid at last");
    }

    #[test]
    fn a_wait_that_is_read_late_counts() {
        let mut debt = Debt::default();
        debt.look(SHARE, 1, Times::default(), LOOK_EVERY);
        assert_eq!(paid(&mut debt), [0_u128; 0]);
        debt.look(SHARE, 1, Times { ran: Duration::ZERO, waited: 80 * MS }, LOOK_EVERY);
        assert_eq!(paid(&mut debt), [4000]);
        // A wait longer than the elapsed time does not count in full.
        debt.look(SHARE, 1, Times { ran: 4 * MS, waited: 80 * MS }, LOOK_EVERY);
        assert_eq!(paid(&mut debt), [2000]);
    }

    #[test]
    fn debt_decays_without_new_measurements() {
        let mut debt = Debt::default();
        debt.look(SHARE, 1, Times { ran: Duration::ZERO, waited: 40 * MS }, LOOK_EVERY);
        for expected in [[1600], [1280], [1024]] {
            debt.look(SHARE, 1, Times::default(), LOOK_EVERY);
            assert_eq!(paid(&mut debt), expected);
        }
    }

    #[test]
    fn no_debt_arises_without_training() {
        let min_share = MinCpuShare::new(0.5, 1);
        let mut now = Instant::now();
        for _ in 0..10 {
            min_share.give_way(now);
            assert!(!min_share.is_owed(now));
            now += LOOK_EVERY;
        }
    }

    #[test]
    fn debt_is_reported_while_a_thread_pauses() {
        let (min_share, now) = (MinCpuShare::in_debt(MS), Instant::now());
        assert!(min_share.is_owed(now));
        min_share.give_way(now);
        assert!(!min_share.is_owed(now), "paid, and no thread pauses");
        min_share.pausing.store(1, Ordering::Release);
        assert!(min_share.is_owed(now));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn ended_threads_are_no_longer_watched() {
        let min_share = MinCpuShare::new(0.5, 1);
        if Clock::of_this_thread().is_err() {
            eprintln!("skipped: no scheduler statistics of threads");
            return;
        }
        // Ended threads are removed without reads by serving threads; the system may take a moment to remove a thread.
        for _ in 0..100 {
            thread::scope(|scope| scope.spawn(|| min_share.watch_this_thread()).join()).expect("no panic");
            assert!((1..=50).contains(&min_share.watched.load(Ordering::Acquire)));
            thread::sleep(MS);
        }
        let mut now = Instant::now();
        eventually_blocking("no thread that has ended is watched", || {
            now += LOOK_EVERY;
            assert!(!min_share.is_owed(now));
            match min_share.watched.load(Ordering::Acquire) {
                0 => Ok(()),
                watched => Err(watched),
            }
        });
    }

    #[test]
    fn without_a_share_no_thread_is_watched() {
        let min_share = MinCpuShare::default();
        min_share.watch_this_thread();
        assert_eq!(min_share.watched.load(Ordering::Acquire), 0);
    }
}
