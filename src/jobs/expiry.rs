//! Uploads that receive no rows, and jobs that stay paused, are cancelled after a time.

use std::time::{Duration, SystemTime};

use super::job::Job;
use super::lock::lock;
use super::manager::JobManager;
use super::{EndReason, JobError, JobState};

/// An upload without a stream is cancelled after this long, if its client would lose nothing.
const ABANDONED_MAX: Duration = Duration::from_mins(1);

impl JobManager {
    /// Cancels expired uploads, and jobs that were paused for too long.
    pub(super) fn expire(&self, now: SystemTime) {
        for job in self.registry.select(|_| true) {
            let ended = match job.told_state() {
                JobState::Uploading => self.expire_upload(&job, now),
                JobState::Paused => self.expire_paused(&job, now),
                _ => Ok(false),
            };
            if let Err(error) = ended {
                tracing::warn!(job = %job.id, %error, "cannot end an expired job");
            }
        }
    }

    fn expire_upload(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        // Check before locking, so as not to wait for a chunk that is being written.
        if self.expiry(job, now).is_none() {
            return Ok(false);
        }
        let mut spool = lock(&job.spool);
        if job.state() != JobState::Uploading {
            return Ok(false);
        }
        let Some(reason) = self.expiry(job, now) else { return Ok(false) };
        job.cancel_unless_running(Some(EndReason::Other(reason)), || self.let_go(job, &mut spool))
    }

    /// The reason for cancelling an upload, if it has expired.
    fn expiry(&self, job: &Job, now: SystemTime) -> Option<String> {
        let is_attached = job.stream.receiver_count() > 0;
        // A connected stream of rounds may be waiting for running rounds, and its rows may be rare. It never expires.
        if is_attached && job.round.is_some() {
            return None;
        }
        let snapshot = job.snapshot();
        if snapshot.upload_expires.is_some_and(|at| at <= now) {
            return Some(format!("the upload expired: no chunk was received for {:?}", self.config.upload_idle_max));
        }
        // Without a key it cannot be resumed; without chunks, resuming it gains nothing over a new upload.
        let loses_nothing = snapshot.chunks == 0 || snapshot.idempotency_key.is_none();
        let abandoned_max = ABANDONED_MAX.min(self.config.upload_idle_max);
        let abandoned_at = lock(&job.detached).checked_add(abandoned_max)?;
        (!is_attached && loses_nothing && abandoned_at <= now).then(|| {
            format!(
                "the upload expired: its stream ended {abandoned_max:?} ago, and it has no chunks or no idempotency key"
            )
        })
    }

    fn expire_paused(&self, job: &Job, now: SystemTime) -> Result<bool, JobError> {
        let Some(since) = now.checked_sub(self.config.paused_max) else { return Ok(false) };
        let reason = format!("it was paused, and not resumed for {:?}", self.config.paused_max);
        let mut spool = lock(&job.spool);
        job.cancel_if_paused_before(since, reason, || self.let_go(job, &mut spool))
    }
}
