//! Shared by all client commands: connections and matrices.

use super::CliError;
use crate::client::{Channels, ClientError, ClientSettings, Connection};
use crate::files::{narrow, needs_f64};
use crate::model::{Matrix, Values};
use crate::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use crate::rpc::pb::job_service_client::JobServiceClient;
use crate::rpc::pb::model_service_client::ModelServiceClient;
use crate::rpc::{convert, pb};

/// What every client command needs: server, output format, credentials.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) json: bool,
    channels: Channels,
}

impl Context {
    pub(super) fn new(settings: ClientSettings, json: bool) -> Self {
        Self { json, channels: Channels::new(settings) }
    }

    pub(super) fn url(&self) -> &str {
        self.channels.url()
    }

    pub(super) async fn channel(&self) -> Result<Connection, CliError> {
        Ok(self.channels.channel().await?)
    }

    pub(super) async fn autoencoder(&self) -> Result<AutoencoderServiceClient<Connection>, CliError> {
        Ok(self.channels.autoencoder().await?)
    }

    pub(super) async fn models(&self) -> Result<ModelServiceClient<Connection>, CliError> {
        Ok(self.channels.models().await?)
    }

    pub(super) async fn jobs(&self) -> Result<JobServiceClient<Connection>, CliError> {
        Ok(self.channels.jobs().await?)
    }

    /// The cause of a broken connection if it can be found, else the same error.
    pub(super) async fn clarified(&self, error: CliError) -> CliError {
        match error {
            CliError::Status(status) => self.channels.clarified(ClientError::Status(status)).await.into(),
            other => other,
        }
    }
}

/// A matrix of binary32 if that keeps all values (see [`needs_f64`]), else of binary64. Depends only on the values, so
/// that a resumed upload sends the same chunks.
pub(super) fn matrix(columns: usize, values: &[f64]) -> pb::Matrix {
    let values = if needs_f64(values) { Values::from_f64(values) } else { Values::from_f32(&narrow(values)) };
    matrix_of(columns, values)
}

/// A matrix of binary32.
pub(super) fn float_matrix(columns: usize, values: &[f32]) -> pb::Matrix {
    matrix_of(columns, Values::from_f32(values))
}

fn matrix_of(columns: usize, values: Values) -> pb::Matrix {
    let (size, values) = match values {
        Values::Float64Le(bytes) => (bytes.len() / 8, pb::matrix::Values::Float64Le(bytes)),
        Values::Float32Le(bytes) => (bytes.len() / 4, pb::matrix::Values::Float32Le(bytes)),
        other => {
            let values = other.to_f32();
            (values.len(), pb::matrix::Values::Floats(pb::FloatList { values }))
        }
    };
    pb::Matrix {
        rows: (size / columns.max(1)) as u32,
        columns: columns as u32,
        values: Some(values),
        ..Default::default()
    }
}

/// As [`matrix`], with column names; empty if the columns have none.
pub(super) fn named_matrix(columns: usize, values: &[f64], names: &[String]) -> pb::Matrix {
    pb::Matrix { column_names: names.to_vec(), ..matrix(columns, values) }
}

/// Prints the notes of a response to standard error.
pub(super) fn print_notes(context: &Context, notes: &[String]) {
    for note in notes {
        if context.json {
            note_line!("{}", serde_json::json!({ "note": note }));
        } else {
            note_line!("note: {note}");
        }
    }
}

/// The matrix of a response, checked.
pub(super) fn answered(matrix: Option<pb::Matrix>) -> Result<Matrix, CliError> {
    let matrix = convert::matrix("matrix", matrix);
    matrix.map_err(|error| CliError::Failed(format!("the server's response is invalid: {error}")))
}

/// The values of a response as binary64, row-major, and the number of columns.
pub(super) fn numbers(matrix: Option<pb::Matrix>) -> Result<(Vec<f64>, usize), CliError> {
    let matrix = answered(matrix)?;
    Ok((matrix.values().to_f64(), matrix.columns()))
}

/// The values of a response as binary32, row-major, and the number of columns.
pub(super) fn float_numbers(matrix: Option<pb::Matrix>) -> Result<(Vec<f32>, usize), CliError> {
    let matrix = answered(matrix)?;
    Ok((matrix.values().to_f32(), matrix.columns()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Form;

    #[test]
    fn a_block_uses_the_smaller_lossless_format() {
        let form = |values: &[f64]| {
            let sent = answered(Some(matrix(1, values))).expect("a matrix");
            let kept: Vec<f64> = sent.values().to_f64();
            (sent.form(), kept)
        };
        let narrow = [0.5, -3.0, f64::NAN];
        assert_eq!(form(&narrow).0, Form::Float32Le);
        let wide = [0.5, 1_700_000_001.0];
        assert_eq!(form(&wide), (Form::Float64Le, wide.to_vec()));
    }
}
