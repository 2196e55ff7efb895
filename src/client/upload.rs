//! Uploads of training rows, which resume over a new connection.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{ClientError, Connection};
use crate::pb;
use crate::pb::autoencoder_service_client::AutoencoderServiceClient;
use crate::pb::train_request::Message as RequestMessage;
use crate::pb::train_response::Message as ResponseMessage;

/// Maximum retries of a broken connection, and the delay before the first retry, which then doubles.
pub(crate) const RETRIES_MAX: u32 = 8;
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Capacity of the queue of chunks to send.
const CHUNKS_WAITING_MAX: usize = 4;

/// Rows with their role.
pub(crate) struct Chunk<'a> {
    pub(crate) role: pb::RowRole,
    /// Number of rows.
    pub(crate) rows: u64,
    /// Makes the rows; not called for a chunk that the server has.
    pub(crate) matrix: Box<dyn FnOnce() -> pb::Matrix + Send + 'a>,
}

/// Rows to upload. They are cut into the same chunks every time.
pub(crate) trait ChunkSource {
    /// Why rows cannot be read.
    type Error;

    /// Gives each chunk in order to `sender`, until it returns false. Rows are `columns` wide.
    // Not to a closure that returns a future: the compiler could not prove that an upload is `Send`.
    async fn each(&self, columns: usize, sender: &mut Sender<'_>) -> Result<(), Self::Error>;
}

/// Sends the chunks that the server lacks.
pub(crate) struct Sender<'a> {
    requests: &'a mpsc::Sender<pb::TrainRequest>,
    /// The server has the chunks up to this one.
    last: u64,
    /// The chunks and rows so far.
    counts: pb::TrainFinish,
}

impl Sender<'_> {
    /// Sends the next chunk, if the server lacks it. False if the stream has ended.
    pub(crate) async fn send(&mut self, Chunk { role, rows, matrix }: Chunk<'_>) -> bool {
        self.counts.chunk_count += 1;
        self.counts.row_count += rows;
        let number = self.counts.chunk_count;
        // Repeats chunk 1 and chunk `last`: the server rejects them if the rows have changed since.
        if number < self.last && number != 1 {
            return true;
        }
        let chunk = pb::RowChunk { number, rows: Some(matrix()), role: role.into() };
        self.requests.send(pb::TrainRequest { message: Some(RequestMessage::Chunk(chunk)) }).await.is_ok()
    }
}

/// Receives the responses of the server.
pub(crate) trait UploadObserver {
    /// The server found or created the job, and has the chunks up to `last_chunk_number`.
    fn accepted(&mut self, job: &pb::Job, spec: &pb::TrainSpec, last_chunk_number: u64);
    /// A chunk is stored.
    fn acknowledged(&mut self, acknowledged: &pb::ChunkAcknowledged);
    /// The state of the job.
    fn progress(&mut self, job: &pb::Job);
}

/// The outcome of training.
pub(crate) enum Ended {
    /// The job ended, with or without a new version.
    Trained(Box<pb::TrainResult>),
    /// The job continues; the text is its id.
    Detached(String),
}

/// The job that receives the rows.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// Id of the job, empty until the server accepts it.
    pub(crate) id: String,
    /// Whether the upload is still open.
    pub(crate) uploads: bool,
}

/// Whether a retry over a new connection may succeed.
pub(crate) fn is_broken_connection(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable
        || (transport && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
}

/// Sends the rows that the server does not have, and waits for the result. With `detach`, only until the upload is
/// complete.
pub(crate) async fn attempt<S: ChunkSource, E: From<ClientError> + From<Status> + From<S::Error>>(
    mut client: AutoencoderServiceClient<Connection>,
    spec: &pb::TrainSpec,
    source: &S,
    detach: bool,
    observer: &mut impl UploadObserver,
    sending: &mut Sending,
) -> Result<Ended, E> {
    let (requests, receiver) = mpsc::channel::<pb::TrainRequest>(CHUNKS_WAITING_MAX);
    let ask = |message| pb::TrainRequest { message: Some(message) };
    // The channel is empty, so this does not wait.
    let _ = requests.send(ask(RequestMessage::Spec(spec.clone()))).await;
    let mut answers = client.train(ReceiverStream::new(receiver)).await?.into_inner();
    let accepted = match answers.message().await?.and_then(|answer| answer.message) {
        Some(ResponseMessage::Accepted(accepted)) => accepted,
        other => return Err(ClientError::Failed(format!("expected `accepted` from the server, got {other:?}")).into()),
    };
    let job = accepted.job.unwrap_or_default();
    observer.accepted(&job, spec, accepted.last_chunk_number);
    *sending = Sending { id: job.id.clone(), uploads: job.state() == pb::JobState::Uploading };
    let uploads = &mut sending.uploads;
    let columns = spec.widths.first().copied().unwrap_or_default() as usize;
    let upload = async {
        if job.state() != pb::JobState::Uploading {
            return Ok(());
        }
        upload(source, columns, accepted.last_chunk_number, &requests).await
    };
    let listen = async {
        loop {
            match answers.message().await? {
                None => {
                    let ended = "the server ended the stream without a result".to_owned();
                    return Err::<Ended, E>(ClientError::Failed(ended).into());
                }
                Some(pb::TrainResponse { message: Some(ResponseMessage::Result(result)) }) => {
                    return Ok(Ended::Trained(Box::new(result)));
                }
                Some(pb::TrainResponse { message: Some(ResponseMessage::Progress(job)) }) => {
                    *uploads = job.state() == pb::JobState::Uploading;
                    if detach && job.state() != pb::JobState::Uploading {
                        return Ok(Ended::Detached(job.id));
                    }
                    observer.progress(&job);
                }
                Some(pb::TrainResponse { message: Some(ResponseMessage::Acknowledged(acknowledged)) }) => {
                    observer.acknowledged(&acknowledged);
                }
                Some(_) => {}
            }
        }
    };
    tokio::pin!(upload, listen);
    // The response of the server wins: it says why an upload cannot continue. Rows that cannot be read end the
    // training.
    tokio::select! {
        biased;
        ended = &mut listen => ended,
        uploaded = &mut upload => { uploaded?; listen.await }
    }
}

/// Sends the remaining chunks and `finish`. The server already has the chunks up to `last`.
async fn upload<S: ChunkSource>(
    source: &S,
    columns: usize,
    last: u64,
    requests: &mpsc::Sender<pb::TrainRequest>,
) -> Result<(), S::Error> {
    let mut sender = Sender { requests, last, counts: pb::TrainFinish::default() };
    source.each(columns, &mut sender).await?;
    let finish = sender.counts;
    // If the stream has ended, its response says why.
    let _ = requests.send(pb::TrainRequest { message: Some(RequestMessage::Finish(finish)) }).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Chunks of one row, and the numbers of those that were converted.
    struct Counted {
        chunk_count: u64,
        converted: Mutex<Vec<u64>>,
    }

    impl ChunkSource for Counted {
        type Error = ClientError;

        async fn each(&self, _: usize, sender: &mut Sender<'_>) -> Result<(), ClientError> {
            for number in 1..=self.chunk_count {
                let matrix = || {
                    self.converted.lock().expect("no panic").push(number);
                    pb::Matrix::default()
                };
                let _ = sender.send(Chunk { role: pb::RowRole::Training, rows: 1, matrix: Box::new(matrix) }).await;
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn chunks_that_the_server_has_are_not_converted() {
        for (last, expected) in
            [(0, vec![1, 2, 3, 4, 5]), (1, vec![1, 2, 3, 4, 5]), (3, vec![1, 3, 4, 5]), (5, vec![1, 5])]
        {
            let source = Counted { chunk_count: 5, converted: Mutex::default() };
            let (requests, mut receiver) = mpsc::channel(6);
            upload(&source, 1, last, &requests).await.expect("rows can be read");
            drop(requests);
            let (mut sent, mut finish) = (Vec::new(), None);
            while let Some(request) = receiver.recv().await {
                match request.message {
                    Some(RequestMessage::Chunk(chunk)) => sent.push(chunk.number),
                    Some(RequestMessage::Finish(counts)) => finish = Some(counts),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(sent, expected);
            assert_eq!(*source.converted.lock().expect("no panic"), expected);
            assert_eq!(finish, Some(pb::TrainFinish { chunk_count: 5, row_count: 5 }));
        }
    }
}
