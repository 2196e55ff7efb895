//! Why a job is refused or fails: each variant names what was expected and what came.

use super::{IllegalMove, JobId};
use crate::model::{IdError, MatrixError};
use crate::store::StoreError;
use crate::training::ParamError;

/// Why a job is refused or fails.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// Not a key.
    #[error("idempotency key {got:?} is not allowed: expected 1 to 128 printable ASCII characters")]
    Key {
        /// What came, cut to a printable length.
        got: String,
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
    /// A chunk that leaves a gap.
    #[error("chunk {got} came, expected {expected} (or an earlier one again)")]
    ChunkOrder {
        /// What came.
        got: u64,
        /// What was expected.
        expected: u64,
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
    /// Too many jobs.
    #[error("{open_jobs_max} jobs have not ended yet, the most allowed: wait for one, or cancel one")]
    TooManyJobs {
        /// The limit.
        open_jobs_max: usize,
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
    },
    /// A file of the job is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: String,
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
