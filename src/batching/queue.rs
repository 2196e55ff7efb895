//! What waits: a queue per (version, operation), served in turn; admission is immediate or refused.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::policy;
use super::reply::Request;
use super::{BatchError, BatchingConfig, Operation};
use crate::model::ModelKey;
use crate::registry::LoadedModel;

/// A refused caller is told to come back no sooner and no later than this.
const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Rows of requests that are computed together: one version, one operation.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) model: Arc<LoadedModel>,
    pub(super) operation: Operation,
    /// Each with the rows of it that are in this batch, one after the other.
    pub(super) members: Vec<(Arc<Request>, Range<usize>)>,
}

impl Batch {
    pub(super) fn rows(&self) -> usize {
        self.members.iter().map(|(_, rows)| rows.len()).sum()
    }
}

/// All queues, and the threads' bell.
#[derive(Debug)]
pub(super) struct Queue {
    config: BatchingConfig,
    threads: usize,
    state: Mutex<State>,
    bell: Condvar,
}

type Key = (ModelKey, Operation);

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Key, Line>,
    /// Lines that are not empty, in the order in which they are served.
    turns: VecDeque<Key>,
    rows: usize,
    bytes: usize,
    closed: bool,
    /// Of one thread, by the last batches.
    seconds_per_row: f64,
}

/// Requests for one version and operation, first come first served.
#[derive(Debug)]
struct Line {
    model: Arc<LoadedModel>,
    /// Each with the first row that has not been taken yet.
    requests: VecDeque<(Arc<Request>, usize)>,
}

impl Queue {
    pub(super) fn new(config: BatchingConfig, threads: usize) -> Self {
        Self { config, threads: threads.max(1), state: Mutex::default(), bell: Condvar::new() }
    }

    /// Puts a request in line, or refuses it at once.
    pub(super) fn admit(
        &self,
        model: Arc<LoadedModel>,
        operation: Operation,
        request: Request,
    ) -> Result<(), BatchError> {
        let rows = request.rows.rows();
        let bytes = rows.saturating_mul(request.row_bytes());
        let (rows_max, bytes_max) = (self.config.queue_rows_max, self.config.queue_bytes_max);
        if rows > rows_max || bytes > bytes_max {
            return Err(BatchError::TooLarge { rows, bytes, rows_max, bytes_max });
        }
        let mut state = self.state();
        if state.closed {
            return Err(BatchError::ShuttingDown);
        }
        if state.rows + rows > rows_max || state.bytes + bytes > bytes_max {
            // Callers that have left may still hold places.
            state.sweep(Instant::now());
        }
        if state.rows + rows > rows_max || state.bytes + bytes > bytes_max {
            let seconds = state.rows as f64 * state.seconds_per_row / self.threads as f64;
            let retry_after = Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_MAX).clamp(RETRY_MIN, RETRY_MAX);
            return Err(BatchError::Full {
                waiting_rows: state.rows,
                waiting_bytes: state.bytes,
                rows_max,
                bytes_max,
                retry_after,
            });
        }
        state.rows += rows;
        state.bytes += bytes;
        let key = (model.key.clone(), operation);
        let line = state.lines.entry(key.clone()).or_insert_with(|| Line { model, requests: VecDeque::new() });
        let was_empty = line.requests.is_empty();
        line.requests.push_back((Arc::new(request), 0));
        if was_empty {
            state.turns.push_back(key);
        }
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// The next batch; waits for one. `None` once the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Batch> {
        let mut state = self.state();
        loop {
            if let Some(batch) = state.cut(self.config.batch_rows_max, Instant::now()) {
                if !state.turns.is_empty() {
                    self.bell.notify_one();
                }
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Learns from a batch how long a row takes.
    pub(super) fn served(&self, rows: usize, took: Duration) {
        let seconds = took.as_secs_f64() / rows.max(1) as f64;
        let mut state = self.state();
        state.seconds_per_row =
            if state.seconds_per_row == 0.0 { seconds } else { 0.9 * state.seconds_per_row + 0.1 * seconds };
    }

    /// Admits nothing more; the threads end when what was admitted is served.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.bell.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows and bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.state();
        (state.rows, state.bytes)
    }
}

impl State {
    /// Cuts a batch from the line whose turn it is. A line that is not empty afterwards goes to the end of the turns.
    fn cut(&mut self, rows_max: usize, now: Instant) -> Option<Batch> {
        while let Some(key) = self.turns.pop_front() {
            self.drop_unwanted(&key, now);
            let Some(line) = self.lines.get_mut(&key) else { continue };
            let wanted = line.requests.iter().map(|(request, next)| request.rows.rows() - next);
            let taken = policy::cut(wanted, rows_max);
            let mut members = Vec::with_capacity(taken.len());
            for rows in taken {
                let Some((request, next)) = line.requests.front_mut() else { break };
                let range = *next..*next + rows;
                *next = range.end;
                self.rows -= rows;
                self.bytes -= rows * request.row_bytes();
                members.push((Arc::clone(request), range.clone()));
                if range.end == request.rows.rows() {
                    line.requests.pop_front();
                }
            }
            if members.is_empty() {
                self.lines.remove(&key);
                continue;
            }
            let batch = Batch { model: Arc::clone(&line.model), operation: key.1, members };
            if line.requests.is_empty() {
                // No line outlives its requests: versions come and go.
                self.lines.remove(&key);
            } else {
                self.turns.push_back(key);
            }
            return Some(batch);
        }
        None
    }

    /// Drops the requests of a line whose callers have left or whose deadlines have passed.
    fn drop_unwanted(&mut self, key: &Key, now: Instant) {
        let Some(line) = self.lines.get_mut(key) else { return };
        let (rows, bytes) = (&mut self.rows, &mut self.bytes);
        line.requests.retain(|(request, next)| {
            let wanted = request.is_wanted(now);
            if !wanted {
                let left = request.rows.rows() - next;
                *rows -= left;
                *bytes -= left * request.row_bytes();
            }
            wanted
        });
    }

    /// The same for all lines.
    fn sweep(&mut self, now: Instant) {
        let keys: Vec<Key> = self.turns.iter().cloned().collect();
        for key in &keys {
            self.drop_unwanted(key, now);
        }
        self.turns.retain(|key| self.lines.get(key).is_some_and(|line| !line.requests.is_empty()));
        self.lines.retain(|_, line| !line.requests.is_empty());
    }
}
