//! Groups the rows of many callers into large products. Invisible: a row's result does not depend on its neighbors.
//!
//! Requests wait in one line per (version, operation, space); serving threads pull batches whenever they are free, so that a
//! batch is as large as what came while the last one was computed, and no timer delays anybody. `policy` says what forms
//! a batch, `load` how much is accepted, `queue` joins them under a lock, `worker` computes, `reply` puts answers together.
//! Tiny questions do not wait at all: `inline`.

mod error;
mod inline;
mod load;
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
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub use error::{BadBatching, BatchError};
pub use policy::Urgency;
pub use timing::{Batch, Timing};

use crate::executor::{MinCpuShare, ServingThreads};
use crate::model::{Form, Matrix, Space};
use crate::numeric::LANES;
use crate::registry::LoadedModel;
use crate::registry::usage::KINDS;
use queue::{Admitted, Departure, Queue};
use request::{BatchResult, Key, Request};
use sync::atomic::{AtomicU64, Ordering};
use sync::{Mutex, MutexGuard};
use worker::Compute;

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Rows to codes.
    Encode,
    /// Codes to rows.
    Decode,
    /// Rows to rows, with errors.
    Reconstruct,
    /// Codes to rows, through the pseudo-inverse of each matrix.
    DecodePseudoInverse,
    /// Rows to rows, with errors, likewise.
    ReconstructPseudoInverse,
    /// Rows to squared errors and squared distances of their codes.
    Score,
    /// The same, and what each feature contributes.
    Explain,
    /// Rows with missing values to whole ones, for models that take such.
    Impute,
}

/// Each kind has counters of its own.
const _: () = assert!((Operation::Impute as usize) < KINDS, "a kind for each operation");

impl Operation {
    /// All of them, by their numbers.
    pub const ALL: [Self; KINDS] = [
        Self::Encode,
        Self::Decode,
        Self::Reconstruct,
        Self::DecodePseudoInverse,
        Self::ReconstructPseudoInverse,
        Self::Score,
        Self::Explain,
        Self::Impute,
    ];

    /// As a word, for example of a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Reconstruct => "reconstruct",
            Self::DecodePseudoInverse => "decode_pseudo_inverse",
            Self::ReconstructPseudoInverse => "reconstruct_pseudo_inverse",
            Self::Score => "score",
            Self::Explain => "explain",
            Self::Impute => "impute",
        }
    }

    /// Whether it decodes with [`LoadedModel::inverse`], which must be there.
    pub fn needs_inverse(self) -> bool {
        matches!(self, Self::DecodePseudoInverse | Self::ReconstructPseudoInverse)
    }

    /// Whether it needs [`LoadedModel::scorer`], which must be there.
    pub fn needs_scorer(self) -> bool {
        matches!(self, Self::Score | Self::Explain)
    }

    /// Whether it begins with codes.
    pub fn decodes(self) -> bool {
        matches!(self, Self::Decode | Self::DecodePseudoInverse)
    }

    /// Whether its answer is rows, in the units of the input.
    pub fn answers_rows(self) -> bool {
        match self {
            Self::Decode
            | Self::DecodePseudoInverse
            | Self::Reconstruct
            | Self::ReconstructPseudoInverse
            | Self::Impute => true,
            Self::Encode | Self::Score | Self::Explain => false,
        }
    }

    /// The space of a batch: normalized where the model was trained on rows of 64 bits, the rows come in 64 bits, or rows are to
    /// be answered in 64 bits.
    fn space(self, model: &LoadedModel, rows: Form, answer: Form) -> Space {
        let is_wide = model.artifact.model.normalizer().is_wide()
            || rows.is_wide() && !self.decodes()
            || answer.is_wide() && self.answers_rows();
        if is_wide { Space::Normalized } else { Space::Input }
    }
}

/// Bounds of what is computed at once and of what waits. Rows count until they are computed, bytes (of the question and
/// its answer) until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchingConfig {
    /// Most rows of one batch: a multiple of 16.
    pub batch_rows_max: usize,
    /// Most rows that wait, of all queues.
    pub queue_rows_max: usize,
    /// Most bytes that wait, of all queues.
    pub queue_bytes_max: usize,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { batch_rows_max: 256, queue_rows_max: 65_536, queue_bytes_max: 256 << 20 }
    }
}

impl BatchingConfig {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), BadBatching> {
        let refused = |setting, got, expected| Err(BadBatching { setting, got, expected });
        if !(LANES..=65_536).contains(&self.batch_rows_max) || !self.batch_rows_max.is_multiple_of(LANES) {
            return refused("batch_rows_max", self.batch_rows_max, "a multiple of 16 from 16 to 65536 rows");
        }
        if self.queue_rows_max == 0 {
            return refused("queue_rows_max", self.queue_rows_max, "at least 1 row");
        }
        if self.queue_bytes_max == 0 {
            return refused("queue_bytes_max", self.queue_bytes_max, "at least 1 byte");
        }
        Ok(())
    }
}

/// Results of one request, in the form that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Codes or rows.
    pub matrix: Matrix,
    /// Reconstruct only: per row, normalized space.
    pub squared_errors: Vec<f32>,
    /// Reconstruct only: per row, units of the input.
    pub squared_errors_input_units: Vec<f32>,
    /// What its time was spent on.
    pub timing: Timing,
}

/// How much was and is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Requests answered with a result so far.
    pub answered: u64,
    /// Requests answered with an error so far. Callers that left are in neither.
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
    /// Bytes of requests, and of their answers, that are not yet answered.
    pub waiting_bytes: usize,
    /// How long the first to come of those who wait has waited.
    pub oldest: Duration,
}

/// The batching layer. Cheap to clone.
///
/// Its threads end with [`Batcher::drain`], or soon after the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Batcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: BatchingConfig,
    /// Whether tiny questions are answered at once.
    inline: bool,
    min_share: Arc<MinCpuShare>,
    queue: Arc<Queue>,
    answered: AtomicU64,
    refused: AtomicU64,
    /// None once they were joined.
    threads: Mutex<Option<ServingThreads>>,
}

impl Batcher {
    /// Starts `serving_threads` threads that pull, and leave training what `min_share` promises.
    ///
    /// # Errors
    /// If the system refuses a thread, or [`io::ErrorKind::InvalidInput`] for bounds that cannot be meant.
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
        // Those that did start end again.
        let threads = threads.inspect_err(|_| queue.close())?;
        let (answered, refused, threads) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Some(threads)));
        Ok(Self { inner: Arc::new(Inner { config, inline, min_share, queue, answered, refused, threads }) })
    }

    /// Checks the width, queues, waits; an answer in the form `answer` comes at the deadline at the latest. Dropping the future
    /// drops what has not started.
    ///
    /// # Panics
    /// With a deadline, outside of a tokio runtime that has a timer.
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

    /// Whether so much waits that [`Batcher::refuse_early`] may have something to say.
    pub fn is_busy(&self) -> bool {
        self.inner.queue.is_busy()
    }

    /// The refusal of a question that did not come yet, but whose matrix will take `matrix_bytes`, if there is no room for
    /// it. Small ones are let through: they may not need any. Counts as refused.
    pub fn refuse_early(&self, model: &LoadedModel, operation: Operation, matrix_bytes: usize) -> Option<BatchError> {
        if matrix_bytes <= request::SMALL_BYTES_MAX {
            return None;
        }
        let rows = matrix_bytes / (4 * request::columns(model, operation));
        let size = request::size(model, operation, rows, matrix_bytes, Form::Float32Le);
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
        // What training is owed can only be given by serving threads.
        if self.inner.inline && inline::is_tiny(&request) && !self.inner.min_share.is_owed(now) {
            return inline::answer(queue, &request);
        }
        let Admitted { key, ticket, answer } = queue.admit(request)?;
        let mut place = QueueGuard { queue, key, ticket, leaves: Some(Departure::Left) };
        let answer = match deadline {
            None => answer.await,
            // On the way out the place is left: what has not started is forgotten.
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

    /// Its bounds.
    pub fn config(&self) -> BatchingConfig {
        self.inner.config
    }

    /// What was answered and computed, and what waits.
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

    /// Refuses new requests, answers those that were accepted, joins the threads. Blocking; a second call does no harm.
    pub fn drain(&self) {
        self.inner.queue.close();
        // Held while joining: whoever drains at the same time returns when it is done, too.
        let mut threads = lock(&self.inner.threads);
        if let Some(threads) = threads.take() {
            threads.join();
        }
    }
}

impl Drop for Inner {
    /// Nobody can be waiting any more, so the threads end after the batches that they are at. They are not joined: this
    /// may be an async thread.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// A caller's place in its line; dropped without an answer, it leaves the line.
struct QueueGuard<'a> {
    queue: &'a Queue,
    key: Key,
    ticket: u64,
    /// Why, if it has no answer when it is dropped.
    leaves: Option<Departure>,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.leaves {
            self.queue.withdraw(&self.key, self.ticket, why);
        }
    }
}

/// A panic elsewhere leaves nothing half changed under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
