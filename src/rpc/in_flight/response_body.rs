//! The body of a response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::{Counted, InFlight, SMALL_BYTES_MAX};
use crate::rpc::refusals::log_refusal;
use crate::security::gate::Peer;
use crate::security::{Caller, CallerQuotaGuard, QuotaGuard, Refusal};
use crate::service::ServiceError;

/// Resources that a call holds until its response is sent.
#[derive(Debug)]
pub(in crate::rpc) struct OfCall {
    pub(in crate::rpc) in_flight: Arc<InFlight>,
    pub(in crate::rpc) peer: Arc<Peer>,
    pub(in crate::rpc) caller: Caller,
    /// The slot of the call, and the bytes of its headers if these are large.
    pub(in crate::rpc) _place: (QuotaGuard, Option<QuotaGuard>),
    /// The call's share of its caller's limits.
    pub(in crate::rpc) _held: Option<CallerQuotaGuard>,
    pub(in crate::rpc) _counted: Option<Arc<Counted>>,
}

/// Bytes of a response. The transport drops them when they are written, or when they never will be. It takes them
/// from the body long before.
struct Out {
    bytes: Bytes,
    _share: Option<QuotaGuard>,
    _of: Arc<OfCall>,
}

impl AsRef<[u8]> for Out {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A response body with limits.
pub(in crate::rpc) struct ResponseBody {
    inner: Body,
    of: Arc<OfCall>,
    /// The first frame. It is polled in `new`, so that its bytes count even if the transport never asks for it.
    first: Poll<Option<Result<Frame<Bytes>, Status>>>,
    is_first: bool,
    has_ended: bool,
}

impl ResponseBody {
    pub(in crate::rpc) fn new(mut inner: Body, of: OfCall) -> Self {
        let first = if inner.is_end_stream() {
            Poll::Pending
        } else {
            // No waker is needed: the transport polls again.
            Pin::new(&mut inner).poll_frame(&mut Context::from_waker(noop_waker_ref()))
        };
        let mut response_body =
            Self { inner, of: Arc::new(of), first: Poll::Pending, is_first: true, has_ended: false };
        if let Poll::Ready(first) = first {
            response_body.first = Poll::Ready(first.map(|frame| response_body.judge(frame?)));
        }
        response_body
    }

    /// Reserves the bytes of a frame, or replaces the frame by a refusal.
    fn judge(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(trailers) => return Ok(trailers),
        };
        match self.room(bytes.len()) {
            Ok(share) => Ok(Frame::data(Bytes::from_owner(Out { bytes, _share: share, _of: Arc::clone(&self.of) }))),
            Err(refusal) => {
                log_refusal(&refusal, &self.of.peer, true);
                self.has_ended = true;
                self.inner = Body::empty();
                let mut trailers = HeaderMap::new();
                Status::from(ServiceError::from(refusal)).add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }
        }
    }

    fn room(&mut self, bytes: usize) -> Result<Option<QuotaGuard>, Refusal> {
        // The first frame is sent even if the credential was revoked meanwhile: the call was permitted when it began.
        if !std::mem::take(&mut self.is_first) && !self.of.caller.is_in_force() {
            return Err(Refusal::Unknown);
        }
        if bytes <= SMALL_BYTES_MAX {
            return Ok(None);
        }
        self.of.in_flight.hold(&self.of.peer, bytes).map(Some)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let first = std::mem::replace(&mut this.first, Poll::Pending);
        if first.is_ready() {
            return first;
        }
        if this.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| this.judge(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_pending() && (self.has_ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_pending() { self.inner.size_hint() } else { SizeHint::default() }
    }
}
