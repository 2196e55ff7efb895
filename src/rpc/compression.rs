//! Message compression: gzip and zstd, in both directions.
//!
//! tonic compresses and decompresses. The message limit applies to the decompressed size. This module adds two things:
//!
//! - A response is compressed only if its request was, and with the same encoding. Many clients accept compressed
//!   responses by default, but compressing floats costs far more than sending them.
//! - Compressing a large message takes tens of milliseconds, so it must not block a serving thread: other threads take
//!   over its work meanwhile.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::{Handle, RuntimeFlavor};
use tonic::Status;
use tonic::body::Body;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Whether the messages of a call may be compressed.
pub(super) fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(ENCODING).is_some_and(|encoding| encoding != "identity")
}

/// Keeps only the request's own encoding in `grpc-accept-encoding`, if the client accepts it.
pub fn answer_in_kind(headers: &mut HeaderMap) {
    let used = headers.get(ENCODING).filter(|encoding| *encoding != "identity").cloned();
    let understood = |used: &http::HeaderValue| {
        let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        accepted.flat_map(|value| value.split(',')).any(|name| name.trim().as_bytes() == used.as_bytes())
    };
    match used.filter(understood) {
        Some(used) => _ = headers.insert(ACCEPT_ENCODING, used),
        None => _ = headers.remove(ACCEPT_ENCODING),
    }
}

/// Runs work that may take long. On a multi-threaded runtime, another thread takes over this thread's tasks. A poll
/// borrows its context, so it cannot move to a thread for blocking work.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let has_others = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if has_others { tokio::task::block_in_place(work) } else { work() }
}

pin_project! {
    /// The response future of a call with compressed messages.
    #[derive(Debug)]
    pub struct Heavy<F> {
        #[pin]
        answer: F,
    }
}

impl<F> Heavy<F> {
    /// Wraps the response future of a call.
    pub fn new(answer: F) -> Self {
        Self { answer }
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Heavy<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let answer = self.project().answer;
        let answer = ready!(in_place(|| answer.poll(context)));
        // For streams, request messages are decompressed while the response body is polled.
        Poll::Ready(answer.map(|response| response.map(|body| Body::new(HeavyBody(body)))))
    }
}

/// The body of such a response.
struct HeavyBody(Body);

impl http_body::Body for HeavyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        in_place(|| Pin::new(&mut self.0).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(encoding: Option<&str>, accepted: Option<&str>, answered: Option<&str>) {
        let mut headers = HeaderMap::new();
        let value = |text: &str| text.parse::<http::HeaderValue>().expect("a value");
        encoding.map(|encoding| headers.insert(ENCODING, value(encoding)));
        accepted.map(|accepted| headers.insert(ACCEPT_ENCODING, value(accepted)));
        answer_in_kind(&mut headers);
        assert_eq!(headers.get(ACCEPT_ENCODING).map(|value| value.to_str().expect("text")), answered);
    }

    #[test]
    fn responses_use_the_compression_of_the_request() {
        check(None, None, None);
        check(None, Some("identity, deflate, gzip"), None);
        check(Some("identity"), Some("gzip"), None);
        check(Some("gzip"), Some("identity, deflate, gzip"), Some("gzip"));
        check(Some("zstd"), Some("gzip,zstd,identity"), Some("zstd"));
        check(Some("gzip"), Some("identity"), None);
        check(Some("gzip"), None, None);
    }
}
