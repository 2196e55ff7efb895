//! Queue of requests: admission, batch selection, withdrawal and shutdown. One lock is held only briefly; no arithmetic
//! runs and no rows are freed under it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::load::{Load, Loads, RetrySchedule, ServiceRates, Size, has_room};
use super::policy::{FairQueue, Piece, Turn, Urgency};
use super::request::{BatchResult, Key, QueuedRequest, Request};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, lock};
use super::{BatchError, BatchingConfig};

/// A request is rejected if this multiple of the predicted wait ends after its deadline. The prediction covers only the
/// wait for a serving thread. Receiving the request and sending the response also take time, on threads that may need
/// the same cores. With a smaller factor, nearly every request accepted under overload completes just after its
/// deadline, and the work is wasted.
const WAITS_UNTIL_ANSWER: u32 = 2;

/// Queued requests of all models and operations.
#[derive(Debug)]
pub(super) struct Queue {
    config: BatchingConfig,
    threads: usize,
    load: Arc<Load>,
    state: Mutex<QueueState>,
    /// Signaled when a request is queued, when a batch leaves requests behind, and when the queue closes.
    work: Condvar,
    batches: AtomicU64,
    rows: AtomicU64,
    cancelled_rows: AtomicU64,
    expired_rows: AtomicU64,
}

#[derive(Debug)]
struct QueueState {
    queues: FairQueue<Key, Arc<QueuedRequest>>,
    rates: ServiceRates<Key>,
    returns: RetrySchedule,
    loads: Loads<Key>,
    /// Whether new requests are rejected.
    closed: bool,
}

/// Result of waiting for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Requests are queued.
    Work,
    /// No request was queued within the given time.
    Quiet,
    /// The queue is empty and closed.
    End,
}

/// Why a request left the queue without being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its caller dropped it.
    Left,
    /// Its deadline has passed.
    Expired,
}

/// An accepted request: its place in the queue, and the receiver of its response.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) key: Key,
    pub(super) ticket: u64,
    pub(super) answer: oneshot::Receiver<BatchResult>,
}

impl Queue {
    /// A queue that `threads` threads take batches from.
    pub(super) fn new(config: BatchingConfig, threads: usize) -> Self {
        Self {
            config,
            threads,
            load: Arc::default(),
            state: Mutex::new(QueueState {
                queues: FairQueue::new(),
                rates: ServiceRates::new(),
                returns: RetrySchedule::default(),
                loads: Loads::new(),
                closed: false,
            }),
            work: Condvar::new(),
            batches: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            cancelled_rows: AtomicU64::new(0),
            expired_rows: AtomicU64::new(0),
        }
    }

    /// Rejects a request that is larger than the whole queue, since it could never be accepted.
    pub(super) fn check_size(&self, request: &Request) -> Result<(), BatchError> {
        let Size { rows, bytes, .. } = request.size();
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        if rows > rows_max || bytes > bytes_max {
            return Err(BatchError::TooLarge { rows, bytes, rows_max, bytes_max });
        }
        Ok(())
    }

    /// Queues a checked request, or rejects it at once.
    pub(super) fn admit(&self, request: Request) -> Result<Admitted, BatchError> {
        let (size, key) = (request.size(), request.key());
        let mut state = lock(&self.state);
        if state.closed {
            return Err(BatchError::ShuttingDown);
        }
        let model_queue = state.loads.model_queue(&key);
        if let Some(refusal) = self.refusal(&mut state, &model_queue, size) {
            return Err(refusal);
        }
        if let Some(deadline) = request.deadline
            && let Some(ahead) = self.predicted_wait(&state, &key, size.row_work, request.urgency)
            && Instant::now() + ahead * WAITS_UNTIL_ANSWER > deadline
        {
            return Err(BatchError::DeadlineExceeded);
        }
        let urgency = request.urgency;
        let (queued, answer) = QueuedRequest::new(request, [Arc::clone(&self.load), model_queue]);
        let ticket = state.queues.push(key.clone(), queued, size.rows, urgency);
        drop(state);
        self.work.notify_one();
        Ok(Admitted { key, ticket, answer })
    }

    /// Predicts how long a new request would wait: the time for the rows before it in its queue, multiplied by the
    /// number of queues that take turns, but at most the time for all queued work. `None` before anything was measured.
    fn predicted_wait(&self, state: &QueueState, key: &Key, row_work: usize, urgency: Urgency) -> Option<Duration> {
        let before = state.queues.rows_before(key, urgency).saturating_mul(row_work);
        let model_queue = state.rates.time_for(key, before.saturating_mul(state.queues.count()), self.threads)?;
        let all = state.rates.all().time_for(self.load.work(), self.threads)?;
        Some(model_queue.min(all))
    }

    /// Returns the error for a request that would exceed a limit, or its queue's share of it.
    fn refusal(&self, state: &mut QueueState, model_queue: &Load, size: Size) -> Option<BatchError> {
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        // Claims are made only under the queue's lock, so these numbers can only fall in the meantime.
        let (waiting_rows, waiting_bytes) = (self.load.rows(), self.load.bytes());
        if has_room(size.rows, model_queue.rows(), waiting_rows, rows_max)
            && has_room(size.bytes, model_queue.bytes(), waiting_bytes, bytes_max)
        {
            return None;
        }
        let [ahead, own] = [self.load.work(), size.work()].map(|work| state.rates.all().time_for(work, self.threads));
        let retry_after = state.returns.next(Instant::now(), ahead, own);
        Some(BatchError::Full { waiting_rows, waiting_bytes, rows_max, bytes_max, retry_after })
    }

    /// Whether more than a third of a limit is used; below that, few requests are rejected.
    pub(super) fn is_busy(&self) -> bool {
        self.load.rows() > self.config.queue_rows_max / 3 || self.load.bytes() > self.config.queue_bytes_max / 3
    }

    /// Returns the error for a request that has not arrived yet, if there is no room for it.
    pub(super) fn refuse_early(&self, key: &Key, size: Size) -> Option<BatchError> {
        let mut state = lock(&self.state);
        let model_queue = state.loads.model_queue(key);
        self.refusal(&mut state, &model_queue, size)
    }

    /// Takes the next batch; `None` if nothing is queued. It skips requests whose callers left or whose deadlines
    /// passed.
    pub(super) fn take(&self, now: Instant) -> Option<Vec<Piece<Arc<QueuedRequest>>>> {
        let mut state = lock(&self.state);
        let QueueState { queues, rates, .. } = &mut *state;
        let row_seconds =
            |key: &Key, queued: &Arc<QueuedRequest>| rates.seconds(key) * queued.request().size().row_work as f64;
        let Turn { batch, dropped } =
            queues.next(self.config.batch_rows_max, row_seconds, |queued| queued.is_wanted(now));
        let more = !state.queues.is_empty();
        drop(state);
        if more {
            // The remaining requests may have been signaled only once, to this thread.
            self.work.notify_one();
        }
        for Piece { queued, rows, .. } in dropped {
            let why = if queued.has_expired(now) { Departure::Expired } else { Departure::Left };
            self.count_departed(rows.len(), why);
            queued.answer(Err(BatchError::DeadlineExceeded));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Blocks until a request is queued, until the queue is empty and closed, or for `at_most` without a request.
    pub(super) fn wait(&self, at_most: Duration) -> Wait {
        let mut state = lock(&self.state);
        while state.queues.is_empty() {
            if state.closed {
                return Wait::End;
            }
            let (locked, timeout) = self.work.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner);
            state = locked;
            if timeout.timed_out() && state.queues.is_empty() && !state.closed {
                return Wait::Quiet;
            }
        }
        Wait::Work
    }

    /// Fails a request after an error in one of its pieces, and drops its remaining rows.
    pub(super) fn fail(&self, piece: &Piece<Arc<QueuedRequest>>, error: BatchError) {
        self.forget(&piece.queued.request().key(), piece.ticket);
        piece.queued.answer(Err(error));
    }

    /// Withdraws the remaining rows of a request, and counts them.
    pub(super) fn withdraw(&self, key: &Key, ticket: u64, why: Departure) {
        self.count_departed(self.forget(key, ticket), why);
    }

    /// Removes the remaining rows of a request; returns their number.
    fn forget(&self, key: &Key, ticket: u64) -> usize {
        let withdrawn = lock(&self.state).queues.withdraw(key, ticket);
        // Outside the lock, since this may free the rows.
        withdrawn.map_or(0, |piece| piece.rows.len())
    }

    fn count_departed(&self, rows: usize, why: Departure) {
        let counter = match why {
            Departure::Left => &self.cancelled_rows,
            Departure::Expired => &self.expired_rows,
        };
        counter.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Rows that were not computed because their callers left, and rows whose deadlines passed.
    pub(super) fn departed(&self) -> (u64, u64) {
        (self.cancelled_rows.load(Ordering::Relaxed), self.expired_rows.load(Ordering::Relaxed))
    }

    /// How long the oldest queued request has waited.
    pub(super) fn oldest(&self, now: Instant) -> Duration {
        let state = lock(&self.state);
        state.queues.heads().map(|queued| queued.age(now)).max().unwrap_or_default()
    }

    /// Rejects new requests from now on; accepted ones still go into batches.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }

    /// Counts a computed batch; returns its number, from 1.
    pub(super) fn count(&self, rows: usize) -> u64 {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Updates the service rate from a batch whose responses are sent.
    pub(super) fn record(&self, key: &Key, now: Instant, work: usize, busy: Duration) {
        lock(&self.state).rates.record(key, now, work, busy);
    }

    /// Batches and rows computed so far.
    pub(super) fn computed(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed))
    }

    /// Whether new requests are rejected.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Queued rows and bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.load.rows(), self.load.bytes())
    }
}
