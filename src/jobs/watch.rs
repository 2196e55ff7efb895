//! Watchers of jobs, with limits on their number and their update rate.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::lock::lock;
use super::{JobError, JobId, JobSnapshot, Owner};

/// Minimum interval between updates to one watcher. The end of the job is sent at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Maximum interval between updates to one watcher, even without a change.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Maximum number of watchers of one job, by one caller, and in all.
const OF_A_JOB_MAX: usize = 64;
const OF_A_CALLER_MAX: usize = 128;
const OF_ALL_MAX: usize = 512;
/// Retry delay when no slot is free.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Counts of current watchers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchers(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of_job: HashMap<JobId, usize>,
    of_caller: HashMap<Arc<str>, usize>,
}

/// A watcher slot; dropping it frees the slot.
#[derive(Debug)]
pub(super) struct WatcherSlot {
    watchers: Watchers,
    job: JobId,
    caller: Arc<str>,
}

impl Watchers {
    /// Takes a watcher slot for a caller at a job.
    ///
    /// # Errors
    /// [`JobError::TooManyWatchers`] if no slot is free.
    pub(super) fn enter(&self, job: &JobId, owner: &Owner) -> Result<WatcherSlot, JobError> {
        let full = |of, max| Err(JobError::TooManyWatchers { of, max, retry_after: RETRY_AFTER });
        let mut counts = lock(&self.0);
        if counts.of_job.get(job).is_some_and(|count| *count >= OF_A_JOB_MAX) {
            return full("this job", OF_A_JOB_MAX);
        }
        if counts.of_caller.get(owner.share()).is_some_and(|count| *count >= OF_A_CALLER_MAX) {
            return full("jobs by this caller", OF_A_CALLER_MAX);
        }
        if counts.all >= OF_ALL_MAX {
            return full("all jobs", OF_ALL_MAX);
        }
        let caller: Arc<str> = owner.share().into();
        counts.all += 1;
        *counts.of_job.entry(job.clone()).or_default() += 1;
        *counts.of_caller.entry(Arc::clone(&caller)).or_default() += 1;
        drop(counts);
        Ok(WatcherSlot { watchers: self.clone(), job: job.clone(), caller })
    }
}

impl Drop for WatcherSlot {
    fn drop(&mut self) {
        let mut counts = lock(&self.watchers.0);
        counts.all -= 1;
        leave(&mut counts.of_job, &self.job);
        leave(&mut counts.of_caller, &self.caller);
    }
}

/// Decrements a count, and removes it at zero.
fn leave<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Watches one job at a bounded rate.
#[derive(Debug)]
pub struct Watcher {
    news: watch::Receiver<JobSnapshot>,
    pause: Duration,
    /// When the last snapshot was returned.
    last: Option<Instant>,
    _place: Option<WatcherSlot>,
}

impl Watcher {
    pub(super) fn new(news: watch::Receiver<JobSnapshot>, place: Option<WatcherSlot>) -> Self {
        Self { news, pause: PAUSE, last: None, _place: place }
    }

    /// Returns the next snapshot. The first one and the end of the job come at once. Other changes come at most ten
    /// times a second, and without a change one comes each second. `None`: the server shuts down.
    pub async fn next(&mut self) -> Option<JobSnapshot> {
        if let Some(last) = self.last {
            let changed = self.rest(last + self.pause).await?;
            if !changed {
                match timeout(INTERVAL_MAX.saturating_sub(self.pause), self.news.changed()).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(_)) => return None,
                }
            }
        }
        self.last = Some(Instant::now());
        Some(self.news.borrow_and_update().clone())
    }

    /// Waits until `until`, or until the job ends; returns whether the job changed. `None`: the server shuts down.
    async fn rest(&mut self, until: Instant) -> Option<bool> {
        let mut changed = false;
        let over = sleep_until(until);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return Some(changed),
                news = self.news.changed() => match news {
                    Ok(()) => {
                        changed = true;
                        if self.news.borrow_and_update().state.has_ended() {
                            return Some(true);
                        }
                    }
                    Err(_) => return None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::tests::snapshot;
    use super::*;
    use crate::jobs::JobState;

    /// Counts messages. The pause is too long to end during the test.
    #[tokio::test]
    async fn the_pause_merges_changes_but_never_delays_the_end() {
        let (sender, news) = watch::channel(snapshot(JobState::Running));
        let mut watcher = Watcher { pause: Duration::from_hours(1), ..Watcher::new(news, None) };
        assert_eq!(watcher.next().await.expect("the state now").chunks, 0);
        let mut messages = 0;
        for chunk in 1..=10_000 {
            sender.send_modify(|job| job.chunks = chunk);
            messages += usize::from(watcher.next().now_or_never().is_some());
        }
        assert_eq!(messages, 0, "all of these changes are within the pause");
        sender.send_modify(|job| job.state = JobState::Succeeded);
        let ended = watcher.next().await.expect("the end");
        assert_eq!((ended.state, ended.chunks), (JobState::Succeeded, 10_000), "the last state is told");
    }

    #[tokio::test]
    async fn without_a_pause_every_change_is_reported() {
        let (sender, news) = watch::channel(snapshot(JobState::Running));
        let mut watcher = Watcher { pause: Duration::ZERO, ..Watcher::new(news, None) };
        watcher.next().await.expect("the state now");
        for chunk in 1..=3 {
            sender.send_modify(|job| job.chunks = chunk);
            assert_eq!(watcher.next().await.expect("a change").chunks, chunk);
        }
        drop(sender);
        assert_eq!(watcher.next().await, None);
    }

    #[track_caller]
    fn check_full(refused: Result<WatcherSlot, JobError>, expected: &str) {
        match refused {
            Err(error @ JobError::TooManyWatchers { .. }) => {
                assert!(error.to_string().contains(expected), "{error}");
                assert!(error.retry_after().is_some());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn watchers_are_limited_by_job_by_caller_and_in_total() {
        let watchers = Watchers::default();
        let owner = |name: &str| Owner::new("", name);
        let job = JobId::new();
        let of_job: Vec<WatcherSlot> =
            (0..OF_A_JOB_MAX).map(|i| watchers.enter(&job, &owner(&i.to_string())).expect("free")).collect();
        check_full(watchers.enter(&job, &owner("late")), "64 watchers of this job");
        let of_caller: Vec<WatcherSlot> =
            (0..OF_A_CALLER_MAX).map(|_| watchers.enter(&JobId::new(), &owner("one")).expect("free")).collect();
        check_full(watchers.enter(&JobId::new(), &owner("one")), "128 watchers of jobs by this caller");
        let rest = OF_ALL_MAX - OF_A_JOB_MAX - OF_A_CALLER_MAX;
        let others: Vec<WatcherSlot> =
            (0..rest).map(|i| watchers.enter(&JobId::new(), &owner(&format!("o{i}"))).expect("free")).collect();
        check_full(watchers.enter(&JobId::new(), &owner("other")), "512 watchers of all jobs");
        drop((of_job, of_caller, others));
        let counts = lock(&watchers.0);
        assert_eq!((counts.all, counts.of_job.len(), counts.of_caller.len()), (0, 0, 0));
    }
}
