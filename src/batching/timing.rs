//! Timing of a request: queueing, batch assembly and compute.

use std::time::{Duration, Instant};

use super::Operation;

use crate::telemetry::measures::KindMeasures;

/// Timing of a completed request. If the request was split over several batches, each batch counts in full, and batches
/// may have been computed at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Time from acceptance until the first batch started.
    pub queued: Duration,
    /// Total time in which the rows of its batches were copied together.
    pub assembly: Duration,
    /// Total compute time of its batches.
    pub compute: Duration,
    /// Rows of its largest batch.
    pub batch_rows: usize,
    /// Its last batch. A request that was computed inline is a batch of its own.
    pub batch: Option<Batch>,
}

/// A computed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of the batch in this process, from 1, in order of completion.
    pub number: u64,
    /// The computed operation.
    pub operation: Operation,
    /// Rows of all requests in the batch.
    pub rows: usize,
    /// Number of requests with rows in the batch.
    pub requests: usize,
    /// Time in which the rows were copied together.
    pub assembly: Duration,
    /// Compute time.
    pub compute: Duration,
    /// When the computation ended.
    pub computed_at: Instant,
}

impl Batch {
    /// Records the batch in the metrics of its model.
    pub(super) fn measure(&self, measures: &KindMeasures) {
        measures.assembly.observe_time(self.assembly);
        measures.compute.observe_time(self.compute);
        measures.batch_rows.observe(self.rows as u64);
    }
}

impl Timing {
    /// The timing of a request whose first batch started after it had waited for `queued`.
    pub(super) fn after(queued: Duration) -> Self {
        Self { queued, ..Self::default() }
    }

    /// Adds a batch with rows of this request.
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
    fn batch_times_add_up_in_any_order() {
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
