//! Reconstructions and errors of the given rows, through `Reconstruct`.

use crate::cli::CliError;
use crate::cli::client::{Context, matrix, numbers};
use crate::cli::reading::FirstRows;
use crate::client::request_rows;
use crate::rpc::pb;

/// Rows with their reconstructions and errors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Name of the source of the rows.
    pub(super) source: String,
    /// Whether these are all rows of the source.
    pub(super) is_all: bool,
    pub(super) columns: usize,
    /// (n, columns), row-major, in input units.
    pub(super) rows: Vec<f64>,
    /// Reconstructions in the same shape and units.
    pub(super) reconstructions: Vec<f64>,
    /// Per row: sum over features of (x - x_hat)^2, in normalized space.
    pub(super) errors: Vec<f32>,
}

impl Measured {
    pub(super) fn row_count(&self) -> usize {
        self.errors.len()
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.columns..(i + 1) * self.columns]
    }

    pub(super) fn reconstruction(&self, i: usize) -> &[f64] {
        &self.reconstructions[i * self.columns..(i + 1) * self.columns]
    }

    /// A description such as `1797 rows of digits.csv`.
    pub(super) fn described(&self) -> String {
        let part = if self.is_all { "" } else { "the first " };
        format!("{part}{} rows of {}", self.row_count(), self.source)
    }

    /// Row indices, from 0, in order of rising error.
    pub(super) fn by_error(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.row_count()).collect();
        order.sort_by(|a, b| self.errors[*a].total_cmp(&self.errors[*b]));
        order
    }
}

/// Reconstructs all rows in several requests.
///
/// [`CliError`] if a call fails or a response has the wrong length.
pub(super) async fn measure(
    context: &Context,
    model: &pb::ModelRef,
    source: String,
    rows: FirstRows,
) -> Result<Measured, CliError> {
    let FirstRows { columns, values, is_all, .. } = rows;
    let mut client = context.autoencoder().await?;
    let (mut reconstructions, mut errors) = (Vec::with_capacity(values.len()), Vec::new());
    for block in values.chunks(request_rows(columns) * columns) {
        let request = pb::ReconstructRequest {
            model: Some(model.clone()),
            rows: Some(matrix(columns, block)),
            answer_format: pb::AnswerFormat::AsTrained.into(),
            ..pb::ReconstructRequest::default()
        };
        let answer = client.reconstruct(request).await?.into_inner();
        let (back, _) = numbers(answer.rows)?;
        check_count(back.len(), block.len())?;
        check_count(answer.squared_errors.len(), block.len() / columns)?;
        reconstructions.extend(back);
        errors.extend(answer.squared_errors);
    }
    Ok(Measured { source, is_all, columns, rows: values, reconstructions, errors })
}

/// [`CliError::Failed`] if a response has the wrong number of values.
pub(super) fn check_count(got: usize, expected: usize) -> Result<(), CliError> {
    if got == expected {
        return Ok(());
    }
    Err(CliError::Failed(format!("the server returned {got} values, expected {expected}")))
}
