//! Durable training jobs: rows on disk (uploaded, or copied from server files), job states, and one runner.
//!
//! `store/` keeps all that a job has on disk.

mod base;
mod blocking;
mod config;
mod creation;
mod end_reason;
mod ending;
mod error;
mod expiry;
pub mod files;
mod held_out;
mod id;
mod import;
mod index;
mod job;
mod job_observer;
mod journal;
mod lock;
mod manager;
mod opening;
mod owner;
mod parse;
mod priority;
mod queue;
mod quota;
mod recovery;
mod registry;
mod reorder_buffer;
mod round;
mod row_role;
mod rows;
mod runner;
mod scheduler;
mod snapshot;
mod spool;
mod state;
mod store;
mod turns;
mod upload;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use config::{BadJobs, JobsConfig};
pub use end_reason::EndReason;
pub use error::JobError;
pub use files::{ServerFiles, ServerFilesError};
pub use id::{IdempotencyKey, JobId};
pub use opening::Begun;
pub use owner::Owner;
pub use priority::Priority;
pub use round::Round;
pub use row_role::RowRole;
pub use snapshot::{JobSnapshot, Progress};
pub use state::{IllegalMove, JobState};
pub use upload::{Acknowledged, Upload};
pub use watch::Watcher;

use self::blocking::blocking;
use self::manager::JobManager;
use self::store::JobsFolder;
use crate::executor::MinCpuShare;
use crate::model::ModelKey;
use crate::registry::Registry;
use crate::store::StoreError;
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// All jobs of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Jobs {
    manager: Arc<JobManager>,
    runner: Arc<runner::Runner>,
}

impl Jobs {
    /// Opens the jobs folder: truncates torn chunks and requeues the jobs that a crash interrupted. If this server
    /// holds no write lock yet, it does so once it gets the lock. Blocks; call it within a runtime, since it starts the
    /// runner.
    pub fn open(config: JobsConfig, registry: Registry, min_share: Arc<MinCpuShare>) -> Result<Self, JobError> {
        let store = Arc::new(JobsFolder::new(&config.folder));
        let manager = Arc::new(JobManager::new(config, registry, min_share, store));
        match manager.activate() {
            // Models can still be served from a folder that is not writable; each training call returns the reason.
            Err(error @ JobError::Store(StoreError::Denied { .. })) => {
                tracing::warn!(%error, "no jobs are accepted until the store's folder is writable");
            }
            other => other?,
        }
        let runner = Arc::new(runner::Runner::start(Arc::clone(&manager), runner::train_and_publish));
        Ok(Self { manager, runner })
    }

    /// Starts an upload, or takes over the existing upload with this key. An existing job keeps its priority.
    pub async fn begin(
        &self,
        spec: CheckedTrainSpec,
        key: Option<IdempotencyKey>,
        priority: Priority,
        owner: Owner,
    ) -> Result<Begun, JobError> {
        let manager = Arc::clone(&self.manager);
        let turn = Arc::clone(&manager.turns.creating).lock_owned().await;
        blocking(move || manager.begin(&spec, None, (key, owner), priority, None, turn)).await
    }

    /// Starts a stream that is split into rounds, or takes over the newest round of the existing stream with this key.
    ///
    /// # Errors
    /// Those of [`Jobs::begin`], and [`JobError::Ended`] if that round ended before it had all its rows: its
    /// acknowledged rows are lost.
    pub async fn begin_round(
        &self,
        spec: CheckedTrainSpec,
        stream: &IdempotencyKey,
        priority: Priority,
        owner: &Owner,
    ) -> Result<(Round, Begun), JobError> {
        loop {
            let (manager, spec, stream) = (Arc::clone(&self.manager), spec.clone(), stream.clone());
            let whose = owner.clone();
            let turn = Arc::clone(&manager.turns.creating).lock_owned().await;
            let (round, begun) = blocking(move || {
                manager.activate()?;
                manager.finish_cut_rounds();
                let round = manager.registry.newest_round(&stream, &whose).unwrap_or_else(|| Round::first(stream));
                let key = Some(round.key());
                let begun = manager.begin(&spec, None, (key, whose), priority, Some(round.clone()), turn)?;
                match &begun {
                    Begun::Complete { snapshot, .. } => manager.registry.job(&snapshot.id)?.check_not_cut_off()?,
                    Begun::Uploading { .. } => {}
                }
                Ok((round, begun))
            })
            .await?;
            // The previous client of the stream may have started a new round in the meantime.
            let newest = self.manager.registry.newest_round(&round.stream, owner);
            if newest.is_none_or(|newest| newest.number <= round.number) {
                return Ok((round, begun));
            }
        }
    }

    /// The remembered rounds of an owner's stream, oldest first.
    pub fn rounds(&self, stream: &IdempotencyKey, owner: &Owner) -> Vec<JobSnapshot> {
        let mut rounds = self.manager.registry.rounds(stream, owner);
        rounds.sort_by_key(|job| job.round.as_ref().map(|round| round.number));
        rounds
    }

    /// Creates a job whose rows the server reads from its own files, or returns the existing job with this key. A new
    /// job's files are checked first.
    pub async fn begin_with_files(
        &self,
        spec: CheckedTrainSpec,
        files: ServerFiles,
        key: Option<IdempotencyKey>,
        priority: Priority,
        owner: Owner,
    ) -> Result<JobSnapshot, JobError> {
        let manager = Arc::clone(&self.manager);
        // One check at a time: a slow file system then occupies only one thread and does not block uploads.
        let looking = Arc::clone(&manager.turns.checking).lock_owned().await;
        let (at, asked, of, known) = (Arc::clone(&manager), files.clone(), spec.clone(), key.clone());
        let whose = owner.clone();
        blocking(move || {
            at.activate()?;
            let looked = if known.as_ref().is_some_and(|key| at.registry.of_key(key, &whose).is_some()) {
                Ok(())
            } else {
                base::columns(&at.models, &of).and_then(|(columns, features)| at.check_files(&asked, columns, features))
            };
            drop(looking);
            looked
        })
        .await?;
        let turn = Arc::clone(&manager.turns.creating).lock_owned().await;
        match blocking(move || manager.begin(&spec, Some(files), (key, owner), priority, None, turn)).await? {
            Begun::Complete { snapshot, .. } | Begun::Uploading { snapshot, .. } => Ok(snapshot),
        }
    }

    /// Base versions of jobs that have not ended. They must not be deleted until those jobs end.
    pub fn bases(&self) -> BTreeSet<ModelKey> {
        self.manager.bases()
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobSnapshot> {
        self.manager.registry.list()
    }

    /// Counters of training jobs.
    pub fn measures(&self) -> &TrainingMeasures {
        &self.manager.shared.measures
    }

    /// The snapshot of one job.
    pub fn snapshot(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        Ok(self.manager.registry.job(id)?.snapshot())
    }

    /// Receives the job's snapshot at every change; the last one has an ended state. If the server stops first, the
    /// channel closes without it.
    pub fn watch(&self, id: &JobId) -> Result<tokio::sync::watch::Receiver<JobSnapshot>, JobError> {
        Ok(self.manager.registry.job(id)?.watch())
    }

    /// Watches a job at a bounded rate, for the stream that uploaded its rows. It takes no watcher slot.
    pub fn follow(&self, id: &JobId) -> Result<Watcher, JobError> {
        Ok(Watcher::new(self.watch(id)?, None))
    }

    /// Watches a job at a bounded rate, using one watcher slot.
    ///
    /// # Errors
    /// [`JobError::TooManyWatchers`] if no slot is free.
    pub fn follow_as_watcher(&self, id: &JobId, owner: &Owner) -> Result<Watcher, JobError> {
        let news = self.watch(id)?;
        Ok(Watcher::new(news, Some(self.manager.limits.watchers.enter(id, owner)?)))
    }

    /// Cancels a job; returns once it is cancelled.
    pub async fn cancel(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let (manager, job) = (Arc::clone(&self.manager), self.manager.registry.job(id)?);
        let mut news = job.watch();
        drop(job);
        let cancelled = id.clone();
        if blocking(move || manager.cancel(&cancelled)).await? {
            return self.snapshot(id);
        }
        // The job is running: the training loop checks the stop request at every step.
        let ended = news.wait_for(|job| job.state.has_ended()).await.map_err(|_| JobError::ShuttingDown)?.clone();
        if ended.state == JobState::Cancelled {
            Ok(ended)
        } else {
            Err(IllegalMove { from: ended.state, to: JobState::Cancelled }.into())
        }
    }

    /// Pauses a job; returns once it is paused. A running job stops at its next step.
    pub async fn pause(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let job = self.manager.registry.job(id)?;
        let mut news = job.watch();
        let pausing = Arc::clone(&job);
        if blocking(move || pausing.pause()).await? {
            return Ok(job.snapshot());
        }
        let asked = Arc::downgrade(&job);
        let refused = || asked.upgrade().and_then(|job| job.pause_refused());
        drop(job);
        // If the job is resumed right away, this watcher may never see PAUSED. The cleared stop request shows it
        // instead.
        let answered = |now: &JobSnapshot| {
            now.state == JobState::Paused
                || now.state.has_ended()
                || asked.upgrade().is_none_or(|job| job.stop_request() == job::StopRequest::GoOn)
        };
        let now = news.wait_for(answered).await.map_err(|_| JobError::ShuttingDown)?.clone();
        match refused() {
            _ if now.state.has_ended() => Err(IllegalMove { from: now.state, to: JobState::Paused }.into()),
            Some(error) if now.state != JobState::Paused => Err(error),
            _ => Ok(now),
        }
    }

    /// Puts a paused job back in the queue.
    pub async fn resume(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let (manager, id) = (Arc::clone(&self.manager), id.clone());
        blocking(move || manager.resume(&id)).await
    }

    /// Rejects new work, stops training (it resumes at the next start), and closes all watchers. Calling it again is
    /// harmless.
    pub async fn shut_down(&self) {
        self.manager.close();
        self.runner.join().await;
        self.manager.forget_all();
    }
}

#[cfg(test)]
mod tests;
