//! Recovery: reads all jobs after a restart. It truncates torn chunks, queues interrupted jobs again, and removes what
//! ended jobs left.

use std::time::SystemTime;

use super::job::Job;
use super::lock::lock;
use super::manager::JobManager;
use super::spool::Spool;
use super::{JobError, JobId, JobState};

impl JobManager {
    /// Calls [`JobManager::activate`] from a periodic task. Each failure reason is logged once.
    pub(super) fn try_activate(&self) {
        let reason = self.activate().map_or_else(|error| error.to_string(), |()| String::new());
        let mut told = lock(&self.refusal);
        if *told != reason && !reason.is_empty() {
            tracing::warn!(%reason, "cannot use the jobs folder");
        }
        *told = reason;
    }

    /// Reads all jobs, if this server holds the write lock and has not read them yet.
    pub(super) fn activate(&self) -> Result<(), JobError> {
        let _making = lock(&self.turns.making);
        if self.registry.is_complete() || !self.models.store().is_writable() {
            return Ok(());
        }
        let store = &self.shared.store;
        store.open()?;
        let mut queued = Vec::new();
        for id in store.list()? {
            match self.recover(&id) {
                Ok(Some(job)) => {
                    if job.state() == JobState::Running {
                        // It was running when the server stopped, so it runs first.
                        job.put_back();
                        queued.push((0, id));
                    } else if job.state() == JobState::Queued {
                        queued.push((lock(&job.record).updated_unix_ms.max(1), id));
                    }
                    self.registry.insert(job);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(job = %id, %error, "cannot read a job: ignored");
                    let missing = || {
                        let reason = "it is missing, but the job has rows; remove the job's folder if unneeded";
                        JobError::Damaged { role: format!("the journal of job {id}"), reason: reason.to_owned() }
                    };
                    let error = if error.is_missing() { missing() } else { error };
                    self.registry.insert_unreadable(id, error);
                }
            }
        }
        queued.sort();
        self.scheduler.restore(queued.into_iter().map(|(_, id)| id));
        self.registry.set_complete();
        // A crash between two rounds may have left an open upload.
        self.finish_cut_rounds();
        self.scheduler.wake();
        Ok(())
    }

    /// Reads one job after a restart. `None`: its creation was interrupted, and nothing of it stays.
    fn recover(&self, id: &JobId) -> Result<Option<Job>, JobError> {
        let store = self.shared.store.as_ref();
        let Some(record) = store.recover(id)? else { return Ok(None) };
        let columns = record.columns();
        let state = record.state;
        if state.has_ended() {
            store.clear(id)?;
            return Job::new(record, None, false, self.shared.clone()).map(Some);
        }
        if state == JobState::Uploading {
            let job = match Spool::recover(store, id, columns) {
                Ok(spool) => {
                    let counts = spool.counts();
                    let written = spool.modified();
                    let job = Job::new(record, Some(spool), false, self.shared.clone())?;
                    self.limits.quota.add(&job.share, store.bytes(id));
                    let last = written.unwrap_or_else(SystemTime::now);
                    job.tell_counts(counts, last.checked_add(self.config.upload_idle_max));
                    job
                }
                // Another restart would not help.
                Err(error) if error.is_damage() => {
                    let job = Job::new(record, None, false, self.shared.clone())?;
                    self.fail(&job, &error);
                    job
                }
                Err(error) => return Err(error),
            };
            return Ok(Some(job));
        }
        if record.waits_for_import() {
            // Remove the partial copy: the files may have changed.
            store.remove_rows(id)?;
            tracing::info!(job = %id, "rows will be copied from files again");
        }
        // A QUEUED job may also have published: it may have run before an earlier restart.
        let job = Job::new(record, None, true, self.shared.clone())?;
        self.limits.quota.add(&job.share, store.bytes(id));
        Ok(Some(job))
    }

    /// Ends the uploads of rounds whose next round already exists, which happens after a crash between the two steps.
    pub(super) fn finish_cut_rounds(&self) {
        let rounds = self.registry.select(|job| job.round.is_some());
        let has_next = |job: &Job| rounds.iter().any(|other| other.is_later_round_than(job));
        for job in rounds.iter().filter(|job| job.told_state() == JobState::Uploading && has_next(job)) {
            let mut spool = lock(&job.spool);
            // The stream that ends this round holds the spool until it is done.
            if job.state() != JobState::Uploading {
                continue;
            }
            if let Err(error) = self.queue_upload(job, &mut spool) {
                tracing::warn!(job = %job.id, %error, "cannot end the upload of a round");
            }
        }
    }
}
