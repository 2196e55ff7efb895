//! Passes over the rows of a source, in order.

use super::split::Split;
use crate::training::source::{RowSource, SourceError};

/// Called with the index of the first row, and the rows.
type Found<'a, E> = &'a mut dyn FnMut(u64, &[f32]) -> Result<(), E>;

/// Calls `found(index of the first row, rows)` with all rows of a source in order, several at a time (row-major). An
/// error of `found` ends the pass.
pub(in crate::training) fn each_block<E: From<SourceError>>(
    source: &dyn RowSource,
    found: Found<'_, E>,
) -> Result<(), E> {
    let features = source.features();
    let split = Split::new(source.count(), features, 0, 0);
    let mut values = Vec::new();
    for block in 0..split.blocks() {
        let (first, rows) = split.block(block);
        values.resize(rows as usize * features, 0.0);
        source.read(first, &mut values)?;
        found(first, &values)?;
    }
    Ok(())
}

/// Calls `found(index of the row, row)` with the training rows, in order. An error of `found` ends the pass.
pub(in crate::training) fn each_training_row<E: From<SourceError>>(
    source: &dyn RowSource,
    split: &Split,
    found: Found<'_, E>,
) -> Result<(), E> {
    let features = split.features;
    let mut values = Vec::new();
    for block in 0..split.blocks() {
        let (first, rows) = split.block(block);
        values.resize(rows as usize * features, 0.0);
        source.read(first, &mut values)?;
        for place in split.partition(block).0 {
            found(first + u64::from(place), &values[place as usize * features..][..features])?;
        }
    }
    Ok(())
}
