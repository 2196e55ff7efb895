//! Why a job is refused or fails: each variant names what was expected and what came.

use std::time::Duration;

use super::journal::is_missing;
use super::{IllegalMove, JobId, Priority, ServerFilesError};
use crate::model::text::{shown, shown_list};
use crate::model::{IdError, MatrixError, ModelKey};
use crate::store::StoreError;
use crate::training::ParamError;

/// What was sent ahead of its turn stays for a moment only.
const AHEAD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a job is refused or fails.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// No such job.
    #[error("job {:?} does not exist", shown(_0))]
    Unknown(String),
    /// The specification.
    #[error(transparent)]
    Spec(#[from] ParamError),
    /// The files that it names.
    #[error(transparent)]
    ServerFiles(#[from] ServerFilesError),
    /// A name.
    #[error(transparent)]
    Id(#[from] IdError),
    /// Not a key.
    #[error("idempotency key {:?} is not allowed: expected 1 to 128 printable ASCII characters", shown(got))]
    Key {
        /// What came, cut to a printable length.
        got: String,
    },
    /// Not a priority.
    #[error("priority {got} is not allowed: expected {} to {}", Priority::RANGE.start(), Priority::RANGE.end())]
    Priority {
        /// What came.
        got: i32,
    },
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
    /// The job ended (cancelled, expired) while rows were being sent.
    #[error("job {id} {how}{}", reason.as_deref().map_or(String::new(), |reason| format!(": {reason}")))]
    Ended {
        /// The job.
        id: JobId,
        /// In words.
        how: &'static str,
        /// Why, if that is known.
        reason: Option<String>,
    },
    /// A state that forbids it.
    #[error(transparent)]
    IllegalMove(#[from] IllegalMove),
    /// Rows of another width.
    #[error("the rows have {got} columns, the specification's first width is {expected}")]
    Columns {
        /// What came.
        got: usize,
        /// What was expected.
        expected: usize,
    },
    /// NaN or infinity.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// Not the number of a chunk.
    #[error("a chunk with number 0 came, expected numbers from 1 on; the next is {expected}")]
    ChunkZero {
        /// What was expected.
        expected: u64,
    },
    /// A number that came before, with other rows.
    #[error("chunk {number} came before with other rows or another role: expected the same again, or another number")]
    ChunkDiffers {
        /// Of both.
        number: u64,
    },
    /// Too much that waits for a chunk that did not come.
    #[error(
        "chunk {next} has not come yet: at most {chunks_max} chunks and {bytes_max} bytes are kept meanwhile; send it, and what came after it again"
    )]
    TooFarAhead {
        /// What was expected.
        next: u64,
        /// The limit.
        chunks_max: usize,
        /// The limit.
        bytes_max: u64,
    },
    /// The same, of all uploads together.
    #[error(
        "chunk {next} has not come yet, and what all uploads sent ahead of its turn takes {bytes_max} bytes, the most allowed: come back, and send chunks in their order"
    )]
    AheadFull {
        /// What was expected.
        next: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// `finish` that does not count what came.
    #[error("finish counts {chunks} chunks and {rows} rows, on disk are {chunks_here} chunks and {rows_here} rows")]
    CountsDiffer {
        /// As the client says.
        chunks: u64,
        /// As the client says.
        rows: u64,
        /// On disk.
        chunks_here: u64,
        /// On disk, of both roles.
        rows_here: u64,
    },
    /// Nothing to train on.
    #[error("no training rows came, expected at least 1")]
    NoTrainingRows,
    /// The base is not there any more.
    #[error("the version that training was to begin with is gone: {reason}; train again from another one")]
    BaseGone {
        /// What the store says.
        reason: String,
    },
    /// The newest version became one of another width meanwhile.
    #[error("{base}, the base, takes rows of {expected} numbers, those that came have {got}")]
    BaseWidth {
        /// The base.
        base: ModelKey,
        /// What came.
        got: usize,
        /// What was expected.
        expected: usize,
    },
    /// The newest version became one with other features meanwhile, or with the same in another order.
    #[error(
        "{base}, the base, has the features {}, the rows came for {}: train again, so that their columns are matched with it",
        shown_list(expected.iter().map(String::as_str)),
        shown_list(got.iter().map(String::as_str))
    )]
    BaseFeatures {
        /// The base.
        base: ModelKey,
        /// As the rows are.
        got: Vec<String>,
        /// As those of the base are.
        expected: Vec<String>,
    },
    /// Too many jobs.
    #[error(
        "{open_jobs_max} jobs have not ended yet, the most allowed, or this caller has four fifths of them: wait for one, or \
         cancel one"
    )]
    TooManyJobs {
        /// The limit.
        open_jobs_max: usize,
        /// When one may have ended.
        retry_after: Duration,
    },
    /// Too many uploads.
    #[error(
        "{open_uploads_max} uploads are open, the most allowed, or this caller has four fifths of them: finish one, or cancel \
         its job"
    )]
    TooManyUploads {
        /// The limit.
        open_uploads_max: usize,
        /// When one may have ended.
        retry_after: Duration,
    },
    /// Too many watchers.
    #[error("there are {max} watchers of {of}, the most allowed: ask for the job with GetJob, or come back later")]
    TooManyWatchers {
        /// Of what.
        of: &'static str,
        /// The limit.
        max: usize,
        /// When a place may be free.
        retry_after: Duration,
    },
    /// Too many rows of one job.
    #[error("the job would have {rows} rows, at most {rows_max} are allowed: train on a sample of them")]
    TooManyRows {
        /// With this chunk.
        rows: u64,
        /// The limit.
        rows_max: u64,
    },
    /// Too many bytes of one job.
    #[error("the job would take {bytes} bytes on disk, at most {bytes_max} are allowed: train on a sample of its rows")]
    JobTooLarge {
        /// With this chunk.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Too many bytes of rows.
    #[error(
        "the rows of all jobs would take {bytes} bytes on disk, at most {bytes_max} are allowed: wait for a job to end, or cancel one"
    )]
    SpoolFull {
        /// With this chunk.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
        /// When a job may have ended.
        retry_after: Duration,
    },
    /// The disk is nearly full.
    #[error(
        "{free} bytes are free on the server's disk, {free_min} have to stay so: wait for a job to end, or free some"
    )]
    DiskReserve {
        /// What is free.
        free: u64,
        /// The limit.
        free_min: u64,
        /// When a job may have ended.
        retry_after: Duration,
    },
    /// The disk is full: the job has failed.
    #[error(
        "the server's disk is full ({reason}): free some of it, then send the rows again as a new job (with another idempotency key)"
    )]
    DiskFull {
        /// What was tried, and what the system says.
        reason: String,
    },
    /// A file of the job is damaged.
    #[error("{role} is damaged: {reason}")]
    Damaged {
        /// Which.
        role: String,
        /// What is wrong.
        reason: String,
    },
    /// The store or the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server stops.
    #[error("the server is shutting down: acknowledged rows are kept, come back with the same idempotency key")]
    ShuttingDown,
    /// A task of ours was lost.
    #[error("a disk task was lost: {0}")]
    TaskLost(String),
}

impl JobError {
    /// The same error, but that of a full disk says what to do: its job has failed.
    #[must_use]
    pub(super) fn of_job(self, job: &JobId) -> Self {
        match self {
            Self::Store(StoreError::DiskFull { action, role, source }) => {
                Self::DiskFull { reason: format!("job {job}: {action} {role}: {source}") }
            }
            other => other,
        }
    }

    /// Whether a file of a job is gone or not as it was written, so that another start would find nothing better.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Store(StoreError::NotAFile { .. })) || is_missing(self)
    }

    /// The same error of a round, with the numbers that its stream's client knows: so many chunks were in the rounds before.
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

    /// When it is worth coming back, where that is known.
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
