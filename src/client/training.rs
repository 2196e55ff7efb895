//! Training on a server, on rows of an array.

use ndarray::{ArrayView2, Axis};

use super::upload::{
    Chunk, ChunkSource, Ended, RETRIES_MAX, RETRY_PAUSE, Sending, UploadObserver, attempt, is_broken_connection,
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
        let spec = spec::of(spec, uuid::Uuid::new_v4().to_string())?;
        let (source, mut observer, mut sending) = (ArrayRows(rows), Progress(progress), Sending::default());
        let mut retries = 0;
        loop {
            let trained = match self.channels.autoencoder().await {
                Ok(client) => attempt(client, &spec, &source, false, &mut observer, &mut sending).await,
                Err(error) => Err(error),
            };
            let error = match trained {
                Ok(Ended::Trained(result)) => return Ok(*result),
                Ok(Ended::Detached(id)) => {
                    return Err(ClientError::Failed(format!("job {id} continues without this client")));
                }
                Err(error) => self.channels.clarified(error).await,
            };
            let is_broken = match &error {
                ClientError::NoServer { .. } => retries > 0,
                other => other.status().is_some_and(is_broken_connection),
            };
            if !is_broken || retries == RETRIES_MAX {
                if sending.uploads && !is_broken {
                    self.cancel(&sending.id).await;
                }
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

/// Training rows.
struct ArrayRows<'a>(ArrayView2<'a, f32>);

impl ChunkSource for ArrayRows<'_> {
    type Error = ClientError;

    async fn each<F: Future<Output = bool>>(
        &self,
        _: usize,
        mut found: impl FnMut(Chunk<'_>) -> F,
    ) -> Result<(), ClientError> {
        for rows in self.0.axis_chunks_iter(Axis(0), chunk_rows(self.0.ncols())) {
            let matrix = Box::new(move || arrays::matrix(rows));
            if !found(Chunk { role: pb::RowRole::Training, rows: rows.nrows() as u64, matrix }).await {
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
