//! Durable training jobs: received rows on disk, states, one runner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{IdError, Matrix, ModelName, TrainingReport, Version};
use crate::registry::Registry;
use crate::training::{CheckedTrainSpec, ParamError, TrainSpec};

/// Where a job is in its life. TODO(D): state.rs, illegal moves are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Rows are being received, or awaited.
    Uploading,
    /// All rows are here.
    Queued,
    /// It trains.
    Running,
    /// Paused by an operator.
    Paused,
    /// A version was published.
    Succeeded,
    /// Ended without a version.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// Names a job: text of a UUID v7, so that ids sort by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::str::FromStr for JobId {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IdempotencyKey(String);

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowRole {
    /// Trained on; validation rows are taken from these.
    Training,
    /// Only measured on.
    Test,
}

/// How far training is.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// What training says.
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
    /// After the last full epoch.
    pub explained_variance: Option<f64>,
    /// PCA's.
    pub pca_explained_variance: Option<f64>,
    /// Over the job so far.
    pub rows_per_second: f64,
    /// If every step takes as long as those so far.
    pub time_left: Option<Duration>,
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
    /// If it succeeded.
    pub version: Option<Version>,
    /// If it succeeded.
    pub report: Option<Arc<TrainingReport>>,
    /// If it failed.
    pub failure: Option<String>,
    /// If one was given.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// TODO(D): `check`, defaults (1 h, ...).
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Folder of the jobs, beside the models.
    pub folder: PathBuf,
    /// An upload without a chunk for this long is cancelled and removed.
    pub upload_idle_max: Duration,
    /// Jobs that have not ended, at most.
    pub open_jobs_max: usize,
    /// Ended jobs remembered, at most (oldest forgotten first).
    pub ended_jobs_max: usize,
    /// Bytes of spooled rows of all jobs, at most.
    pub spool_bytes_max: u64,
    /// Threads that train.
    pub training_threads: usize,
}

/// Why a job is refused or fails. TODO(D): complete, each naming what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// No such job.
    #[error("job {0:?} does not exist")]
    Unknown(String),
    /// The specification.
    #[error(transparent)]
    Spec(#[from] ParamError),
    /// A name.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The key belongs to another specification.
    #[error(
        "idempotency key {key:?} belongs to job {job} with another specification: use another key, or send the same specification"
    )]
    KeyTaken {
        /// The key.
        key: String,
        /// Its job.
        job: JobId,
    },
    /// Another stream with the same key took over.
    #[error("another stream took over the upload of job {0}")]
    TakenOver(JobId),
}

/// All jobs of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Jobs {}

/// The receiving end of one upload. Dropping it leaves the upload to be resumed.
#[derive(Debug)]
pub struct Upload {}

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

impl Jobs {
    /// Recovers the folder: drops torn chunks, expires uploads, queues again what a crash caught.
    pub fn open(config: JobsConfig, registry: Registry) -> Result<Self, JobError> {
        let _ = (config, registry);
        todo!()
    }
    /// Starts an upload, or finds the one of the key and takes it over.
    pub async fn begin(&self, spec: CheckedTrainSpec, key: Option<IdempotencyKey>) -> Result<Begun, JobError> {
        let _ = (spec, key);
        todo!()
    }
    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobSnapshot> {
        todo!()
    }
    /// One job.
    pub fn snapshot(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let _ = id;
        todo!()
    }
    /// The job at every change; the last value has ended.
    pub fn watch(&self, id: &JobId) -> Result<tokio::sync::watch::Receiver<JobSnapshot>, JobError> {
        let _ = id;
        todo!()
    }
    /// Stops a job; returns once it is cancelled.
    pub async fn cancel(&self, id: &JobId) -> Result<JobSnapshot, JobError> {
        let _ = id;
        todo!()
    }
    /// Accepts no more, stops running jobs (they start again from their spool), joins its tasks.
    pub async fn shut_down(&self) {
        todo!()
    }
}

impl Upload {
    /// Appends a chunk and returns once it is on disk: the rows on disk, of both roles.
    pub async fn append(&mut self, number: u64, role: RowRole, rows: Matrix) -> Result<u64, JobError> {
        let _ = (number, role, rows);
        todo!()
    }
    /// Ends the upload if the counts agree; the job is QUEUED.
    pub async fn finish(self, chunks: u64, rows: u64) -> Result<JobSnapshot, JobError> {
        let _ = (chunks, rows);
        todo!()
    }
    /// Resolves when another stream takes this upload over, or the job ends.
    pub async fn taken_over(&mut self) -> JobError {
        todo!()
    }
}

#[expect(dead_code, reason = "skeleton")]
fn uses(_: TrainSpec) {}
