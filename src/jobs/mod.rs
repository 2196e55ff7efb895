//! Durable training jobs: rows on disk (uploaded, or copied from server files), job states, and one runner.
//!
//! ```text
//! <folder>/<id>/job.json    the journal of a job (`journal.rs`)
//! <folder>/<id>/rows.spool  its rows, until the job ends (`spool.rs`)
//! <folder>/<id>/checkpoint  its training state, until the job ends (`checkpoint.rs`)
//! <folder>/<id>/held_out    held-out rows from earlier rounds, until the job ends (`held_out.rs`)
//! ```

mod base;
mod checkpoint;
mod error;
pub mod files;
mod held_out;
mod import;
mod index;
mod job;
mod job_observer;
mod journal;
mod owner;
mod queue;
mod quota;
mod registry;
mod reorder_buffer;
mod reserve;
mod round;
mod rows;
mod runner;
mod spool;
mod state;
mod upload;
mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use error::JobError;
pub use files::{ServerFiles, ServerFilesError};
pub use owner::Owner;
pub use queue::Priority;
pub use round::Round;
use serde::{Deserialize, Serialize};
pub use state::{IllegalMove, JobState};
pub use upload::{Acknowledged, Upload};
pub use watch::Watcher;

use self::registry::JobRegistry;
use crate::executor::MinCpuShare;
use crate::model::{ModelKey, ModelName, TrainingReport, Version};
use crate::registry::Registry;
use crate::store::StoreError;
use crate::telemetry::measures::TrainingMeasures;
use crate::training::CheckedTrainSpec;

/// Job id: the text of a UUID v7, so ids sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    /// A new unique id.
    #[expect(clippy::new_without_default, reason = "a default that differs every time would surprise")]
    pub fn new() -> Self {
        Self(Arc::from(uuid::Uuid::now_v7().hyphenated().to_string()))
    }

    /// The id as text, in lowercase with hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = JobError;
    fn from_str(text: &str) -> Result<Self, JobError> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| JobError::Unknown(text.chars().take(80).collect()))?;
        Ok(Self(Arc::from(id.hyphenated().to_string())))
    }
}

impl TryFrom<String> for JobId {
    type Error = JobError;
    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// Idempotency key that a client chooses to resume its upload: 1 to 128 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(String);

impl FromStr for IdempotencyKey {
    type Err = JobError;
    fn from_str(text: &str) -> Result<Self, JobError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(JobError::Key { got: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = JobError;
    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Purpose of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowRole {
    /// Rows to train on. Validation rows are split off from these.
    Training,
    /// Rows for the test metrics only.
    Test,
}

/// Training progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Current epoch, counted from 1; 0 while training prepares.
    pub epoch: u32,
    /// Total number of epochs.
    pub epoch_count: u32,
    /// Completed steps.
    pub step: u64,
    /// Total number of steps.
    pub step_count: u64,
    /// Mean training loss of the current epoch so far.
    pub training_loss: f64,
    /// Validation loss after the last completed epoch.
    pub validation_loss: Option<f64>,
    /// Lowest validation loss of all epochs so far.
    pub best_validation_loss: Option<f64>,
    /// Explained variance on validation rows after the last completed epoch.
    pub explained_variance: Option<f64>,
    /// Explained variance of the PCA baseline.
    pub pca_explained_variance: Option<f64>,
    /// Training speed, averaged since the first step.
    pub rows_per_second: f64,
    /// Estimated time left, from the average time of a step so far.
    pub time_left: Option<Duration>,
    /// Total time that serving threads paused for training since the job started or resumed, summed over threads.
    pub serving_paused: Duration,
}

/// Snapshot of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSnapshot {
    /// The job's id.
    pub id: JobId,
    /// Name of the model that the job trains.
    pub model_name: ModelName,
    /// Current state.
    pub state: JobState,
    /// When the job was created.
    pub created: SystemTime,
    /// When the job last changed.
    pub updated: SystemTime,
    /// Priority among queued jobs.
    pub priority: Priority,
    /// When the upload expires; only while uploading.
    pub upload_expires: Option<SystemTime>,
    /// Chunks on disk.
    pub chunks: u64,
    /// Training rows on disk.
    pub training_rows: u64,
    /// Test rows on disk.
    pub test_rows: u64,
    /// Training progress, once the job runs.
    pub progress: Option<Progress>,
    /// The published version, if the job succeeded and published one.
    pub version: Option<Version>,
    /// The training report, if the job succeeded.
    pub report: Option<Arc<TrainingReport>>,
    /// Why the job failed, or why the server cancelled it.
    pub failure: Option<String>,
    /// Whether the job failed because one of its files is damaged or missing.
    pub data_lost: bool,
    /// Why the job succeeded without publishing a version, with the two compared figures.
    pub kept_back: Option<String>,
    /// The client's idempotency key, if it sent one.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Position in a stream, if the job is a round of one.
    pub round: Option<Round>,
}

/// Settings and limits of training jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsConfig {
    /// Folder of the jobs, next to the models.
    pub folder: PathBuf,
    /// An upload that receives no chunk for this long is cancelled, and its rows are removed.
    pub upload_idle_max: Duration,
    /// Maximum number of queued, running and paused jobs; more are rejected. One caller may hold at most four fifths.
    pub open_jobs_max: usize,
    /// Maximum number of open uploads. One caller may hold at most four fifths.
    pub open_uploads_max: usize,
    /// Maximum number of ended jobs to remember; the oldest are forgotten first.
    pub ended_jobs_max: usize,
    /// A job that stays paused for this long is cancelled.
    pub paused_max: Duration,
    /// Maximum number of jobs that train at the same time.
    pub running_jobs_max: usize,
    /// Maximum rows of one job, training and test rows together.
    pub job_rows_max: u64,
    /// Maximum bytes of one job on disk: rows, checkpoint and held-out rows.
    pub job_bytes_max: u64,
    /// Maximum bytes of all jobs on disk.
    pub spool_bytes_max: u64,
    /// Minimum free bytes that jobs leave on the disk.
    pub disk_free_bytes_min: u64,
    /// Interval between checkpoints of a running job.
    pub checkpoint_every: Duration,
    /// Number of training threads.
    pub training_threads: usize,
    /// Folder whose files clients may train on; if `None`, the server reads no files for clients.
    pub train_folder: Option<PathBuf>,
}

impl JobsConfig {
    /// The defaults, with jobs in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            upload_idle_max: Duration::from_hours(1),
            open_jobs_max: 64,
            open_uploads_max: 256,
            ended_jobs_max: 1000,
            paused_max: Duration::from_hours(7 * 24),
            running_jobs_max: 2,
            job_rows_max: 1_000_000_000,
            job_bytes_max: 32 << 30,
            spool_bytes_max: 64 << 30,
            disk_free_bytes_min: 256 << 20,
            checkpoint_every: Duration::from_secs(30),
            training_threads: crate::executor::ExecutorConfig::default().training_threads,
            train_folder: None,
        }
    }
}

/// A setting is zero, so it would admit nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is 0, expected at least 1")]
pub struct BadJobs {
    /// Name of the setting.
    pub setting: &'static str,
}

impl JobsConfig {
    /// Rejects settings that are zero where at least 1 is needed.
    pub fn check(&self) -> Result<(), BadJobs> {
        for (setting, is_zero) in [
            ("upload_idle_max", self.upload_idle_max.is_zero()),
            ("open_jobs_max", self.open_jobs_max == 0),
            ("open_uploads_max", self.open_uploads_max == 0),
            ("ended_jobs_max", self.ended_jobs_max == 0),
            ("paused_max", self.paused_max.is_zero()),
            ("running_jobs_max", self.running_jobs_max == 0),
            ("job_rows_max", self.job_rows_max == 0),
            ("job_bytes_max", self.job_bytes_max == 0),
            ("spool_bytes_max", self.spool_bytes_max == 0),
            ("checkpoint_every", self.checkpoint_every.is_zero()),
            ("training_threads", self.training_threads == 0),
        ] {
            if is_zero {
                return Err(BadJobs { setting });
            }
        }
        Ok(())
    }
}

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

/// All jobs of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Jobs {
    table: Arc<JobRegistry>,
    runner: Arc<runner::Runner>,
}

impl Jobs {
    /// Opens the jobs folder: truncates torn chunks and requeues the jobs that a crash interrupted. If this server
    /// holds no write lock yet, it does so once it gets the lock. Blocks; call it within a runtime, since it starts the
    /// runner.
    pub fn open(config: JobsConfig, registry: Registry, min_share: Arc<MinCpuShare>) -> Result<Self, JobError> {
        let table = Arc::new(JobRegistry::new(config, registry, min_share));
        match table.activate() {
            // Models can still be served from a folder that is not writable; each training call returns the reason.
            Err(error @ JobError::Store(StoreError::Denied { .. })) => {
                tracing::warn!(%error, "no jobs are accepted until the store's folder is writable");
            }
            other => other?,
        }
        let runner = Arc::new(runner::Runner::start(Arc::clone(&table), runner::train_and_publish));
        Ok(Self { table, runner })
    }

    /// Starts an upload, or takes over the existing upload with this key. An existing job keeps its priority.
    pub async fn begin(
        &self,
        spec: CheckedTrainSpec,
        key: Option<IdempotencyKey>,
        priority: Priority,
        owner: Owner,
    ) -> Result<Begun, JobError> {
        let table = Arc::clone(&self.table);
        let turn = Arc::clone(&table.turn).lock_owned().await;
        blocking(move || table.begin(&spec, None, (key, owner), priority, None, turn)).await
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
            let (table, spec, stream) = (Arc::clone(&self.table), spec.clone(), stream.clone());
            let whose = owner.clone();
            let turn = Arc::clone(&table.turn).lock_owned().await;
            let (round, begun) = blocking(move || {
                table.activate()?;
                table.finish_cut_rounds();
                let round = table.newest_round(&stream, &whose).unwrap_or_else(|| Round::first(stream));
                let key = Some(round.key());
                let begun = table.begin(&spec, None, (key, whose), priority, Some(round.clone()), turn)?;
                match &begun {
                    Begun::Complete { snapshot, .. } => table.job(&snapshot.id)?.check_not_cut_off()?,
                    Begun::Uploading { .. } => {}
                }
                Ok((round, begun))
            })
            .await?;
            // The previous client of the stream may have started a new round in the meantime.
            let newest = self.table.newest_round(&round.stream, owner);
            if newest.is_none_or(|newest| newest.number <= round.number) {
                return Ok((round, begun));
            }
        }
    }

    /// The remembered rounds of an owner's stream, oldest first.
    pub fn rounds(&self, stream: &IdempotencyKey, owner: &Owner) -> Vec<JobSnapshot> {
        let mut rounds = self.table.rounds(stream, owner);
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
        let table = Arc::clone(&self.table);
        // One check at a time: a slow file system then occupies only one thread and does not block uploads.
        let looking = Arc::clone(&table.looking).lock_owned().await;
        let (at, asked, of, known) = (Arc::clone(&table), files.clone(), spec.clone(), key.clone());
        let whose = owner.clone();
        blocking(move || {
            at.activate()?;
            let looked = if at.knows(known.as_ref(), &whose) {
                Ok(())
            } else {
                base::columns(&at, &of).and_then(|(columns, features)| at.check_files(&asked, columns, features))
            };
            drop(looking);
            looked
        })
        .await?;
        let turn = Arc::clone(&table.turn).lock_owned().await;
        match blocking(move || table.begin(&spec, Some(files), (key, owner), priority, None, turn)).await? {
            Begun::Complete { snapshot, .. } | Begun::Uploading { snapshot, .. } => Ok(snapshot),
        }
    }

    /// Base versions of jobs that have not ended. They must not be deleted until those jobs end.
    pub fn bases(&self) -> BTreeSet<ModelKey> {
        self.table.bases()
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobSnapshot> {
        self.table.list()
    }

    /// Counters of training jobs.
    pub fn measures(&self) -> &TrainingMeasures {
        &self.table.measures
    }

    /// The snapshot of one job.
    pub fn snapshot(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        Ok(self.table.job(id)?.snapshot())
    }

    /// Receives the job's snapshot at every change; the last one has an ended state. If the server stops first, the
    /// channel closes without it.
    pub fn watch(&self, id: &JobId) -> Result<tokio::sync::watch::Receiver<JobSnapshot>, JobError> {
        Ok(self.table.job(id)?.watch())
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
        Ok(Watcher::new(news, Some(self.table.watchers.enter(id, owner)?)))
    }

    /// Cancels a job; returns once it is cancelled.
    pub async fn cancel(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let (table, job) = (Arc::clone(&self.table), self.table.job(id)?);
        let mut news = job.watch();
        drop(job);
        let cancelled = id.clone();
        if blocking(move || table.cancel(&cancelled)).await? {
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
        let job = self.table.job(id)?;
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
        let (table, id) = (Arc::clone(&self.table), id.clone());
        blocking(move || table.resume(&id)).await
    }

    /// Rejects new work, stops training (it resumes at the next start), and closes all watchers. Calling it again is
    /// harmless.
    pub async fn shut_down(&self) {
        self.table.close();
        self.runner.join().await;
        self.table.forget_all();
    }
}

/// Runs disk work off the async threads. The work runs to its end even if the caller drops the future.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(JobError::TaskLost(error.to_string())))
}

#[cfg(test)]
mod tests;
