//! A large question for which there is no room is refused by its length: what follows is read off the wire and thrown away.
//!
//! Under overload most questions are refused, and to put one together costs nearly as much as to answer it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::Api;
use crate::service::Service;

/// One question, one answer: the methods that wait in the queue.
const UNARY: [&str; 3] = ["/Encode", "/Decode", "/Reconstruct"];
/// gRPC's prefix of a message: one byte for compression, four for the length, big-endian.
const PREFIX_BYTES: usize = 5;

impl Api {
    /// Looks at the beginning of questions that are to wait in the queue.
    pub fn early(&self) -> impl Fn(Request<Body>) -> Request<Body> + Clone + use<> {
        let service = self.service.clone();
        move |request| {
            let waits = UNARY.iter().any(|method| request.uri().path().ends_with(method));
            if !waits || !service.is_busy() {
                return request;
            }
            request.map(|inner| Body::new(Watched { inner, service: service.clone(), state: State::Beginning }))
        }
    }
}

/// A body that may turn out to be too long.
struct Watched {
    inner: Body,
    service: Service,
    state: State,
}

enum State {
    /// Nothing of it was seen.
    Beginning,
    /// It goes through as it is.
    Passing,
    /// The rest is thrown away; then comes this.
    Refused(Status),
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), context));
            match (&self.state, frame) {
                (State::Passing, frame) => return Poll::Ready(frame),
                (_, Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                (State::Refused(_), Some(Ok(_))) => {}
                (State::Refused(status), None) => {
                    let status = status.clone();
                    self.state = State::Passing;
                    return Poll::Ready(Some(Err(status)));
                }
                (State::Beginning, frame) => {
                    let bytes = frame.as_ref().and_then(|frame| message_bytes(frame.as_ref().ok()?.data_ref()?));
                    let refusal = bytes.and_then(|bytes| self.service.refuse_early(bytes));
                    if let Some(refusal) = refusal {
                        self.state = State::Refused(refusal.into());
                    } else {
                        self.state = State::Passing;
                        return Poll::Ready(frame);
                    }
                }
            }
        }
    }
}

/// The length of the message that begins here, if that much is there.
fn message_bytes(data: &Bytes) -> Option<usize> {
    let [_, length @ ..] = data.first_chunk::<PREFIX_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_where_it_is_whole() {
        assert_eq!(message_bytes(&Bytes::from_static(&[0, 0, 1, 0, 2, 9])), Some(65_538));
        assert_eq!(message_bytes(&Bytes::from_static(&[0, 0, 1, 0])), None);
        assert_eq!(message_bytes(&Bytes::new()), None);
    }
}
