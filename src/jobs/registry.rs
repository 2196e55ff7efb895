//! Registry of the jobs in memory, by id and by key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::job::Job;
use super::lock::lock;
use super::{IdempotencyKey, JobError, JobId, JobSnapshot, Owner, Round};

/// Jobs in memory. The lock is held for lookups, and never during disk work.
#[derive(Debug, Default)]
pub(super) struct JobRegistry(Mutex<Jobs>);

#[derive(Debug, Default)]
struct Jobs {
    by_id: BTreeMap<JobId, Arc<Job>>,
    /// By owner scope and key: owners do not share keys.
    by_key: HashMap<(String, IdempotencyKey), JobId>,
    /// Jobs whose journals cannot be read, with the error.
    unreadable: HashMap<JobId, JobError>,
    /// Whether all jobs of the folder are here.
    complete: bool,
}

impl JobRegistry {
    /// Whether the jobs folder has been read.
    pub(super) fn is_complete(&self) -> bool {
        lock(&self.0).complete
    }

    /// Records that the jobs folder has been read.
    pub(super) fn set_complete(&self) {
        lock(&self.0).complete = true;
    }

    /// Adds a job.
    pub(super) fn insert(&self, job: Job) -> Arc<Job> {
        let job = Arc::new(job);
        let mut jobs = lock(&self.0);
        if let Some(key) = lock(&job.record).key.clone() {
            jobs.by_key.insert((job.owner.scope().to_owned(), key), job.id.clone());
        }
        jobs.by_id.insert(job.id.clone(), Arc::clone(&job));
        job
    }

    /// Records why the journal of a job cannot be read.
    pub(super) fn insert_unreadable(&self, id: JobId, error: JobError) {
        lock(&self.0).unreadable.insert(id, error);
    }

    /// Removes a job.
    pub(super) fn remove(&self, job: &Job) {
        let mut jobs = lock(&self.0);
        jobs.by_id.remove(&job.id);
        jobs.by_key.retain(|_, id| *id != job.id);
    }

    /// Removes all jobs, which closes their watchers' channels.
    pub(super) fn clear(&self) {
        let mut jobs = lock(&self.0);
        jobs.by_id.clear();
        jobs.by_key.clear();
    }

    /// Looks at all jobs, oldest first, with the lock held.
    pub(super) fn with_jobs<T>(&self, look: impl FnOnce(&BTreeMap<JobId, Arc<Job>>) -> T) -> T {
        look(&lock(&self.0).by_id)
    }

    /// The jobs that `is_wanted` accepts, oldest first.
    pub(super) fn select(&self, is_wanted: impl Fn(&Job) -> bool) -> Vec<Arc<Job>> {
        self.with_jobs(|by_id| by_id.values().filter(|job| is_wanted(job)).cloned().collect())
    }

    /// The job with this id.
    ///
    /// # Errors
    /// [`JobError::Unknown`], or why its journal cannot be read.
    pub(super) fn job(&self, id: &JobId) -> Result<Arc<Job>, JobError> {
        let jobs = lock(&self.0);
        let unknown = || jobs.unreadable.get(id).cloned().unwrap_or_else(|| JobError::Unknown(id.to_string()));
        jobs.by_id.get(id).cloned().ok_or_else(unknown)
    }

    /// The job with this key of the owner.
    pub(super) fn of_key(&self, key: &IdempotencyKey, owner: &Owner) -> Option<Arc<Job>> {
        let jobs = lock(&self.0);
        jobs.by_id.get(jobs.by_key.get(&(owner.scope().to_owned(), key.clone()))?).cloned()
    }

    /// All jobs, newest first.
    pub(super) fn list(&self) -> Vec<JobSnapshot> {
        lock(&self.0).by_id.values().rev().map(|job| job.snapshot()).collect()
    }

    /// The newest remembered round of an owner's stream.
    pub(super) fn newest_round(&self, stream: &IdempotencyKey, owner: &Owner) -> Option<Round> {
        let rounds = self.rounds(stream, owner).into_iter().filter_map(|job| job.round);
        rounds.max_by_key(|round| round.number)
    }

    /// The remembered rounds of an owner's stream.
    pub(super) fn rounds(&self, stream: &IdempotencyKey, owner: &Owner) -> Vec<JobSnapshot> {
        let of_stream = |job: &&Arc<Job>| {
            job.owner.scope() == owner.scope() && job.round.as_ref().is_some_and(|round| round.stream == *stream)
        };
        lock(&self.0).by_id.values().filter(of_stream).map(|job| job.snapshot()).collect()
    }
}
