//! Errors of the library.

use crate::files::FileError;
use crate::model::{ArtifactError, InverseError, MatrixError};
use crate::training::{ParamError, TrainError};

/// Why a call of [`Model`](crate::Model) failed. Rows count from 0 in the fields and from 1 in the texts.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The rows have the wrong number of columns.
    #[error("the rows have {got} columns, {what} of the model has {expected}")]
    Columns {
        /// "the input" or "the code".
        what: &'static str,
        /// Columns of the rows.
        got: usize,
        /// Columns that the model expects.
        expected: usize,
    },
    /// The rows have NaN or an infinite value.
    #[error(transparent)]
    Values(#[from] MatrixError),
    /// The result has NaN or an infinite value.
    #[error("the result of row {} is not finite: the values of that row are too large for this model", row + 1)]
    ResultNotFinite {
        /// Index of the row, from 0.
        row: usize,
    },
    /// A value of the result exceeds 32 bits. Only models that were trained on 64-bit rows can have such values.
    #[error("row {} of the result contains {value:e}, which a 32-bit float cannot represent", row + 1)]
    DoesNotFit {
        /// Index of the row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// Scores of a model without statistics.
    #[error(
        "the model has no statistics for scoring: train it again with validation rows and a code length of at most 1024"
    )]
    NoStatistics,
    /// Decoding with the pseudo-inverse, of a model that has none.
    #[error("the model has no pseudo-inverse: {0}")]
    NoInverse(#[source] InverseError),
    /// A length that truncated codes cannot have.
    #[error("code_length is {got}, expected 1 to {code_length_max}: the length of the codes")]
    CodeLength {
        /// The requested length.
        got: usize,
        /// Length of the codes.
        code_length_max: usize,
    },
    /// Truncated codes of a model whose codes are not ordered.
    #[error(
        "the codes of the model are not ordered, so they cannot be cut short: make them canonical with \
         `model::canonicalize`, or train with `nested_dropout`"
    )]
    NotOrdered,
    /// Imputation with a model that takes no missing values.
    #[error("the model does not take missing values: train it with `missing_values`")]
    NoMissingValues,
    /// The specification of the training is wrong.
    #[error(transparent)]
    Spec(#[from] ParamError),
    /// A field of the specification needs the store of a server.
    #[error("{field} is set, which needs the store of a server: leave it unset")]
    NeedsServer {
        /// Name of the field.
        field: &'static str,
    },
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The threads for training cannot be started.
    #[error("cannot start training threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A model file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content of a model file is invalid.
    #[error("{path}: {source}")]
    Artifact {
        /// The name of the file.
        path: String,
        /// What is wrong.
        source: ArtifactError,
    },
}
