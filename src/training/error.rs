//! Errors of training, and of the checkpoint that it resumes from.

use super::source::SourceError;
use crate::model::normalization::RangeTooLarge;

/// Why training ended without a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The observer stopped training.
    #[error("training was stopped")]
    Stopped,
    /// There are no training rows.
    #[error("there are no training rows, expected at least 1")]
    NoRows,
    /// The rows cannot be read.
    #[error("the rows cannot be read: {0}")]
    Source(#[from] SourceError),
    /// A feature that cannot be normalized.
    #[error(transparent)]
    Range(#[from] RangeTooLarge),
    /// A feature is missing in every row.
    #[error("{feature} is missing in every training row: leave it out, or send rows that have it")]
    NoValues {
        /// Its name, or its number from 1.
        feature: String,
    },
    /// Cross-entropy needs values in [0, 1].
    #[error(
        "binary cross-entropy needs values from 0 to 1 after normalization, training row {row} has {value} in \
         {feature}: choose the normalization min-max or unit interval, or the squared error"
    )]
    OutsideUnitInterval {
        /// Row, from 1.
        row: u64,
        /// Its name, or its number from 1.
        feature: String,
        /// The normalized value.
        value: f32,
    },
    /// As [`TrainError::OutsideUnitInterval`], for a base, whose normalization and loss are fixed.
    #[error(
        "binary cross-entropy, the loss of the base, needs values from 0 to 1 after the base's normalization, \
         training row {row} has {value} in {feature}: train without a base, so that the range is that of these rows"
    )]
    OutsideBase {
        /// Row, from 1.
        row: u64,
        /// Its name, or its number from 1.
        feature: String,
        /// The normalized value.
        value: f32,
    },
    /// The loss is not finite, or far too large.
    #[error(
        "training diverged: the loss of step {step} (epoch {epoch}) is {loss}; try a learning rate below {learning_rate}"
    )]
    Diverged {
        /// Epoch, from 1.
        epoch: u32,
        /// Step, from 1.
        step: u64,
        /// The loss per row.
        loss: f64,
        /// Peak learning rate.
        learning_rate: f64,
    },
    /// The decomposition of PCA did not converge.
    #[error("the principal components of the training rows could not be computed: their values may be too large")]
    PcaBaseline,
    /// Training cannot resume from the checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The observer could not save a checkpoint.
    #[error("checkpoint not saved: {0}")]
    NotSaved(String),
}

/// Why training cannot resume from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not a checkpoint of this software.
    #[error("the checkpoint cannot be read: {0}")]
    Unreadable(String),
    /// The training specification differs.
    #[error("the checkpoint belongs to another specification")]
    Specification,
    /// The number of rows differs.
    #[error("the checkpoint has {got} training rows, the data has {expected}")]
    Rows {
        /// Rows recorded in the checkpoint.
        got: u64,
        /// Rows of the data.
        expected: u64,
    },
    /// Another version of the software wrote it: its order of arithmetic may differ.
    #[error("the checkpoint was written by {got}, this is {expected}")]
    Software {
        /// Version recorded in the checkpoint.
        got: String,
        /// This version.
        expected: String,
    },
}
