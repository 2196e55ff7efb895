//! What a model makes of rows: their reconstructions and errors, through `Reconstruct`.

use crate::cli::CliError;
use crate::cli::client::{Context, matrix, numbers};
use crate::cli::data::request_rows;
use crate::cli::reading::FirstRows;
use crate::rpc::pb;

/// Rows and what came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// What the rows are called.
    pub(super) source: String,
    /// Whether these are all rows of the source.
    pub(super) is_all: bool,
    pub(super) columns: usize,
    /// (n, columns), row-major, in the units of the input.
    pub(super) rows: Vec<f64>,
    /// Likewise.
    pub(super) reconstructions: Vec<f64>,
    /// By row: sum over features of (x - x_hat)^2, normalized space.
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

    /// `1,797 rows of digits.csv`, for people.
    pub(super) fn described(&self) -> String {
        let part = if self.is_all { "" } else { "the first " };
        format!("{part}{} rows of {}", self.row_count(), self.source)
    }

    /// The numbers of the rows, from 0, that with the smallest error first.
    pub(super) fn by_error(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.row_count()).collect();
        order.sort_by(|a, b| self.errors[*a].total_cmp(&self.errors[*b]));
        order
    }
}

/// Reconstructs all rows, a request at a time.
///
/// # Errors
/// What the server says, or that its answer is not as long as the question.
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

/// # Errors
/// [`CliError::Failed`] if an answer is not as long as its question wants.
pub(super) fn check_count(got: usize, expected: usize) -> Result<(), CliError> {
    if got == expected {
        return Ok(());
    }
    Err(CliError::Failed(format!("the server answered with {got} numbers, expected {expected}")))
}
