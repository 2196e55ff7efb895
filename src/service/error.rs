//! Errors of the use cases, and their kinds.

use std::time::Duration;

use crate::batching::BatchError;
use crate::files::folder::FolderError;
use crate::jobs::{JobError, ServerFilesError};
use crate::model::sample::SampleError;
use crate::model::{
    ArtifactError, CanonicalError, InverseError, MatrixError, ModelKey, ModelName, OrthonormalError, SpectrumError,
    Version,
};
use crate::security::Refusal;
use crate::store::StoreError;
use crate::telemetry::measures::Cause;

/// Retry delay when too many models load or too much is in flight. Models are read from disk one at a time, so room
/// is free again soon.
const LOAD_RETRY_AFTER: Duration = Duration::from_millis(500);

/// Retry delay for inspections and transfers. An inspection takes up to a minute.
const INSPECTION_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Kinds of failure that a caller can tell apart. Each has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The requested item does not exist.
    NotFound,
    /// The request is wrong and will never succeed unchanged.
    Invalid,
    /// No room now: retry later, or send less.
    Exhausted,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The state of the system forbids it. The message says what would have to change.
    Precondition,
    /// Another client was faster.
    Aborted,
    /// The idempotency key is in use for another specification.
    AlreadyExists,
    /// The result is not finite, or does not fit the requested form.
    NotRepresentable,
    /// A stored file is damaged.
    Damaged,
    /// The server is shutting down. Another server may accept the request.
    Unavailable,
    /// Missing or invalid credential.
    Unauthenticated,
    /// The caller lacks the permission.
    Forbidden,
    /// A fault of the server.
    Internal,
}

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A field of a request is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// Path of the field in the API.
        field: String,
        /// What was expected, and what was received.
        message: String,
    },
    /// Decoding without a version.
    #[error(
        "name the version or alias that made these codes: no other can decode them (the newest version of {name} is \
         {newest})"
    )]
    VersionRequired {
        /// The model.
        name: ModelName,
        /// Its newest version.
        newest: Version,
    },
    /// An imported file is larger than the limit.
    #[error("the file is larger than {bytes_max} bytes, the limit for imports")]
    FileTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// An imported file is invalid.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// An error of the batcher.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// An error of the model store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Decoding with the pseudo-inverse, of a model that has none.
    #[error("{key} has no pseudo-inverse: {error}")]
    NoInverse {
        /// The version.
        key: ModelKey,
        /// Why there is none.
        error: InverseError,
    },
    /// Scoring with a version without statistics.
    #[error("{0} has no statistics for scoring: train it again with validation rows and a code length of at most 1024")]
    NoStatistics(ModelKey),
    /// A name that no model can have, in the wording of the Open Inference Protocol.
    #[error("{0}")]
    UnknownToProtocol(String),
    /// Imputing with a model that takes no missing values.
    #[error("{key} does not take missing values: train it with `missing_values` (`halfhitch train --missing-values`)")]
    NoMissingValues {
        /// The version.
        key: ModelKey,
    },
    /// Cutting codes short whose first numbers are not the best ones.
    #[error(
        "the codes of {0} are not ordered, so they cannot be cut short: run `halfhitch models canonicalize`, \
         or train with `nested_dropout`"
    )]
    NotOrdered(ModelKey),
    /// The codes cannot be made canonical.
    #[error("{key} cannot be made canonical: {error}")]
    Canonical {
        /// The version.
        key: ModelKey,
        /// The reason.
        error: CanonicalError,
    },
    /// The version stores no validation sample.
    #[error(
        "{key} keeps no validation sample: send rows, or train it with `validation_sample_rows` \
         (`halfhitch train --validation-sample ROWS`)"
    )]
    NoSample {
        /// The version.
        key: ModelKey,
    },
    /// The stored validation sample is damaged.
    #[error("{key}: {error}")]
    DamagedSample {
        /// The version.
        key: ModelKey,
        /// What is wrong with it.
        error: SampleError,
    },
    /// The code layer cannot be made orthonormal.
    #[error("{key} cannot be made orthonormal: {error}")]
    Orthonormal {
        /// The version.
        key: ModelKey,
        /// The reason.
        error: OrthonormalError,
    },
    /// The version cannot be inspected.
    #[error("{key} cannot be inspected: {error}")]
    NotInspected {
        /// The version.
        key: ModelKey,
        /// The reason.
        error: SpectrumError,
    },
    /// Too many inspections at once.
    #[error("{max} inspections run or wait already, the limit of this server: retry later")]
    InspectionsFull {
        /// The limit.
        max: usize,
    },
    /// Too many imports or exports at once.
    #[error("{max} model files are being sent or received already, the limit of this server: retry later")]
    TransfersFull {
        /// The limit.
        max: usize,
    },
    /// The client stopped sending or reading.
    #[error("the next chunk of the file was not sent or not read within {wait_max:?}: start the transfer again")]
    TransferIdle {
        /// Maximum wait for one chunk.
        wait_max: Duration,
    },
    /// An error of the training jobs.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job that a stream followed failed or was cancelled.
    #[error("{0}")]
    JobEnded(String),
    /// The job failed because one of its files is damaged or missing.
    #[error("{0}")]
    JobLost(String),
    /// An error in one message of a stream.
    #[error("message {number}: {error}")]
    Message {
        /// Number of the message, from 1.
        number: u64,
        /// The error.
        error: Box<ServiceError>,
    },
    /// The caller lacks permission, or has reached a limit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server is shutting down.
    #[error("the server is shutting down: {0}")]
    ShuttingDown(&'static str),
    /// A fault of the server.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    /// An error in a field of a request.
    #[expect(clippy::needless_pass_by_value, reason = "errors and literals, all about to be text")]
    pub fn invalid(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Invalid { field: field.into(), message: message.to_string() }
    }

    /// The same error, as that of message `number` of a stream.
    #[must_use]
    pub fn of_message(self, number: u64) -> Self {
        Self::Message { number, error: Box::new(self) }
    }

    /// The kind of the error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::VersionRequired { .. } | Self::Artifact(_) => Kind::Invalid,
            Self::UnknownToProtocol(_) => Kind::NotFound,
            Self::DamagedSample { .. } | Self::JobLost(_) => Kind::Damaged,
            Self::FileTooLarge { .. } | Self::InspectionsFull { .. } | Self::TransfersFull { .. } => Kind::Exhausted,
            Self::TransferIdle { .. } => Kind::DeadlineExceeded,
            Self::Batch(error) => batch_kind(error),
            Self::Store(error) => store_kind(error),
            Self::Job(error) => job_kind(error),
            Self::JobEnded(_)
            | Self::NoInverse { .. }
            | Self::NoStatistics(_)
            | Self::NoMissingValues { .. }
            | Self::NoSample { .. }
            | Self::NotInspected { .. }
            | Self::NotOrdered(_)
            | Self::Canonical { .. }
            | Self::Orthonormal { .. } => Kind::Precondition,
            Self::Message { error, .. } => error.kind(),
            Self::Refused(refusal) => match refusal {
                Refusal::Unknown => Kind::Unauthenticated,
                Refusal::Method { .. } | Refusal::Model { .. } => Kind::Forbidden,
                Refusal::TooMuch { .. } | Refusal::TooOften { .. } | Refusal::NoRoom { .. } => Kind::Exhausted,
                Refusal::TooSlow { .. } => Kind::DeadlineExceeded,
            },
            Self::ShuttingDown(_) => Kind::Unavailable,
            Self::Internal(_) => Kind::Internal,
        }
    }

    /// The cause under which metrics count the error.
    pub fn cause(&self) -> Cause {
        match (self, self.kind()) {
            (Self::Message { error, .. }, _) => error.cause(),
            (Self::Batch(BatchError::Full { .. }), _) => Cause::QueueFull,
            (Self::Refused(Refusal::TooMuch { .. } | Refusal::TooOften { .. }), _) => Cause::Limited,
            (
                Self::Batch(BatchError::TooLarge { .. })
                | Self::FileTooLarge { .. }
                | Self::Store(StoreError::TooLarge { .. })
                | Self::Job(JobError::TooManyRows { .. } | JobError::JobTooLarge { .. }),
                _,
            ) => Cause::TooLarge,
            (_, Kind::Unauthenticated | Kind::Forbidden) => Cause::Denied,
            (_, Kind::NotFound) => Cause::Unknown,
            (_, Kind::Invalid) => Cause::Invalid,
            (_, Kind::Exhausted) => Cause::NoRoom,
            (_, Kind::DeadlineExceeded) => Cause::Deadline,
            (_, Kind::Precondition | Kind::Aborted | Kind::AlreadyExists) => Cause::State,
            (_, Kind::NotRepresentable) => Cause::NotFinite,
            (_, Kind::Unavailable) => Cause::Draining,
            (_, Kind::Damaged | Kind::Internal) => Cause::Fault,
        }
    }

    /// Path of the wrong field in the request, if the error has one.
    pub fn field(&self) -> Option<String> {
        match self {
            Self::Invalid { field, .. } => Some(field.clone()),
            Self::VersionRequired { .. } => Some("model.selector".to_owned()),
            Self::Artifact(_) => Some("chunk".to_owned()),
            Self::Job(error) => job_field(error),
            Self::Message { error, .. } => error.field(),
            _ => None,
        }
    }

    /// Index of the wrong row in the request, from 0, if the error has one.
    pub fn row(&self) -> Option<usize> {
        match self {
            Self::Batch(
                BatchError::ResultNotFinite { row }
                | BatchError::DoesNotFit { row, .. }
                | BatchError::Matrix(MatrixError::NotFinite { row, .. }),
            )
            | Self::Job(JobError::Matrix(MatrixError::NotFinite { row, .. })) => Some(*row),
            Self::Message { error, .. } => error.row(),
            _ => None,
        }
    }

    /// The retry delay, if known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Batch(BatchError::Full { retry_after, .. }) => Some(*retry_after),
            Self::Store(StoreError::LoadsFull { .. }) | Self::Refused(Refusal::NoRoom { .. }) => Some(LOAD_RETRY_AFTER),
            Self::InspectionsFull { .. } | Self::TransfersFull { .. } => Some(INSPECTION_RETRY_AFTER),
            Self::Job(error) => error.retry_after(),
            Self::Message { error, .. } => error.retry_after(),
            Self::Refused(Refusal::TooMuch { retry_after, .. } | Refusal::TooOften { retry_after, .. }) => {
                Some(*retry_after)
            }
            _ => None,
        }
    }
}

/// The wrong field of a `Train` stream, if the error has one.
fn job_field(error: &JobError) -> Option<String> {
    match error {
        JobError::Spec(error) => Some(format!("spec.{}", error.field())),
        JobError::ServerFiles(error) if files_kind(error) == Kind::Invalid => Some("spec.files".to_owned()),
        JobError::Id(_) => Some("spec.model_name".to_owned()),
        JobError::Key { .. } => Some("spec.idempotency_key".to_owned()),
        JobError::Columns { .. } | JobError::Matrix(_) => Some("chunk.rows".to_owned()),
        JobError::Priority { .. } => Some("spec.priority".to_owned()),
        JobError::ChunkZero { .. } | JobError::ChunkDiffers { .. } => Some("chunk.number".to_owned()),
        JobError::CountsDiffer { .. } | JobError::NoTrainingRows => Some("finish".to_owned()),
        _ => None,
    }
}

fn batch_kind(error: &BatchError) -> Kind {
    match error {
        BatchError::Columns { .. } | BatchError::Matrix(_) => Kind::Invalid,
        BatchError::ResultNotFinite { .. } | BatchError::DoesNotFit { .. } => Kind::NotRepresentable,
        BatchError::Full { .. } | BatchError::TooLarge { .. } => Kind::Exhausted,
        BatchError::DeadlineExceeded => Kind::DeadlineExceeded,
        BatchError::ShuttingDown => Kind::Unavailable,
        BatchError::WorkerLost => Kind::Internal,
    }
}

fn store_kind(error: &StoreError) -> Kind {
    match error {
        StoreError::UnknownModel(_) | StoreError::UnknownVersion { .. } | StoreError::UnknownAlias { .. } => {
            Kind::NotFound
        }
        StoreError::AliasMoved { .. } => Kind::Aborted,
        StoreError::Aliased { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Denied { .. }
        | StoreError::NoVersionLeft { .. }
        | StoreError::NotServed { .. }
        | StoreError::NotAFolder { .. } => Kind::Precondition,
        StoreError::TooManyAliases { .. }
        | StoreError::TooLarge { .. }
        | StoreError::DiskFull { .. }
        | StoreError::LoadsFull { .. } => Kind::Exhausted,
        StoreError::Damaged { .. }
        | StoreError::BadIndex { .. }
        | StoreError::VersionLost { .. }
        | StoreError::NotAFile { .. } => Kind::Damaged,
        StoreError::LoadLost { .. } | StoreError::Io { .. } => Kind::Internal,
    }
}

fn job_kind(error: &JobError) -> Kind {
    match error {
        JobError::Unknown(_) => Kind::NotFound,
        JobError::Spec(_)
        | JobError::Id(_)
        | JobError::Key { .. }
        | JobError::Columns { .. }
        | JobError::Matrix(_)
        | JobError::Priority { .. }
        | JobError::ChunkZero { .. }
        | JobError::ChunkDiffers { .. }
        | JobError::CountsDiffer { .. }
        | JobError::NoTrainingRows => Kind::Invalid,
        JobError::ServerFiles(error) => files_kind(error),
        JobError::KeyTaken { .. } => Kind::AlreadyExists,
        JobError::TakenOver(_) | JobError::Changed(_) => Kind::Aborted,
        JobError::Ended { .. }
        | JobError::IllegalMove(_)
        | JobError::BaseGone { .. }
        | JobError::BaseWidth { .. }
        | JobError::BaseFeatures { .. } => Kind::Precondition,
        JobError::TooManyJobs { .. }
        | JobError::TooManyUploads { .. }
        | JobError::TooManyWatchers { .. }
        | JobError::TooManyRows { .. }
        | JobError::JobTooLarge { .. }
        | JobError::SpoolFull { .. }
        | JobError::DiskReserve { .. }
        | JobError::DiskFull { .. }
        | JobError::TooFarAhead { .. }
        | JobError::AheadFull { .. } => Kind::Exhausted,
        JobError::Damaged { .. } => Kind::Damaged,
        JobError::Store(error) => store_kind(error),
        JobError::ShuttingDown => Kind::Unavailable,
        JobError::TaskLost(_) => Kind::Internal,
    }
}

fn files_kind(error: &ServerFilesError) -> Kind {
    match error {
        ServerFilesError::NoPaths
        | ServerFilesError::TooMany { .. }
        | ServerFilesError::TooLong { .. }
        | ServerFilesError::Content(_)
        | ServerFilesError::Columns { .. } => Kind::Invalid,
        ServerFilesError::Folder(error) => match error.as_ref() {
            FolderError::NotConfigured { .. } => Kind::Precondition,
            FolderError::NotFound { .. } => Kind::NotFound,
            FolderError::Path { .. }
            | FolderError::Outside { .. }
            | FolderError::NotRegular { .. }
            | FolderError::Io { .. } => Kind::Invalid,
        },
    }
}
