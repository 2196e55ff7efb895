//! The results of a request.

use super::Timing;
use crate::model::Matrix;

/// Results of one request, in the requested number format.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Codes, rows or scores.
    pub matrix: Matrix,
    /// Squared error of each row in normalized space; only for reconstruction.
    pub squared_errors: Vec<f32>,
    /// Squared error of each row in the units of the input; only for reconstruction.
    pub squared_errors_input_units: Vec<f32>,
    /// Where the time of the request was spent.
    pub timing: Timing,
}
