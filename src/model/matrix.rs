//! Row-major rows of requests and responses, in the number format that the caller sent.

use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};

use super::{Autoencoder, Normalizer};
use crate::numeric::{LANES, PanelMatrix};

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

/// The format of a matrix: how each number is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Little-endian binary32.
    Float32Le,
    /// Plain 32-bit numbers.
    Floats,
    /// Little-endian binary64.
    Float64Le,
    /// Little-endian binary16.
    Float16Le,
    /// Little-endian bfloat16: the upper half of a binary32.
    Bfloat16Le,
    /// Unsigned integers from 0 to 255.
    Uint8,
    /// Signed integers from -128 to 127.
    Int8,
}

impl Form {
    /// Bytes of a number in memory.
    pub fn number_bytes(self) -> usize {
        match self {
            Self::Float32Le | Self::Floats => 4,
            Self::Float64Le => 8,
            Self::Float16Le | Self::Bfloat16Le => 2,
            Self::Uint8 | Self::Int8 => 1,
        }
    }

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32Le => "float32_le",
            Self::Floats => "floats",
            Self::Float64Le => "float64_le",
            Self::Float16Le => "float16_le",
            Self::Bfloat16Le => "bfloat16_le",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
        }
    }

    /// Whether the numbers have more digits than binary32.
    pub fn is_wide(self) -> bool {
        self == Self::Float64Le
    }
}

/// The number format that a caller requests for the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFormat {
    /// The format of the request, but binary32 for integers: codes and rows do not fit 8 bits.
    #[default]
    AsRequest,
    /// This form.
    Form(Form),
    /// Binary64 if the version was trained on 64-bit rows, else binary32.
    AsTrained,
}

impl AnswerFormat {
    /// The format of the response to a request of a given format.
    pub fn form(self, request: Form, model: &Autoencoder) -> Form {
        match self {
            Self::AsRequest => match request {
                Form::Uint8 | Form::Int8 => Form::Float32Le,
                other => other,
            },
            Self::Form(form) => form,
            Self::AsTrained if model.normalizer().is_wide() => Form::Float64Le,
            Self::AsTrained => Form::Float32Le,
        }
    }
}

/// Row-major values in one of the formats of the API. Bytes share the receive buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Little-endian binary32.
    Float32Le(Bytes),
    /// Plain numbers.
    Floats(Vec<f32>),
    /// Little-endian binary64.
    Float64Le(Bytes),
    /// Little-endian binary16.
    Float16Le(Bytes),
    /// Little-endian bfloat16.
    Bfloat16Le(Bytes),
    /// Unsigned bytes.
    Uint8(Bytes),
    /// Signed bytes.
    Int8(Bytes),
}

impl Values {
    /// Encodes numbers as binary64.
    pub fn from_f64(values: &[f64]) -> Self {
        Self::Float64Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// Encodes numbers as binary32.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// The format of the values.
    pub fn form(&self) -> Form {
        match self {
            Self::Float32Le(_) => Form::Float32Le,
            Self::Floats(_) => Form::Floats,
            Self::Float64Le(_) => Form::Float64Le,
            Self::Float16Le(_) => Form::Float16Le,
            Self::Bfloat16Le(_) => Form::Bfloat16Le,
            Self::Uint8(_) => Form::Uint8,
            Self::Int8(_) => Form::Int8,
        }
    }

    /// All values, each exactly.
    pub fn to_f64(&self) -> Vec<f64> {
        let mut values = Vec::new();
        self.widen(0..usize::MAX, &mut values);
        values
    }

    /// All values as binary32: exact, except that binary64 is rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Floats(values) => values.clone(),
            other => other.to_f64().into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Appends the numbers of `range`, as far as they exist, to `out`.
    fn widen(&self, range: Range<usize>, out: &mut Vec<f64>) {
        fn add<const N: usize>(bytes: &[u8], range: Range<usize>, out: &mut Vec<f64>, value: impl Fn([u8; N]) -> f64) {
            let numbers = bytes.as_chunks::<N>().0;
            let numbers = &numbers[range.start.min(numbers.len())..range.end.min(numbers.len())];
            out.extend(numbers.iter().map(|number| value(*number)));
        }
        match self {
            Self::Float32Le(bytes) => add(bytes, range, out, |number| f64::from(f32::from_le_bytes(number))),
            Self::Floats(values) => {
                let values = &values[range.start.min(values.len())..range.end.min(values.len())];
                out.extend(values.iter().copied().map(f64::from));
            }
            Self::Float64Le(bytes) => add(bytes, range, out, f64::from_le_bytes),
            Self::Float16Le(bytes) => add(bytes, range, out, |number| f16::from_le_bytes(number).to_f64()),
            Self::Bfloat16Le(bytes) => add(bytes, range, out, |number| bf16::from_le_bytes(number).to_f64()),
            Self::Uint8(bytes) => add(bytes, range, out, |[number]| f64::from(number)),
            Self::Int8(bytes) => add(bytes, range, out, |number| f64::from(i8::from_le_bytes(number))),
        }
    }
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::NormalizationKind;

    fn le(values: &[f32]) -> Values {
        Values::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// The same numbers in both formats.
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
        // In 64 bits, 2^31 x 2^31 x 4 bytes wrap around to 0.
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
                let expected = format!("value at row 2, column 2 is {wrong}, expected a finite number");
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

    /// The bytes in every format of bytes.
    fn in_every_form(bytes: &[u8]) -> [Values; 6] {
        let bytes = Bytes::copy_from_slice(bytes);
        [
            Values::Float32Le(bytes.clone()),
            Values::Float64Le(bytes.clone()),
            Values::Float16Le(bytes.clone()),
            Values::Bfloat16Le(bytes.clone()),
            Values::Uint8(bytes.clone()),
            Values::Int8(bytes),
        ]
    }

    /// The same small integers in every format: from 0 to 127, which each format can represent.
    fn whole_numbers(values: &[u8]) -> Vec<Values> {
        let floats: Vec<f32> = values.iter().copied().map(f32::from).collect();
        let halves = |half: fn(f32) -> [u8; 2]| floats.iter().flat_map(|x| half(*x)).collect::<Vec<u8>>().into();
        vec![
            le(&floats),
            Values::Floats(floats.clone()),
            Values::from_f64(&floats.iter().copied().map(f64::from).collect::<Vec<_>>()),
            Values::Float16Le(halves(|x| f16::from_f32(x).to_le_bytes())),
            Values::Bfloat16Le(halves(|x| bf16::from_f32(x).to_le_bytes())),
            Values::Uint8(Bytes::copy_from_slice(values)),
            Values::Int8(Bytes::copy_from_slice(values)),
        ]
    }

    #[test]
    fn the_right_length_depends_on_the_form() {
        for values in in_every_form(&[0; 7]) {
            let expected = 6 * values.form().number_bytes();
            let text = format!("matrix of 2 x 3 has 7 bytes, expected {expected}");
            check_refused(2, 3, values, &text);
        }
        for values in in_every_form(&[]) {
            let size = values.form().number_bytes();
            let bytes = vec![0; 6 * size];
            let whole = in_every_form(&bytes).into_iter().find(|whole| whole.form() == values.form()).expect("all");
            let matrix = Matrix::new(2, 3, whole).expect("the right length");
            assert_eq!(matrix.bytes(), 6 * size, "true size in memory");
        }
    }

    #[test]
    fn values_beyond_float32_are_finite_and_nan_is_not() {
        let matrix = Matrix::new(1, 2, Values::from_f64(&[1e300, 1_700_000_001.0])).expect("a matrix");
        assert_eq!(matrix.check_finite(), Ok(()));
        for (wrong, missing) in [(f64::NAN, true), (f64::INFINITY, false), (f64::NEG_INFINITY, false)] {
            let matrix = Matrix::new(2, 2, Values::from_f64(&[0.0, 1.0, wrong, 2.0])).expect("a matrix");
            assert!(matches!(matrix.check_finite(), Err(MatrixError::NotFinite { .. })));
            assert_eq!(matrix.check_values(Missing::Allowed).is_ok(), missing);
        }
        for values in [Values::Float16Le(f16::NAN.to_le_bytes().to_vec().into()), le(&[f32::NAN])] {
            assert!(Matrix::new(1, 1, values).expect("a matrix").check_finite().is_err());
        }
    }

    #[test]
    fn a_row_in_binary64_is_normalized_before_it_is_rounded() {
        let normalizer = Normalizer {
            kind: NormalizationKind::Standardize,
            offset: vec![1.7e9, 2.0],
            scale: vec![4.0, 0.5],
            fill: Vec::new(),
            exact_offset: vec![1_700_000_001.5, 2.0],
        };
        let rows = [1_700_000_003.5, 3.0, 1_700_000_001.5, f64::NAN, 1_700_000_000.0, 2.25];
        let matrix = Matrix::new(3, 2, Values::from_f64(&rows)).expect("a matrix");
        let mut batch = PanelMatrix::zeros(4, 2);
        matrix.load_normalized_into(0..3, &mut batch, 1, &normalizer);
        assert_eq!(batch.column(0), [0.0, 0.5, 0.0, -0.375]);
        assert_eq!((batch.at(1, 1), batch.at(2, 1).is_nan(), batch.at(3, 1)), (2.0, true, 0.5));
    }

    #[test]
    fn columns_are_chosen_in_every_form() {
        for values in whole_numbers(&[0, 1, 2, 3, 4, 5]) {
            let form = values.form();
            let of =
                |numbers: &[u8]| whole_numbers(numbers).into_iter().find(|values| values.form() == form).expect("all");
            let matrix = Matrix::new(2, 3, values).expect("a matrix");
            for (columns, expected) in [(&[2, 0][..], &[2, 0, 5, 3][..]), (&[1], &[1, 4])] {
                let selected = matrix.selected(columns);
                assert_eq!((selected.rows(), selected.columns()), (2, columns.len()));
                assert_eq!(selected.values(), &of(expected));
            }
        }
    }

    proptest! {
        #[test]
        fn every_form_loads_the_same_numbers(
            values in prop::collection::vec(0_u8..128, 1..60),
            columns in 1_usize..7,
            kept in 1_usize..9,
        ) {
            let rows = values.len() / columns;
            prop_assume!(rows > 0);
            let values = &values[..rows * columns];
            let mut expected = PanelMatrix::zeros(rows, columns);
            expected.load(0, &values.iter().copied().map(f32::from).collect::<Vec<_>>());
            for form in whole_numbers(values) {
                let matrix = Matrix::new(rows as u32, columns as u32, form).expect("a matrix");
                let mut batch = PanelMatrix::zeros(rows, columns);
                matrix.load_into(0..rows, &mut batch, 0);
                prop_assert_eq!(batch.values(), expected.values());
                let mut normalized = PanelMatrix::zeros(rows, columns);
                matrix.load_normalized_into(0..rows, &mut normalized, 0, &Normalizer::none());
                prop_assert_eq!(normalized.values(), expected.values());
                let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
                prop_assert_eq!(matrix.rows_f64(0..rows), &wide[..]);
                prop_assert_eq!(matrix.values().to_f32().len(), wide.len());
                let other = matrix.resized(kept);
                prop_assert_eq!(other.columns(), kept);
                for (row, numbers) in other.values().to_f64().chunks_exact(kept).enumerate() {
                    for (j, number) in numbers.iter().enumerate() {
                        let there = if j < columns { f64::from(values[row * columns + j]) } else { 0.0 };
                        prop_assert_eq!(*number, there);
                    }
                }
            }
        }

        #[test]
        fn only_the_right_length_is_accepted(rows in 0_u32..9, columns in 0_u32..9, bytes in 0_usize..400) {
            let fits = rows > 0 && columns > 0 && bytes == (rows * columns * 4) as usize;
            let values = Values::Float32Le(vec![0; bytes].into());
            prop_assert_eq!(Matrix::new(rows, columns, values).is_ok(), fits);
        }

        #[test]
        fn arbitrary_shapes_and_bytes_never_panic(rows: u32, columns: u32, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for values in in_every_form(&bytes) {
                if let Ok(matrix) = Matrix::new(rows, columns, values) {
                    prop_assert_eq!(matrix.bytes(), bytes.len());
                    let _ = matrix.check_finite();
                    prop_assert_eq!(matrix.values().to_f64().len(), matrix.rows() * matrix.columns());
                }
            }
        }

        #[test]
        fn rows_load_at_the_right_place_in_either_form(
            (rows, columns) in (1_usize..40, 1_usize..6),
            (from, to) in (0_usize..40, 0_usize..40),
            first in 0_usize..20,
        ) {
            let (from, to) = (from.min(to).min(rows), to.max(from).min(rows));
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32 + 1.0).collect();
            for form in both(&values) {
                let matrix = Matrix::new(rows as u32, columns as u32, form).expect("a matrix");
                let mut batch = PanelMatrix::zeros(60, columns);
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
