//! Assembles the response of one request from the pieces that batches computed, in the requested number format.

use std::mem::take;
use std::ops::Range;

use half::{bf16, f16};

use super::{BatchError, Output, Timing};
use crate::model::computed::Computed;
use crate::model::{Form, Matrix, Normalizer, Values};
use crate::numeric::PanelMatrix;

/// How result rows are converted to response rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResponseForm<'a> {
    /// Converts normalized rows to the units of the input. `None` if the result is in these units already, or has no
    /// rows.
    pub(super) normalizer: Option<&'a Normalizer>,
    /// Rows of the request, for imputation: their values stay unchanged except where they are missing.
    pub(super) given: Option<&'a Matrix>,
}

/// A partly assembled response.
#[derive(Debug)]
pub(super) struct Assembly {
    rows: usize,
    rows_missing: usize,
    /// Empty until the first piece is added: a queued request allocates nothing for its response.
    values: Numbers,
    squared_errors: Vec<f32>,
    squared_errors_input_units: Vec<f32>,
}

/// Row-major numbers in one of the forms of [`Values`].
#[derive(Debug)]
enum Numbers {
    Floats(Vec<f32>),
    /// Bytes of any other format.
    Bytes(Form, Vec<u8>),
}

impl Assembly {
    /// A response of `rows` rows in the number format `answer`.
    pub(super) fn new(rows: usize, answer: Form) -> Self {
        let values = match answer {
            Form::Floats => Numbers::Floats(Vec::new()),
            form => Numbers::Bytes(form, Vec::new()),
        };
        Self { rows, rows_missing: rows, values, squared_errors: Vec::new(), squared_errors_input_units: Vec::new() }
    }

    /// Copies rows `rows` of the request, which are the batch rows from `first` on, to their place in the response.
    /// This is the only copy. Pieces can come in any order, each row once. Returns the response once it is complete.
    pub(super) fn add(
        &mut self,
        rows: Range<usize>,
        computed: &Computed,
        first: usize,
        response_form: ResponseForm<'_>,
    ) -> Option<Result<Output, BatchError>> {
        let source = first..first + rows.len();
        let columns = computed.values.columns();
        let numbers = rows.start * columns..rows.end * columns;
        let is_plain = response_form.normalizer.is_none();
        match &mut self.values {
            Numbers::Bytes(Form::Float32Le, bytes) if is_plain => {
                bytes.resize(self.rows * columns * 4, 0);
                computed.values.store_le(source.clone(), &mut bytes[numbers.start * 4..numbers.end * 4]);
            }
            Numbers::Floats(floats) if is_plain => {
                floats.resize(self.rows * columns, 0.0);
                computed.values.store(source.clone(), &mut floats[numbers]);
            }
            values => {
                let wide = response_form.in_64_bits(&computed.values, source.clone(), &rows);
                if let Err((place, form)) = values.write(self.rows * columns, numbers.start, &wide) {
                    let row = rows.start + place / columns;
                    return Some(Err(BatchError::DoesNotFit { row, value: wide[place], form: form.name() }));
                }
            }
        }
        for (errors, computed) in [
            (&mut self.squared_errors, &computed.squared_errors),
            (&mut self.squared_errors_input_units, &computed.squared_errors_input_units),
        ] {
            if !computed.is_empty() {
                errors.resize(self.rows, 0.0);
                errors[rows.clone()].copy_from_slice(&computed[source.clone()]);
            }
        }
        self.rows_missing -= rows.len();
        (self.rows_missing == 0).then(|| self.take(columns))
    }

    fn take(&mut self, columns: usize) -> Result<Output, BatchError> {
        let values = match &mut self.values {
            Numbers::Floats(floats) => Values::Floats(take(floats)),
            Numbers::Bytes(form, bytes) => {
                let bytes = take(bytes).into();
                match form {
                    Form::Float32Le | Form::Floats => Values::Float32Le(bytes),
                    Form::Float64Le => Values::Float64Le(bytes),
                    Form::Float16Le => Values::Float16Le(bytes),
                    Form::Bfloat16Le => Values::Bfloat16Le(bytes),
                    Form::Uint8 => Values::Uint8(bytes),
                    Form::Int8 => Values::Int8(bytes),
                }
            }
        };
        // Neither conversion fails: the row count arrived as 32 bits, and the columns are a width of the model.
        let shape = (u32::try_from(self.rows), u32::try_from(columns));
        let (Ok(rows), Ok(columns)) = shape else { return Err(BatchError::WorkerLost) };
        Ok(Output {
            matrix: Matrix::new(rows, columns, values)?,
            squared_errors: take(&mut self.squared_errors),
            squared_errors_input_units: take(&mut self.squared_errors_input_units),
            // The caller fills this in.
            timing: Timing::default(),
        })
    }
}

impl ResponseForm<'_> {
    /// Converts the batch rows `source`, which belong to rows `rows` of the request, to row-major 64-bit numbers.
    fn in_64_bits(self, result: &PanelMatrix, source: Range<usize>, rows: &Range<usize>) -> Vec<f64> {
        let columns = result.columns();
        let mut narrow = vec![0.0; source.len() * columns];
        result.store(source, &mut narrow);
        let Some(normalizer) = self.normalizer else { return narrow.into_iter().map(f64::from).collect() };
        let mut wide = Vec::with_capacity(narrow.len());
        for row in narrow.chunks_exact(columns) {
            wide.extend(row.iter().enumerate().map(|(j, value)| normalizer.denormalized(j, *value)));
        }
        if let Some(given) = self.given {
            let given = given.rows_f64(rows.clone());
            wide.iter_mut().zip(given).filter(|(_, given)| !given.is_nan()).for_each(|(wide, given)| *wide = given);
        }
        wide
    }
}

impl Numbers {
    /// Writes numbers from index `first` of `count` on, each rounded once. The error is the index of the first number
    /// that the format cannot represent, with the format.
    fn write(&mut self, count: usize, first: usize, numbers: &[f64]) -> Result<(), (usize, Form)> {
        fn put<const N: usize>(
            bytes: &mut Vec<u8>,
            count: usize,
            first: usize,
            numbers: &[f64],
            form: impl Fn(f64) -> Option<[u8; N]>,
        ) -> Result<(), usize> {
            bytes.resize(count * N, 0);
            let places = bytes.as_chunks_mut::<N>().0[first..].iter_mut();
            for (i, (place, number)) in places.zip(numbers).enumerate() {
                *place = form(*number).ok_or(i)?;
            }
            Ok(())
        }
        let (form, bytes) = match self {
            Self::Floats(floats) => {
                floats.resize(count, 0.0);
                for (i, (place, number)) in floats[first..].iter_mut().zip(numbers).enumerate() {
                    *place = *number as f32;
                    if !place.is_finite() {
                        return Err((i, Form::Floats));
                    }
                }
                return Ok(());
            }
            Self::Bytes(form, bytes) => (*form, bytes),
        };
        let written = match form {
            Form::Float64Le => put(bytes, count, first, numbers, |x| x.is_finite().then(|| x.to_le_bytes())),
            Form::Float32Le | Form::Floats => put(bytes, count, first, numbers, |x| {
                let x = x as f32;
                x.is_finite().then(|| x.to_le_bytes())
            }),
            Form::Float16Le => put(bytes, count, first, numbers, |x| {
                let x = f16::from_f64(x);
                x.is_finite().then(|| x.to_le_bytes())
            }),
            Form::Bfloat16Le => put(bytes, count, first, numbers, |x| {
                let x = bf16::from_f64(x);
                x.is_finite().then(|| x.to_le_bytes())
            }),
            // No response uses these formats. A whole number in range is representable.
            Form::Uint8 => put(bytes, count, first, numbers, |x| {
                ((0.0..=255.0).contains(&x) && x.fract() == 0.0).then_some([x as u8])
            }),
            Form::Int8 => put(bytes, count, first, numbers, |x| {
                ((-128.0..=127.0).contains(&x) && x.fract() == 0.0).then(|| (x as i8).to_le_bytes())
            }),
        };
        written.map_err(|place| (place, form))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::NormalizationKind;

    /// A batch with rows `rows` of a request from batch row `first` on. The number at (row, column) of the request is
    /// `10 row + column`.
    fn computed(rows: Range<usize>, columns: usize, first: usize, errors: bool) -> Computed {
        let mut values = PanelMatrix::zeros(first + rows.len() + 3, columns);
        let mut squared_errors = vec![0.0; if errors { values.rows() } else { 0 }];
        for (place, row) in rows.enumerate() {
            for column in 0..columns {
                *values.at_mut(first + place, column) = (10 * row + column) as f32;
            }
            if errors {
                squared_errors[first + place] = row as f32;
            }
        }
        let squared_errors_input_units = squared_errors.iter().map(|error| error * 2.0).collect();
        Computed { values, squared_errors, squared_errors_input_units }
    }

    fn expected(rows: usize, columns: usize) -> Vec<f32> {
        (0..rows).flat_map(|row| (0..columns).map(move |column| (10 * row + column) as f32)).collect()
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_form_the_complete_result(
            sizes in prop::collection::vec(1_usize..20, 1..8),
            order in any::<prop::sample::Index>(),
            (columns, first) in (1_usize..5, 0_usize..20),
            (form, errors) in (0_usize..5, any::<bool>()),
        ) {
            let rows: usize = sizes.iter().sum();
            let mut start = 0;
            let mut pieces: Vec<Range<usize>> = sizes.iter().map(|size| {
                start += size;
                start - size..start
            }).collect();
            let shift = order.index(pieces.len());
            pieces.rotate_left(shift);
            let form =
                [Form::Float32Le, Form::Floats, Form::Float64Le, Form::Float16Le, Form::Bfloat16Le][form];
            let mut assembly = Assembly::new(rows, form);
            let mut answer = None;
            for piece in pieces {
                prop_assert!(answer.is_none(), "complete before its last piece");
                answer = assembly.add(piece.clone(), &computed(piece, columns, first, errors), first, ResponseForm::default());
            }
            let output = answer.expect("whole").expect("a matrix");
            prop_assert_eq!((output.matrix.rows(), output.matrix.columns()), (rows, columns));
            prop_assert_eq!(output.matrix.form(), form);
            let expected = expected(rows, columns).into_iter().map(|value| match form {
                Form::Bfloat16Le => bf16::from_f32(value).to_f32(),
                Form::Float16Le => f16::from_f32(value).to_f32(),
                _ => value,
            });
            prop_assert_eq!(output.matrix.values().to_f32(), expected.collect::<Vec<_>>());
            let row_numbers: Vec<f32> = (0..if errors { rows } else { 0 }).map(|row| row as f32).collect();
            let doubled: Vec<f32> = row_numbers.iter().map(|error| error * 2.0).collect();
            prop_assert_eq!(output.squared_errors, row_numbers);
            prop_assert_eq!(output.squared_errors_input_units, doubled);
        }
    }

    #[test]
    fn float64_results_are_denormalized_and_keep_given_values() {
        let normalizer = Normalizer {
            kind: NormalizationKind::Standardize,
            offset: vec![1e12, 0.0],
            scale: vec![2.0, 1.0],
            fill: vec![0.0, 0.0],
            exact_offset: vec![1e12 + 1.0, 0.5],
        };
        let given = [f64::NAN, 0.1, 1_000_000_000_003.25, f64::NAN];
        let given = Matrix::new(2, 2, Values::from_f64(&given)).expect("a matrix");
        let response_form = ResponseForm { normalizer: Some(&normalizer), given: Some(&given) };
        // The result rows are (0, 1) and (10, 11), from batch row 3 on.
        let computed = computed(0..2, 2, 3, false);
        let answer = |form, response_form| {
            let whole = Assembly::new(2, form).add(0..2, &computed, 3, response_form).expect("whole");
            whole.map(|output| output.matrix.values().to_f64())
        };
        let expected = [1e12 + 1.0, 0.1, 1_000_000_000_003.25, 11.5];
        assert_eq!(answer(Form::Float64Le, response_form), Ok(expected.to_vec()));
        let all = ResponseForm { given: None, ..response_form };
        assert_eq!(answer(Form::Float64Le, all), Ok(vec![1e12 + 1.0, 1.5, 1e12 + 21.0, 11.5]));
        let error = answer(Form::Float16Le, all).expect_err("beyond binary16").to_string();
        assert!(error.contains("row 1") && error.contains("float16_le") && error.contains("answer_format"), "{error}");
    }

    #[test]
    fn the_first_non_finite_row_of_a_range_is_found() {
        let mut computed = computed(0..8, 3, 0, true);
        assert!(computed.is_finite());
        *computed.values.at_mut(4, 2) = f32::NAN;
        computed.squared_errors[6] = f32::INFINITY;
        assert!(!computed.is_finite());
        assert_eq!(computed.first_not_finite(0..8), Some(4));
        assert_eq!(computed.first_not_finite(5..8), Some(6));
        assert_eq!(computed.first_not_finite(0..4), None);
    }
}
