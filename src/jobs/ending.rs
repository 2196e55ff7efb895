//! Ends of uploads and jobs. The journal is written before rows are removed.

use super::job::Job;
use super::journal::Record;
use super::lock::lock;
use super::manager::JobManager;
use super::spool::Spool;
use super::{EndReason, JobError, JobId, JobSnapshot, JobState};
use crate::store::StoreError;

impl JobManager {
    /// Ends an upload whose spool the caller has locked; the job becomes QUEUED.
    pub(super) fn queue_upload(&self, job: &Job, spool: &mut Option<Spool>) -> Result<JobSnapshot, JobError> {
        let counts = spool.as_ref().map(Spool::counts).unwrap_or_default();
        if counts.training_rows == 0 {
            return Err(JobError::NoTrainingRows);
        }
        let snapshot = job.go(JobState::Queued, |record| {
            record.chunks = counts.chunks;
            record.training_rows = counts.training_rows;
            record.test_rows = counts.test_rows;
        })?;
        // No more rows are written, so close the file.
        *spool = None;
        self.scheduler.enqueue(job.id.clone());
        Ok(snapshot)
    }

    /// Puts a paused job back in the queue.
    pub(super) fn resume(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let snapshot = self.registry.job(id)?.resume()?;
        self.scheduler.enqueue(id.clone());
        Ok(snapshot)
    }

    /// Cancels a job that is not running and returns true. For a running job it only requests the stop and returns
    /// false.
    pub(super) fn cancel(&self, id: &JobId) -> Result<bool, JobError> {
        let job = self.registry.job(id)?;
        let mut spool = lock(&job.spool);
        job.cancel_unless_running(None, || self.let_go(&job, &mut spool))
    }

    /// Fails a job.
    pub(super) fn fail(&self, job: &Job, error: &JobError) {
        self.fail_upload(job, &mut lock(&job.spool), error);
    }

    /// Fails a job whose spool the caller has locked. It writes the journal before it removes the rows. If the disk is
    /// full and even the reserve is not enough, it removes the rows first to make room for the journal.
    pub(super) fn fail_upload(&self, job: &Job, spool: &mut Option<Spool>, error: &JobError) {
        tracing::warn!(job = %job.id, %error, "a job failed");
        *spool = None;
        let text = error.to_string();
        let change = |record: &mut Record| {
            record.failure = Some(EndReason::Other(text.clone()));
            record.data_lost = error.is_damage();
        };
        let end = || job.end(JobState::Failed, change, || self.remove_rows(job));
        let ended = end().or_else(|error| match error {
            JobError::Store(StoreError::DiskFull { .. }) => {
                self.remove_rows(job);
                end()
            }
            other => Err(other),
        });
        if let Err(error) = ended {
            tracing::error!(job = %job.id, %error, "cannot persist the job's final state");
            job.end_in_memory(JobState::Failed, text);
        }
    }

    /// Closes the spool of a job that has ended, and removes its rows, checkpoint and held-out rows.
    pub(super) fn let_go(&self, job: &Job, spool: &mut Option<Spool>) {
        *spool = None;
        self.remove_rows(job);
    }

    /// Removes the rows, checkpoint and held-out rows of a job that has ended, or that needs the space to end. The
    /// spool must be closed.
    pub(super) fn remove_rows(&self, job: &Job) {
        match job.store().clear(&job.id) {
            Ok(()) => self.limits.quota.release_all(&job.share),
            Err(error) => tracing::warn!(job = %job.id, %error, "cannot remove the rows of an ended job"),
        }
    }
}
