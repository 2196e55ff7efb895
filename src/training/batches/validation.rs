//! The held-out rows.

use std::sync::Arc;

use super::split::Split;
use crate::training::source::{RowSource, SourceError};

/// Up to this size, held-out rows are kept in memory; larger sets are read again for each pass.
pub(in crate::training) const HELD_BACK_BYTES_MAX: u64 = 64 << 20;

/// The held-out rows.
#[derive(Debug)]
pub(in crate::training) struct ValidationRows {
    pub(super) source: Arc<dyn RowSource>,
    pub(super) split: Arc<Split>,
    /// All held-out rows, if they are few.
    pub(super) values: Option<Vec<f32>>,
    /// Earlier held-out rows that are evaluated with them.
    pub(super) more: Vec<f32>,
}

impl ValidationRows {
    /// Reads the rows if they are few. `more` (row-major) are held-out rows from earlier training. The first of them
    /// are used, at most as many as are held out here.
    pub(in crate::training) fn new(
        source: Arc<dyn RowSource>,
        split: Arc<Split>,
        more: &[f32],
    ) -> Result<Self, SourceError> {
        let bytes = (split.held_back * 4).saturating_mul(split.features as u64);
        let mut held_back = Self { source, split, values: None, more: Vec::new() };
        if bytes <= HELD_BACK_BYTES_MAX {
            let mut values = Vec::with_capacity(bytes as usize / 4);
            held_back.each(&mut |rows| {
                values.extend_from_slice(rows);
                Ok(())
            })?;
            held_back.values = Some(values);
        }
        let taken = (held_back.split.held_back as usize).saturating_mul(held_back.split.features).min(more.len());
        held_back.more = more[..taken].to_vec();
        Ok(held_back)
    }

    /// Number of rows.
    pub(in crate::training) fn count(&self) -> u64 {
        self.split.held_back + (self.more.len() / self.split.features) as u64
    }

    /// Calls `found` with all rows in order, several at a time (row-major). An error of `found` ends the pass.
    pub(in crate::training) fn each<E: From<SourceError>>(
        &self,
        found: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(values) = &self.values {
            for values in [values, &self.more] {
                if !values.is_empty() {
                    found(values)?;
                }
            }
            return Ok(());
        }
        if self.split.held_back == 0 {
            return Ok(());
        }
        let features = self.split.features;
        let (mut block_values, mut values) = (Vec::new(), Vec::new());
        for block in 0..self.split.blocks() {
            let (_, held_back) = self.split.partition(block);
            if held_back.is_empty() {
                continue;
            }
            let (first, rows) = self.split.block(block);
            block_values.resize(rows as usize * features, 0.0);
            self.source.read(first, &mut block_values)?;
            values.clear();
            for place in held_back {
                values.extend_from_slice(&block_values[place as usize * features..][..features]);
            }
            found(&values)?;
        }
        if self.more.is_empty() { Ok(()) } else { found(&self.more) }
    }
}

/// The rows of a source that training with this seed would hold out, row-major and not rounded. They are the rows of
/// [`ValidationRows`], block by block from the last block on, at most `rows_max`. Reads no more blocks than needed.
pub(in crate::training) fn held_back_rows(
    source: &dyn RowSource,
    held_back: u64,
    seed: u64,
    rows_max: usize,
) -> Result<Vec<f64>, SourceError> {
    let split = Split::new(source.count(), source.features(), held_back, seed);
    let (mut block_values, mut values) = (Vec::new(), Vec::new());
    for block in (0..split.blocks()).rev() {
        if values.len() >= rows_max * split.features {
            break;
        }
        let (first, rows) = split.block(block);
        block_values.resize(rows as usize * split.features, 0.0);
        source.read_wide(first, &mut block_values)?;
        for place in split.partition(block).1 {
            values.extend_from_slice(&block_values[place as usize * split.features..][..split.features]);
        }
    }
    values.truncate(rows_max * split.features);
    Ok(values)
}
