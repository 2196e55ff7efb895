//! Limits of batches and of the queues.

use super::BadBatching;
use crate::numeric::LANES;

/// Limits of batches and of the queues. Rows count until they are computed. Bytes of a request and its response count
/// until the response is sent to the caller's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchingConfig {
    /// Maximum rows of one batch: a multiple of 16.
    pub batch_rows_max: usize,
    /// Maximum rows in all queues together.
    pub queue_rows_max: usize,
    /// Maximum bytes in all queues together.
    pub queue_bytes_max: usize,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        Self { batch_rows_max: 256, queue_rows_max: 65_536, queue_bytes_max: 256 << 20 }
    }
}

impl BatchingConfig {
    /// Rejects settings that are out of range.
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
