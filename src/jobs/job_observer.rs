//! Observer of a running job: notifies watchers, requests checkpoints, and stops training on request.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::job::{Job, StopRequest};
use super::manager::JobManager;
use super::{JobError, JobSnapshot, Progress};
use crate::training::{Event, Next, Observer};

/// Minimum interval between notifications of watchers about progress.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);

/// Observes the training of one job.
#[derive(Debug)]
pub(super) struct JobObserver<'a> {
    manager: &'a JobManager,
    job: &'a Job,
    news: News,
    started: Instant,
    /// Total pause of serving threads when this training started.
    paused_before: Duration,
    /// When the last checkpoint was saved, or when training started.
    saved: Instant,
}

impl<'a> JobObserver<'a> {
    pub(super) fn new(manager: &'a JobManager, job: &'a Job) -> Self {
        let now = Instant::now();
        Self {
            manager,
            job,
            news: News::default(),
            started: now,
            paused_before: manager.min_share.paused(),
            saved: now,
        }
    }
}

impl Observer for JobObserver<'_> {
    fn look(&mut self, event: &Event) -> Next {
        self.job.shared.measures.rows.fetch_add(event.step_rows, Ordering::Relaxed);
        let paused = self.manager.min_share.paused().saturating_sub(self.paused_before);
        self.news.tell(self.job, event, paused);
        #[cfg(test)]
        self.hold(event);
        match self.job.stop_request() {
            StopRequest::Cancel => Next::Stop,
            StopRequest::Pause => Next::SaveAndStop,
            StopRequest::GoOn if self.manager.is_closing() => Next::SaveAndStop,
            StopRequest::GoOn if self.saved.elapsed() >= self.manager.config.checkpoint_every => Next::Save,
            StopRequest::GoOn => Next::GoOn,
        }
    }

    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String> {
        let saved = self.manager.save_checkpoint(self.job, checkpoint);
        self.saved = Instant::now();
        match saved {
            Ok(()) => Ok(()),
            // The previous checkpoint stays; a crash then repeats more work.
            Err(
                error @ (JobError::SpoolFull { .. }
                | JobError::JobTooLarge { .. }
                | JobError::DiskReserve { .. }
                | JobError::DiskFull { .. }),
            ) => {
                tracing::warn!(job = %self.job.id, %error, "checkpoint not saved: after a crash, training resumes from the previous one");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn elapsed(&mut self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
impl JobObserver<'_> {
    /// Blocks at the end of an epoch while a test holds this job after `event.step` steps.
    fn hold(&self, event: &Event) {
        let goes_on =
            || event.epoch_ended && self.job.stop_request() == StopRequest::GoOn && !self.manager.is_closing();
        while goes_on() && super::tests::faults::holds(&self.manager.config.folder, event.step) {
            // A held job makes no further step, so notify watchers here: the last step may not have been reported.
            std::thread::sleep(NEWS_INTERVAL);
            self.job.tell(|_| ());
        }
    }
}

/// Converts training events to progress for watchers.
#[derive(Debug, Default)]
struct News {
    last: Option<Instant>,
    /// Time, rows and steps when the first step was done, as the start of the speed measurement.
    started: Option<(Instant, u64, u64)>,
}

impl News {
    fn tell(&mut self, job: &Job, event: &Event, serving_paused: Duration) {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now - last >= NEWS_INTERVAL);
        if !due && !event.epoch_ended {
            return;
        }
        // A small job can end thousands of epochs a second; do not wake watchers that often.
        if due {
            self.last = Some(now);
        }
        if event.step > 0 {
            // Measure the speed from the first step on, without the preparation. Training may restart from an earlier
            // step.
            self.started = self.started.filter(|(.., step)| *step <= event.step);
            self.started.get_or_insert((now, event.rows_processed, event.step));
        }
        let (since, rows, steps) = self.started.unwrap_or((now, event.rows_processed, event.step));
        let seconds = (now - since).as_secs_f64();
        let (rows, steps) = (event.rows_processed.saturating_sub(rows), event.step.saturating_sub(steps));
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let left = (event.step_count - event.step.min(event.step_count)) as f64;
        let time_left = (steps > 0).then(|| Duration::try_from_secs_f64(left / rate(steps)).ok()).flatten();
        let progress = Progress {
            epoch: event.epoch,
            epoch_count: event.epoch_count,
            step: event.step,
            step_count: event.step_count,
            training_loss: event.training_loss,
            validation_loss: event.validation_loss,
            best_validation_loss: event.best_validation_loss,
            explained_variance: event.explained_variance,
            pca_explained_variance: event.pca_explained_variance,
            rows_per_second: rate(rows),
            time_left,
            serving_paused,
        };
        let change = |snapshot: &mut JobSnapshot| snapshot.progress = Some(progress);
        if due { job.tell(change) } else { job.tell_quietly(change) }
    }
}
