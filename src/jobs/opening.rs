//! Opens uploads: creates a job, or takes over the job that has the key.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::lock::lock;
use super::manager::JobManager;
use super::{IdempotencyKey, JobError, JobSnapshot, JobState, Owner, Priority, Round, ServerFiles, Upload};
use crate::store::StoreError;
use crate::training::CheckedTrainSpec;

/// Result of starting an upload.
#[derive(Debug)]
pub enum Begun {
    /// The upload is open: send the chunks after `last_chunk`.
    Uploading {
        /// The upload to append to.
        upload: Upload,
        /// Current state of the job.
        snapshot: JobSnapshot,
        /// The last chunk on disk, 0 if none.
        last_chunk: u64,
    },
    /// The job with this key already has all its rows, or has ended: watch it.
    Complete {
        /// Current state of the job.
        snapshot: JobSnapshot,
        /// The last chunk on disk.
        last_chunk: u64,
    },
}

impl JobManager {
    /// Creates a job, or returns the job that has this key. If that job waits for rows, this takes over its upload.
    /// `turn` is held until the job exists.
    ///
    /// # Errors
    /// [`JobError::KeyTaken`] if the key belongs to a job with another request; those of the limits, and of the disk.
    pub(super) fn begin(
        self: &Arc<Self>,
        spec: &CheckedTrainSpec,
        files: Option<ServerFiles>,
        (key, owner): (Option<IdempotencyKey>, Owner),
        priority: Priority,
        round: Option<Round>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Begun, JobError> {
        self.activate()?;
        let making = lock(&self.turns.making);
        if self.is_closing() {
            return Err(JobError::ShuttingDown);
        }
        if !self.registry.is_complete() {
            self.models.store().check_writable()?;
            return Err(StoreError::ReadOnly { reason: "its jobs are still being read; try again".to_owned() }.into());
        }
        let known = key.as_ref().and_then(|key| self.registry.of_key(key, &owner));
        let job = match (known, key) {
            (Some(job), Some(key)) if job.spec != *spec || job.round != round || lock(&job.record).files != files => {
                return Err(JobError::KeyTaken { key: key.to_string(), job: job.id.clone() });
            }
            (Some(job), _) => job,
            (None, key) => self.make(spec, files, (key, owner), priority, round, &[])?,
        };
        drop((making, turn));
        // Waits until the current stream has finished the chunk that it is writing.
        let spool = lock(&job.spool);
        let snapshot = job.snapshot();
        if snapshot.state != JobState::Uploading {
            return Ok(Begun::Complete { last_chunk: snapshot.chunks, snapshot });
        }
        let last_chunk = spool.as_ref().map_or(0, |spool| spool.counts().chunks);
        // Take over while the spool is locked, so that `last_chunk` includes all chunks of the previous stream.
        let upload = Upload::take_over(Arc::clone(self), Arc::clone(&job));
        drop(spool);
        Ok(Begun::Uploading { upload, snapshot, last_chunk })
    }
}
