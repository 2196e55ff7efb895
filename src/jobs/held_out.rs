//! Held-out rows that a round passes on to the next round, in a blob next to its rows. The next round then compares its
//! model with the base on more than its own few rows.

use super::job::Job;
use super::spool::Counts;
use super::store::{Blob, JobStore, blob};
use super::{JobError, JobId, rows};
use crate::training::held_out;

/// Maximum rows to pass on, and maximum bytes; the newest rows are kept.
const ROWS_MAX: usize = 4096;
const BYTES_MAX: usize = 16 << 20;

/// Prefix of binary64 values. Without it, the values are binary32.
const WIDE_MARK: &[u8; 8] = b"hhheld64";

/// Writes row-major held-out rows for a job; returns the bytes on disk.
pub(super) fn write(store: &dyn JobStore, id: &JobId, rows: &[f64]) -> Result<u64, JobError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let mut bytes = WIDE_MARK.to_vec();
    bytes.extend(rows.iter().flat_map(|value| value.to_le_bytes()));
    store.write_blob(id, Blob::HeldOut, &bytes)?;
    Ok(blob::bytes_on_disk(&bytes))
}

/// Reads the held-out rows of a job; empty if it received none.
pub(super) fn read(store: &dyn JobStore, id: &JobId, columns: usize) -> Result<Vec<f64>, JobError> {
    let bytes = store.read_blob(id, Blob::HeldOut)?.unwrap_or_default();
    let values: Vec<f64> = match bytes.strip_prefix(WIDE_MARK) {
        Some(bytes) => bytes.as_chunks::<8>().0.iter().map(|number| f64::from_le_bytes(*number)).collect(),
        None => bytes.as_chunks::<4>().0.iter().map(|number| f64::from(f32::from_le_bytes(*number))).collect(),
    };
    let whole = values.len() / columns * columns;
    Ok(values[..whole].to_vec())
}

/// The rows that a job passes on, newest first: the rows that its own training holds out, then the rows that it
/// received. All rows of the job must be on disk.
pub(super) fn hand_on(job: &Job, counts: Counts) -> Result<Vec<f64>, JobError> {
    let Some(received) = rows::open(job.store(), &job.id, job.columns, counts, &|| true)? else {
        return Ok(Vec::new());
    };
    let damaged = |reason: String| JobError::Damaged { role: format!("the held-out rows of job {}", job.id), reason };
    let rows_max = ROWS_MAX.min(BYTES_MAX / (8 * job.columns)).max(1);
    let mut values = held_out(&job.spec, &received.training, rows_max).map_err(|error| damaged(error.to_string()))?;
    values.extend(read(job.store(), &job.id, job.columns)?);
    values.truncate(rows_max * job.columns);
    Ok(values)
}
