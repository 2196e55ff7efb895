//! Response streams that drive their own work. No task is spawned, so nothing outlives a client that disconnects.

use std::pin::Pin;

use futures_util::future::ready;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::service::ServiceError;

/// The return type of streaming handlers.
pub(super) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Maximum responses that wait for the client. A slow reader stops the driver here, so memory stays bounded.
const ANSWERS_WAITING_MAX: usize = 8;

/// Sends the responses of a driver.
#[derive(Debug)]
pub(super) struct ResponseSender<T>(mpsc::Sender<Result<T, Status>>);

/// Why a driver ends early.
#[derive(Debug)]
pub(super) enum Ending {
    /// An error of a use case.
    Service(ServiceError),
    /// A status received while reading requests.
    Status(Status),
    /// The client has disconnected.
    Departed,
}

impl<E: Into<ServiceError>> From<E> for Ending {
    fn from(error: E) -> Self {
        Self::Service(error.into())
    }
}

impl<T> ResponseSender<T> {
    /// Sends one response.
    pub(super) async fn send(&self, answer: T) -> Result<(), Ending> {
        self.0.send(Ok(answer)).await.map_err(|_| Ending::Departed)
    }
}

/// The responses of `drive` as a stream that also polls `drive`. If the client disconnects, both are dropped.
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
        // Sent through the channel, so that the error comes after all earlier responses.
        let _ = last.send(Err(status)).await;
    };
    let silent = stream::once(work).filter_map(|()| ready(None));
    Box::pin(stream::select(ReceiverStream::new(receiver), silent))
}
