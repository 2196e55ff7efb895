//! What watchers see of a job.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{EndReason, IdempotencyKey, JobId, JobState, Priority, Round};
use crate::model::{ModelName, TrainingReport, Version};

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
    pub failure: Option<EndReason>,
    /// Whether the job failed because one of its files is damaged or missing.
    pub data_lost: bool,
    /// Why the job succeeded without publishing a version, with the two compared figures.
    pub kept_back: Option<String>,
    /// The client's idempotency key, if it sent one.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Position in a stream, if the job is a round of one.
    pub round: Option<Round>,
}
