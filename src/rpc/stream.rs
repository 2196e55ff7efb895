//! Answer streams that drive their own work: nothing is spawned, so nothing outlives a caller that leaves.

use std::pin::Pin;

use futures_util::future::ready;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::service::ServiceError;

/// What a streaming handler returns.
pub(super) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers that wait for the reader. A slow reader stops the driver here: memory stays bounded.
const ANSWERS_WAITING_MAX: usize = 8;

/// Where a driver puts its answers.
#[derive(Debug)]
pub(super) struct ResponseSender<T>(mpsc::Sender<Result<T, Status>>);

/// Why a driver ends early: an error of a use case, a status that tonic made, or a reader that has left.
#[derive(Debug)]
pub(super) enum Ending {
    /// An error of a use case.
    Service(ServiceError),
    /// A status met while reading.
    Status(Status),
    /// Nobody reads any more.
    Departed,
}

impl<E: Into<ServiceError>> From<E> for Ending {
    fn from(error: E) -> Self {
        Self::Service(error.into())
    }
}

impl<T> ResponseSender<T> {
    /// Gives one answer.
    pub(super) async fn send(&self, answer: T) -> Result<(), Ending> {
        self.0.send(Ok(answer)).await.map_err(|_| Ending::Departed)
    }
}

/// A stream of the answers of `drive`, polled together with it: when the caller leaves, both are dropped.
pub(super) fn driven<T, F>(drive: impl FnOnce(ResponseSender<T>) -> F) -> ResponseStream<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Ending>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
    let last = sender.clone();
    let driver = drive(ResponseSender(sender));
    let work = async move {
        let status = match driver.await {
            Ok(()) | Err(Ending::Departed) => return,
            Err(Ending::Service(error)) => error.into(),
            Err(Ending::Status(status)) => status,
        };
        // Through the channel, so that the error comes after the answers that were given before it.
        let _ = last.send(Err(status)).await;
    };
    let silent = stream::once(work).filter_map(|()| ready(None));
    Box::pin(stream::select(ReceiverStream::new(receiver), silent))
}
