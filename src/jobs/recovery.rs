//! Recovery: reads the jobs folder after a restart. It truncates torn chunks, queues interrupted jobs again, and removes
//! what ended jobs left.

use std::path::PathBuf;
use std::time::SystemTime;

use super::job::Job;
use super::journal::Record;
use super::lock::lock;
use super::manager::JobManager;
use super::spool::{self, Spool};
use super::{JobError, JobId, JobState, checkpoint, held_out};
use crate::store::disk::{ensure_folder, failed, remove, sync_folder};
use crate::store::role::role;

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

    /// Reads the jobs folder, if this server holds the write lock and has not read it yet.
    pub(super) fn activate(&self) -> Result<(), JobError> {
        let _making = lock(&self.turns.making);
        if self.registry.is_complete() || !self.models.store().is_writable() {
            return Ok(());
        }
        let folder = &self.config.folder;
        ensure_folder(folder)?;
        // The folder's name must survive a crash, too.
        folder.parent().map_or(Ok(()), sync_folder)?;
        self.shared.reserve.fill();
        let mut queued = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed("cannot list", folder))? {
            let path = entry.map_err(failed("cannot list", folder))?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.parse::<JobId>().ok()) else {
                tracing::warn!(path = %path.display(), "not a job folder: ignored");
                continue;
            };
            match self.recover(&id, path.clone()) {
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
                    tracing::error!(path = %path.display(), %error, "cannot read a job: ignored");
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

    /// Reads one job after a restart. `None`: the folder had neither a journal nor rows, and was removed.
    fn recover(&self, id: &JobId, folder: PathBuf) -> Result<Option<Job>, JobError> {
        let record = match Record::read(&folder) {
            Ok(record) => record,
            // The journal is written before the first chunk. Rows without a journal are unexpected, so do not remove
            // them.
            Err(error) if error.is_missing() && !spool::holds_chunks(&folder) => {
                remove(&folder)?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if record.id != *id {
            let reason = format!("it is the journal of job {}", record.id);
            return Err(JobError::Damaged { role: role(&folder), reason });
        }
        for entry in std::fs::read_dir(&folder).map_err(failed("cannot list", &folder))? {
            let path = entry.map_err(failed("cannot list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !matches!(name, "job.json" | "rows.spool" | "checkpoint" | "held_out") {
                remove(&path)?;
            }
        }
        let columns = record.columns();
        let state = record.state;
        if state.has_ended() {
            remove(&spool::path(&folder))?;
            remove(&checkpoint::path(&folder))?;
            remove(&held_out::path(&folder))?;
            return Job::new(record, folder, None, false, self.shared.clone()).map(Some);
        }
        if state == JobState::Uploading {
            let job = match Spool::recover(&folder, columns) {
                Ok(spool) => {
                    let counts = spool.counts();
                    let written = spool::path(&folder).metadata().and_then(|data| data.modified()).ok();
                    let job = Job::new(record, folder, Some(spool), false, self.shared.clone())?;
                    let given = held_out::path(&job.folder).metadata().map_or(0, |data| data.len());
                    self.limits.quota.add(&job.share, counts.bytes + given);
                    let last = written.unwrap_or_else(SystemTime::now);
                    job.tell_counts(counts, last.checked_add(self.config.upload_idle_max));
                    job
                }
                // Another restart would not help.
                Err(error) if error.is_damage() => {
                    let job = Job::new(record, folder, None, false, self.shared.clone())?;
                    self.fail(&job, &error);
                    job
                }
                Err(error) => return Err(error),
            };
            return Ok(Some(job));
        }
        if record.waits_for_import() {
            // Remove the partial copy: the files may have changed.
            remove(&spool::path(&folder))?;
            tracing::info!(job = %id, "rows will be copied from files again");
        }
        let bytes = |path: PathBuf| path.metadata().map_or(0, |data| data.len());
        let bytes = bytes(spool::path(&folder)) + bytes(checkpoint::path(&folder)) + bytes(held_out::path(&folder));
        // A QUEUED job may also have published: it may have run before an earlier restart.
        let job = Job::new(record, folder, None, true, self.shared.clone())?;
        self.limits.quota.add(&job.share, bytes);
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
