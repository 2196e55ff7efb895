//! Which rows form the next batch. Pure: knows neither time nor threads nor what a request is.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;

/// Waiting requests, one line per key. The lines take turns; within a line the first to come is the first to go.
#[derive(Debug)]
pub(super) struct Lines<K, T> {
    /// None is empty.
    by_key: HashMap<K, VecDeque<Waiting<T>>>,
    /// The keys of `by_key`, each once; the first is served next.
    turns: VecDeque<K>,
    tickets: u64,
}

/// A request, or what is left of it.
#[derive(Debug)]
struct Waiting<T> {
    /// Rises along a line.
    ticket: u64,
    request: T,
    /// Its rows that are in no batch yet, never empty.
    rows: Range<usize>,
}

/// Rows of one request, as part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece<T> {
    /// What [`Lines::push`] gave.
    pub(super) ticket: u64,
    pub(super) request: T,
    /// Rows of the request, never empty.
    pub(super) rows: Range<usize>,
}

/// What came of asking for a batch.
#[derive(Debug)]
pub(super) struct Turn<T> {
    /// All of one key; empty only if nothing waits any more.
    pub(super) batch: Vec<Piece<T>>,
    /// Requests that nobody wanted any more: they are in no batch, and wait no longer.
    pub(super) dropped: Vec<T>,
}

impl<K: Clone + Eq + Hash, T: Clone> Lines<K, T> {
    pub(super) fn new() -> Self {
        Self { by_key: HashMap::new(), turns: VecDeque::new(), tickets: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Queues a request of `rows` rows, at least 1; the ticket finds it again.
    pub(super) fn push(&mut self, key: K, request: T, rows: usize) -> u64 {
        debug_assert!(rows > 0, "a request has rows");
        self.tickets += 1;
        let waiting = Waiting { ticket: self.tickets, request, rows: 0..rows };
        if let Some(line) = self.by_key.get_mut(&key) {
            line.push_back(waiting);
        } else {
            self.by_key.insert(key.clone(), VecDeque::from([waiting]));
            self.turns.push_back(key);
        }
        self.tickets
    }

    /// Takes out what is left of a request; `None` if all its rows went into batches.
    pub(super) fn withdraw(&mut self, key: &K, ticket: u64) -> Option<T> {
        let line = self.by_key.get_mut(key)?;
        let place = line.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        let withdrawn = line.remove(place);
        if line.is_empty() {
            self.by_key.remove(key);
            self.turns.retain(|waiting| waiting != key);
        }
        withdrawn.map(|waiting| waiting.request)
    }

    /// Cuts the next batch, of at most `rows_max` rows, from the line whose turn it is. A request that does not fit
    /// leaves the rest of its rows at the head of its line.
    pub(super) fn next(&mut self, rows_max: usize, mut wanted: impl FnMut(&T) -> bool) -> Turn<T> {
        let mut dropped = Vec::new();
        while let Some(key) = self.turns.pop_front() {
            let Some(line) = self.by_key.get_mut(&key) else { continue };
            let batch = cut(line, rows_max, &mut wanted, &mut dropped);
            if line.is_empty() {
                self.by_key.remove(&key);
            } else {
                self.turns.push_back(key);
            }
            if !batch.is_empty() {
                return Turn { batch, dropped };
            }
        }
        Turn { batch: Vec::new(), dropped }
    }
}

/// Fills a batch from the head of `line`. Empty only if the line is.
fn cut<T: Clone>(
    line: &mut VecDeque<Waiting<T>>,
    rows_max: usize,
    wanted: &mut impl FnMut(&T) -> bool,
    dropped: &mut Vec<T>,
) -> Vec<Piece<T>> {
    let mut batch = Vec::new();
    let mut room = rows_max.max(1);
    while room > 0
        && let Some(mut waiting) = line.pop_front()
    {
        if !wanted(&waiting.request) {
            dropped.push(waiting.request);
            continue;
        }
        let end = waiting.rows.end.min(waiting.rows.start + room);
        let rows = waiting.rows.start..end;
        room -= rows.len();
        batch.push(Piece { ticket: waiting.ticket, request: waiting.request.clone(), rows });
        if end < waiting.rows.end {
            waiting.rows.start = end;
            line.push_front(waiting);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests of these sizes in one line, cut into batches: (request, rows) by batch.
    #[track_caller]
    fn check_batches(sizes: &[usize], rows_max: usize, expected: &[&[(usize, Range<usize>)]]) {
        let mut lines = Lines::new();
        for (request, rows) in sizes.iter().enumerate() {
            lines.push("line", request, *rows);
        }
        let mut batches = Vec::new();
        while !lines.is_empty() {
            let turn = lines.next(rows_max, |_| true);
            batches.push(turn.batch.into_iter().map(|piece| (piece.request, piece.rows)).collect::<Vec<_>>());
        }
        assert_eq!(batches, expected);
    }

    #[test]
    fn small_requests_share_a_batch() {
        check_batches(&[3, 4, 1], 8, &[&[(0, 0..3), (1, 0..4), (2, 0..1)]]);
    }

    #[test]
    fn a_request_that_does_not_fit_is_split() {
        check_batches(&[3, 4, 2], 4, &[&[(0, 0..3), (1, 0..1)], &[(1, 1..4), (2, 0..1)], &[(2, 1..2)]]);
    }

    #[test]
    fn a_request_larger_than_a_batch_is_never_stranded() {
        check_batches(&[10], 4, &[&[(0, 0..4)], &[(0, 4..8)], &[(0, 8..10)]]);
    }

    #[test]
    fn nothing_waiting_gives_no_batch() {
        let turn = Lines::<u8, u8>::new().next(16, |_| true);
        assert!(turn.batch.is_empty() && turn.dropped.is_empty());
    }

    #[test]
    fn lines_take_turns() {
        let mut lines = Lines::new();
        for (key, request) in [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            lines.push(key, request, 4);
        }
        let order: Vec<usize> = (0..5).map(|_| lines.next(4, |_| true).batch[0].request).collect();
        assert_eq!(order, [0, 2, 4, 1, 3]);
    }

    #[test]
    fn unwanted_requests_take_no_room() {
        let mut lines = Lines::new();
        for request in 0..4 {
            lines.push("a", request, 4);
        }
        lines.push("b", 4, 4);
        let turn = lines.next(8, |request| *request % 2 == 1);
        let batch: Vec<_> = turn.batch.iter().map(|piece| piece.request).collect();
        assert_eq!((batch, turn.dropped), (vec![1, 3], vec![0, 2]));
        // A line of unwanted requests alone gives its turn to the next.
        lines.push("c", 5, 4);
        let turn = lines.next(8, |request| *request == 5);
        assert_eq!((turn.batch[0].request, turn.dropped), (5, vec![4]));
        assert!(lines.is_empty());
    }

    #[test]
    fn a_withdrawn_request_leaves_its_line() {
        let mut lines = Lines::new();
        let tickets: Vec<u64> = (0..3).map(|request| lines.push("a", request, 6)).collect();
        assert_eq!(lines.withdraw(&"a", tickets[1]), Some(1));
        assert_eq!(lines.withdraw(&"a", tickets[1]), None, "once");
        assert_eq!(lines.next(4, |_| true).batch[0].request, 0);
        assert_eq!(lines.withdraw(&"a", tickets[0]), Some(0), "what is left of it");
        assert_eq!(lines.withdraw(&"b", tickets[2]), None, "another line");
        assert_eq!(lines.withdraw(&"a", tickets[2]), Some(2));
        assert!(lines.is_empty() && lines.by_key.is_empty(), "no empty line stays");
    }

    proptest! {
        #[test]
        fn every_row_appears_once_and_in_order(
            requests in prop::collection::vec((0_u8..4, 1_usize..70), 1..40),
            rows_max in 1_usize..33,
            early in 0_usize..40,
        ) {
            let mut lines = Lines::new();
            let mut seen = vec![0; requests.len()];
            let mut last_of_line: HashMap<u8, usize> = HashMap::new();
            // Some come before the first batch, and one more after every batch.
            let mut coming = requests.iter().enumerate();
            for (request, (key, rows)) in coming.by_ref().take(early) {
                lines.push(*key, request, *rows);
            }
            loop {
                let turn = lines.next(rows_max, |_| true);
                prop_assert!(turn.dropped.is_empty());
                let rows: usize = turn.batch.iter().map(|piece| piece.rows.len()).sum();
                prop_assert!(rows <= rows_max, "{rows} rows in a batch of at most {rows_max}");
                for piece in &turn.batch {
                    prop_assert!(!piece.rows.is_empty());
                    prop_assert_eq!(piece.rows.start, seen[piece.request], "in order, without a gap");
                    seen[piece.request] = piece.rows.end;
                    let key = requests[piece.request].0;
                    prop_assert_eq!(key, requests[turn.batch[0].request].0, "one line a batch");
                    let last = last_of_line.entry(key).or_insert(0);
                    prop_assert!(*last <= piece.request, "first come, first served");
                    *last = piece.request;
                }
                // Only a line that has run out leaves room in its batch.
                if let Some(first) = turn.batch.first() && rows < rows_max {
                    prop_assert!(!lines.by_key.contains_key(&requests[first.request].0));
                }
                match coming.next() {
                    Some((request, (key, rows))) => { lines.push(*key, request, *rows); }
                    None if lines.is_empty() => break,
                    None => prop_assert!(!turn.batch.is_empty()),
                }
            }
            for (seen, (_, rows)) in seen.iter().zip(&requests) {
                prop_assert_eq!(seen, rows);
            }
        }

        #[test]
        fn no_line_starves(sizes in prop::collection::vec(1_usize..200, 2..8), rows_max in 1_usize..17) {
            let mut lines = Lines::new();
            for (key, rows) in sizes.iter().enumerate() {
                lines.push(key, key, *rows);
            }
            let mut waited = vec![0; sizes.len()];
            for _ in 0..100 {
                let served = lines.next(rows_max, |_| true).batch[0].request;
                // It comes back for more at once.
                lines.push(served, served, rows_max);
                for (key, waited) in waited.iter_mut().enumerate() {
                    *waited = if key == served { 0 } else { *waited + 1 };
                    prop_assert!(*waited < sizes.len(), "line {} waited for {} batches", key, waited);
                }
            }
        }
    }
}
