//! Groups the rows of many callers into large products. Invisible: a row's result does not depend on its neighbours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::Matrix;
use crate::registry::LoadedModel;

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Rows to codes.
    Encode,
    /// Codes to rows.
    Decode,
    /// Rows to rows, with errors.
    Reconstruct,
}

/// Bounds. TODO(C): `check`, defaults.
#[derive(Clone, Debug)]
pub struct BatchingConfig {
    /// Most rows of one batch.
    pub batch_rows_max: usize,
    /// Most rows that wait, of all queues.
    pub queue_rows_max: usize,
    /// Most bytes that wait, of all queues.
    pub queue_bytes_max: usize,
}

/// Results of one request, in the form in which it came.
#[derive(Debug)]
pub struct Output {
    /// Codes or rows.
    pub matrix: Matrix,
    /// Reconstruct only: per row, normalised space.
    pub squared_errors: Vec<f32>,
    /// Reconstruct only: per row, units of the input.
    pub squared_errors_input_units: Vec<f32>,
}

/// Why a request got no result. TODO(C): complete.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BatchError {
    /// Wrong width.
    #[error("rows have {got} columns, {what} of the model has {expected}")]
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
    Matrix(#[from] crate::model::MatrixError),
    /// NaN or infinity in the result.
    #[error("the result of row {row} is not finite: the values of that row are too large for this model")]
    ResultNotFinite {
        /// Row of the request, from 0.
        row: usize,
    },
    /// Queue full.
    #[error(
        "the queue is full: {waiting_rows} rows of {waiting_bytes} bytes wait, the limits are {rows_max} rows and {bytes_max} bytes"
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
        /// When it is worth coming back, from the rate of the last seconds.
        retry_after: Duration,
    },
    /// Larger than the whole queue: never admissible.
    #[error(
        "the request has {rows} rows of {bytes} bytes, the server queues at most {rows_max} rows and {bytes_max} bytes: send it in parts"
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
    #[error("the deadline passed while the request waited")]
    DeadlineExceeded,
    /// Draining.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A panic failed this batch.
    #[error("a worker was lost")]
    WorkerLost,
}

/// The batching layer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batcher {}

impl Batcher {
    /// Starts `serving_threads` threads that pull.
    pub fn start(config: BatchingConfig, serving_threads: usize) -> std::io::Result<Self> {
        let _ = (config, serving_threads);
        todo!()
    }
    /// Checks the width, queues, waits. Dropping the future drops what has not started.
    pub async fn submit(
        &self,
        model: Arc<LoadedModel>,
        operation: Operation,
        rows: Matrix,
        deadline: Option<Instant>,
    ) -> Result<Output, BatchError> {
        let _ = (model, operation, rows, deadline);
        todo!()
    }
    /// Refuses new requests, answers those that were accepted, joins the threads. Blocking.
    pub fn drain(&self) {
        todo!()
    }
}
