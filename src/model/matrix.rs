//! Row-major rows of requests and responses, in the number format that the caller sent.

mod values;

use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};

use super::Normalizer;
use crate::numeric::{LANES, PanelMatrix};
pub use values::{AnswerFormat, Form, Values};

/// Why a matrix is rejected. Every variant names what was expected and what was found.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatrixError {
    /// The matrix has no rows.
    #[error("matrix has 0 rows, expected at least 1")]
    NoRows,
    /// The matrix has no columns.
    #[error("matrix has 0 columns, expected at least 1")]
    NoColumns,
    /// None of the value fields is set.
    #[error(
        "matrix has no values, expected one of `float32_le`, `floats`, `float64_le`, `float16_le`, `bfloat16_le`, `uint8`, `int8`"
    )]
    NoValues,
    /// The byte count is not rows x columns x bytes per number.
    #[error("matrix of {rows} x {columns} has {got} bytes, expected {expected}")]
    ByteLength {
        /// Declared rows.
        rows: u32,
        /// Declared columns.
        columns: u32,
        /// Number of bytes.
        got: usize,
        /// rows x columns x bytes per number.
        expected: u128,
    },
    /// The count of floats is not rows x columns.
    #[error("matrix of {rows} x {columns} has {got} floats, expected {expected}")]
    FloatCount {
        /// Declared rows.
        rows: u32,
        /// Declared columns.
        columns: u32,
        /// Number of floats.
        got: usize,
        /// rows x columns.
        expected: u128,
    },
    /// A value is NaN or infinite.
    #[error("value at row {}, column {} is {value}, expected a finite number{}", row + 1, column + 1, of_missing(*value))]
    NotFinite {
        /// Row, from 0; the message counts from 1.
        row: usize,
        /// Column, from 0; the message counts from 1.
        column: usize,
        /// The value.
        value: f32,
    },
}

/// Whether values of a matrix may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Every value is a finite number.
    Refused,
    /// NaN is a missing value.
    Allowed,
}

impl From<bool> for Missing {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

impl Missing {
    /// Whether a matrix may contain this value.
    pub fn allows(self, value: f32) -> bool {
        value.is_finite() || self == Self::Allowed && value.is_nan()
    }

    /// [`Missing::allows`] for an f64.
    pub fn allows_wide(self, value: f64) -> bool {
        value.is_finite() || self == Self::Allowed && value.is_nan()
    }
}

fn of_missing(value: f32) -> &'static str {
    if value.is_nan() { " (values may be missing only for models trained with `missing_values`)" } else { "" }
}

/// A checked matrix: at least 1 x 1, with exactly rows x columns values. Values may still be NaN or infinite: see
/// [`Matrix::check_values`].
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Values,
}

impl Matrix {
    /// Checks the shape against the number of values.
    pub fn new(rows: u32, columns: u32, values: Values) -> Result<Self, MatrixError> {
        if rows == 0 {
            return Err(MatrixError::NoRows);
        }
        if columns == 0 {
            return Err(MatrixError::NoColumns);
        }
        let count = u128::from(rows) * u128::from(columns);
        match &values {
            Values::Floats(floats) if floats.len() as u128 != count => {
                return Err(MatrixError::FloatCount { rows, columns, got: floats.len(), expected: count });
            }
            Values::Floats(_) => {}
            Values::Float32Le(bytes)
            | Values::Float64Le(bytes)
            | Values::Float16Le(bytes)
            | Values::Bfloat16Le(bytes)
            | Values::Uint8(bytes)
            | Values::Int8(bytes) => {
                let expected = count * values.form().number_bytes() as u128;
                if bytes.len() as u128 != expected {
                    return Err(MatrixError::ByteLength { rows, columns, got: bytes.len(), expected });
                }
            }
        }
        Ok(Self { rows: rows as usize, columns: columns as usize, values })
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
        self.rows * self.columns * self.form().number_bytes()
    }

    /// The format of the values.
    pub fn form(&self) -> Form {
        self.values.form()
    }

    /// The values in the format that the caller sent.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The values, moved out.
    pub fn into_values(self) -> Values {
        self.values
    }

    /// The matrix with the first `columns` of each row, padded with zeros if it has fewer.
    ///
    /// # Panics
    /// If `columns` is 0.
    #[must_use]
    pub fn resized(self, columns: usize) -> Self {
        assert!(columns > 0, "at least one column");
        let kept = self.columns.min(columns);
        // All bits 0 is the number 0 in every format.
        let size = self.values.form().number_bytes();
        let of_bytes = |bytes: &Bytes| resized(bytes, size * self.columns, size * kept, size * columns).into();
        let values = match &self.values {
            Values::Floats(numbers) => Values::Floats(resized(numbers, self.columns, kept, columns)),
            Values::Float32Le(bytes) => Values::Float32Le(of_bytes(bytes)),
            Values::Float64Le(bytes) => Values::Float64Le(of_bytes(bytes)),
            Values::Float16Le(bytes) => Values::Float16Le(of_bytes(bytes)),
            Values::Bfloat16Le(bytes) => Values::Bfloat16Le(of_bytes(bytes)),
            Values::Uint8(bytes) => Values::Uint8(of_bytes(bytes)),
            Values::Int8(bytes) => Values::Int8(of_bytes(bytes)),
        };
        Self { rows: self.rows, columns, values }
    }

    /// The matrix with the given columns (from 0) of each row, in this order.
    ///
    /// # Panics
    /// If `columns` is empty, or a column does not exist.
    #[must_use]
    pub fn selected(&self, columns: &[usize]) -> Self {
        assert!(!columns.is_empty(), "at least one column");
        let size = self.values.form().number_bytes();
        let of_bytes = |bytes: &Bytes| selected(bytes, self.columns, columns, size).into();
        let values = match &self.values {
            Values::Floats(numbers) => Values::Floats(selected(numbers, self.columns, columns, 1)),
            Values::Float32Le(bytes) => Values::Float32Le(of_bytes(bytes)),
            Values::Float64Le(bytes) => Values::Float64Le(of_bytes(bytes)),
            Values::Float16Le(bytes) => Values::Float16Le(of_bytes(bytes)),
            Values::Bfloat16Le(bytes) => Values::Bfloat16Le(of_bytes(bytes)),
            Values::Uint8(bytes) => Values::Uint8(of_bytes(bytes)),
            Values::Int8(bytes) => Values::Int8(of_bytes(bytes)),
        };
        Self { rows: self.rows, columns: columns.len(), values }
    }

    /// Rejects NaN and infinities; the error names the first.
    pub fn check_finite(&self) -> Result<(), MatrixError> {
        self.check_values(Missing::Refused)
    }

    /// Rejects infinities and, unless values may be missing, NaN; the error names the first.
    pub fn check_values(&self, missing: Missing) -> Result<(), MatrixError> {
        let narrow = |value| missing.allows(value);
        let found = match &self.values {
            Values::Float32Le(bytes) => {
                let (numbers, _) = bytes.as_chunks::<4>();
                first_refused(numbers.iter().map(|number| f32::from_le_bytes(*number)), narrow)
            }
            Values::Floats(floats) => first_refused(floats.iter().copied(), narrow),
            Values::Float64Le(bytes) => {
                let numbers = bytes.as_chunks::<8>().0.iter().map(|number| f64::from_le_bytes(*number));
                // A rejected value is NaN or infinite, which binary32 represents, too.
                first_refused(numbers, |value| missing.allows_wide(value)).map(|(i, value)| (i, value as f32))
            }
            Values::Float16Le(bytes) => {
                let (numbers, _) = bytes.as_chunks::<2>();
                first_refused(numbers.iter().map(|number| f16::from_le_bytes(*number).to_f32()), narrow)
            }
            Values::Bfloat16Le(bytes) => {
                let (numbers, _) = bytes.as_chunks::<2>();
                first_refused(numbers.iter().map(|number| bf16::from_le_bytes(*number).to_f32()), narrow)
            }
            Values::Uint8(_) | Values::Int8(_) => None,
        };
        match found {
            None => Ok(()),
            Some((i, value)) => Err(MatrixError::NotFinite { row: i / self.columns, column: i % self.columns, value }),
        }
    }

    /// Copies the rows of `range` into `batch` from row `first` on. This is the only copy from the receive buffer to
    /// the batch.
    ///
    /// # Panics
    /// If the range or the widths disagree; callers check that earlier.
    pub fn load_into(&self, range: Range<usize>, batch: &mut PanelMatrix, first: usize) {
        assert_eq!(self.columns, batch.columns(), "as many columns as the batch");
        let numbers = range.start * self.columns..range.end * self.columns;
        match &self.values {
            Values::Float32Le(bytes) => batch.load_le(first, &bytes[numbers.start * 4..numbers.end * 4]),
            Values::Floats(floats) => batch.load(first, &floats[numbers]),
            Values::Float64Le(bytes) => load(bytes, numbers, batch, first, |number| f64::from_le_bytes(number) as f32),
            Values::Float16Le(bytes) => {
                load(bytes, numbers, batch, first, |number| f16::from_le_bytes(number).to_f32());
            }
            Values::Bfloat16Le(bytes) => {
                load(bytes, numbers, batch, first, |number| bf16::from_le_bytes(number).to_f32());
            }
            Values::Uint8(bytes) => load(bytes, numbers, batch, first, |[number]| f32::from(number)),
            Values::Int8(bytes) => {
                load(bytes, numbers, batch, first, |number| f32::from(i8::from_le_bytes(number)));
            }
        }
    }

    /// [`Matrix::load_into`] to the normalized space. Each number is normalized in 64 bits and rounded once. Missing
    /// values stay NaN.
    ///
    /// # Panics
    /// As [`Matrix::load_into`].
    pub fn load_normalized_into(
        &self,
        range: Range<usize>,
        batch: &mut PanelMatrix,
        first: usize,
        normalizer: &Normalizer,
    ) {
        assert_eq!(self.columns, batch.columns(), "as many columns as the batch");
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        for start in range.clone().step_by(LANES) {
            let rows = start..range.end.min(start + LANES);
            wide.clear();
            narrow.clear();
            self.values.widen(rows.start * self.columns..rows.end * self.columns, &mut wide);
            for row in wide.chunks_exact(self.columns) {
                narrow.extend(row.iter().enumerate().map(|(j, value)| normalizer.normalized(j, *value)));
            }
            batch.load(first + start - range.start, &narrow);
        }
    }

    /// The numbers of the rows of `range`, each exactly.
    ///
    /// # Panics
    /// If the range exceeds the rows.
    pub fn rows_f64(&self, range: Range<usize>) -> Vec<f64> {
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let mut values = Vec::with_capacity(range.len() * self.columns);
        self.values.widen(range.start * self.columns..range.end * self.columns, &mut values);
        values
    }
}

/// Copies the numbers of `range` into `batch` from row `first` on.
fn load<const N: usize>(
    bytes: &[u8],
    range: Range<usize>,
    batch: &mut PanelMatrix,
    first: usize,
    value: impl Fn([u8; N]) -> f32,
) {
    let (numbers, _) = bytes.as_chunks::<N>();
    batch.load_with(first, &numbers[range], value);
}

/// The first `kept` of every `from` numbers, padded with zeros to `to` numbers.
fn resized<T: Copy + Default>(numbers: &[T], from: usize, kept: usize, to: usize) -> Vec<T> {
    let mut resized = vec![T::default(); numbers.len() / from * to];
    for (new, old) in resized.chunks_exact_mut(to).zip(numbers.chunks_exact(from)) {
        new[..kept].copy_from_slice(&old[..kept]);
    }
    resized
}

/// The values of `columns` from each row of `width` values, where each value has `size` parts.
fn selected<T: Copy>(parts: &[T], width: usize, columns: &[usize], size: usize) -> Vec<T> {
    let mut kept = Vec::with_capacity(parts.len() / width * columns.len());
    for row in parts.chunks_exact(width * size) {
        for column in columns {
            kept.extend_from_slice(&row[column * size..(column + 1) * size]);
        }
    }
    kept
}

fn first_refused<T: Copy>(values: impl Iterator<Item = T> + Clone, allows: impl Fn(T) -> bool) -> Option<(usize, T)> {
    // Almost always all values are allowed: a loop without early exit is vectorized.
    if values.clone().fold(true, |allowed, value| allowed & allows(value)) {
        return None;
    }
    values.enumerate().find(|(_, value)| !allows(*value))
}

#[cfg(test)]
mod tests;
