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

    /// Appends the rows of `range`, row-major, to `out`.
    pub fn store(&self, range: Range<usize>, out: &mut Vec<f32>) {
        let start = out.len();
        out.resize(start + range.len() * self.columns, 0.0);
        let columns = self.columns;
        self.store_with(range, |i, value| out[start + i] = value, columns);
    }

    /// Appends the rows of `range`, row-major little-endian binary32, to `out`.
    pub fn store_le(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + range.len() * self.columns * 4, 0);
        let (numbers, _) = out[start..].as_chunks_mut::<4>();
        self.store_with(range, |i, value| numbers[i] = value.to_le_bytes(), self.columns);
    }

    fn store_with(&self, range: Range<usize>, mut put: impl FnMut(usize, f32), columns: usize) {
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        for block in range.clone().step_by(LANES) {
            let block_end = range.end.min(block + LANES);
            for column in 0..columns {
                for row in block..block_end {
                    put((row - range.start) * columns + column, self.values[column * self.stride + row]);
                }
            }
        }
    }
}
