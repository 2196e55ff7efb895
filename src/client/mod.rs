//! A client of the gRPC API, with rows as [`ndarray`] arrays.
//!
//! [`Client`] has the calls that compute with a model. The command line uses the same connections, credentials and
//! retries.

#![expect(clippy::needless_pass_by_value, reason = "a view is small, and ndarray passes views by value")]

mod arrays;
mod channels;
mod connect;
mod error;
mod failure;
mod probe;
mod reference;
mod retry;
mod settings;
mod sizes;
mod spec;
mod streams;
mod target;
mod tls;
mod tls_failure;
mod training;
pub(crate) mod upload;
mod watched_stream;

use std::future::Future;

use ndarray::{Array2, ArrayView2, Axis};
use tonic::{Response, Status};

pub(crate) use self::channels::Channels;
pub(crate) use self::error::{HasStatus, row_of};
#[cfg(feature = "server")]
pub(crate) use self::error::{explain, no_server};
pub(crate) use self::reference::model_ref;
pub(crate) use self::retry::patiently;
#[cfg(feature = "server")]
pub(crate) use self::sizes::CHUNK_BYTES;
pub(crate) use self::sizes::{chunk_rows, request_rows};
use crate::library::{Reconstruction, Scores};
use crate::pb;
use crate::pb::autoencoder_service_client::AutoencoderServiceClient;
use crate::pb::job_service_client::JobServiceClient;
use crate::pb::model_service_client::ModelServiceClient;

pub use self::channels::{Bearer, Connection};
pub use self::error::ClientError;
pub use self::settings::{ClientSettings, Token};
pub use self::streams::ArrayStream;

/// Form of the values of a response.
const FORM: pb::AnswerFormat = pb::AnswerFormat::Float32Le;

/// A connection to a server. Cheap to clone; clones share the connection.
///
/// Models are named `NAME`, `NAME@VERSION` or `NAME@ALIAS`. Rows are `(n, d)` and codes `(n, k)`, at least one row,
/// views with any strides. A large array is sent in several requests, one after another, and all of them are served by
/// one version. A computation that a full server rejects is repeated after the delay that the server names, up to 12
/// times.
#[derive(Clone, Debug)]
pub struct Client {
    channels: Channels,
    autoencoder: AutoencoderServiceClient<Connection>,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Served<T> {
    /// The version that served the call. Codes belong to the version that made them.
    pub version: u64,
    /// The result.
    pub value: T,
    /// Notes about the request, one sentence each.
    pub notes: Vec<String>,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if a setting is wrong, [`ClientError::NoServer`] if no server responds, and
    /// [`ClientError::Failed`] if the server cannot be used: the text says why.
    pub async fn connect(settings: ClientSettings) -> Result<Self, ClientError> {
        let channels = Channels::new(settings);
        let autoencoder = channels.autoencoder().await?;
        Ok(Self { channels, autoencoder })
    }

    /// The address of the server.
    pub fn url(&self) -> &str {
        self.channels.url()
    }

    /// Encodes rows (n, d) to codes (n, k).
    ///
    /// # Errors
    /// [`ClientError::Status`] if the server refuses the rows; [`ClientError::Failed`] if the connection broke and the
    /// cause is known.
    pub async fn encode(&self, model: &str, rows: ArrayView2<'_, f32>) -> Result<Served<Array2<f32>>, ClientError> {
        let call = |mut client: AutoencoderServiceClient<Connection>, model, rows| async move {
            client.encode(pb::EncodeRequest { model, rows, code_length: 0, answer_format: FORM.into() }).await
        };
        let served = self.each_block(model, rows, |answer: &pb::EncodeResponse| answer.version, call).await?;
        let notes = served.value.first().map_or(Vec::new(), |first| first.notes.clone());
        let codes = served.value.into_iter().map(|answer| answer.codes);
        Ok(Served { version: served.version, value: joined(rows.nrows(), codes)?, notes })
    }

    /// Decodes codes (n, k) to rows (n, d) in the units of the input. `model` must name a version or an alias: codes
    /// belong to the version that made them.
    ///
    /// # Errors
    /// As [`Client::encode`].
    pub async fn decode(&self, model: &str, codes: ArrayView2<'_, f32>) -> Result<Served<Array2<f32>>, ClientError> {
        let call = |mut client: AutoencoderServiceClient<Connection>, model, codes| async move {
            let request = pb::DecodeRequest { model, codes, answer_format: FORM.into(), ..Default::default() };
            client.decode(request).await
        };
        let served = self.each_block(model, codes, |answer: &pb::DecodeResponse| answer.version, call).await?;
        let rows = served.value.into_iter().map(|answer| answer.rows);
        Ok(Served { version: served.version, value: joined(codes.nrows(), rows)?, notes: Vec::new() })
    }

    /// Encodes rows (n, d) and decodes them, with the error of each row.
    ///
    /// # Errors
    /// As [`Client::encode`].
    pub async fn reconstruct(
        &self,
        model: &str,
        rows: ArrayView2<'_, f32>,
    ) -> Result<Served<Reconstruction>, ClientError> {
        let call = |mut client: AutoencoderServiceClient<Connection>, model, rows| async move {
            let request = pb::ReconstructRequest { model, rows, answer_format: FORM.into(), ..Default::default() };
            client.reconstruct(request).await
        };
        let served = self.each_block(model, rows, |answer: &pb::ReconstructResponse| answer.version, call).await?;
        let notes = served.value.first().map_or(Vec::new(), |first| first.notes.clone());
        let (mut squared_errors, mut squared_errors_input_units) = (Vec::new(), Vec::new());
        let mut matrices = Vec::new();
        for answer in served.value {
            squared_errors.extend(answer.squared_errors);
            squared_errors_input_units.extend(answer.squared_errors_input_units);
            matrices.push(answer.rows);
        }
        let count = rows.nrows();
        let value = Reconstruction {
            rows: joined(count, matrices)?,
            squared_errors: arrays::per_row(count, squared_errors)?,
            squared_errors_input_units: arrays::per_row(count, squared_errors_input_units)?,
        };
        Ok(Served { version: served.version, value, notes })
    }

    /// Rows (n, d) with missing values, which are NaN, replaced by their reconstruction.
    ///
    /// # Errors
    /// As [`Client::encode`].
    pub async fn impute(&self, model: &str, rows: ArrayView2<'_, f32>) -> Result<Served<Array2<f32>>, ClientError> {
        let call = |mut client: AutoencoderServiceClient<Connection>, model, rows| async move {
            client.impute(pb::ImputeRequest { model, rows, answer_format: FORM.into() }).await
        };
        let served = self.each_block(model, rows, |answer: &pb::ImputeResponse| answer.version, call).await?;
        let notes = served.value.first().map_or(Vec::new(), |first| first.notes.clone());
        let whole = served.value.into_iter().map(|answer| answer.rows);
        Ok(Served { version: served.version, value: joined(rows.nrows(), whole)?, notes })
    }

    /// Scores how unusual rows (n, d) are.
    ///
    /// # Errors
    /// As [`Client::encode`].
    pub async fn score(&self, model: &str, rows: ArrayView2<'_, f32>) -> Result<Served<Scores>, ClientError> {
        let call = |mut client: AutoencoderServiceClient<Connection>, model, rows| async move {
            client.score(pb::ScoreRequest { model, rows, reasons: 0, false_alarm_rate: None }).await
        };
        let served = self.each_block(model, rows, |answer: &pb::ScoreResponse| answer.version, call).await?;
        let mut all = pb::ScoreResponse::default();
        for answer in served.value {
            all.notes = if all.scores.is_empty() { answer.notes } else { all.notes };
            all.scores.extend(answer.scores);
            all.p_values.extend(answer.p_values);
            all.squared_errors.extend(answer.squared_errors);
            all.code_distances.extend(answer.code_distances);
            all.changes.extend(answer.changes);
        }
        let count = rows.nrows();
        let value = Scores {
            scores: arrays::per_row(count, all.scores)?,
            p_values: arrays::per_row(count, all.p_values)?,
            squared_errors: arrays::per_row(count, all.squared_errors)?,
            code_distances: arrays::per_row(count, all.code_distances)?,
            changes: arrays::per_row(count, all.changes)?,
        };
        Ok(Served { version: served.version, value, notes: all.notes })
    }

    /// The generated client of `AutoencoderService`, on this connection and with its credentials, for calls that this
    /// type does not have.
    pub fn autoencoder(&self) -> AutoencoderServiceClient<Connection> {
        self.autoencoder.clone()
    }

    /// The generated client of `ModelService`, on a new connection with the same credentials.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn models(&self) -> Result<ModelServiceClient<Connection>, ClientError> {
        self.channels.models().await
    }

    /// The generated client of `JobService`, on a new connection with the same credentials.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn jobs(&self) -> Result<JobServiceClient<Connection>, ClientError> {
        self.channels.jobs().await
    }

    /// Sends rows in requests, one after another, and returns the responses in order. The first response names the
    /// version of the others.
    async fn each_block<R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        model: &str,
        rows: ArrayView2<'_, f32>,
        version: fn(&R) -> u64,
        call: impl Fn(AutoencoderServiceClient<Connection>, Option<pb::ModelRef>, Option<pb::Matrix>) -> F,
    ) -> Result<Served<Vec<R>>, ClientError> {
        if rows.is_empty() {
            let (rows, columns) = rows.dim();
            return Err(ClientError::Invalid(format!("the array is {rows} x {columns}, expected at least one value")));
        }
        let mut model = model_ref(model)?;
        let mut served = Served { version: 0, value: Vec::new(), notes: Vec::new() };
        let block_rows = request_rows(rows.ncols());
        for (block, rows) in rows.axis_chunks_iter(Axis(0), block_rows).enumerate() {
            let matrix = arrays::matrix(rows);
            let attempt = || {
                let called = call(self.autoencoder.clone(), Some(model.clone()), Some(matrix.clone()));
                async move { Ok::<_, ClientError>(called.await?.into_inner()) }
            };
            let answer = match patiently(attempt).await {
                Ok(answer) => answer,
                Err(error) => return Err(in_array(self.channels.clarified(error).await, block * block_rows)),
            };
            if block == 0 {
                served.version = version(&answer);
                model.selector = Some(pb::model_ref::Selector::Version(served.version));
            }
            served.value.push(answer);
        }
        Ok(served)
    }
}

/// Adds the row of the array to an error that names a row of a later request. The request begins at row `first_row`,
/// counted from 0.
fn in_array(error: ClientError, first_row: usize) -> ClientError {
    let row = error.status().and_then(row_of).filter(|_| first_row > 0);
    match row {
        Some(row) => ClientError::Failed(format!(
            "{error}\n  that is row {} of the array",
            (first_row as u64).saturating_add(row)
        )),
        None => error,
    }
}

/// One array of the matrices of all responses.
fn joined(rows: usize, matrices: impl IntoIterator<Item = Option<pb::Matrix>>) -> Result<Array2<f32>, ClientError> {
    let (mut values, mut columns) = (Vec::new(), 0);
    for matrix in matrices {
        columns = arrays::append(matrix, &mut values)?;
    }
    arrays::array(rows, columns, values)
}
