//! Why a request gets no result.

use std::time::Duration;

use crate::model::MatrixError;

/// A bound that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected {expected}")]
pub struct BadBatching {
    /// Its name.
    pub setting: &'static str,
    /// What came.
    pub got: usize,
    /// What is possible.
    pub expected: &'static str,
}

/// Why a request got no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// Wrong width.
    #[error("the rows have {got} columns, {what} of the model has {expected}")]
    Columns {
        /// "the input" or "the code".
        what: &'static str,
        /// What came.
        got: usize,
        /// What the model wants.
        expected: usize,
    },
    /// NaN or infinity in the request.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// NaN or infinity in the result.
    #[error("the result of row {} is not finite: the values of that row are too large for this model", row + 1)]
    ResultNotFinite {
        /// Row of the request, from 0; people read it from 1.
        row: usize,
    },
    /// A number of the result that the form of the answer cannot hold.
    #[error(
        "a number of row {} of the result is {value:e}, more than {form} holds: ask for another `answer_format`",
        row + 1
    )]
    DoesNotFit {
        /// Row of the request, from 0; people read it from 1.
        row: usize,
        /// The number.
        value: f64,
        /// The form's name.
        form: &'static str,
    },
    /// Queue full.
    #[error(
        "the queue is full for this model: {waiting_rows} rows of {waiting_bytes} bytes wait in all, the limits are {rows_max} rows and {bytes_max} bytes, and no model may take all of them; come back in {retry_after:?}"
    )]
    Full {
        /// Rows that wait.
        waiting_rows: usize,
        /// Bytes that wait.
        waiting_bytes: usize,
        /// Limit.
        rows_max: usize,
        /// Limit.
        bytes_max: usize,
        /// When what waits now, and those who were refused before, will have been served, by the speed of the last batches.
        retry_after: Duration,
    },
    /// Larger than the whole queue: never admissible.
    #[error(
        "the request has {rows} rows of {bytes} bytes (with its answer), the server queues at most {rows_max} rows and {bytes_max} bytes: send it in parts"
    )]
    TooLarge {
        /// Rows that came.
        rows: usize,
        /// Bytes that came.
        bytes: usize,
        /// Limit.
        rows_max: usize,
        /// Limit.
        bytes_max: usize,
    },
    /// The deadline passed before the result was there.
    #[error("the deadline passed before the result was there")]
    DeadlineExceeded,
    /// Draining.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A panic failed this batch.
    #[error("a worker was lost")]
    WorkerLost,
}
