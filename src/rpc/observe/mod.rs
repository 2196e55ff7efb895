//! Observes every call: assigns its ids and, when it ends, writes trailers and, if enabled, a log line and a trace.
//!
//! Without log line and trace, a call costs only a request id and a few headers.

mod context;
mod finished;
mod measured;
mod traceparent;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

pub use context::RequestContext;
use finished::Call;
pub use measured::Measured;

use crate::telemetry::call::{CallIds, Entered, Within, within};
use crate::telemetry::traces::Traces;

/// Observes the calls of the service inside.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    traces: Traces,
    measured: Arc<Measured>,
}

impl<S> Observe<S> {
    /// Wraps a service.
    pub fn new(inner: S, traces: Traces, measured: Arc<Measured>) -> Self {
        Self { inner, traces, measured }
    }
}

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let call = Call::begin(self.traces.clone(), Arc::clone(&self.measured), &request);
        request.extensions_mut().insert(call.context().clone());
        let mut ids = Some(Arc::clone(call.context().ids()));
        let answer = {
            let _entered = Entered::new(&mut ids);
            self.inner.call(request)
        };
        Observing { answer: within(ids, answer), call: Some(call) }
    }
}

pin_project! {
    /// A response future; its response is observed when it arrives.
    #[derive(Debug)]
    pub struct Observing<F> {
        #[pin]
        answer: Within<F>,
        call: Option<Call>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Observing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.answer.poll(context));
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => observed(call, response),
            None => response,
        }))
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The gRPC status in headers or trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Adds the trailers to the response when they are due, and ends the call.
fn observed(mut call: Call, mut response: Response<Body>) -> Response<Body> {
    if let Some(code) = code(response.headers()) {
        call.write_trailers(response.headers_mut());
        call.end(Some(code));
        return response;
    }
    if response.body().is_end_stream() {
        // Not a gRPC response: the HTTP status says what happened.
        call.end(None);
        return response;
    }
    response.map(|inner| {
        let ids = Some(Arc::clone(call.context().ids()));
        Body::new(Observed { inner, ids, call: Some(call) })
    })
}

/// A response body that adds trailers.
struct Observed {
    inner: Body,
    ids: Option<Arc<CallIds>>,
    /// The call until its end was seen. If the body is dropped before, the caller has left.
    call: Option<Call>,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { inner, ids, call } = self.get_mut();
        let frame = {
            let _entered = Entered::new(ids);
            ready!(Pin::new(inner).poll_frame(context))
        };
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut()
                    && let Some(mut call) = call.take()
                {
                    call.write_trailers(trailers);
                    call.end(code(trailers));
                }
                Some(Ok(frame))
            }
            Some(Err(status)) => {
                if let Some(mut call) = call.take() {
                    call.end(Some(status.code()));
                }
                Some(Err(status))
            }
            None => {
                if let Some(mut call) = call.take() {
                    call.end(None);
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
