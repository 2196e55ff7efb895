//! Durable training jobs: rows on disk, received or copied from files; states, one runner.
//!
//! ```text
//! <folder>/<id>/job.json    the journal of a job (`journal.rs`)
//! <folder>/<id>/rows.spool  its rows, until it has ended (`spool.rs`)
//! <folder>/<id>/checkpoint  where its training can go on, until it has ended (`checkpoint.rs`)
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

/// Names a job: text of a UUID v7, so that ids sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    /// One that no job has.
    #[expect(clippy::new_without_default, reason = "a default that differs every time would surprise")]
    pub fn new() -> Self {
        Self(Arc::from(uuid::Uuid::now_v7().hyphenated().to_string()))
    }

    /// The text.
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

/// A client's key to come back with: 1 to 128 printable ASCII characters.
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

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowRole {
    /// Trained on; validation rows are taken from these.
    Training,
    /// Only measured on.
    Test,
}

/// How far training is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// From 1; 0 while preparing.
    pub epoch: u32,
    /// In all.
    pub epoch_count: u32,
    /// Steps done.
    pub step: u64,
    /// In all.
    pub step_count: u64,
    /// Mean of this epoch so far.
    pub training_loss: f64,
    /// After the last full epoch.
    pub validation_loss: Option<f64>,
    /// The lowest of all epochs so far.
    pub best_validation_loss: Option<f64>,
    /// After the last full epoch.
    pub explained_variance: Option<f64>,
    /// PCA's.
    pub pca_explained_variance: Option<f64>,
    /// Over the job so far.
    pub rows_per_second: f64,
    /// If every step takes as long as those so far.
    pub time_left: Option<Duration>,
    /// For how long serving threads, added up, have paused for training since the job started or went on.
    pub serving_paused: Duration,
}

/// A job as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSnapshot {
    /// Its id.
    pub id: JobId,
    /// What it trains.
    pub model_name: ModelName,
    /// Its state.
    pub state: JobState,
    /// When its upload began.
    pub created: SystemTime,
    /// When it last changed.
    pub updated: SystemTime,
    /// Among those that wait.
    pub priority: Priority,
    /// While uploading: when it expires.
    pub upload_expires: Option<SystemTime>,
    /// On disk.
    pub chunks: u64,
    /// On disk.
    pub training_rows: u64,
    /// On disk.
    pub test_rows: u64,
    /// Once it runs.
    pub progress: Option<Progress>,
    /// If it succeeded, and was not kept back.
    pub version: Option<Version>,
    /// If it succeeded.
    pub report: Option<Arc<TrainingReport>>,
    /// If it failed, or the server cancelled it.
    pub failure: Option<String>,
    /// Whether it failed because one of its files is damaged or gone.
    pub data_lost: bool,
    /// If it succeeded without a version: why, with both figures.
    pub kept_back: Option<String>,
    /// If one was given.
    pub idempotency_key: Option<IdempotencyKey>,
    /// If it is a round of a stream.
    pub round: Option<Round>,
}

/// Bounds of the jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsConfig {
    /// Folder of the jobs, beside the models.
    pub folder: PathBuf,
    /// An upload without a chunk for this long is cancelled and removed.
    pub upload_idle_max: Duration,
    /// Maximum number of jobs that wait, train or are paused; further jobs are rejected. One caller has at most four fifths.
    pub open_jobs_max: usize,
    /// Uploads that are open, at most. One caller has at most four fifths.
    pub open_uploads_max: usize,
    /// Ended jobs remembered, at most (oldest forgotten first).
    pub ended_jobs_max: usize,
    /// A paused job is cancelled after this long.
    pub paused_max: Duration,
    /// Jobs that train at the same time, at most.
    pub running_jobs_max: usize,
    /// Rows of one job, of both roles, at most.
    pub job_rows_max: u64,
    /// Bytes that one job has on disk (rows and checkpoint), at most.
    pub job_bytes_max: u64,
    /// Bytes that all jobs have on disk, at most.
    pub spool_bytes_max: u64,
    /// Bytes of the disk that jobs leave free.
    pub disk_free_bytes_min: u64,
    /// How often a job that trains writes down where it could go on.
    pub checkpoint_every: Duration,
    /// Threads that train.
    pub training_threads: usize,
    /// Folder whose files clients may train on; none: no file is read for them.
    pub train_folder: Option<PathBuf>,
}

impl JobsConfig {
    /// Every default, over a folder.
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

/// A bound that admits nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is 0, expected at least 1")]
pub struct BadJobs {
    /// Its name.
    pub setting: &'static str,
}

impl JobsConfig {
    /// Refuses bounds that admit nothing.
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

/// How an upload began.
#[derive(Debug)]
pub enum Begun {
    /// Send chunks after `last_chunk`.
    Uploading {
        /// To append to.
        upload: Upload,
        /// The job as it is.
        snapshot: JobSnapshot,
        /// The last chunk on disk, 0 if none.
        last_chunk: u64,
    },
    /// The key's job has all its rows already (or has ended): watch it.
    Complete {
        /// The job as it is.
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
    /// Opens the folder, if this server may write to it (otherwise as soon as it may): cuts off torn chunks, expires
    /// uploads, queues again what a crash caught. Blocking; within a runtime, since it starts the runner.
    pub fn open(config: JobsConfig, registry: Registry, min_share: Arc<MinCpuShare>) -> Result<Self, JobError> {
        let table = Arc::new(JobRegistry::new(config, registry, min_share));
        match table.activate() {
            // Models are served from a folder that cannot be written to; each training call gets the reason.
            Err(error @ JobError::Store(StoreError::Denied { .. })) => {
                tracing::warn!(%error, "no jobs are accepted until the store's folder can be written to");
            }
            other => other?,
        }
        let runner = Arc::new(runner::Runner::start(Arc::clone(&table), runner::train_and_publish));
        Ok(Self { table, runner })
    }

    /// Starts an upload, or finds the one of the key and takes it over; that keeps the priority that it has.
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

    /// Starts a stream that is cut into rounds, or finds that of the key and takes its newest round over.
    ///
    /// # Errors
    /// Besides those of every upload [`JobError::Ended`], if that round ended before it had its rows: what was acknowledged of
    /// them is gone.
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
            // Whoever had the stream may have cut it meanwhile.
            let newest = self.table.newest_round(&round.stream, owner);
            if newest.is_none_or(|newest| newest.number <= round.number) {
                return Ok((round, begun));
            }
        }
    }

    /// The rounds of an owner's stream that are remembered, oldest first.
    pub fn rounds(&self, stream: &IdempotencyKey, owner: &Owner) -> Vec<JobSnapshot> {
        let mut rounds = self.table.rounds(stream, owner);
        rounds.sort_by_key(|job| job.round.as_ref().map(|round| round.number));
        rounds
    }

    /// Makes a job whose rows the server reads from its own files, or finds the one of the key. The files are looked at first,
    /// unless the key's job is there already.
    pub async fn begin_with_files(
        &self,
        spec: CheckedTrainSpec,
        files: ServerFiles,
        key: Option<IdempotencyKey>,
        priority: Priority,
        owner: Owner,
    ) -> Result<JobSnapshot, JobError> {
        let table = Arc::clone(&self.table);
        // One at a time: a file system that answers slowly takes one thread, and keeps nobody from uploading.
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

    /// Versions that jobs begin with that have not ended: those that must stay until they do.
    pub fn bases(&self) -> BTreeSet<ModelKey> {
        self.table.bases()
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobSnapshot> {
        self.table.list()
    }

    /// What is counted of them.
    pub fn measures(&self) -> &TrainingMeasures {
        &self.table.measures
    }

    /// One job.
    pub fn snapshot(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        Ok(self.table.job(id)?.snapshot())
    }

    /// The job at every change; the last value has ended. Closed without that when the server stops.
    pub fn watch(&self, id: &JobId) -> Result<tokio::sync::watch::Receiver<JobSnapshot>, JobError> {
        Ok(self.table.job(id)?.watch())
    }

    /// Follows a job at a bounded rate, for the stream that sent its rows.
    pub fn follow(&self, id: &JobId) -> Result<Watcher, JobError> {
        Ok(Watcher::new(self.watch(id)?, None))
    }

    /// Follows a job at a bounded rate, as one of its watchers.
    ///
    /// # Errors
    /// [`JobError::TooManyWatchers`] if there are as many as there may be.
    pub fn follow_as_watcher(&self, id: &JobId, owner: &Owner) -> Result<Watcher, JobError> {
        let news = self.watch(id)?;
        Ok(Watcher::new(news, Some(self.table.watchers.enter(id, owner)?)))
    }

    /// Stops a job; returns once it is cancelled.
    pub async fn cancel(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let (table, job) = (Arc::clone(&self.table), self.table.job(id)?);
        let mut news = job.watch();
        drop(job);
        let cancelled = id.clone();
        if blocking(move || table.cancel(&cancelled)).await? {
            return self.snapshot(id);
        }
        // It runs: the training loop looks at the flag at every step.
        let ended = news.wait_for(|job| job.state.has_ended()).await.map_err(|_| JobError::ShuttingDown)?.clone();
        if ended.state == JobState::Cancelled {
            Ok(ended)
        } else {
            Err(IllegalMove { from: ended.state, to: JobState::Cancelled }.into())
        }
    }

    /// Lets a job wait; returns once it is paused. One that trains stops at its next step.
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
        // Paused and resumed at once, it may be in line again before this hears of it: then the wish is gone.
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

    /// Puts a paused job in line again.
    pub async fn resume(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let (table, id) = (Arc::clone(&self.table), id.clone());
        blocking(move || table.resume(&id)).await
    }

    /// Takes nothing more, stops training (it starts again at the next start), ends the streams that watch. Again is
    /// harmless.
    pub async fn shut_down(&self) {
        self.table.close();
        self.runner.join().await;
        self.table.forget_all();
    }
}

/// Disk work, off the async threads. It goes on to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(JobError::TaskLost(error.to_string())))
}

#[cfg(test)]
mod tests;
