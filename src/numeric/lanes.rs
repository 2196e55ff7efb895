//! Column-major batches: the rows of a batch lie along the SIMD lanes.
//!
//! Requests arrive row-major; the copy into the batch turns them, so that no further copy is needed.

use std::ops::Range;

/// Batches are padded with zero rows to a multiple of this. Fewer rows would send the products down other code paths
/// and change the bits of a result.
pub const LANES: usize = 16;

/// A column-major matrix of `rows` x `columns`, its columns padded with zeros to a multiple of [`LANES`] rows.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    values: Vec<f32>,
    rows: usize,
    stride: usize,
    columns: usize,
}

impl Lanes {
    /// All zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        let stride = rows.next_multiple_of(LANES);
        Self { values: vec![0.0; stride * columns], rows, stride, columns }
    }

    /// Becomes a matrix of zeros of another shape; keeps the memory where it suffices.
    pub fn reset(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.columns = columns;
        self.stride = rows.next_multiple_of(LANES);
        self.values.clear();
        self.values.resize(self.stride * columns, 0.0);
    }

    /// Rows without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows with padding: the distance between columns.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Column-major values with padding, `stride * columns` of them.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, to write. The padding rows must stay finite.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Column `j` without its padding.
    pub fn column(&self, j: usize) -> &[f32] {
        &self.values[j * self.stride..j * self.stride + self.rows]
    }

    /// Column `j` without its padding, to write.
    pub fn column_mut(&mut self, j: usize) -> &mut [f32] {
        &mut self.values[j * self.stride..j * self.stride + self.rows]
    }

    /// One value.
    ///
    /// # Panics
    /// If there is no such row or column.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.values[column * self.stride + row]
    }

    /// Writes row-major `rows` into this matrix from row `first` on.
    ///
    /// # Panics
    /// If `rows` is not a whole number of rows or does not fit.
    pub fn load(&mut self, first: usize, rows: &[f32]) {
        self.load_with(first, rows.len(), |i| rows[i]);
    }

    /// Writes row-major little-endian binary32 `bytes` into this matrix from row `first` on.
    ///
    /// # Panics
    /// If `bytes` is not a whole number of rows or does not fit.
    pub fn load_le(&mut self, first: usize, bytes: &[u8]) {
        let (numbers, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty(), "four bytes a number");
        self.load_with(first, numbers.len(), |i| f32::from_le_bytes(numbers[i]));
    }

    fn load_with(&mut self, first: usize, count: usize, value: impl Fn(usize) -> f32) {
        assert_eq!(count % self.columns.max(1), 0, "a whole number of rows");
        let rows = count / self.columns.max(1);
        assert!(first + rows <= self.rows, "rows {first}..{} of {}", first + rows, self.rows);
        // Blocks of 16 rows keep the cache lines that a column writes to in the first-level cache.
        for block in (0..rows).step_by(LANES) {
            let block_end = rows.min(block + LANES);
            for column in 0..self.columns {
                let target = column * self.stride + first;
                for row in block..block_end {
                    self.values[target + row] = value(row * self.columns + column);
                }
            }
        }
    }

    /// Writes the rows of `range`, row-major, to `out`.
    ///
    /// # Panics
    /// If `out` is not as long as they are.
    pub fn store(&self, range: Range<usize>, out: &mut [f32]) {
        self.store_with(range, out, |value| value);
    }

    /// Writes the rows of `range`, row-major little-endian binary32, to `out`.
    ///
    /// # Panics
    /// If `out` is not as long as they are.
    pub fn store_le(&self, range: Range<usize>, out: &mut [u8]) {
        let (numbers, rest) = out.as_chunks_mut::<4>();
        assert!(rest.is_empty(), "four bytes a number");
        self.store_with(range, numbers, f32::to_le_bytes);
    }

    fn store_with<T>(&self, range: Range<usize>, out: &mut [T], form: impl Fn(f32) -> T) {
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        assert_eq!(out.len(), range.len() * self.columns, "room for the rows");
        for block in range.clone().step_by(LANES) {
            let block_end = range.end.min(block + LANES);
            for column in 0..self.columns {
                for row in block..block_end {
                    out[(row - range.start) * self.columns + column] = form(self.values[column * self.stride + row]);
                }
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
        fn rows_come_back_as_they_went(rows in 1usize..70, columns in 1usize..9, first in 0usize..5) {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 - 3.5).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let (mut a, mut b) = (Lanes::zeros(first + rows, columns), Lanes::zeros(first + rows, columns));
            a.load(first, &values);
            b.load_le(first, &bytes);
            prop_assert_eq!(a.values(), b.values());
            prop_assert_eq!(a.stride() % LANES, 0);
            let (mut back, mut back_le) = (vec![0.0; values.len()], vec![0; bytes.len()]);
            a.store(first..first + rows, &mut back);
            a.store_le(first..first + rows, &mut back_le);
            prop_assert_eq!(back, values);
            prop_assert_eq!(back_le, bytes);
        }
    }

    #[test]
    fn a_reset_matrix_is_zero_again() {
        let mut lanes = Lanes::zeros(3, 2);
        lanes.load(0, &[1.0; 6]);
        lanes.reset(2, 2);
        assert_eq!((lanes.rows(), lanes.stride(), lanes.values()), (2, LANES, &[0.0; 32][..]));
    }
}
