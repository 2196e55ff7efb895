//! Bulk streams: many arrays on one call.

use std::pin::Pin;

use ndarray::Array2;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::{Client, ClientError, FORM, Served, arrays, model_ref};
use crate::pb;

/// Results in the order of their arrays. The first error ends the stream; the results before it are valid.
pub type ArrayStream = Pin<Box<dyn Stream<Item = Result<Served<Array2<f32>>, ClientError>> + Send>>;

impl Client {
    /// Encodes arrays (n, d) in bulk: one result (n, k) per array, in order, all from one version, with the bits of
    /// [`Client::encode`]. Arrays of 0.1 to 1 MiB are fast.
    ///
    /// The server reads only a little ahead of the results that were taken: supply arrays and take results at the same
    /// time. It waits while it is full, where [`Client::encode`] is rejected and repeated.
    ///
    /// # Errors
    /// [`ClientError::Status`] if the server refuses the first array. Later errors come from the stream.
    pub async fn encode_stream(
        &self,
        model: &str,
        rows: impl Stream<Item = Array2<f32>> + Send + 'static,
    ) -> Result<ArrayStream, ClientError> {
        // Only the first message names the model.
        let mut model = Some(model_ref(model)?);
        let requests = rows.map(move |rows| pb::EncodeStreamRequest {
            model: model.take(),
            rows: Some(arrays::matrix(rows.view())),
            code_length: 0,
            answer_format: FORM.into(),
        });
        let answers = self.autoencoder().encode_stream(requests).await?.into_inner();
        Ok(Box::pin(answers.map(encoded)))
    }

    /// Decodes arrays of codes (n, k) in bulk, to rows (n, d), as [`Client::encode_stream`] encodes. `model` must name a
    /// version or an alias.
    ///
    /// # Errors
    /// As [`Client::encode_stream`].
    pub async fn decode_stream(
        &self,
        model: &str,
        codes: impl Stream<Item = Array2<f32>> + Send + 'static,
    ) -> Result<ArrayStream, ClientError> {
        let mut model = Some(model_ref(model)?);
        let requests = codes.map(move |codes| pb::DecodeStreamRequest {
            model: model.take(),
            codes: Some(arrays::matrix(codes.view())),
            answer_format: FORM.into(),
            ..Default::default()
        });
        let answers = self.autoencoder().decode_stream(requests).await?.into_inner();
        Ok(Box::pin(answers.map(decoded)))
    }
}

fn encoded(answer: Result<pb::EncodeStreamResponse, Status>) -> Result<Served<Array2<f32>>, ClientError> {
    let pb::EncodeStreamResponse { version, codes, notes } = answer?;
    Ok(Served { version, value: arrays::of_matrix(codes)?, notes })
}

fn decoded(answer: Result<pb::DecodeStreamResponse, Status>) -> Result<Served<Array2<f32>>, ClientError> {
    let pb::DecodeStreamResponse { version, rows, .. } = answer?;
    Ok(Served { version, value: arrays::of_matrix(rows)?, notes: Vec::new() })
}
