//! Creation of jobs: on disk first, then in memory. Ended jobs beyond the limit are forgotten meanwhile.

use std::sync::Arc;
use std::time::SystemTime;

use super::job::Job;
use super::journal::Record;
use super::lock::lock;
use super::manager::JobManager;
use super::spool::Spool;
use super::{
    EndReason, IdempotencyKey, JobError, JobId, JobState, Owner, Priority, Round, ServerFiles, base, held_out,
};
use crate::training::CheckedTrainSpec;

/// One caller may hold this multiple of the free places, so a caller alone leaves a fifth to others.
const TIMES_FREE_MAX: usize = 4;

impl JobManager {
    /// Checks the server files of a new job without reading all their rows.
    pub(super) fn check_files(
        &self,
        files: &ServerFiles,
        columns: usize,
        features: Vec<String>,
    ) -> Result<(), JobError> {
        let rows = files.check(self.config.train_folder.as_deref(), columns, features)?;
        let (rows_max, bytes_max) = (self.config.job_rows_max, self.config.job_bytes_max);
        if rows > rows_max {
            return Err(JobError::TooManyRows { rows, rows_max });
        }
        let bytes = rows.saturating_mul(columns as u64 * 4);
        if bytes > bytes_max {
            return Err(JobError::JobTooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Creates the job of `round`, the round after that of `job`, with the held-out rows. Returns the existing job if
    /// it was created before.
    pub(super) fn next_round(&self, job: &Job, round: &Round, held_out: &[f64]) -> Result<Arc<Job>, JobError> {
        let _making = lock(&self.turns.making);
        let key = round.key();
        match self.registry.of_key(&key, &job.owner) {
            Some(known) if known.round.as_ref() == Some(round) && known.spec == job.spec => Ok(known),
            Some(known) => Err(JobError::KeyTaken { key: key.to_string(), job: known.id.clone() }),
            None => {
                let key = (Some(key), job.owner.clone());
                self.make(&job.spec, None, key, job.priority, Some(round.clone()), held_out)
            }
        }
    }

    /// Creates a job in the store, then adds it to the registry. The caller holds `turns.making`.
    ///
    /// # Errors
    /// Those of the limits, of the base and of the disk; nothing of the job stays.
    pub(super) fn make(
        &self,
        spec: &CheckedTrainSpec,
        files: Option<ServerFiles>,
        (key, owner): (Option<IdempotencyKey>, Owner),
        priority: Priority,
        round: Option<Round>,
        held_out: &[f64],
    ) -> Result<Arc<Job>, JobError> {
        self.check_room(&owner, files.is_none())?;
        let (columns, names) = base::columns(&self.models, spec)?;
        self.forget_oldest()?;
        let id = JobId::new();
        let store = self.shared.store.as_ref();
        store.begin(&id)?;
        let make = || {
            // For rows from server files, the import creates the spool.
            let spool = if files.is_none() { Some(Spool::create(store, &id, columns)?) } else { None };
            let mut record = Record::new(id.clone(), spec.spec().clone(), files, key, priority, SystemTime::now());
            record.columns = Some(columns);
            record.column_names = names;
            record.owner = owner;
            record.round = round;
            let given = held_out::write(store, &id, held_out)?;
            store.create(&record)?;
            let bytes = spool.as_ref().map_or(0, |spool| spool.counts().bytes) + given;
            let job = Job::new(record, spool, false, self.shared.clone())?;
            self.limits.quota.reserve(&job.share, bytes, || self.retry_after())?;
            Ok(job)
        };
        let job = make().inspect_err(|_: &JobError| {
            let _ = store.delete(&id);
        })?;
        let uploads = job.state() == JobState::Uploading;
        if uploads {
            job.tell(|snapshot| snapshot.upload_expires = SystemTime::now().checked_add(self.config.upload_idle_max));
        }
        let job = self.registry.insert(job);
        if !uploads {
            self.scheduler.enqueue(job.id.clone());
        }
        Ok(job)
    }

    /// Checks that another job fits. One caller alone cannot take more than four fifths of the places. An abandoned
    /// upload without rows is cancelled if its place is needed.
    fn check_room(&self, owner: &Owner, uploads: bool) -> Result<(), JobError> {
        let (open_jobs_max, open_uploads_max) = (self.config.open_jobs_max, self.config.open_uploads_max);
        let has_room = |uploading: bool, max: usize| {
            let is_of_kind = |job: &&Arc<Job>| {
                let state = job.told_state();
                !state.has_ended() && (state == JobState::Uploading) == uploading
            };
            let (all, own) = self.registry.with_jobs(|by_id| {
                by_id
                    .values()
                    .filter(is_of_kind)
                    .fold((0, 0), |(all, own), job| (all + 1, own + usize::from(job.owner.share() == owner.share())))
            });
            let free = max.saturating_sub(all);
            free > 0 && own < free.saturating_mul(TIMES_FREE_MAX)
        };
        if !has_room(false, open_jobs_max) {
            return Err(JobError::TooManyJobs { open_jobs_max, retry_after: self.retry_after() });
        }
        while uploads && !has_room(true, open_uploads_max) {
            if !self.cancel_abandoned() {
                return Err(JobError::TooManyUploads { open_uploads_max, retry_after: self.retry_after() });
            }
        }
        Ok(())
    }

    /// Cancels the oldest upload that has no rows and no stream; returns false if there is none.
    fn cancel_abandoned(&self) -> bool {
        let uploads = self.registry.select(|job| job.told_state() == JobState::Uploading);
        let reason = "the upload was abandoned: its stream ended before the first chunk, and others needed its place";
        uploads.iter().filter(|job| job.round.is_none() && job.snapshot().chunks == 0).any(|job| {
            // A locked spool means that rows are being written.
            let Ok(mut spool) = job.spool.try_lock() else { return false };
            if job.stream.receiver_count() > 0 || job.state() != JobState::Uploading || job.snapshot().chunks > 0 {
                return false;
            }
            let cancelled =
                job.cancel_unless_running(Some(EndReason::Other(reason.to_owned())), || self.let_go(job, &mut spool));
            cancelled.unwrap_or(false)
        })
    }

    /// Forgets ended jobs beyond the limit, oldest first.
    fn forget_oldest(&self) -> Result<(), JobError> {
        let ended = self.registry.select(|job| job.state().has_ended());
        let surplus = (ended.len() + 1).saturating_sub(self.config.ended_jobs_max.max(1));
        for job in &ended[..surplus.min(ended.len())] {
            self.shared.store.delete(&job.id)?;
            // Needed if its rows could not be removed before.
            self.limits.quota.release_all(&job.share);
            self.registry.remove(job);
        }
        self.scheduler.forget_names(&self.registry);
        Ok(())
    }
}
