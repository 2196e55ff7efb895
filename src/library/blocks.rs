//! Blocks of rows on all threads.

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::ModelError;
use crate::model::Normalizer;
use crate::model::computed::Computed;
use crate::numeric::{BufferPool, PanelMatrix};

/// Rows that a thread computes at once: a batch of the server.
pub(super) const BLOCK_ROWS: usize = 256;

/// Rows or codes that are computed in blocks, on all threads.
pub(super) struct Blocks<'a> {
    /// (n, c).
    pub(super) rows: ArrayView2<'a, f32>,
    /// Columns of the result.
    pub(super) columns: usize,
    /// Converts normalized results to the units of the input in 64 bits.
    pub(super) normalizer: Option<&'a Normalizer>,
    /// With a normalizer: whether the values of `rows` stay unchanged except where they are missing.
    pub(super) keeps_given: bool,
}

/// The results of all blocks.
pub(super) struct Results {
    /// (n, columns).
    pub(super) values: Array2<f32>,
    /// (n,), or empty.
    pub(super) squared_errors: Vec<f32>,
    /// (n,), or empty.
    pub(super) squared_errors_input_units: Vec<f32>,
}

impl<'a> Blocks<'a> {
    /// Blocks whose results, `columns` wide, stay as they are computed.
    pub(super) fn of_numbers(rows: ArrayView2<'a, f32>, columns: usize) -> Self {
        Self { rows, columns, normalizer: None, keeps_given: false }
    }

    /// Copies each block into a batch with `load`, and computes its result with `compute`. The error is that of the
    /// first block.
    pub(super) fn compute(
        &self,
        load: &(impl Fn(ArrayView2<'_, f32>, &mut PanelMatrix) + Sync),
        compute: &(impl Fn(&PanelMatrix, &mut BufferPool) -> Computed + Sync),
    ) -> Result<Results, ModelError> {
        let mut values = Array2::zeros((self.rows.nrows(), self.columns));
        let blocks: Vec<ArrayView2<'_, f32>> = self.rows.axis_chunks_iter(Axis(0), BLOCK_ROWS).collect();
        // A new array is in standard layout.
        let targets = values.as_slice_mut().unwrap_or_default().par_chunks_mut(BLOCK_ROWS * self.columns.max(1));
        let computed: Vec<Result<_, ModelError>> = blocks
            .par_iter()
            .zip(targets)
            .enumerate()
            .map_init(BufferPool::default, |buffers, (block, (rows, target))| {
                let mut batch = buffers.take();
                load(*rows, &mut batch);
                let computed = compute(&batch, buffers);
                buffers.put(batch);
                self.write(&computed, block * BLOCK_ROWS, target)?;
                buffers.put(computed.values);
                Ok((computed.squared_errors, computed.squared_errors_input_units))
            })
            .collect();
        let mut results = Results { values, squared_errors: Vec::new(), squared_errors_input_units: Vec::new() };
        for block in computed {
            let (squared_errors, squared_errors_input_units) = block?;
            results.squared_errors.extend(squared_errors);
            results.squared_errors_input_units.extend(squared_errors_input_units);
        }
        Ok(results)
    }

    /// Writes the values of a block, whose first row is `first`, row-major to `target`.
    fn write(&self, computed: &Computed, first: usize, target: &mut [f32]) -> Result<(), ModelError> {
        let rows = computed.values.rows();
        if !computed.is_finite()
            && let Some(row) = computed.first_not_finite(0..rows)
        {
            return Err(ModelError::ResultNotFinite { row: first + row });
        }
        computed.values.store(0..rows, target);
        let Some(normalizer) = self.normalizer else { return Ok(()) };
        for (row, values) in target.chunks_exact_mut(self.columns).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                if self.keeps_given && !self.rows[[first + row, column]].is_nan() {
                    *value = self.rows[[first + row, column]];
                    continue;
                }
                let wide = normalizer.denormalized(column, *value);
                *value = wide as f32;
                if !value.is_finite() {
                    return Err(ModelError::DoesNotFit { row: first + row, value: wide });
                }
            }
        }
        Ok(())
    }
}
