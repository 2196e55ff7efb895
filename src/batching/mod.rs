//! Batching: groups the rows of many requests into large matrix products. A row's result does not depend on the other
//! rows of its batch.
//!
//! Requests wait in one queue per (version, operation, space). Serving threads pull batches whenever they are free, so
//! a batch has the rows that arrived while the last one was computed. No timer delays a request. `operation` says what
//! each operation does, `policy` forms batches, `load` limits what is accepted, `queue` combines both under a lock,
//! `worker` computes, and `reply` assembles responses. `inline` computes tiny requests at once.

mod config;
mod error;
mod inline;
mod load;
mod operation;
mod output;
mod policy;
mod queue;
mod reply;
mod request;
mod sync;
#[cfg(test)]
mod tests;
mod timing;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use config::BatchingConfig;
pub use error::{BadBatching, BatchError};
pub use output::Output;
pub use policy::Urgency;
pub use timing::{Batch, Timing};

use crate::executor::{MinCpuShare, ServingThreads};
pub use crate::methods::Operation;
use crate::model::{Form, Matrix};
use crate::registry::LoadedModel;
use queue::{Admitted, Departure, Queue};
use request::{BatchResult, Key, Request};
use sync::atomic::{AtomicU64, Ordering};
use sync::{Mutex, lock};
use worker::Compute;

/// Counters of the batching layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Requests completed with a result so far.
    pub answered: u64,
    /// Requests completed with an error so far. Requests whose callers left are in neither counter.
    pub refused: u64,
    /// Batches computed so far.
    pub batches: u64,
    /// Rows computed so far.
    pub rows: u64,
    /// Rows that were not computed because their callers left.
    pub cancelled_rows: u64,
    /// Rows that were not computed because their deadlines passed.
    pub expired_rows: u64,
    /// Rows accepted and not yet computed.
    pub waiting_rows: usize,
    /// Bytes of requests that have no response yet, including the responses.
    pub waiting_bytes: usize,
    /// How long the oldest queued request has waited.
    pub oldest: Duration,
}

/// The batching layer. Cheap to clone.
///
/// [`Batcher::drain`] stops its threads; they also stop soon after the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Batcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: BatchingConfig,
    /// Whether tiny requests are computed at once on the caller's thread.
    inline: bool,
    min_share: Arc<MinCpuShare>,
    queue: Arc<Queue>,
    answered: AtomicU64,
    refused: AtomicU64,
    /// `None` after the threads were joined.
    threads: Mutex<Option<ServingThreads>>,
}

impl Batcher {
    /// Starts `serving_threads` threads that compute batches and leave training the CPU time that `min_share`
    /// guarantees.
    ///
    /// # Errors
    /// If a thread cannot be started, or [`io::ErrorKind::InvalidInput`] for settings that are out of range.
    pub fn start(config: BatchingConfig, serving_threads: usize, min_share: Arc<MinCpuShare>) -> io::Result<Self> {
        Self::start_with(config, serving_threads, min_share, Compute::of_models(), true)
    }

    fn start_with(
        config: BatchingConfig,
        serving_threads: usize,
        min_share: Arc<MinCpuShare>,
        compute: Compute,
        inline: bool,
    ) -> io::Result<Self> {
        config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let queue = Arc::new(Queue::new(config, serving_threads));
        let (pulled, given_way) = (Arc::clone(&queue), Arc::clone(&min_share));
        let threads = ServingThreads::spawn(serving_threads, move |_| worker::run(&pulled, &given_way, &compute));
        // Stop the threads that did start.
        let threads = threads.inspect_err(|_| queue.close())?;
        let (answered, refused, threads) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Some(threads)));
        Ok(Self { inner: Arc::new(Inner { config, inline, min_share, queue, answered, refused, threads }) })
    }

    /// Checks and queues a request, and waits for its response, at most until the deadline. `answer` is the number
    /// format of the response. Dropping the future drops the rows whose computation has not started.
    ///
    /// # Panics
    /// If a deadline is given outside of a tokio runtime with a timer.
    pub async fn submit(
        &self,
        model: Arc<LoadedModel>,
        operation: Operation,
        rows: Matrix,
        answer: Form,
        deadline: Option<Instant>,
        urgency: Urgency,
    ) -> Result<Output, BatchError> {
        let (asked, of) = (Instant::now(), Arc::clone(&model));
        let outcome = self.ask(Request { model, operation, rows, answer, deadline, urgency }).await;
        let (usage, kind, time) = (of.usage(), operation as usize, asked.elapsed());
        match outcome {
            Ok(output) => {
                self.inner.answered.fetch_add(1, Ordering::Relaxed);
                let Timing { queued, assembly, compute, .. } = output.timing;
                usage.answered(kind, time, queued, assembly, compute);
                let measures = &of.measures().kinds[kind];
                measures.request.observe_time(time);
                measures.queue.observe_time(queued);
                Ok(output)
            }
            Err(error) => {
                self.inner.refused.fetch_add(1, Ordering::Relaxed);
                usage.failed(kind, time);
                Err(error)
            }
        }
    }

    /// Whether the queues are full enough that [`Batcher::refuse_early`] may reject a request.
    pub fn is_busy(&self) -> bool {
        self.inner.queue.is_busy()
    }

    /// Rejects a request that has not arrived yet, whose matrix will take `matrix_bytes`, if the queue has no room for
    /// it. Small requests pass, since they may be computed inline. A rejection counts as refused.
    pub fn refuse_early(&self, model: &LoadedModel, operation: Operation, matrix_bytes: usize) -> Option<BatchError> {
        if matrix_bytes <= request::SMALL_BYTES_MAX {
            return None;
        }
        let rows = matrix_bytes / (4 * operation.columns(model));
        let size = operation.size(model, rows, matrix_bytes, Form::Float32Le);
        let space = operation.space(model, Form::Float32Le, Form::Float32Le);
        let refusal = self.inner.queue.refuse_early(&(model.key.clone(), operation, space), size)?;
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
        model.usage().failed(operation as usize, Duration::ZERO);
        Some(refusal)
    }

    async fn ask(&self, request: Request) -> BatchResult {
        let (deadline, now) = (request.deadline, Instant::now());
        request.check(now)?;
        let queue = &*self.inner.queue;
        queue.check_size(&request)?;
        // Only serving threads can give CPU time to training, so do not compute inline while some is owed.
        if self.inner.inline && inline::is_tiny(&request) && !self.inner.min_share.is_owed(now) {
            return inline::answer(queue, &request);
        }
        let Admitted { key, ticket, answer } = queue.admit(request)?;
        let mut place = QueueGuard { queue, key, ticket, leaves: Some(Departure::Left) };
        let answer = match deadline {
            None => answer.await,
            // On return, the guard withdraws the rows whose computation has not started.
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    place.leaves = Some(Departure::Expired);
                    return Err(BatchError::DeadlineExceeded);
                }
            },
        };
        place.leaves = None;
        answer.unwrap_or(Err(BatchError::WorkerLost))
    }

    /// The limits that this batcher was started with.
    pub fn config(&self) -> BatchingConfig {
        self.inner.config
    }

    /// Current counters.
    pub fn stats(&self) -> Stats {
        let Inner { queue, answered, refused, .. } = &*self.inner;
        let (batches, rows) = queue.computed();
        let (waiting_rows, waiting_bytes) = queue.waiting();
        let (cancelled_rows, expired_rows) = queue.departed();
        Stats {
            answered: answered.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            batches,
            rows,
            cancelled_rows,
            expired_rows,
            waiting_rows,
            waiting_bytes,
            oldest: queue.oldest(Instant::now()),
        }
    }

    /// Rejects new requests, completes the accepted ones, and joins the threads. It blocks; a second call is harmless.
    pub fn drain(&self) {
        self.inner.queue.close();
        // Held while joining, so that a concurrent drain also returns only when the threads have ended.
        let mut threads = lock(&self.inner.threads);
        if let Some(threads) = threads.take() {
            threads.join();
        }
    }
}

impl Drop for Inner {
    /// Stops the threads after their current batches, since no caller can be waiting. It does not join them, because
    /// this may run on an async thread.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// A caller's queued request. Dropping the guard without a response withdraws the request.
struct QueueGuard<'a> {
    queue: &'a Queue,
    key: Key,
    ticket: u64,
    /// Reason for withdrawing on drop; `None` once there is a response.
    leaves: Option<Departure>,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.leaves {
            self.queue.withdraw(&self.key, self.ticket, why);
        }
    }
}
