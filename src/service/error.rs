//! What can go wrong in a use case, and of which kind it is.

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

/// Models are read from disk one at a time: a moment later there is room again.
const LOAD_RETRY_AFTER: Duration = Duration::from_millis(500);

/// An inspection takes from moments to a minute.
const INSPECTION_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The kinds of failure a caller can tell apart, each with one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for does not exist.
    NotFound,
    /// The request can never succeed as it is.
    Invalid,
    /// No room now: come back later, or send less.
    Exhausted,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The state of the system forbids it; the message says what would have to change.
    Precondition,
    /// Somebody else was faster.
    Aborted,
    /// The key is taken.
    AlreadyExists,
    /// The result cannot be represented.
    NotRepresentable,
    /// A stored file is damaged.
    Damaged,
    /// Not now, perhaps elsewhere: the server is shutting down.
    Unavailable,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Whoever asks may not.
    Forbidden,
    /// A fault of ours.
    Internal,
}

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A field of a request.
    #[error("{field}: {message}")]
    Invalid {
        /// Path of the field in the API.
        field: String,
        /// What was expected and what came.
        message: String,
    },
    /// Decode without a version.
    #[error(
        "name the version or alias that made these codes, they belong to it alone; the newest version of {name} is {newest}"
    )]
    VersionRequired {
        /// The model.
        name: ModelName,
        /// Its newest version.
        newest: Version,
    },
    /// A file that is imported is larger than the server takes.
    #[error("the file is larger than {bytes_max} bytes, the most that this server imports")]
    FileTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// A file that is imported.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Batching.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Decoding with the pseudo-inverse.
    #[error("{key} has no pseudo-inverse: {error}")]
    NoInverse {
        /// The version.
        key: ModelKey,
        /// Why.
        error: InverseError,
    },
    /// Scoring.
    #[error(
        "{0} has no statistics to score by: train it again, with validation rows held out and a code of at most 1024 numbers"
    )]
    NoStatistics(ModelKey),
    /// A name that no model can have, in the words of the Open Inference Protocol.
    #[error("{0}")]
    UnknownToProtocol(String),
    /// Filling in what is missing.
    #[error("{key} does not take missing values: train it with `missing_values` (`halfhitch train --missing-values`)")]
    NoMissingValues {
        /// The version.
        key: ModelKey,
    },
    /// Codes that are to be cut short.
    #[error(
        "the codes of {0} are not ordered, their first numbers are not the best: `halfhitch models canonicalize` makes a version \
         whose are, and so does training with `nested_dropout`"
    )]
    NotOrdered(ModelKey),
    /// Making codes canonical.
    #[error("{key} cannot be made canonical: {error}")]
    Canonical {
        /// The version.
        key: ModelKey,
        /// Why.
        error: CanonicalError,
    },
    /// Measuring on what it does not have.
    #[error(
        "{key} keeps no validation sample: send rows, or train it with `validation_sample_rows` \
         (`halfhitch train --validation-sample ROWS`)"
    )]
    NoSample {
        /// The version.
        key: ModelKey,
    },
    /// A validation sample that is not as it was written.
    #[error("{key}: {error}")]
    DamagedSample {
        /// The version.
        key: ModelKey,
        /// What is wrong with it.
        error: SampleError,
    },
    /// Making rows orthonormal.
    #[error("{key} cannot be made orthonormal: {error}")]
    Orthonormal {
        /// The version.
        key: ModelKey,
        /// Why.
        error: OrthonormalError,
    },
    /// Inspecting.
    #[error("{key} cannot be inspected: {error}")]
    NotInspected {
        /// The version.
        key: ModelKey,
        /// Why.
        error: SpectrumError,
    },
    /// Too many at once.
    #[error("{max} inspections run or wait already, the most that this server takes; come back in a while")]
    InspectionsFull {
        /// The limit.
        max: usize,
    },
    /// Too many at once.
    #[error(
        "{max} files of models are sent or received already, the most that this server holds; come back in a while"
    )]
    TransfersFull {
        /// The limit.
        max: usize,
    },
    /// The other side stopped.
    #[error("the next piece of the file was not sent, or not taken, within {wait_max:?}: begin again")]
    TransferIdle {
        /// How long it was waited for.
        wait_max: Duration,
    },
    /// Jobs.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job that a stream waited for failed.
    #[error("{0}")]
    JobEnded(String),
    /// It failed because one of its files is damaged or gone.
    #[error("{0}")]
    JobLost(String),
    /// One of many messages of a stream.
    #[error("message {number}: {error}")]
    Message {
        /// Which, from 1.
        number: u64,
        /// Why.
        error: Box<ServiceError>,
    },
    /// Who asks may not, or not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server stops.
    #[error("the server is shutting down: {0}")]
    ShuttingDown(&'static str),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    /// A field of a request that is wrong.
    #[expect(clippy::needless_pass_by_value, reason = "errors and literals, all about to be text")]
    pub fn invalid(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Invalid { field: field.into(), message: message.to_string() }
    }

    /// The same error, of one message of a stream.
    #[must_use]
    pub fn of_message(self, number: u64) -> Self {
        Self::Message { number, error: Box::new(self) }
    }

    /// Of which kind it is.
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

    /// As what it is counted.
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

    /// The field that is wrong, as a path in the request, if one is.
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

    /// The row of the request that is wrong, from 0, if one is.
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

    /// When it is worth coming back, where that is known.
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

/// The field of a `Train` stream that is wrong, if one is.
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
        JobError::TakenOver(_) => Kind::Aborted,
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
