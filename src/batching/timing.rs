//! What a request's time was spent on.

use std::time::{Duration, Instant};

use super::Operation;

use crate::telemetry::measures::KindMeasures;

/// How the time of a request that was answered passed. Where batches have cut it into pieces, each batch counts whole, and
/// two of them may have been computed at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From its acceptance until its first batch began.
    pub queued: Duration,
    /// Of the batches that it was in: from their beginning until all their rows were copied together.
    pub assembly: Duration,
    /// Of the batches that it was in: the arithmetic.
    pub compute: Duration,
    /// Rows of the largest batch that it was in.
    pub batch_rows: usize,
    /// The last batch that it was in. What was computed where it was asked is a batch of its own.
    pub batch: Option<Batch>,
}

/// A batch that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Those of a process are numbered from 1, in the order of their ends.
    pub number: u64,
    /// What was computed.
    pub operation: Operation,
    /// Of all requests.
    pub rows: usize,
    /// Requests that it computed, or parts of.
    pub requests: usize,
    /// From its beginning until all rows were copied together.
    pub assembly: Duration,
    /// The arithmetic.
    pub compute: Duration,
    /// When that was done.
    pub computed_at: Instant,
}

impl Batch {
    /// Counts it where its model is measured.
    pub(super) fn measure(&self, measures: &KindMeasures) {
        measures.assembly.observe_time(self.assembly);
        measures.compute.observe_time(self.compute);
        measures.batch_rows.observe(self.rows as u64);
    }
}

impl Timing {
    /// Of a request whose first batch began after it had waited for `queued`.
    pub(super) fn after(queued: Duration) -> Self {
        Self { queued, ..Self::default() }
    }

    /// Adds a batch that it was in.
    pub(super) fn add(&mut self, batch: &Batch) {
        self.assembly += batch.assembly;
        self.compute += batch.compute;
        self.batch_rows = self.batch_rows.max(batch.rows);
        if self.batch.is_none_or(|last| last.number < batch.number) {
            self.batch = Some(*batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_whatever_their_order() {
        let ms = Duration::from_millis;
        let mut timing = Timing::after(ms(5));
        let (operation, computed_at) = (Operation::Encode, Instant::now());
        let last = Batch { number: 7, operation, rows: 64, requests: 1, assembly: ms(1), compute: ms(10), computed_at };
        timing.add(&last);
        timing.add(&Batch { number: 6, rows: 256, assembly: ms(2), compute: ms(30), ..last });
        let expected = Timing { queued: ms(5), assembly: ms(3), compute: ms(40), batch_rows: 256, batch: Some(last) };
        assert_eq!(timing, expected);
    }
}
