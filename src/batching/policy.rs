//! Batch policy: which rows form the next batch. It is pure: the cost of rows is an argument, and it knows no clocks,
//! threads or request types.
//!
//! Models' queues share the threads by deficit round-robin (Shreedhar and Varghese, "Efficient Fair Queuing Using
//! Deficit Round-Robin", IEEE/ACM Transactions on Networking 4(3), 1996), measured in seconds of compute time: every
//! queue gets the same time per turn, whatever its rows cost. Within a queue, interactive requests go before bulk
//! requests, which keep a guaranteed share. Requests of one urgency are served in order of arrival.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;
use std::time::Duration;

use crate::numeric::LANES;

/// Compute time that a queue gets per turn, and about the time of one batch. Shorter batches would read W more often
/// for the same rows; longer ones would keep the other queues waiting.
const QUANTUM: Duration = Duration::from_millis(2);

/// A batch may always have this many rows, whatever they cost: with fewer rows, each row takes longer.
const CUT_ROWS_MIN: usize = 4 * LANES;

/// Maximum deficit of a queue, in turns, so that one wrong measurement cannot shut it out for long.
const DEFICIT_QUANTA_MAX: f64 = 64.0;

/// While both urgencies are queued, one bulk row is computed per this many interactive rows, so that bulk always
/// progresses.
const ROWS_PER_BULK_ROW: usize = 7;

/// Urgency of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A caller waits for this response.
    Interactive,
    /// Part of a stream with more rows to come.
    Bulk,
}

/// Queued requests, in one queue per key. The queues take turns.
#[derive(Debug)]
pub(super) struct FairQueue<K, T> {
    /// The queues; none of them is empty.
    by_key: HashMap<K, ModelQueue<T>>,
    /// The keys of `by_key` in turn order, each once; the first is next.
    turns: VecDeque<K>,
    tickets: u64,
}

#[derive(Debug)]
struct ModelQueue<T> {
    interactive: Wait<T>,
    bulk: Wait<T>,
    /// Interactive rows that were computed while bulk waited, minus [`ROWS_PER_BULK_ROW`] for each bulk row computed in
    /// return.
    owed_to_bulk: usize,
    /// Deficit counter of deficit round-robin, in seconds: compute time left in this turn, negative if overused.
    deficit: f64,
}

/// Requests of one urgency, in order of arrival.
#[derive(Debug)]
struct Wait<T> {
    requests: VecDeque<Waiting<T>>,
    /// Rows of all these requests.
    rows: usize,
}

/// A queued request, or its remaining rows.
#[derive(Debug)]
struct Waiting<T> {
    /// Increases along a queue.
    ticket: u64,
    queued: T,
    /// Rows that are in no batch yet; never empty.
    rows: Range<usize>,
}

/// Rows of one request, as part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece<T> {
    /// The ticket that [`FairQueue::push`] returned.
    pub(super) ticket: u64,
    pub(super) queued: T,
    /// Rows of the request; never empty.
    pub(super) rows: Range<usize>,
}

/// Result of [`FairQueue::next`].
#[derive(Debug)]
pub(super) struct Turn<T> {
    /// Pieces of one key; empty only if nothing is queued.
    pub(super) batch: Vec<Piece<T>>,
    /// Requests that are no longer wanted, removed from the queue without being in a batch.
    pub(super) dropped: Vec<Piece<T>>,
}

impl<K: Clone + Eq + Hash, T: Clone> FairQueue<K, T> {
    pub(super) fn new() -> Self {
        Self { by_key: HashMap::new(), turns: VecDeque::new(), tickets: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Number of queues.
    pub(super) fn count(&self) -> usize {
        self.turns.len()
    }

    /// The oldest request of each queue and urgency.
    pub(super) fn heads(&self) -> impl Iterator<Item = &T> {
        let waits = self.by_key.values().flat_map(|model_queue| [&model_queue.interactive, &model_queue.bulk]);
        waits.filter_map(|wait| wait.requests.front()).map(|waiting| &waiting.queued)
    }

    /// Rows of this queue that would be computed before a new request.
    pub(super) fn rows_before(&self, key: &K, urgency: Urgency) -> usize {
        self.by_key.get(key).map_or(0, |model_queue| match urgency {
            Urgency::Interactive => model_queue.interactive.rows,
            Urgency::Bulk => model_queue.rows(),
        })
    }

    /// Queues a request of `rows` rows, at least 1. Returns its ticket for [`FairQueue::withdraw`].
    pub(super) fn push(&mut self, key: K, queued: T, rows: usize, urgency: Urgency) -> u64 {
        debug_assert!(rows > 0, "a request has rows");
        self.tickets += 1;
        let waiting = Waiting { ticket: self.tickets, queued, rows: 0..rows };
        let model_queue = self.by_key.entry(key.clone()).or_insert_with(|| {
            self.turns.push_back(key);
            ModelQueue { interactive: Wait::new(), bulk: Wait::new(), owed_to_bulk: 0, deficit: QUANTUM.as_secs_f64() }
        });
        let wait = match urgency {
            Urgency::Interactive => &mut model_queue.interactive,
            Urgency::Bulk => &mut model_queue.bulk,
        };
        wait.rows += rows;
        wait.requests.push_back(waiting);
        self.tickets
    }

    /// Takes out what is left of a request; `None` if all its rows went into batches.
    pub(super) fn withdraw(&mut self, key: &K, ticket: u64) -> Option<Piece<T>> {
        let model_queue = self.by_key.get_mut(key)?;
        let withdrawn = model_queue.interactive.remove(ticket).or_else(|| model_queue.bulk.remove(ticket))?;
        if model_queue.rows() == 0 {
            self.by_key.remove(key);
            self.turns.retain(|waiting| waiting != key);
        }
        Some(withdrawn)
    }

    /// Takes the next batch, of at most `rows_max` rows, from the queue whose turn it is. A request that does not fit
    /// leaves its remaining rows at the head of its queue. `row_seconds(key, request)` is the compute time of one row.
    pub(super) fn next(
        &mut self,
        rows_max: usize,
        row_seconds: impl Fn(&K, &T) -> f64,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Turn<T> {
        let (turn, mut dropped) = (QUANTUM.as_secs_f64(), Vec::new());
        // This ends, because each round adds a quantum to every queue in deficit.
        while let Some(key) = self.turns.front().cloned() {
            let Some(model_queue) = self.by_key.get_mut(&key) else {
                self.turns.pop_front();
                continue;
            };
            if model_queue.deficit <= 0.0 {
                model_queue.deficit += turn;
                self.turns.rotate_left(1);
                continue;
            }
            let row_seconds = model_queue.head().map_or(0.0, |head| row_seconds(&key, head));
            let batch = model_queue.cut(room(rows_max, model_queue.rows(), row_seconds), &mut wanted, &mut dropped);
            let rows: usize = batch.iter().map(|piece| piece.rows.len()).sum();
            model_queue.deficit = (model_queue.deficit - rows as f64 * row_seconds).max(-turn * DEFICIT_QUANTA_MAX);
            if model_queue.rows() == 0 {
                // An emptied queue drops its deficit, which is at most one batch of expensive rows.
                self.by_key.remove(&key);
                self.turns.pop_front();
            }
            if !batch.is_empty() {
                return Turn { batch, dropped };
            }
        }
        Turn { batch: Vec::new(), dropped }
    }
}

/// Number of rows of a batch, if `waiting` rows of `row_seconds` each are queued. If rows are left over, it is a
/// multiple of 16, because a partly filled panel takes as long as a full one.
fn room(rows_max: usize, waiting: usize, row_seconds: f64) -> usize {
    // The cast saturates for extreme costs.
    let in_a_turn = (QUANTUM.as_secs_f64() / row_seconds) as usize;
    let room = in_a_turn.max(CUT_ROWS_MIN).min(rows_max);
    if waiting <= room { waiting } else { (room / LANES * LANES).max(1) }
}

impl<T> Wait<T> {
    fn new() -> Self {
        Self { requests: VecDeque::new(), rows: 0 }
    }

    /// Removes the remaining rows of a request.
    fn remove(&mut self, ticket: u64) -> Option<Piece<T>> {
        let place = self.requests.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        let Waiting { ticket, queued, rows } = self.requests.remove(place)?;
        self.rows -= rows.len();
        Some(Piece { ticket, queued, rows })
    }
}

impl<T: Clone> ModelQueue<T> {
    fn rows(&self) -> usize {
        self.interactive.rows + self.bulk.rows
    }

    fn head(&self) -> Option<&T> {
        let first = self.interactive.requests.front().or_else(|| self.bulk.requests.front());
        first.map(|waiting| &waiting.queued)
    }

    /// Takes a batch of at most `room` rows from the head. It is empty only if the queue is.
    fn cut(
        &mut self,
        mut room: usize,
        wanted: &mut impl FnMut(&T) -> bool,
        dropped: &mut Vec<Piece<T>>,
    ) -> Vec<Piece<T>> {
        let mut batch = Vec::new();
        while room > 0 {
            if self.bulk.rows == 0 {
                self.owed_to_bulk = 0;
            }
            let owed = self.owed_to_bulk / ROWS_PER_BULK_ROW;
            // Serve bulk in larger pieces, since each piece has a fixed cost.
            let bulk_first = owed >= CUT_ROWS_MIN || self.interactive.rows == 0;
            let most = if bulk_first && self.interactive.rows > 0 { room.min(owed) } else { room };
            let wait = if bulk_first { &mut self.bulk } else { &mut self.interactive };
            let Some(mut waiting) = wait.requests.pop_front() else { break };
            if !wanted(&waiting.queued) {
                wait.rows -= waiting.rows.len();
                let Waiting { ticket, queued, rows } = waiting;
                dropped.push(Piece { ticket, queued, rows });
                continue;
            }
            let end = waiting.rows.end.min(waiting.rows.start + most);
            let rows = waiting.rows.start..end;
            room -= rows.len();
            wait.rows -= rows.len();
            batch.push(Piece { ticket: waiting.ticket, queued: waiting.queued.clone(), rows: rows.clone() });
            if end < waiting.rows.end {
                waiting.rows.start = end;
                wait.requests.push_front(waiting);
            }
            self.owed_to_bulk = if bulk_first {
                self.owed_to_bulk.saturating_sub(ROWS_PER_BULK_ROW * rows.len())
            } else {
                self.owed_to_bulk + rows.len()
            };
        }
        batch
    }
}

#[cfg(test)]
mod tests;
