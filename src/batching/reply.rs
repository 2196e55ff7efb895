//! The answer of one request, put together from the pieces that batches computed, in the form in which it was asked.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{BatchError, Output};
use crate::model::{Matrix, Reconstruction, Values};
use crate::numeric::Lanes;

/// Results of one batch.
#[derive(Debug, Default)]
pub(super) struct Computed {
    /// Codes or rows.
    pub(super) values: Lanes,
    /// Reconstruct only: one per row.
    pub(super) squared_errors: Vec<f32>,
    /// Reconstruct only: one per row.
    pub(super) squared_errors_input_units: Vec<f32>,
}

impl From<Lanes> for Computed {
    fn from(values: Lanes) -> Self {
        Self { values, ..Self::default() }
    }
}

impl From<Reconstruction> for Computed {
    fn from(reconstruction: Reconstruction) -> Self {
        let Reconstruction { rows, squared_errors, squared_errors_input_units } = reconstruction;
        Self { values: rows, squared_errors, squared_errors_input_units }
    }
}

impl Computed {
    /// Whether every number of every row is finite. Padding does not count.
    pub(super) fn is_finite(&self) -> bool {
        (0..self.values.columns()).all(|j| are_finite(self.values.column(j)))
            && are_finite(&self.squared_errors)
            && are_finite(&self.squared_errors_input_units)
    }

    /// The first row of `range` with a number that is not finite.
    pub(super) fn first_not_finite(&self, range: Range<usize>) -> Option<usize> {
        let number = |numbers: &[f32]| {
            let numbers = numbers.get(range.clone()).unwrap_or_default();
            numbers.iter().position(|value| !value.is_finite()).map(|row| range.start + row)
        };
        let columns = (0..self.values.columns()).filter_map(|j| number(self.values.column(j)));
        columns.chain(number(&self.squared_errors)).chain(number(&self.squared_errors_input_units)).min()
    }
}

/// All of them are looked at, without a way out: that is one vector operation for many.
fn are_finite(numbers: &[f32]) -> bool {
    numbers.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// A request's answer as far as it goes.
#[derive(Debug)]
pub(super) struct Assembly {
    rows: usize,
    done: Part,
    /// Pieces that were ready before one that comes before them, by their first row.
    early: BTreeMap<usize, Part>,
}

impl Assembly {
    /// For `rows` rows; `form` is the question, whose form the answer takes.
    pub(super) fn new(rows: usize, form: &Values) -> Self {
        Self { rows, done: Part::new(form), early: BTreeMap::new() }
    }

    /// Adds rows `rows` of the request, which are the rows from `first` on of the batch. The answer, once it is whole.
    ///
    /// Each row is to be added once.
    pub(super) fn add(
        &mut self,
        rows: Range<usize>,
        computed: &Computed,
        first: usize,
    ) -> Option<Result<Output, BatchError>> {
        let source = first..first + rows.len();
        if rows.start == self.done.rows {
            // Once and for all rows, so that the answer is never moved while it grows.
            if self.done.rows == 0 {
                self.done.reserve(self.rows, computed);
            }
            self.done.append(source, computed);
        } else {
            let mut part = self.done.of_same_form();
            part.append(source, computed);
            self.early.insert(rows.start, part);
        }
        while let Some(part) = self.early.remove(&self.done.rows) {
            self.done.join(part);
        }
        (self.done.rows == self.rows).then(|| std::mem::take(&mut self.done).into_output(computed.values.columns()))
    }
}

/// Consecutive rows of an answer.
#[derive(Debug)]
struct Part {
    rows: usize,
    values: Numbers,
    squared_errors: Vec<f32>,
    squared_errors_input_units: Vec<f32>,
}

/// Row-major numbers in one of the forms of [`Values`].
#[derive(Debug)]
enum Numbers {
    Float32Le(Vec<u8>),
    Floats(Vec<f32>),
}

impl Default for Part {
    fn default() -> Self {
        Self::with(Numbers::Floats(Vec::new()))
    }
}

impl Part {
    fn with(values: Numbers) -> Self {
        Self { rows: 0, values, squared_errors: Vec::new(), squared_errors_input_units: Vec::new() }
    }

    fn new(form: &Values) -> Self {
        Self::with(match form {
            Values::Float32Le(_) => Numbers::Float32Le(Vec::new()),
            Values::Floats(_) => Numbers::Floats(Vec::new()),
        })
    }

    fn of_same_form(&self) -> Self {
        Self::with(match self.values {
            Numbers::Float32Le(_) => Numbers::Float32Le(Vec::new()),
            Numbers::Floats(_) => Numbers::Floats(Vec::new()),
        })
    }

    fn reserve(&mut self, rows: usize, like: &Computed) {
        match &mut self.values {
            Numbers::Float32Le(bytes) => bytes.reserve_exact(rows * like.values.columns() * 4),
            Numbers::Floats(floats) => floats.reserve_exact(rows * like.values.columns()),
        }
        if !like.squared_errors.is_empty() {
            self.squared_errors.reserve_exact(rows);
            self.squared_errors_input_units.reserve_exact(rows);
        }
    }

    /// The one copy from the result to the answer.
    fn append(&mut self, rows: Range<usize>, computed: &Computed) {
        self.rows += rows.len();
        match &mut self.values {
            Numbers::Float32Le(bytes) => computed.values.store_le(rows.clone(), bytes),
            Numbers::Floats(floats) => computed.values.store(rows.clone(), floats),
        }
        if !computed.squared_errors.is_empty() {
            self.squared_errors.extend_from_slice(&computed.squared_errors[rows.clone()]);
            self.squared_errors_input_units.extend_from_slice(&computed.squared_errors_input_units[rows]);
        }
    }

    fn join(&mut self, next: Self) {
        self.rows += next.rows;
        match (&mut self.values, next.values) {
            (Numbers::Float32Le(bytes), Numbers::Float32Le(more)) => bytes.extend_from_slice(&more),
            (Numbers::Floats(floats), Numbers::Floats(more)) => floats.extend_from_slice(&more),
            (Numbers::Float32Le(_), Numbers::Floats(_)) | (Numbers::Floats(_), Numbers::Float32Le(_)) => {
                unreachable!("the parts of an answer have one form")
            }
        }
        self.squared_errors.extend_from_slice(&next.squared_errors);
        self.squared_errors_input_units.extend_from_slice(&next.squared_errors_input_units);
    }

    fn into_output(self, columns: usize) -> Result<Output, BatchError> {
        let values = match self.values {
            Numbers::Float32Le(bytes) => Values::Float32Le(bytes.into()),
            Numbers::Floats(floats) => Values::Floats(floats),
        };
        // Neither fails: as many rows as the request, whose count came as 32 bits, and a width of the model.
        let shape = (u32::try_from(self.rows), u32::try_from(columns));
        let (Ok(rows), Ok(columns)) = shape else { return Err(BatchError::WorkerLost) };
        Ok(Output {
            matrix: Matrix::new(rows, columns, values)?,
            squared_errors: self.squared_errors,
            squared_errors_input_units: self.squared_errors_input_units,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows `rows` of a request whose number at (row, column) is `10 row + column`, from row `first` of a batch on.
    fn computed(rows: Range<usize>, columns: usize, first: usize, errors: bool) -> Computed {
        let mut values = Lanes::zeros(first + rows.len() + 3, columns);
        let mut squared_errors = vec![0.0; if errors { values.rows() } else { 0 }];
        for (place, row) in rows.enumerate() {
            for column in 0..columns {
                values.column_mut(column)[first + place] = (10 * row + column) as f32;
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
        fn pieces_in_any_order_make_the_whole(
            sizes in prop::collection::vec(1_usize..20, 1..8),
            order in any::<prop::sample::Index>(),
            (columns, first) in (1_usize..5, 0_usize..20),
            (as_bytes, errors) in (any::<bool>(), any::<bool>()),
        ) {
            let rows: usize = sizes.iter().sum();
            let mut start = 0;
            let mut pieces: Vec<Range<usize>> = sizes.iter().map(|size| {
                start += size;
                start - size..start
            }).collect();
            let shift = order.index(pieces.len());
            pieces.rotate_left(shift);
            let form = if as_bytes { Values::Float32Le(bytes::Bytes::new()) } else { Values::Floats(vec![]) };
            let mut assembly = Assembly::new(rows, &form);
            let mut answer = None;
            for piece in pieces {
                prop_assert!(answer.is_none(), "whole before its last piece");
                answer = assembly.add(piece.clone(), &computed(piece, columns, first, errors), first);
            }
            let output = answer.expect("whole").expect("a matrix");
            prop_assert_eq!((output.matrix.rows(), output.matrix.columns()), (rows, columns));
            match output.matrix.values() {
                Values::Float32Le(bytes) => {
                    prop_assert!(as_bytes);
                    let numbers = bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number));
                    prop_assert_eq!(numbers.collect::<Vec<_>>(), expected(rows, columns));
                }
                Values::Floats(floats) => {
                    prop_assert!(!as_bytes);
                    prop_assert_eq!(floats, &expected(rows, columns));
                }
            }
            let row_numbers: Vec<f32> = (0..if errors { rows } else { 0 }).map(|row| row as f32).collect();
            let doubled: Vec<f32> = row_numbers.iter().map(|error| error * 2.0).collect();
            prop_assert_eq!(output.squared_errors, row_numbers);
            prop_assert_eq!(output.squared_errors_input_units, doubled);
        }
    }

    #[test]
    fn the_first_row_that_is_not_finite_is_found_within_its_range() {
        let mut computed = computed(0..8, 3, 0, true);
        assert!(computed.is_finite());
        computed.values.column_mut(2)[4] = f32::NAN;
        computed.squared_errors[6] = f32::INFINITY;
        assert!(!computed.is_finite());
        assert_eq!(computed.first_not_finite(0..8), Some(4));
        assert_eq!(computed.first_not_finite(5..8), Some(6));
        assert_eq!(computed.first_not_finite(0..4), None);
    }

    #[test]
    fn padding_may_be_anything() {
        let mut computed = computed(0..8, 3, 0, false);
        computed.values.values_mut()[15] = f32::NAN;
        assert!(computed.is_finite());
    }
}
