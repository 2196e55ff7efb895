//! Batches whose rows lie along the SIMD lanes.
//!
//! Requests arrive row-major. The copy into the batch transposes them, so that no further copy is needed.

use std::ops::Range;

use super::floats::Floats;
use super::kernels::PANEL;

/// Rows of a panel. A batch with a multiple of this many rows uses the machine best.
pub const LANES: usize = PANEL;

/// A matrix of `rows` x `columns`, cut into panels of [`LANES`] rows. A panel is column-major. The last one holds the
/// remaining rows without padding.
///
/// So a single row is a plain slice, and 16 rows or more are columns of 16 adjacent floats without large strides.
#[derive(Debug, Default)]
pub struct PanelMatrix {
    values: Floats,
    rows: usize,
    columns: usize,
}

impl Clone for PanelMatrix {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), ..*self }
    }

    /// Keeps the memory if it suffices.
    fn clone_from(&mut self, source: &Self) {
        self.reset(source.rows, source.columns);
        self.values_mut().copy_from_slice(source.values());
    }
}

impl PanelMatrix {
    /// All zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { values: Floats::zeros(rows * columns), rows, columns }
    }

    /// Changes the shape. Keeps the memory if it suffices. The values are unspecified: overwrite them.
    pub fn reset(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.columns = columns;
        self.values.reset(rows * columns);
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All `rows * columns` values in panel order: for operations on every number.
    pub fn values(&self) -> &[f32] {
        self.values.as_slice()
    }

    /// All values in panel order, mutable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values.as_mut_slice()
    }

    /// Index of a value in storage.
    fn index(&self, row: usize, column: usize) -> usize {
        assert!(
            row < self.rows && column < self.columns,
            "row {row}, column {column} of {}x{}",
            self.rows,
            self.columns
        );
        let (first, width) = self.panel_of(row);
        first * self.columns + column * width + row - first
    }

    /// One value.
    ///
    /// # Panics
    /// If the row or the column is out of range.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        self.values()[self.index(row, column)]
    }

    /// One value, mutable.
    ///
    /// # Panics
    /// If the row or the column is out of range.
    pub fn at_mut(&mut self, row: usize, column: usize) -> &mut f32 {
        let index = self.index(row, column);
        &mut self.values_mut()[index]
    }

    /// A copy of one column.
    ///
    /// # Panics
    /// If the column is out of range.
    pub fn column(&self, column: usize) -> Vec<f32> {
        (0..self.rows).map(|row| self.at(row, column)).collect()
    }

    /// First row and number of rows of the panel that `row` is in.
    fn panel_of(&self, row: usize) -> (usize, usize) {
        let first = row / LANES * LANES;
        (first, LANES.min(self.rows - first))
    }

    /// The panels in order: (first row, number of rows, their columns one after another).
    pub fn panels(&self) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let panels = self.values().chunks((LANES * self.columns).max(1)).enumerate();
        panels.map(|(i, panel)| (i * LANES, panel.len() / self.columns, panel))
    }

    /// The sum of squares of each row, added in the order of the columns: the same bits in every batch.
    pub fn squares_by_row(&self) -> Vec<f32> {
        let mut sums = vec![0.0; self.rows];
        for (first, rows, panel) in self.panels() {
            let sums = &mut sums[first..first + rows];
            for column in panel.chunks_exact(rows) {
                sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += value * value);
            }
        }
        sums
    }

    /// Becomes `f(value)` of each value of `source`.
    pub fn map_from(&mut self, source: &Self, f: impl Fn(f32) -> f32) {
        self.reset(source.rows, source.columns);
        self.values_mut().iter_mut().zip(source.values()).for_each(|(target, value)| *target = f(*value));
    }

    /// Becomes `f(value, constants)` of each value of `source`, with the constants of its column.
    ///
    /// # Panics
    /// If there are fewer constants than columns.
    pub fn map_columns_from<const N: usize>(
        &mut self,
        source: &Self,
        constants: [&[f32]; N],
        f: impl Fn(f32, [f32; N]) -> f32,
    ) {
        self.reset(source.rows, source.columns);
        let columns = self.columns;
        // The compiler drops the checks of bounds below.
        let constants = constants.map(|constants| &constants[..columns]);
        let panel_values = (LANES * columns).max(1);
        let panels = self.values_mut().chunks_mut(panel_values).zip(source.values().chunks(panel_values));
        for (target, source) in panels {
            let rows = target.len() / columns;
            if rows == 1 {
                // Single rows are the most frequent requests: no loop within the loop.
                for (j, (target, value)) in target.iter_mut().zip(source).enumerate().take(columns) {
                    *target = f(*value, constants.map(|constants| constants[j]));
                }
                continue;
            }
            for (j, (target, source)) in target.chunks_exact_mut(rows).zip(source.chunks_exact(rows)).enumerate() {
                let constants = constants.map(|constants| constants[j]);
                target.iter_mut().zip(source).for_each(|(target, value)| *target = f(*value, constants));
            }
        }
    }

    /// Calls `change(j, part)` for the part of each column j in each panel, panel after panel.
    pub fn each_column_mut(&mut self, mut change: impl FnMut(usize, &mut [f32])) {
        let columns = self.columns;
        for panel in self.values_mut().chunks_mut((LANES * columns).max(1)) {
            let rows = panel.len() / columns;
            panel.chunks_exact_mut(rows).enumerate().for_each(|(j, part)| change(j, part));
        }
    }

    /// Writes row-major `rows` into this matrix from row `first` on.
    ///
    /// # Panics
    /// If `rows` is not a whole number of rows or does not fit.
    pub fn load(&mut self, first: usize, rows: &[f32]) {
        self.load_with(first, rows, |value| value);
    }

    /// Writes row-major little-endian binary32 `bytes` into this matrix from row `first` on.
    ///
    /// # Panics
    /// If `bytes` is not a whole number of rows or does not fit.
    pub fn load_le(&mut self, first: usize, bytes: &[u8]) {
        let (numbers, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty(), "four bytes a number");
        self.load_with(first, numbers, f32::from_le_bytes);
    }

    /// Writes row-major `numbers`, each converted with `value`, into this matrix from row `first` on.
    ///
    /// # Panics
    /// If `numbers` is not a whole number of rows or does not fit.
    pub fn load_with<T: Copy>(&mut self, first: usize, numbers: &[T], value: impl Fn(T) -> f32) {
        let columns = self.columns;
        assert_eq!(numbers.len() % columns.max(1), 0, "a whole number of rows");
        let count = numbers.len() / columns.max(1);
        assert!(first + count <= self.rows, "rows {first}..{} of {}", first + count, self.rows);
        let mut row = first;
        while row < first + count {
            let (panel, width) = self.panel_of(row);
            let end = (panel + width).min(first + count);
            let source = &numbers[(row - first) * columns..(end - first) * columns];
            let target = &mut self.values_mut()[panel * columns..(panel + width) * columns];
            if width == 1 {
                target.iter_mut().zip(source).for_each(|(target, number)| *target = value(*number));
            } else {
                turn_in(source, columns, target, width, row - panel, &value);
            }
            row = end;
        }
    }

    /// Writes the rows of `range`, row-major, to `out`.
    ///
    /// # Panics
    /// If `out` is not as long as these rows.
    pub fn store(&self, range: Range<usize>, out: &mut [f32]) {
        self.store_with(range, out, |value| value);
    }

    /// Writes the rows of `range`, row-major little-endian binary32, to `out`.
    ///
    /// # Panics
    /// If `out` is not as long as these rows.
    pub fn store_le(&self, range: Range<usize>, out: &mut [u8]) {
        let (numbers, rest) = out.as_chunks_mut::<4>();
        assert!(rest.is_empty(), "four bytes a number");
        self.store_with(range, numbers, f32::to_le_bytes);
    }

    fn store_with<T>(&self, range: Range<usize>, out: &mut [T], form: impl Fn(f32) -> T) {
        let columns = self.columns;
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        assert_eq!(out.len(), range.len() * columns, "room for the rows");
        let mut row = range.start;
        while row < range.end {
            let (panel, width) = self.panel_of(row);
            let end = (panel + width).min(range.end);
            let target = &mut out[(row - range.start) * columns..(end - range.start) * columns];
            let source = &self.values()[panel * columns..(panel + width) * columns];
            if width == 1 {
                target.iter_mut().zip(source).for_each(|(target, value)| *target = form(*value));
            } else {
                turn_out(source, width, row - panel, target, columns, &form);
            }
            row = end;
        }
    }
}

/// Matrices for reuse: their pages are mapped and in the caches.
#[derive(Debug, Default)]
pub struct BufferPool {
    matrices: Vec<PanelMatrix>,
}

impl BufferPool {
    /// A matrix of unspecified shape and values: call [`PanelMatrix::reset`] on it.
    pub fn take(&mut self) -> PanelMatrix {
        self.matrices.pop().unwrap_or_default()
    }

    /// Returns a matrix to the pool.
    pub fn put(&mut self, matrix: PanelMatrix) {
        self.matrices.push(matrix);
    }
}

/// Columns that are transposed at once: their cache lines and those of the rows fit the L1 cache.
const TURNED_COLUMNS: usize = 16;

/// Copies row-major `source` to rows `first..` of a panel of `width` rows.
#[inline]
fn turn_in<T: Copy>(
    source: &[T],
    columns: usize,
    target: &mut [f32],
    width: usize,
    first: usize,
    value: &impl Fn(T) -> f32,
) {
    for start in (0..columns).step_by(TURNED_COLUMNS) {
        let end = columns.min(start + TURNED_COLUMNS);
        let target = &mut target[start * width..end * width];
        for (row, numbers) in source.chunks_exact(columns).enumerate() {
            for (column, number) in target.chunks_exact_mut(width).zip(&numbers[start..end]) {
                column[first + row] = value(*number);
            }
        }
    }
}

/// Copies rows `first..` of a panel of `width` rows to row-major `target`.
#[inline]
fn turn_out<T>(source: &[f32], width: usize, first: usize, target: &mut [T], columns: usize, form: &impl Fn(f32) -> T) {
    for start in (0..columns).step_by(TURNED_COLUMNS) {
        let end = columns.min(start + TURNED_COLUMNS);
        let source = &source[start * width..end * width];
        for (row, numbers) in target.chunks_exact_mut(columns).enumerate() {
            for (number, column) in numbers[start..end].iter_mut().zip(source.chunks_exact(width)) {
                *number = form(column[first + row]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_survive_a_round_trip(rows in 1usize..70, columns in 1usize..40, first in 0usize..35) {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 - 3.5).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let (mut a, mut b) = (PanelMatrix::zeros(first + rows, columns), PanelMatrix::zeros(first + rows, columns));
            a.load(first, &values);
            b.load_le(first, &bytes);
            prop_assert_eq!(a.values(), b.values());
            let (mut back, mut back_le) = (vec![0.0; values.len()], vec![0; bytes.len()]);
            a.store(first..first + rows, &mut back);
            a.store_le(first..first + rows, &mut back_le);
            prop_assert_eq!(a.at(first + rows - 1, columns - 1).to_bits(), values[values.len() - 1].to_bits());
            prop_assert_eq!(back, values);
            prop_assert_eq!(back_le, bytes);
            let panels: Vec<f32> = a.panels().flat_map(|(_, _, panel)| panel.to_vec()).collect();
            prop_assert_eq!(&panels, a.values());
        }
    }

    #[test]
    fn columns_are_changed_by_index() {
        let mut lanes = PanelMatrix::zeros(18, 2);
        lanes.each_column_mut(|j, part| part.fill(j as f32 + 1.0));
        for row in 0..18 {
            assert_eq!((lanes.at(row, 0), lanes.at(row, 1)), (1.0, 2.0));
        }
    }
}
