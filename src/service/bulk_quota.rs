//! The part of the queue that all bulk streams together may use. Unlike other quotas, it does not refuse: a message waits
//! for its share.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::ServiceError;
use crate::batching::{BatchError, BatchingConfig};

/// Limits bulk streams to half of the queue's rows and half of its bytes, all streams together. The rest is left for
/// calls that do not wait.
///
/// Waiting messages are served in order of arrival. A message larger than the whole quota takes all of it.
#[derive(Debug)]
pub(super) struct BulkQuota {
    rows_max: usize,
    bytes_max: usize,
    shares: Semaphore,
}

/// Units of the semaphore for the whole quota. A message takes the larger of its shares of rows and of bytes.
const SHARES: u32 = 1 << 16;

impl BulkQuota {
    pub(super) fn new(queue: BatchingConfig) -> Self {
        Self {
            rows_max: queue.queue_rows_max.div_ceil(2),
            bytes_max: queue.queue_bytes_max.div_ceil(2),
            shares: Semaphore::new(SHARES as usize),
        }
    }

    /// Waits for a share of the quota. Dropping the permit frees it.
    pub(super) async fn place(&self, rows: usize, bytes: usize) -> Result<SemaphorePermit<'_>, ServiceError> {
        // The semaphore is never closed.
        self.shares.acquire_many(self.share(rows, bytes)).await.map_err(|_| BatchError::ShuttingDown.into())
    }

    fn share(&self, rows: usize, bytes: usize) -> u32 {
        let share = |part: usize, whole: usize| (part as u128 * u128::from(SHARES)).div_ceil(whole as u128);
        let larger = share(rows, self.rows_max).max(share(bytes, self.bytes_max));
        u32::try_from(larger).unwrap_or(SHARES).clamp(1, SHARES)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn room(queue_rows_max: usize, queue_bytes_max: usize) -> BulkQuota {
        BulkQuota::new(BatchingConfig { queue_rows_max, queue_bytes_max, ..BatchingConfig::default() })
    }

    #[track_caller]
    fn check_share(rows: usize, bytes: usize, expected: u32) {
        assert_eq!(room(2_000, 200_000).share(rows, bytes), expected, "{rows} rows, {bytes} bytes");
    }

    #[test]
    fn a_share_is_a_fraction_of_half_the_queue() {
        check_share(1_000, 1, SHARES);
        check_share(500, 50_000, SHARES / 2);
        check_share(1, 25_000, SHARES / 4);
        check_share(1, 1, 66);
    }

    #[test]
    fn the_largest_and_the_smallest_message_have_a_share() {
        check_share(usize::MAX, usize::MAX, SHARES);
        assert_eq!(room(usize::MAX, usize::MAX).share(1, 1), 1);
        assert_eq!(room(1, 1).share(1, 1), SHARES);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_it_is_dropped() {
        let room = room(100, 1 << 20);
        let first = room.place(50, 1).await.expect("all of it");
        let second = tokio::time::timeout(Duration::from_millis(10), room.place(1, 1)).await;
        assert!(second.is_err(), "there is no room");
        drop(first);
        drop(room.place(50, 1).await.expect("all of it again"));
    }
}
