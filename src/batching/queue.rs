//! What waits: admission, turns, and the end of it. One lock, held for moments; nothing is computed or freed under it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::load::{Load, Pace, Returns};
use super::policy::{Lines, Piece, Turn};
use super::request::{Key, Question, Request, SMALL_BYTES_MAX};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex};
use super::{BatchError, BatchingConfig, Output, lock};

/// Waiting requests of all models and operations.
#[derive(Debug)]
pub(super) struct Queue {
    config: BatchingConfig,
    threads: usize,
    load: Arc<Load>,
    state: Mutex<State>,
    /// Told when a line gets its first request, when a batch leaves some behind, and at the end.
    work: Condvar,
    batches: AtomicU64,
    rows: AtomicU64,
}

#[derive(Debug)]
struct State {
    lines: Lines<Key, Arc<Request>>,
    pace: Pace,
    returns: Returns,
    /// The smallest question that was refused since there was room for one like it.
    refused: Option<Refused>,
    /// Nothing is accepted any more.
    closed: bool,
}

/// A question that was refused.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// Of the matrix: less than its message takes on the wire.
    matrix_bytes: usize,
    /// What it would have taken of the bounds.
    rows: usize,
    bytes: usize,
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

/// Where an accepted request waits, and where its answer comes from.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) key: Key,
    pub(super) ticket: u64,
    pub(super) answer: oneshot::Receiver<Result<Output, BatchError>>,
}

impl Queue {
    /// For `threads` threads that take from it.
    pub(super) fn new(config: BatchingConfig, threads: usize) -> Self {
        Self {
            config,
            threads,
            load: Arc::default(),
            state: Mutex::new(State {
                lines: Lines::new(),
                pace: Pace::default(),
                returns: Returns::default(),
                refused: None,
                closed: false,
            }),
            work: Condvar::new(),
            batches: AtomicU64::new(0),
            rows: AtomicU64::new(0),
        }
    }

    /// Refuses a question that is larger than the whole queue: it would never be accepted.
    pub(super) fn check_size(&self, question: &Question) -> Result<(), BatchError> {
        let (rows, bytes) = (question.rows.rows(), question.bytes());
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        if rows > rows_max || bytes > bytes_max {
            return Err(BatchError::TooLarge { rows, bytes, rows_max, bytes_max });
        }
        Ok(())
    }

    /// Accepts a question that was checked, or refuses it at once.
    pub(super) fn admit(&self, question: Question) -> Result<Admitted, BatchError> {
        let (rows, bytes, key) = (question.rows.rows(), question.bytes(), question.key());
        let mut state = lock(&self.state);
        if state.closed {
            return Err(BatchError::ShuttingDown);
        }
        if let Some(refusal) = self.refusal(&mut state, rows, bytes) {
            let matrix_bytes = question.rows.bytes();
            if state.refused.is_none_or(|smallest| matrix_bytes < smallest.matrix_bytes) {
                state.refused = Some(Refused { matrix_bytes, rows, bytes });
            }
            return Err(refusal);
        }
        let (request, answer) = Request::new(question, &self.load);
        let ticket = state.lines.push(key.clone(), request, rows);
        drop(state);
        self.work.notify_one();
        Ok(Admitted { key, ticket, answer })
    }

    /// Refuses what would exceed a bound.
    fn refusal(&self, state: &mut State, rows: usize, bytes: usize) -> Option<BatchError> {
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        // Claims are made under the queue's lock alone: these numbers can only fall meanwhile.
        let (waiting_rows, waiting_bytes) = (self.load.rows(), self.load.bytes());
        if rows <= rows_max.saturating_sub(waiting_rows) && bytes <= bytes_max.saturating_sub(waiting_bytes) {
            return None;
        }
        let (ahead, own) = (state.pace.time_for(waiting_rows, self.threads), state.pace.time_for(rows, self.threads));
        let retry_after = state.returns.next(Instant::now(), ahead, own);
        Some(BatchError::Full { waiting_rows, waiting_bytes, rows_max, bytes_max, retry_after })
    }

    /// Whether more than half of a bound is taken.
    pub(super) fn is_busy(&self) -> bool {
        self.load.rows() > self.config.queue_rows_max / 2 || self.load.bytes() > self.config.queue_bytes_max / 2
    }

    /// The refusal of a question whose message has so many bytes, if a question that was no larger was refused and would
    /// be again. Small ones are not looked at: they may be tiny.
    pub(super) fn refuse_early(&self, message_bytes: usize) -> Option<BatchError> {
        let mut state = lock(&self.state);
        let Refused { matrix_bytes, rows, bytes } = state.refused?;
        if message_bytes < matrix_bytes || message_bytes <= SMALL_BYTES_MAX {
            return None;
        }
        let refusal = self.refusal(&mut state, rows, bytes);
        if refusal.is_none() {
            state.refused = None;
        }
        refusal
    }

    /// The next batch, `None` if nothing waits. Requests whose callers left or whose deadlines passed are not in it.
    pub(super) fn take(&self, now: Instant) -> Option<Vec<Piece<Arc<Request>>>> {
        let mut state = lock(&self.state);
        let Turn { batch, dropped } = state.lines.next(self.config.batch_rows_max, |request| request.is_wanted(now));
        let more = !state.lines.is_empty();
        drop(state);
        if more {
            // What is left may have been announced once only, to this thread.
            self.work.notify_one();
        }
        for request in dropped {
            request.answer(Err(BatchError::DeadlineExceeded));
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Blocks until something waits, or nothing does and nothing will, or nothing has for some time.
    pub(super) fn wait(&self, at_most: Duration) -> Wait {
        let mut state = lock(&self.state);
        while state.lines.is_empty() {
            if state.closed {
                return Wait::End;
            }
            let (locked, timeout) = self.work.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner);
            state = locked;
            if timeout.timed_out() && state.lines.is_empty() && !state.closed {
                return Wait::Quiet;
            }
        }
        Wait::Work
    }

    /// Fails a request of which a piece went wrong, and forgets the rest of it.
    pub(super) fn fail(&self, piece: &Piece<Arc<Request>>, error: BatchError) {
        self.withdraw(&piece.request.question().key(), piece.ticket);
        piece.request.answer(Err(error));
    }

    /// Forgets what is left of a request, if anything is.
    pub(super) fn withdraw(&self, key: &Key, ticket: u64) {
        let withdrawn = lock(&self.state).lines.withdraw(key, ticket);
        // After the lock: it may be the last to hold the rows.
        drop(withdrawn);
    }

    /// Accepts nothing from now on; what was accepted still goes into batches.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }

    /// Counts a batch that was computed.
    pub(super) fn count(&self, rows: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Learns the pace from a batch whose answers are out.
    pub(super) fn record(&self, now: Instant, rows: usize, busy: Duration) {
        lock(&self.state).pace.record(now, rows, busy);
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
