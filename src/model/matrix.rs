//! Rows as they arrive and leave: row-major, in the form in which the caller sent them.

use std::ops::Range;

use bytes::Bytes;

use crate::numeric::Lanes;

/// Why a matrix is refused. Every variant names what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatrixError {
    /// No rows.
    #[error("matrix has 0 rows, expected at least 1")]
    NoRows,
    /// No columns.
    #[error("matrix has 0 columns, expected at least 1")]
    NoColumns,
    /// Neither form is set.
    #[error("matrix has no values, expected `float32_le` or `floats`")]
    NoValues,
    /// The byte count is not rows x columns x 4.
    #[error("matrix of {rows} x {columns} has {got} bytes, expected {expected}")]
    ByteLength {
        /// Declared rows.
        rows: u32,
        /// Declared columns.
        columns: u32,
        /// Bytes that came.
        got: usize,
        /// rows x columns x 4.
        expected: u128,
    },
    /// The count of floats is not rows x columns.
    #[error("matrix of {rows} x {columns} has {got} floats, expected {expected}")]
    FloatCount {
        /// Declared rows.
        rows: u32,
        /// Declared columns.
        columns: u32,
        /// Floats that came.
        got: usize,
        /// rows x columns.
        expected: u128,
    },
    /// NaN or infinity.
    #[error("value at row {row}, column {column} is {value}, expected a finite number")]
    NotFinite {
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        /// What came.
        value: f32,
    },
}

/// Row-major values in one of the forms of the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Little-endian binary32; shares the receive buffer.
    Float32Le(Bytes),
    /// Plain numbers.
    Floats(Vec<f32>),
}

/// A checked matrix: at least 1 x 1, and exactly rows x columns values. They may still be NaN:
/// see [`Matrix::check_finite`].
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

impl Matrix {
    /// Checks shape against length.
    pub fn new(rows: u32, columns: u32, values: Values) -> Result<Self, MatrixError> {
        if rows == 0 {
            return Err(MatrixError::NoRows);
        }
        if columns == 0 {
            return Err(MatrixError::NoColumns);
        }
        let count = u128::from(rows) * u128::from(columns);
        match &values {
            Values::Float32Le(bytes) if bytes.len() as u128 != count * 4 => {
                Err(MatrixError::ByteLength { rows, columns, got: bytes.len(), expected: count * 4 })
            }
            Values::Floats(floats) if floats.len() as u128 != count => {
                Err(MatrixError::FloatCount { rows, columns, got: floats.len(), expected: count })
            }
            _ => Ok(Self { rows: rows as usize, columns: columns as usize, values }),
        }
    }

    /// Rows, at least 1.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, at least 1.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Size of the values in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows * self.columns * 4
    }

    /// The values in the form in which they came.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The values, taken out.
    pub fn into_values(self) -> Values {
        self.values
    }

    /// Refuses NaN and infinities, naming the first.
    pub fn check_finite(&self) -> Result<(), MatrixError> {
        let found = match &self.values {
            Values::Float32Le(bytes) => {
                first_not_finite(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)))
            }
            Values::Floats(floats) => first_not_finite(floats.iter().copied()),
        };
        match found {
            None => Ok(()),
            Some((i, value)) => Err(MatrixError::NotFinite { row: i / self.columns, column: i % self.columns, value }),
        }
    }

    /// Copies the rows of `range` into `batch` from row `first` on: the one copy from the receive buffer to the batch.
    ///
    /// # Panics
    /// If the range or the widths disagree; callers check them at the edge.
    pub fn load_into(&self, range: Range<usize>, batch: &mut Lanes, first: usize) {
        assert_eq!(self.columns, batch.columns(), "as many columns as the batch");
        let numbers = range.start * self.columns..range.end * self.columns;
        match &self.values {
            Values::Float32Le(bytes) => batch.load_le(first, &bytes[numbers.start * 4..numbers.end * 4]),
            Values::Floats(floats) => batch.load(first, &floats[numbers]),
        }
    }
}

fn first_not_finite(values: impl Iterator<Item = f32>) -> Option<(usize, f32)> {
    values.enumerate().find(|(_, value)| !value.is_finite())
}
