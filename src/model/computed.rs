//! The result of a batch, before it is converted for its reader.

use std::ops::Range;

use super::Reconstruction;
use crate::numeric::PanelMatrix;

/// Result of one batch.
#[derive(Debug, Default)]
pub(crate) struct Computed {
    /// Codes, rows or scores; rows are in the space of the batch.
    pub(crate) values: PanelMatrix,
    /// Squared error of each row in normalized space; only for reconstruction.
    pub(crate) squared_errors: Vec<f32>,
    /// Squared error of each row in the units of the input; only for reconstruction.
    pub(crate) squared_errors_input_units: Vec<f32>,
}

impl From<PanelMatrix> for Computed {
    fn from(values: PanelMatrix) -> Self {
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
    /// Whether all numbers are finite. An error in the units of the input may be infinite: its square can overflow 32
    /// bits although the numbers themselves fit.
    pub(crate) fn is_finite(&self) -> bool {
        are_finite(self.values.values())
            && are_finite(&self.squared_errors)
            && !self.squared_errors_input_units.iter().any(|error| error.is_nan())
    }

    /// The first row of `range` with a number that is not finite, by the same rule.
    pub(crate) fn first_not_finite(&self, range: Range<usize>) -> Option<usize> {
        let bad = |row: &usize| {
            let numbers = (0..self.values.columns()).map(|column| self.values.at(*row, column));
            let in_input_units = self.squared_errors_input_units.get(*row);
            !numbers.chain(self.squared_errors.get(*row).copied()).all(f32::is_finite)
                || in_input_units.is_some_and(|error| error.is_nan())
        };
        range.into_iter().find(bad)
    }
}

/// Checks all numbers without an early exit, so that the loop can be vectorized.
fn are_finite(numbers: &[f32]) -> bool {
    numbers.iter().fold(true, |finite, value| finite & value.is_finite())
}
