//! Groups the rows of many callers into large products. Invisible: a row's result does not depend on its neighbours.
//!
//! A queue per (version, operation); threads of their own pull batches as soon as they are free, so that under load the
//! batch grows by itself, and without load nobody waits for a timer.

mod error;
mod policy;
mod queue;
mod reply;
mod worker;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

pub use error::{BadBatching, BatchError};

use self::queue::Queue;
use self::reply::Request;
use self::worker::{Compute, compute};
use crate::executor::ServingThreads;
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

impl Operation {
    /// Columns of the question and of the answer.
    fn columns(self, model: &LoadedModel) -> (usize, usize) {
        let spec = model.artifact.model.spec();
        match self {
            Self::Encode => (spec.features(), spec.code_length()),
            Self::Decode => (spec.code_length(), spec.features()),
            Self::Reconstruct => (spec.features(), spec.features()),
        }
    }
}

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchingConfig {
    /// Most rows of one batch, at least 1. More rows no longer make the products faster.
    pub batch_rows_max: usize,
    /// Most rows that wait, of all queues.
    pub queue_rows_max: usize,
    /// Most bytes that wait (questions and room for their answers), of all queues.
    pub queue_bytes_max: usize,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { batch_rows_max: 256, queue_rows_max: 65_536, queue_bytes_max: 256 << 20 }
    }
}

impl BatchingConfig {
    /// Refuses bounds that admit nothing.
    pub fn check(&self) -> Result<(), BadBatching> {
        for (setting, got) in [
            ("batch_rows_max", self.batch_rows_max),
            ("queue_rows_max", self.queue_rows_max),
            ("queue_bytes_max", self.queue_bytes_max),
        ] {
            if got == 0 {
                return Err(BadBatching { setting });
            }
        }
        Ok(())
    }
}

/// Results of one request, in the form in which it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Codes or rows.
    pub matrix: Matrix,
    /// Reconstruct only: per row, normalised space.
    pub squared_errors: Vec<f32>,
    /// Reconstruct only: per row, units of the input.
    pub squared_errors_input_units: Vec<f32>,
}

/// The batching layer. Cheap to clone; the threads end with the last clone, or with [`Batcher::drain`].
#[derive(Clone, Debug)]
pub struct Batcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Arc<Queue>,
    threads: Mutex<Option<ServingThreads>>,
}

impl Batcher {
    /// Starts `serving_threads` threads that pull.
    pub fn start(config: BatchingConfig, serving_threads: usize) -> io::Result<Self> {
        Self::start_with(config, serving_threads, Arc::new(compute))
    }

    /// The same with another arithmetic, for tests of the queue.
    fn start_with(config: BatchingConfig, serving_threads: usize, compute: Arc<Compute>) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(config, serving_threads));
        let pulled = Arc::clone(&queue);
        let threads = ServingThreads::spawn(serving_threads, move |_| worker::run(&pulled, compute.as_ref()))?;
        Ok(Self { inner: Arc::new(Inner { queue, threads: Mutex::new(Some(threads)) }) })
    }

    /// Checks the width, queues, waits. Dropping the future drops what has not started.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub async fn submit(
        &self,
        model: Arc<LoadedModel>,
        operation: Operation,
        rows: Matrix,
        deadline: Option<Instant>,
    ) -> Result<Output, BatchError> {
        let (expected, answered) = operation.columns(&model);
        if rows.columns() != expected {
            let what = if operation == Operation::Decode { "the code" } else { "the input" };
            return Err(BatchError::Columns { what, got: rows.columns(), expected });
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(BatchError::DeadlineExceeded);
        }
        let (reply, answer) = oneshot::channel();
        self.inner.queue.admit(model, operation, Request::new(rows, answered, operation, deadline, reply))?;
        let answer = match deadline {
            None => answer.await,
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), answer).await.map_err(|_| BatchError::DeadlineExceeded)?
            }
        };
        answer.map_err(|_| BatchError::WorkerLost)?
    }

    /// Refuses new requests, answers those that were accepted, joins the threads. Blocking; again is harmless.
    pub fn drain(&self) {
        self.inner.drain();
    }
}

impl Inner {
    fn drain(&self) {
        self.queue.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            threads.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.drain();
    }
}

#[cfg(test)]
mod tests;
