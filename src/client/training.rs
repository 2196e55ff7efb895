//! Training on a server, on rows of an array.

use ndarray::{ArrayView2, Axis};

use super::upload::{
    Chunk, ChunkSource, Ended, RETRIES_MAX, RETRY_PAUSE, Sender, Sending, UploadObserver, attempt, is_broken_connection,
};
use super::{Client, ClientError, HasStatus, arrays, chunk_rows, spec};
use crate::pb;
use crate::training::TrainSpec;

impl Client {
    /// Trains a model on `rows` (n, d), NaN where a value is missing, and publishes it as a new version.
    ///
    /// Calls `progress` with the state of the job while it trains. If the connection breaks, it is made again, up to 8
    /// times, and the upload resumes after the rows that the server has. If the returned future is dropped, a job with
    /// all its rows continues on the server.
    ///
    /// # Errors
    /// [`ClientError::Status`] if the server refuses the specification or the rows, or if training fails;
    /// [`ClientError::Invalid`] if the specification has a value that the API cannot express.
    pub async fn train(
        &self,
        rows: ArrayView2<'_, f32>,
        spec: &TrainSpec,
        progress: impl FnMut(&pb::Job),
    ) -> Result<pb::TrainResult, ClientError> {
        let (key, mut sending) = (uuid::Uuid::new_v4().to_string(), Sending::default());
        let trained = self.train_job(rows, &spec::of(spec, key)?, progress, &mut sending).await;
        if let Err(error) = &trained
            && sending.uploads
            && !is_broken(error)
        {
            // No other call has the key, so the upload cannot continue.
            self.cancel(&sending.id).await;
        }
        trained
    }

    /// As [`Client::train`], with an idempotency key, so that another process can continue the upload. The key has 1
    /// to 128 printable ASCII characters.
    ///
    /// A call with the key, an equal specification and the same rows continues after the rows that the server has. If
    /// the job has all its rows, the call waits for its result; if the job has succeeded, the call returns its result.
    /// The server does not compare all rows: with other rows, the model may be trained on a mixture.
    ///
    /// An upload that ends early is not canceled: the server keeps its rows for `upload_idle_timeout_seconds`. After
    /// that, or if the job failed or was canceled, training needs another key. The server remembers the newest
    /// `ended_jobs_max` ended jobs: a call with the key of an older one trains again.
    ///
    /// # Errors
    /// As [`Client::train`]; [`ClientError::Invalid`] if the key is empty, and [`ClientError::Status`] if it belongs to
    /// a job with another specification or to one that did not succeed, or if another call continues the same upload.
    ///
    /// # Examples
    /// A process that may be restarted during the upload:
    ///
    /// ```no_run
    /// use halfhitch::client::{Client, ClientError};
    /// use halfhitch::ndarray::Array2;
    /// use halfhitch::training::TrainSpec;
    ///
    /// async fn train(client: &Client, rows: &Array2<f32>, spec: &TrainSpec) -> Result<u64, ClientError> {
    ///     // The key names the rows: other rows need another key.
    ///     let result = client.train_with_key(rows.view(), spec, "sensors 2026-11-28", |_| ()).await?;
    ///     Ok(result.version)
    /// }
    /// ```
    pub async fn train_with_key(
        &self,
        rows: ArrayView2<'_, f32>,
        spec: &TrainSpec,
        idempotency_key: &str,
        progress: impl FnMut(&pb::Job),
    ) -> Result<pb::TrainResult, ClientError> {
        if idempotency_key.is_empty() {
            let expected = "the idempotency key is empty, expected 1 to 128 printable ASCII characters";
            return Err(ClientError::Invalid(expected.to_owned()));
        }
        self.train_job(rows, &spec::of(spec, idempotency_key.to_owned())?, progress, &mut Sending::default()).await
    }

    /// Uploads the rows that the server does not have, over a new connection after each broken one, and waits for the
    /// result. `sending` is the state of the upload when this returns.
    async fn train_job(
        &self,
        rows: ArrayView2<'_, f32>,
        spec: &pb::TrainSpec,
        progress: impl FnMut(&pb::Job),
        sending: &mut Sending,
    ) -> Result<pb::TrainResult, ClientError> {
        let (source, mut observer) = (ArrayRows(rows), Progress(progress));
        let mut retries = 0;
        loop {
            let trained = match self.channels.autoencoder().await {
                Ok(client) => attempt(client, spec, &source, false, &mut observer, sending).await,
                Err(error) => Err(error),
            };
            let error = match trained {
                Ok(Ended::Trained(result)) => return Ok(*result),
                Ok(Ended::Detached(id)) => {
                    return Err(ClientError::Failed(format!("job {id} continues without this client")));
                }
                Err(error) => self.channels.clarified(error).await,
            };
            let never_connected =
                retries == 0 && sending.id.is_empty() && matches!(error, ClientError::NoServer { .. });
            if never_connected || !is_broken(&error) || retries == RETRIES_MAX {
                return Err(error);
            }
            tokio::time::sleep(RETRY_PAUSE * 2u32.pow(retries)).await;
            retries += 1;
        }
    }

    /// Cancels a job whose rows the server refuses, so that they do not stay there. The first error is more important
    /// than that of the cancellation; the server removes the rows of an abandoned upload after a while.
    async fn cancel(&self, id: &str) {
        if let Ok(mut jobs) = self.jobs().await {
            let _ = jobs.cancel_job(pb::CancelJobRequest { id: id.to_owned() }).await;
        }
    }
}

/// Whether the connection broke, so that a new one may succeed.
fn is_broken(error: &ClientError) -> bool {
    matches!(error, ClientError::NoServer { .. }) || error.status().is_some_and(is_broken_connection)
}

/// Training rows.
struct ArrayRows<'a>(ArrayView2<'a, f32>);

impl ChunkSource for ArrayRows<'_> {
    type Error = ClientError;

    async fn each(&self, _: usize, sender: &mut Sender<'_>) -> Result<(), ClientError> {
        for rows in self.0.axis_chunks_iter(Axis(0), chunk_rows(self.0.ncols())) {
            let matrix = Box::new(move || arrays::matrix(rows));
            if !sender.send(Chunk { role: pb::RowRole::Training, rows: rows.nrows() as u64, matrix }).await {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Passes on the progress of the job.
struct Progress<F>(F);

impl<F: FnMut(&pb::Job)> UploadObserver for Progress<F> {
    fn accepted(&mut self, job: &pb::Job, _: &pb::TrainSpec, _: u64) {
        (self.0)(job);
    }

    fn acknowledged(&mut self, _: &pb::ChunkAcknowledged) {}

    fn progress(&mut self, job: &pb::Job) {
        (self.0)(job);
    }
}
