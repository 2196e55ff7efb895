//! The answer of one request, put together from the pieces that batches computed, in the form in which it was asked.

use std::mem::take;
use std::ops::Range;

use super::{BatchError, Output, Timing};
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
    /// Whether every number of every row is finite.
    pub(super) fn is_finite(&self) -> bool {
        are_finite(self.values.values())
            && are_finite(&self.squared_errors)
            && are_finite(&self.squared_errors_input_units)
    }

    /// The first row of `range` with a number that is not finite.
    pub(super) fn first_not_finite(&self, range: Range<usize>) -> Option<usize> {
        let bad = |row: &usize| {
            let numbers = (0..self.values.columns()).map(|column| self.values.at(*row, column));
            let errors = [self.squared_errors.get(*row), self.squared_errors_input_units.get(*row)];
            !numbers.chain(errors.into_iter().flatten().copied()).all(f32::is_finite)
        };
        range.into_iter().find(bad)
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
    rows_missing: usize,
    /// Empty until the first piece is there: a request that waits holds no room for its answer.
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

impl Assembly {
    /// For `rows` rows; `form` is the question, whose form the answer takes.
    pub(super) fn new(rows: usize, form: &Values) -> Self {
        let values = match form {
            Values::Float32Le(_) => Numbers::Float32Le(Vec::new()),
            Values::Floats(_) => Numbers::Floats(Vec::new()),
        };
        Self { rows, rows_missing: rows, values, squared_errors: Vec::new(), squared_errors_input_units: Vec::new() }
    }

    /// Writes rows `rows` of the request, which are the rows from `first` on of the batch, to their place: the one copy
    /// from the result to the answer. Pieces come in any order, each row once. The answer, once it is whole.
    pub(super) fn add(
        &mut self,
        rows: Range<usize>,
        computed: &Computed,
        first: usize,
    ) -> Option<Result<Output, BatchError>> {
        let source = first..first + rows.len();
        let columns = computed.values.columns();
        let numbers = rows.start * columns..rows.end * columns;
        match &mut self.values {
            Numbers::Float32Le(bytes) => {
                bytes.resize(self.rows * columns * 4, 0);
                computed.values.store_le(source.clone(), &mut bytes[numbers.start * 4..numbers.end * 4]);
            }
            Numbers::Floats(floats) => {
                floats.resize(self.rows * columns, 0.0);
                computed.values.store(source.clone(), &mut floats[numbers]);
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
            Numbers::Float32Le(bytes) => Values::Float32Le(take(bytes).into()),
            Numbers::Floats(floats) => Values::Floats(take(floats)),
        };
        // Neither fails: as many rows as the request, whose count came as 32 bits, and a width of the model.
        let shape = (u32::try_from(self.rows), u32::try_from(columns));
        let (Ok(rows), Ok(columns)) = shape else { return Err(BatchError::WorkerLost) };
        Ok(Output {
            matrix: Matrix::new(rows, columns, values)?,
            squared_errors: take(&mut self.squared_errors),
            squared_errors_input_units: take(&mut self.squared_errors_input_units),
            // Known to who hands it out.
            timing: Timing::default(),
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
        *computed.values.at_mut(4, 2) = f32::NAN;
        computed.squared_errors[6] = f32::INFINITY;
        assert!(!computed.is_finite());
        assert_eq!(computed.first_not_finite(0..8), Some(4));
        assert_eq!(computed.first_not_finite(5..8), Some(6));
        assert_eq!(computed.first_not_finite(0..4), None);
    }
}
