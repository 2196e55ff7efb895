//! The least that training gets, however much there is to be served.
//!
//! Training runs at the lowest priority: beside threads that always have work it would get next to nothing. No thread may
//! raise its own priority again, so that whoever serves has to give way: now and then it looks at what the scheduler says of
//! the training threads, and where they ran for less than their share of the time in which they could have run, it pauses
//! for what is missing.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Times are looked at this often. A serving thread pauses about as often, so that this times the share is how long a
/// request may wait for training.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Pauses, beside the share: where training gains nothing by them, because others take the core, serving loses no more.
const PAUSES_PER_SHARE: f64 = 2.0;

/// Training's share, and who trains. Without a share, which is the default, and on systems that do not say for how long a thread ran, training
/// gets what is left.
#[derive(Debug, Default)]
pub struct Floor {
    share: f64,
    /// Of `clocks`: most of the time there is none, and nothing to lock.
    watched: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clocks: Vec<Clock>,
    looked: Option<Instant>,
    debt: Debt,
}

impl Floor {
    /// Training gets at least `share` of the time in which it could run, 0 to 0.5.
    ///
    /// # Panics
    /// With any other share.
    pub fn new(share: f64) -> Self {
        assert!((0.0..=0.5).contains(&share), "a share of 0 to 0.5, got {share}");
        Self { share, watched: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// From now on, until it ends, this thread is one of those that train.
    pub(super) fn watch_this_thread(&self) {
        if self.share == 0.0 {
            return;
        }
        match Clock::of_this_thread() {
            Ok(clock) => {
                let mut state = self.lock();
                state.clocks.push(clock);
                self.watched.store(state.clocks.len(), Ordering::Release);
            }
            Err(error) => {
                tracing::debug!(%error, "this system does not say how long threads ran: no floor for training");
            }
        }
    }

    /// For how long a serving thread that asks at `now` shall leave its core to those that train; zero most of the time.
    pub fn pause(&self, now: Instant) -> Duration {
        if self.watched.load(Ordering::Acquire) == 0 {
            return Duration::ZERO;
        }
        // Whoever holds it looks for all.
        let Ok(mut state) = self.state.try_lock() else { return Duration::ZERO };
        let State { clocks, looked, debt } = &mut *state;
        let since = looked.map_or(LOOK_EVERY, |looked| now.saturating_duration_since(looked));
        if since >= LOOK_EVERY {
            *looked = Some(now);
            let mut all = Times::default();
            clocks.retain_mut(|clock| {
                clock.since_last().is_some_and(|times| {
                    all.ran += times.ran;
                    all.waited += times.waited;
                    true
                })
            });
            self.watched.store(clocks.len(), Ordering::Release);
            debt.look(self.share, all, since);
        }
        debt.pay()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What training is owed.
#[derive(Debug, Default)]
struct Debt {
    /// Seconds that it ran for less than its share; what it ran for more is not kept.
    missing: f64,
    /// Seconds of pauses that may still be given before the next look.
    payable: f64,
    /// Of one pause.
    pause_max: f64,
}

impl Debt {
    /// The training threads ran and waited for `times` in the `since` that have passed.
    fn look(&mut self, share: f64, times: Times, since: Duration) {
        let wanted = share * (times.ran + times.waited).as_secs_f64();
        // Of a debt that cannot be paid, no more is kept than is paid until the next look.
        let most = PAUSES_PER_SHARE * wanted;
        self.missing = (self.missing + wanted - times.ran.as_secs_f64()).clamp(0.0, most);
        self.payable = self.missing;
        self.pause_max = PAUSES_PER_SHARE * share * since.min(LOOK_EVERY).as_secs_f64();
    }

    /// One serving thread's part of it.
    fn pay(&mut self) -> Duration {
        let pause = self.payable.min(self.pause_max);
        self.payable -= pause;
        Duration::from_secs_f64(pause)
    }
}

/// For how long threads ran, and for how long they could have run and others did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    ran: Duration,
    waited: Duration,
}

/// What the scheduler says of a thread.
#[derive(Debug)]
struct Clock {
    /// Stays that of the thread; unreadable once that has ended.
    schedstat: File,
    last: Times,
}

impl Clock {
    /// See proc_pid_schedstat in the kernel's `Documentation/scheduler/sched-stats`.
    fn of_this_thread() -> std::io::Result<Self> {
        let mut clock = Self { schedstat: File::open("/proc/thread-self/schedstat")?, last: Times::default() };
        clock.last = clock.read()?;
        Ok(clock)
    }

    fn read(&mut self) -> std::io::Result<Times> {
        let mut text = String::with_capacity(64);
        self.schedstat.rewind()?;
        self.schedstat.read_to_string(&mut text)?;
        let mut numbers =
            text.split_ascii_whitespace().map_while(|number| number.parse().ok()).map(Duration::from_nanos);
        match (numbers.next(), numbers.next()) {
            (Some(ran), Some(waited)) => Ok(Times { ran, waited }),
            _ => Err(std::io::Error::other("expected nanoseconds that the thread ran and waited")),
        }
    }

    /// What came since the last call; `None` if the thread has ended.
    fn since_last(&mut self) -> Option<Times> {
        let now = self.read().ok()?;
        let last = std::mem::replace(&mut self.last, now);
        Some(Times { ran: now.ran.saturating_sub(last.ran), waited: now.waited.saturating_sub(last.waited) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn paid(debt: &mut Debt) -> Vec<Duration> {
        std::iter::repeat_with(|| debt.pay()).take_while(|pause| *pause > Duration::ZERO).take(100).collect()
    }

    #[track_caller]
    fn check_pauses(ran: Duration, waited: Duration, expected: &[Duration]) {
        let mut debt = Debt::default();
        debt.look(0.05, Times { ran, waited }, LOOK_EVERY);
        let pauses: Vec<_> = paid(&mut debt).into_iter().map(|pause| pause.as_micros()).collect();
        assert_eq!(pauses, expected.iter().map(Duration::as_micros).collect::<Vec<_>>());
    }

    #[test]
    fn serving_pauses_for_what_is_missing() {
        check_pauses(Duration::ZERO, 40 * MS, &[2 * MS]);
        check_pauses(MS, 39 * MS, &[MS]);
        // Those who wait for nothing but their own kind, and those who have enough.
        check_pauses(2 * MS, 38 * MS, &[]);
        check_pauses(40 * MS, Duration::ZERO, &[]);
        check_pauses(Duration::ZERO, Duration::ZERO, &[]);
    }

    #[test]
    fn the_pauses_of_many_threads_are_for_many_serving_threads() {
        check_pauses(Duration::ZERO, 16 * 40 * MS, &[4 * MS; 8]);
    }

    #[test]
    fn a_debt_that_cannot_be_paid_does_not_grow() {
        let mut debt = Debt::default();
        let starved = Times { ran: Duration::ZERO, waited: 40 * MS };
        for _ in 0..1000 {
            debt.look(0.05, starved, LOOK_EVERY);
            let paused: Duration = paid(&mut debt).iter().sum();
            assert!(paused <= LOOK_EVERY.mul_f64(PAUSES_PER_SHARE * 0.05) + MS / 1000, "{paused:?}");
        }
        // Paid at last.
        debt.look(0.05, Times { ran: 40 * MS, waited: Duration::ZERO }, LOOK_EVERY);
        assert_eq!(paid(&mut debt), []);
    }

    #[test]
    fn nobody_pauses_where_nobody_trains() {
        let floor = Floor::new(0.5);
        let mut now = Instant::now();
        for _ in 0..10 {
            assert_eq!(floor.pause(now), Duration::ZERO);
            now += LOOK_EVERY;
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn threads_that_have_ended_are_forgotten() {
        let floor = Floor::new(0.5);
        if Clock::of_this_thread().is_err() {
            eprintln!("skipped: this system does not say how long threads ran");
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| floor.watch_this_thread()).join().expect("no panic");
        });
        assert_eq!(floor.watched.load(Ordering::Acquire), 1);
        let mut now = Instant::now();
        // The system may take a moment to put the thread away.
        for _ in 0..1000 {
            now += LOOK_EVERY;
            assert_eq!(floor.pause(now), Duration::ZERO);
            if floor.watched.load(Ordering::Acquire) == 0 {
                return;
            }
            std::thread::sleep(MS);
        }
        panic!("a thread that has ended is still watched");
    }

    #[test]
    fn without_a_share_nobody_is_watched() {
        let floor = Floor::new(0.0);
        floor.watch_this_thread();
        assert_eq!(floor.watched.load(Ordering::Acquire), 0);
    }
}
