//! What waits: admission, turns, and the end of it. One lock, held for moments; nothing is computed or freed under it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::load::{Load, Loads, RetrySchedule, ServiceRates, Size, has_room};
use super::policy::{FairQueue, Piece, Turn, Urgency};
use super::request::{BatchResult, Key, QueuedRequest, Request};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex};
use super::{BatchError, BatchingConfig, lock};

/// A request is refused for its deadline if this many times the predicted wait would come too late. What is predicted is the
/// wait for a thread that computes; before it the request is received, after it the answer is sent, by threads that may want
/// the same cores. With less, nearly all that is accepted under overload is answered a moment too late: work for nobody.
const WAITS_UNTIL_ANSWER: u32 = 2;

/// Waiting requests of all models and operations.
#[derive(Debug)]
pub(super) struct Queue {
    config: BatchingConfig,
    threads: usize,
    load: Arc<Load>,
    state: Mutex<QueueState>,
    /// Told when a line gets its first request, when a batch leaves some behind, and at the end.
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
    /// Nothing is accepted any more.
    closed: bool,
}

/// What came of waiting for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// There is some.
    Work,
    /// There was none for the time that was said.
    Quiet,
    /// There is none, and there will be none.
    End,
}

/// Why a request is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Nobody waits for it.
    Left,
    /// Its deadline has passed.
    Expired,
}

/// Where an accepted request waits, and where its answer comes from.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) key: Key,
    pub(super) ticket: u64,
    pub(super) answer: oneshot::Receiver<BatchResult>,
}

impl Queue {
    /// For `threads` threads that take from it.
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

    /// Refuses a question that is larger than the whole queue: it would never be accepted.
    pub(super) fn check_size(&self, request: &Request) -> Result<(), BatchError> {
        let Size { rows, bytes, .. } = request.size();
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        if rows > rows_max || bytes > bytes_max {
            return Err(BatchError::TooLarge { rows, bytes, rows_max, bytes_max });
        }
        Ok(())
    }

    /// Accepts a question that was checked, or refuses it at once.
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

    /// How long a request would wait that came now: for those before it in its line, and meanwhile as long for each of the
    /// other lines, but no longer than for all that there is.
    fn predicted_wait(&self, state: &QueueState, key: &Key, row_work: usize, urgency: Urgency) -> Option<Duration> {
        let before = state.queues.rows_before(key, urgency).saturating_mul(row_work);
        let model_queue = state.rates.time_for(key, before.saturating_mul(state.queues.count()), self.threads)?;
        let all = state.rates.all().time_for(self.load.work(), self.threads)?;
        Some(model_queue.min(all))
    }

    /// Refuses what would exceed a bound, or its line's share of it.
    fn refusal(&self, state: &mut QueueState, model_queue: &Load, size: Size) -> Option<BatchError> {
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        // Claims are made under the queue's lock alone: these numbers can only fall meanwhile.
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

    /// Whether a third of a bound is taken: with less, few are refused.
    pub(super) fn is_busy(&self) -> bool {
        self.load.rows() > self.config.queue_rows_max / 3 || self.load.bytes() > self.config.queue_bytes_max / 3
    }

    /// The refusal of a question that did not come yet, if there is no room for it.
    pub(super) fn refuse_early(&self, key: &Key, size: Size) -> Option<BatchError> {
        let mut state = lock(&self.state);
        let model_queue = state.loads.model_queue(key);
        self.refusal(&mut state, &model_queue, size)
    }

    /// The next batch, `None` if nothing waits. Requests whose callers left or whose deadlines passed are not in it.
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
            // What is left may have been announced once only, to this thread.
            self.work.notify_one();
        }
        for Piece { queued, rows, .. } in dropped {
            let why = if queued.has_expired(now) { Departure::Expired } else { Departure::Left };
            self.count_departed(rows.len(), why);
            queued.answer(Err(BatchError::DeadlineExceeded));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Blocks until something waits, or nothing does and nothing will, or nothing has for some time.
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

    /// Fails a request of which a piece went wrong, and forgets the rest of it.
    pub(super) fn fail(&self, piece: &Piece<Arc<QueuedRequest>>, error: BatchError) {
        self.forget(&piece.queued.request().key(), piece.ticket);
        piece.queued.answer(Err(error));
    }

    /// Forgets what is left of a request whose caller has left.
    pub(super) fn withdraw(&self, key: &Key, ticket: u64, why: Departure) {
        self.count_departed(self.forget(key, ticket), why);
    }

    /// Forgets what is left of a request, if anything is: so many rows.
    fn forget(&self, key: &Key, ticket: u64) -> usize {
        let withdrawn = lock(&self.state).queues.withdraw(key, ticket);
        // After the lock: it may be the last to hold the rows.
        withdrawn.map_or(0, |piece| piece.rows.len())
    }

    fn count_departed(&self, rows: usize, why: Departure) {
        let counter = match why {
            Departure::Left => &self.cancelled_rows,
            Departure::Expired => &self.expired_rows,
        };
        counter.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Rows that were not computed because their callers left, and because their deadlines passed.
    pub(super) fn departed(&self) -> (u64, u64) {
        (self.cancelled_rows.load(Ordering::Relaxed), self.expired_rows.load(Ordering::Relaxed))
    }

    /// How long the first to come of those who wait has waited.
    pub(super) fn oldest(&self, now: Instant) -> Duration {
        let state = lock(&self.state);
        state.queues.heads().map(|queued| queued.age(now)).max().unwrap_or_default()
    }

    /// Accepts nothing from now on; what was accepted still goes into batches.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }

    /// Counts a batch that was computed; its number.
    pub(super) fn count(&self, rows: usize) -> u64 {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Learns the pace from a batch whose answers are out.
    pub(super) fn record(&self, key: &Key, now: Instant, work: usize, busy: Duration) {
        lock(&self.state).rates.record(key, now, work, busy);
    }

    /// Batches and rows computed so far.
    pub(super) fn computed(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed))
    }

    /// Whether nothing is accepted any more.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Rows and bytes that wait.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.load.rows(), self.load.bytes())
    }
}
