//! Settings and limits of training jobs.

use std::path::PathBuf;
use std::time::Duration;

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

/// A setting is zero, so it would admit nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is 0, expected at least 1")]
pub struct BadJobs {
    /// Name of the setting.
    pub setting: &'static str,
}
