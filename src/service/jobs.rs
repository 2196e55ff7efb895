//! Use cases of training jobs. Those that take a caller check that it may use the model of the job; a job of any other
//! model is reported as unknown.

use tokio::sync::watch;

use super::allowed::owner;
use super::{AllowedTraining, Service, ServiceError};
use crate::jobs::{Begun, IdempotencyKey, JobError, JobId, JobSnapshot, Priority, ServerFiles, Watcher};
use crate::security::Caller;

/// A round of a stream of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundJob(JobId);

impl From<&JobSnapshot> for RoundJob {
    /// Use cases return only snapshots of jobs that the caller may see.
    fn from(round: &JobSnapshot) -> Self {
        Self(round.id.clone())
    }
}

impl Service {
    /// The jobs of models that the caller may use, newest first.
    pub fn jobs_of(&self, caller: &Caller) -> Vec<JobSnapshot> {
        let mut jobs = self.jobs.list();
        jobs.retain(|job| caller.may_use(job.model_name.as_str()));
        jobs
    }

    /// A job.
    pub fn job(&self, caller: &Caller, id: &JobId) -> Result<JobSnapshot, ServiceError> {
        let snapshot = self.jobs.snapshot(id)?;
        if caller.may_use(snapshot.model_name.as_str()) {
            return Ok(snapshot);
        }
        Err(JobError::Unknown(id.to_string()).into())
    }

    /// Follows a job. Counts against the caller's quota of watchers.
    pub fn watch_job(&self, caller: &Caller, id: &JobId) -> Result<Watcher, ServiceError> {
        self.job(caller, id)?;
        Ok(self.jobs.follow_as_watcher(id, &owner(caller))?)
    }

    /// Follows a job that the caller's upload has created. Counts against no quota.
    pub fn follow_upload(&self, job: &JobSnapshot) -> Result<Watcher, ServiceError> {
        Ok(self.jobs.follow(&job.id)?)
    }

    /// Watches a round of a stream of the caller.
    pub fn watch_round(&self, round: &RoundJob) -> Result<watch::Receiver<JobSnapshot>, ServiceError> {
        Ok(self.jobs.watch(&round.0)?)
    }

    /// Cancels a job.
    pub async fn cancel_job(&self, caller: &Caller, id: &JobId) -> Result<JobSnapshot, ServiceError> {
        self.job(caller, id)?;
        Ok(self.jobs.cancel(id).await?)
    }

    /// Pauses a job.
    pub async fn pause_job(&self, caller: &Caller, id: &JobId) -> Result<JobSnapshot, ServiceError> {
        self.job(caller, id)?;
        Ok(self.jobs.pause(id).await?)
    }

    /// Resumes a paused job.
    pub async fn resume_job(&self, caller: &Caller, id: &JobId) -> Result<JobSnapshot, ServiceError> {
        self.job(caller, id)?;
        Ok(self.jobs.resume(id).await?)
    }

    /// Starts a job whose rows the client sends, or takes over the existing one with the same key.
    pub async fn train(
        &self,
        training: AllowedTraining,
        key: Option<IdempotencyKey>,
        priority: Priority,
    ) -> Result<Begun, ServiceError> {
        let (spec, owner) = training.of_job()?;
        Ok(self.jobs.begin(spec, key, priority, owner).await?)
    }

    /// Starts a job on files of the server, or finds the existing one with the same key.
    pub async fn train_on_files(
        &self,
        training: AllowedTraining,
        files: ServerFiles,
        key: Option<IdempotencyKey>,
        priority: Priority,
    ) -> Result<JobSnapshot, ServiceError> {
        let (spec, owner) = training.of_job()?;
        Ok(self.jobs.begin_with_files(spec, files, key, priority, owner).await?)
    }
}
