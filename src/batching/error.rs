//! Errors of the batching layer.

use std::time::Duration;

use crate::model::MatrixError;

/// A setting is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {got}, expected {expected}")]
pub struct BadBatching {
    /// Name of the setting.
    pub setting: &'static str,
    /// Its value.
    pub got: usize,
    /// The allowed values, in words.
    pub expected: &'static str,
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BatchError {
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
    /// The request contains NaN or infinity.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// The result contains NaN or infinity.
    #[error("the result of row {} is not finite: the values of that row are too large for this model", row + 1)]
    ResultNotFinite {
        /// Row of the request, from 0; the message counts from 1.
        row: usize,
    },
    /// The number format of the response cannot represent a number of the result.
    #[error(
        "row {} of the result contains {value:e}, which {form} cannot represent: choose another `answer_format`",
        row + 1
    )]
    DoesNotFit {
        /// Row of the request, from 0; the message counts from 1.
        row: usize,
        /// The number.
        value: f64,
        /// Name of the number format.
        form: &'static str,
    },
    /// The queue is full, or this model's share of it.
    #[error(
        "the queue is full for this model: {waiting_rows} rows and {waiting_bytes} bytes are queued for \
         all models, the limits are {rows_max} rows and {bytes_max} bytes, and no model may use all of \
         them; retry in {retry_after:?}"
    )]
    Full {
        /// Queued rows of all models.
        waiting_rows: usize,
        /// Queued bytes of all models.
        waiting_bytes: usize,
        /// Maximum queued rows.
        rows_max: usize,
        /// Maximum queued bytes.
        bytes_max: usize,
        /// Estimated time until the queue and the requests rejected before are served, from the speed of recent
        /// batches.
        retry_after: Duration,
    },
    /// The request is larger than the whole queue, so it can never be accepted.
    #[error(
        "the request has {rows} rows and {bytes} bytes (with its response), the server queues at most \
         {rows_max} rows and {bytes_max} bytes: send it in parts"
    )]
    TooLarge {
        /// Rows of the request.
        rows: usize,
        /// Bytes of the request and its response.
        bytes: usize,
        /// Maximum queued rows.
        rows_max: usize,
        /// Maximum queued bytes.
        bytes_max: usize,
    },
    /// The deadline passed, or would pass, before the result is ready.
    #[error("the deadline passed before the result was ready")]
    DeadlineExceeded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The batch failed because of a panic.
    #[error("a worker was lost")]
    WorkerLost,
}
