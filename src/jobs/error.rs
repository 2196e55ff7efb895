//! Errors of jobs: each variant states what was expected and what was received.

use std::io::ErrorKind;
use std::time::Duration;

use super::{IllegalMove, JobId, Priority, ServerFilesError};
use crate::model::text::{shown, shown_list};
use crate::model::{IdError, MatrixError, ModelKey};
use crate::store::StoreError;
use crate::training::ParamError;

/// Retry delay for a full reorder buffer: chunks ahead of their turn usually leave it soon.
const AHEAD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a job was rejected or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// No job has this id.
    #[error("job {:?} does not exist", shown(_0))]
    Unknown(String),
    /// The training specification is invalid.
    #[error(transparent)]
    Spec(#[from] ParamError),
    /// The server files that the job names cannot be used.
    #[error(transparent)]
    ServerFiles(#[from] ServerFilesError),
    /// A name is invalid.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The idempotency key is invalid.
    #[error("idempotency key {:?} is not allowed: expected 1 to 128 printable ASCII characters", shown(got))]
    Key {
        /// The received key, cut to 80 characters.
        got: String,
    },
    /// The priority is out of range.
    #[error("priority {got} is not allowed: expected {} to {}", Priority::RANGE.start(), Priority::RANGE.end())]
    Priority {
        /// The received priority.
        got: i32,
    },
    /// The idempotency key belongs to a job with another specification.
    #[error(
        "idempotency key {key:?} belongs to job {job} with another specification: use another key, or send the same specification"
    )]
    KeyTaken {
        /// The idempotency key.
        key: String,
        /// The job that has the key.
        job: JobId,
    },
    /// Another stream with the same key took over the upload.
    #[error("another stream took over the upload of job {0}")]
    TakenOver(JobId),
    /// The job ended (cancelled, failed, expired) while its rows were being sent.
    #[error("job {id} {how}{}", reason.as_deref().map_or(String::new(), |reason| format!(": {reason}")))]
    Ended {
        /// The job.
        id: JobId,
        /// How the job ended, as words that follow "job ID".
        how: &'static str,
        /// Why the job ended, if known.
        reason: Option<String>,
    },
    /// The job's state does not allow the change.
    #[error(transparent)]
    IllegalMove(#[from] IllegalMove),
    /// The rows have the wrong number of columns.
    #[error("the rows have {got} columns, expected {expected}, the specification's first width")]
    Columns {
        /// Columns received.
        got: usize,
        /// Columns expected.
        expected: usize,
    },
    /// The rows contain values that are not allowed, such as NaN or infinity.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// The chunk number is 0.
    #[error("chunk number 0 is not allowed: numbers start at 1; the next chunk is {expected}")]
    ChunkZero {
        /// Number of the next chunk.
        expected: u64,
    },
    /// A chunk with this number was received before, with different content.
    #[error(
        "chunk {number} was received before with other rows or another role: send it unchanged, or use another number"
    )]
    ChunkDiffers {
        /// Number of the chunk.
        number: u64,
    },
    /// The reorder buffer of this upload is full: too many chunks arrived ahead of a missing chunk.
    #[error(
        "chunk {next} is missing, and the server buffers at most {chunks_max} chunks and {bytes_max} bytes after it: \
         send it, then send the chunks after it again"
    )]
    TooFarAhead {
        /// Number of the missing chunk.
        next: u64,
        /// Maximum number of buffered chunks.
        chunks_max: usize,
        /// Maximum number of buffered bytes.
        bytes_max: u64,
    },
    /// The reorder buffers of all uploads together are full.
    #[error(
        "chunk {next} is missing, and the out-of-order chunks of all uploads take {bytes_max} bytes, the most \
         allowed: retry later, and send chunks in order"
    )]
    AheadFull {
        /// Number of the missing chunk.
        next: u64,
        /// Maximum number of buffered bytes of all uploads.
        bytes_max: u64,
    },
    /// The counts in `finish` differ from the counts on disk.
    #[error(
        "finish counts {chunks} chunks and {rows} rows, but {chunks_here} chunks and {rows_here} rows are on disk: correct \
         the counts, or send the missing chunks"
    )]
    CountsDiffer {
        /// Chunks that the client counted.
        chunks: u64,
        /// Rows that the client counted.
        rows: u64,
        /// Chunks on disk.
        chunks_here: u64,
        /// Rows on disk, training and test rows together.
        rows_here: u64,
    },
    /// The job has no training rows.
    #[error("received no training rows, expected at least 1")]
    NoTrainingRows,
    /// The base version no longer exists.
    #[error("the base version no longer exists: {reason}; train again from another version")]
    BaseGone {
        /// The error from the store.
        reason: String,
    },
    /// The base was replaced after the upload began, by a version with another number of features.
    #[error(
        "the base version {base} expects rows with {expected} features, the rows of this job have {got}: train from \
         another version, or without one"
    )]
    BaseWidth {
        /// The base version.
        base: ModelKey,
        /// Features of the job's rows.
        got: usize,
        /// Features of the base version.
        expected: usize,
    },
    /// The base was replaced after the upload began, by a version with other feature names or another feature order.
    #[error(
        "the base version {base} has the features {}, this job's rows have {}: train again to match columns by name",
        shown_list(expected.iter().map(String::as_str)),
        shown_list(got.iter().map(String::as_str))
    )]
    BaseFeatures {
        /// The base version.
        base: ModelKey,
        /// Feature names of the job's rows, in order.
        got: Vec<String>,
        /// Feature names of the base version, in order.
        expected: Vec<String>,
    },
    /// Too many open jobs, in all or of this caller.
    #[error(
        "too many open jobs: {open_jobs_max} are allowed, of which one caller may hold four fifths; wait for a \
         job to end, or cancel one"
    )]
    TooManyJobs {
        /// Maximum number of open jobs.
        open_jobs_max: usize,
        /// Delay after which a job may have ended.
        retry_after: Duration,
    },
    /// Too many open uploads, in all or of this caller.
    #[error(
        "too many open uploads: {open_uploads_max} are allowed, of which one caller may hold four fifths; finish \
         one, or cancel its job"
    )]
    TooManyUploads {
        /// Maximum number of open uploads.
        open_uploads_max: usize,
        /// Delay after which a job may have ended.
        retry_after: Duration,
    },
    /// Too many watchers.
    #[error("there are {max} watchers of {of}, the most allowed: call GetJob instead, or retry later")]
    TooManyWatchers {
        /// What is watched: this job, jobs by this caller, or all jobs.
        of: &'static str,
        /// Maximum number of watchers.
        max: usize,
        /// Delay after which a slot may be free.
        retry_after: Duration,
    },
    /// The job has too many rows.
    #[error("the job would have {rows} rows, at most {rows_max} are allowed: train on a sample of them")]
    TooManyRows {
        /// Rows of the job, including the new ones.
        rows: u64,
        /// Maximum rows of one job.
        rows_max: u64,
    },
    /// The job takes too many bytes on disk.
    #[error("the job would take {bytes} bytes on disk, at most {bytes_max} are allowed: train on a sample of its rows")]
    JobTooLarge {
        /// Bytes of the job, including the new ones.
        bytes: u64,
        /// Maximum bytes of one job.
        bytes_max: u64,
    },
    /// All jobs together take too many bytes on disk.
    #[error(
        "the rows of all jobs would take {bytes} bytes on disk, at most {bytes_max} are allowed: wait for a job to end, or cancel one"
    )]
    SpoolFull {
        /// Bytes of all jobs, including the new ones.
        bytes: u64,
        /// Maximum bytes of all jobs.
        bytes_max: u64,
        /// Delay after which a job may have ended.
        retry_after: Duration,
    },
    /// The write would leave too little free space on the disk.
    #[error(
        "{free} bytes are free on the server's disk, {free_min} must stay free: wait for a job to end, or free \
         disk space"
    )]
    DiskReserve {
        /// Free bytes on the disk.
        free: u64,
        /// Bytes that must stay free.
        free_min: u64,
        /// Delay after which a job may have ended.
        retry_after: Duration,
    },
    /// The disk is full, so the job failed.
    #[error(
        "the server's disk is full ({reason}): free disk space, then send the rows again as a new job (with another \
         idempotency key)"
    )]
    DiskFull {
        /// The job, the attempted action and file, and the error of the system.
        reason: String,
    },
    /// A file of the job is damaged.
    #[error("{role} is damaged: {reason}")]
    Damaged {
        /// The damaged file, named by its role.
        role: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stored record of the job is not the one that this server read or wrote last.
    #[error("another server changed job {0} in the meantime: ask for the job again")]
    Changed(JobId),
    /// An error of the store or the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server is shutting down.
    #[error("the server is shutting down: acknowledged rows are kept, resume with the same idempotency key")]
    ShuttingDown,
    /// A blocking disk task panicked or was cancelled.
    #[error("a disk task was lost: {0}")]
    TaskLost(String),
}

impl JobError {
    /// Turns a full-disk error of the store into [`JobError::DiskFull`], which names the job and says what to do. Other
    /// errors stay the same.
    #[must_use]
    pub(super) fn of_job(self, job: &JobId) -> Self {
        match self {
            Self::Store(StoreError::DiskFull { action, role, source }) => {
                Self::DiskFull { reason: format!("job {job}: {action} {role}: {source}") }
            }
            other => other,
        }
    }

    /// Whether a file of a job is missing or damaged, so that a restart would not help.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Store(StoreError::NotAFile { .. })) || self.is_missing()
    }

    /// Whether it means that a file does not exist, as opposed to a damaged file.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Store(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
    }

    /// Converts the chunk numbers of a round to the client's numbers in the whole stream, by adding `chunks_before`.
    #[must_use]
    pub fn of_stream(self, chunks_before: u64) -> Self {
        match self {
            Self::ChunkZero { expected } => Self::ChunkZero { expected: expected + chunks_before },
            Self::ChunkDiffers { number } => Self::ChunkDiffers { number: number + chunks_before },
            Self::TooFarAhead { next, chunks_max, bytes_max } => {
                Self::TooFarAhead { next: next + chunks_before, chunks_max, bytes_max }
            }
            Self::AheadFull { next, bytes_max } => Self::AheadFull { next: next + chunks_before, bytes_max },
            other => other,
        }
    }

    /// Retry delay, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyJobs { retry_after, .. }
            | Self::SpoolFull { retry_after, .. }
            | Self::TooManyUploads { retry_after, .. }
            | Self::TooManyWatchers { retry_after, .. }
            | Self::DiskReserve { retry_after, .. } => Some(*retry_after),
            Self::AheadFull { .. } => Some(AHEAD_RETRY_AFTER),
            _ => None,
        }
    }
}
