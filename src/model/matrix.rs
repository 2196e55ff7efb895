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
    #[error("value at row {row}, column {column} is {value}, expected a finite number{}", of_missing(*value))]
    NotFinite {
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        /// What came.
        value: f32,
    },
}

/// Whether values of a matrix may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Every value is a finite number.
    Refused,
    /// NaN is a value that is missing.
    Allowed,
}

impl From<bool> for Missing {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

impl Missing {
    /// Whether a value may be there.
    pub fn allows(self, value: f32) -> bool {
        value.is_finite() || self == Self::Allowed && value.is_nan()
    }

    /// The same for an f64.
    pub fn allows_wide(self, value: f64) -> bool {
        value.is_finite() || self == Self::Allowed && value.is_nan()
    }
}

fn of_missing(value: f32) -> &'static str {
    if value.is_nan() { " (values may be missing only for models trained with `missing_values`)" } else { "" }
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
/// see [`Matrix::check_values`].
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

    /// With the first `columns` of each row, and zeros where it has fewer.
    ///
    /// # Panics
    /// If there are to be none.
    #[must_use]
    pub fn resized(self, columns: usize) -> Self {
        assert!(columns > 0, "at least one column");
        let kept = self.columns.min(columns);
        let values = match self.values {
            Values::Floats(numbers) => Values::Floats(resized(&numbers, self.columns, kept, columns)),
            Values::Float32Le(bytes) => {
                Values::Float32Le(resized(&bytes, 4 * self.columns, 4 * kept, 4 * columns).into())
            }
        };
        Self { rows: self.rows, columns, values }
    }

    /// Refuses NaN and infinities, naming the first.
    pub fn check_finite(&self) -> Result<(), MatrixError> {
        self.check_values(Missing::Refused)
    }

    /// Refuses NaN, unless it may be missing, and infinities, naming the first.
    pub fn check_values(&self, missing: Missing) -> Result<(), MatrixError> {
        let found = match &self.values {
            Values::Float32Le(bytes) => {
                let (numbers, _) = bytes.as_chunks::<4>();
                first_refused(numbers.iter().map(|number| f32::from_le_bytes(*number)), missing)
            }
            Values::Floats(floats) => first_refused(floats.iter().copied(), missing),
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

/// Of each `from` numbers the first `kept`, then zeros until there are `to`.
fn resized<T: Copy + Default>(numbers: &[T], from: usize, kept: usize, to: usize) -> Vec<T> {
    let mut resized = vec![T::default(); numbers.len() / from * to];
    for (new, old) in resized.chunks_exact_mut(to).zip(numbers.chunks_exact(from)) {
        new[..kept].copy_from_slice(&old[..kept]);
    }
    resized
}

fn first_refused(values: impl Iterator<Item = f32> + Clone, missing: Missing) -> Option<(usize, f32)> {
    // Almost always all are: one look without a way out is a vector operation for many.
    if values.clone().fold(true, |allowed, value| allowed & missing.allows(value)) {
        return None;
    }
    values.enumerate().find(|(_, value)| !missing.allows(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn le(values: &[f32]) -> Values {
        Values::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// The same numbers in both forms.
    fn both(values: &[f32]) -> [Values; 2] {
        [le(values), Values::Floats(values.to_vec())]
    }

    #[track_caller]
    fn check_refused(rows: u32, columns: u32, values: Values, text: &str) {
        assert_eq!(Matrix::new(rows, columns, values).expect_err("refused").to_string(), text);
    }

    #[test]
    fn a_matrix_has_rows_and_columns() {
        for values in both(&[]) {
            check_refused(0, 3, values.clone(), "matrix has 0 rows, expected at least 1");
            check_refused(3, 0, values, "matrix has 0 columns, expected at least 1");
        }
    }

    #[test]
    fn length_and_shape_agree() {
        check_refused(2, 3, Values::Floats(vec![0.0; 5]), "matrix of 2 x 3 has 5 floats, expected 6");
        check_refused(2, 3, Values::Floats(vec![0.0; 7]), "matrix of 2 x 3 has 7 floats, expected 6");
        check_refused(1, 1, Values::Float32Le(Bytes::from_static(b"abc")), "matrix of 1 x 1 has 3 bytes, expected 4");
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        for values in both(&[0.0]) {
            assert!(Matrix::new(u32::MAX, u32::MAX, values).is_err());
        }
        // In 64 bits 2^31 x 2^31 x 4 bytes wrap around to nothing.
        check_refused(
            1 << 31,
            1 << 31,
            Values::Float32Le(Bytes::new()),
            "matrix of 2147483648 x 2147483648 has 0 bytes, expected 18446744073709551616",
        );
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_named() {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for values in both(&[0.0, 1.0, 2.0, 3.0, wrong, f32::NAN]) {
                let matrix = Matrix::new(2, 3, values).expect("a matrix");
                let error = matrix.check_finite().expect_err("refused");
                let expected = format!("value at row 1, column 1 is {wrong}, expected a finite number");
                assert!(error.to_string().starts_with(&expected), "{error}");
                assert_eq!(matrix.check_values(Missing::Allowed).is_ok(), wrong.is_nan());
            }
        }
    }

    #[test]
    fn the_largest_and_the_smallest_numbers_are_finite() {
        for values in both(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0]) {
            assert_eq!(Matrix::new(1, 5, values).expect("a matrix").check_finite(), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn exactly_the_right_length_is_taken(rows in 0_u32..9, columns in 0_u32..9, bytes in 0_usize..400) {
            let fits = rows > 0 && columns > 0 && bytes == (rows * columns * 4) as usize;
            let values = Values::Float32Le(vec![0; bytes].into());
            prop_assert_eq!(Matrix::new(rows, columns, values).is_ok(), fits);
        }

        #[test]
        fn no_shape_and_no_bytes_panic(rows: u32, columns: u32, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(matrix) = Matrix::new(rows, columns, Values::Float32Le(bytes.clone().into())) {
                prop_assert_eq!(matrix.bytes(), bytes.len());
                let _ = matrix.check_finite();
            }
        }

        #[test]
        fn rows_land_where_they_belong_in_either_form(
            (rows, columns) in (1_usize..40, 1_usize..6),
            (from, to) in (0_usize..40, 0_usize..40),
            first in 0_usize..20,
        ) {
            let (from, to) = (from.min(to).min(rows), to.max(from).min(rows));
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 + 1.0).collect();
            for form in both(&values) {
                let matrix = Matrix::new(rows as u32, columns as u32, form).expect("a matrix");
                let mut batch = Lanes::zeros(60, columns);
                matrix.load_into(from..to, &mut batch, first);
                for row in 0..60 {
                    for column in 0..columns {
                        let inside = (first..first + to - from).contains(&row);
                        let expected = if inside { values[(from + row - first) * columns + column] } else { 0.0 };
                        prop_assert_eq!(batch.at(row, column).to_bits(), expected.to_bits());
                    }
                }
            }
        }
    }
}
