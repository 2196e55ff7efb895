//! Authenticates and authorizes calls before their bodies are read, and charges request bytes to callers.

use std::convert::Infallible;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, Ready, ready as at_once};
use http::{Extensions, HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::compression;
use super::in_flight::{Counted, InFlight, OfCall, RequestBody, ResponseBody};
use super::observe::RequestContext;
use super::refusals::log_refusal;
use crate::methods::Method;
use crate::security::gate::{Admitted, Gate, Peer};
use crate::security::{Caller, CallerQuotaGuard, Refusal};
use crate::service::{Matrix, ServiceError};

/// The caller of a call, its method, and whether its messages are compressed.
#[derive(Clone, Debug)]
pub(super) struct CallerOf {
    caller: Caller,
    method: Option<Method>,
    is_compressed: bool,
}

impl Deref for CallerOf {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl CallerOf {
    /// Charges the rows of a unary call's message to the caller. Also charges its bytes if they were not counted on
    /// arrival, because the message was compressed.
    pub(super) fn hold_message(&self, rows: &Matrix) -> Result<Option<CallerQuotaGuard>, Refusal> {
        let bytes = if self.is_compressed { rows.bytes() as u64 } else { 0 };
        self.caller.hold(rows.rows() as u64, bytes)
    }
}

/// The caller of a call. Without [`Auth`] in front: the `Caller` in the extensions, or a caller without any rights.
pub(super) fn caller(extensions: &Extensions) -> CallerOf {
    // A service without a gate sets its caller itself.
    let ungated = || {
        let caller = extensions.get::<Caller>().map_or_else(Caller::without_rights, Caller::clone);
        CallerOf { caller, method: None, is_compressed: false }
    };
    extensions.get::<CallerOf>().cloned().unwrap_or_else(ungated)
}

/// The method of a call that came through [`Auth`], and whether it may have compressed messages.
pub fn dispatched(extensions: &Extensions) -> (Option<Method>, bool) {
    // One lookup for both: it is on the path of every call.
    extensions.get::<CallerOf>().map_or((None, false), |of| (of.method, of.is_compressed))
}

/// Admits calls through the gate, and passes the caller to the inner service.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    gate: Arc<Gate>,
    in_flight: Arc<InFlight>,
}

impl<S> Auth<S> {
    /// Wraps a service.
    pub fn new(inner: S, gate: Arc<Gate>, in_flight: Arc<InFlight>) -> Self {
        Self { inner, gate, in_flight }
    }
}

type HttpResult = Result<Response<Body>, Infallible>;

pin_project! {
    /// A response whose body holds the call's quotas until it is sent.
    #[derive(Debug)]
    pub struct Admitting<F> {
        #[pin]
        answer: F,
        of: Option<OfCall>,
    }
}

impl<F: Future<Output = HttpResult>> Future for Admitting<F> {
    type Output = HttpResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<HttpResult> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        Poll::Ready(match this.of.take() {
            Some(of) => answer.map(|response| response.map(|body| Body::new(ResponseBody::new(body, of)))),
            None => answer,
        })
    }
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Admitting<S::Future>, Ready<HttpResult>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Without a peer the call did not come over the server's own transport, so it is refused.
        let peer = request.extensions().get::<Arc<Peer>>().cloned().ok_or(Refusal::Unknown);
        let method = RequestContext::method_of(&request);
        let admitted = peer.and_then(|peer| {
            let token = bearer(request.headers());
            let admitted = self.gate.admit(method, request.uri().path(), token, &peer).and_then(|admitted| {
                let place = self.in_flight.begin(&peer, admitted.is_probe)?;
                let headers = self.in_flight.hold_headers(&peer, request.headers())?;
                Ok((admitted, (place, headers)))
            });
            let (admitted, place) = admitted.inspect_err(|refusal| log_refusal(refusal, &peer, false))?;
            Ok((peer, admitted, place))
        });
        let (peer, Admitted { caller, held, takes_stream, .. }, place) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                return Either::Right(at_once(Ok(Status::from(ServiceError::from(refusal)).into_http())));
            }
        };
        // The size of a compressed message is known only after decompression.
        let is_compressed = compression::is_compressed(request.headers());
        request.extensions_mut().insert(CallerOf { caller: caller.clone(), method, is_compressed });
        // Streams charge each message themselves, for as long as it is in flight.
        let counted =
            (caller.has_bytes_max() && !takes_stream && !is_compressed).then(|| Arc::new(Counted::new(caller.clone())));
        let request = request.map(|body| {
            let in_flight = Arc::clone(&self.in_flight);
            Body::new(RequestBody::new(
                body,
                in_flight,
                Arc::clone(&peer),
                caller.clone(),
                counted.clone(),
                takes_stream,
            ))
        });
        let in_flight = Arc::clone(&self.in_flight);
        let of = OfCall { in_flight, peer, caller, _place: place, _held: held, _counted: counted };
        Either::Left(Admitting { answer: self.inner.call(request), of: Some(of) })
    }
}

/// The token of `authorization: Bearer TOKEN`. Any other value gives an empty token, which is never valid.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let token = match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => &[],
    };
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_token(header: Option<&[u8]>, expected: Option<&[u8]>) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("authorization", http::HeaderValue::from_bytes(header).expect("a value"));
        }
        assert_eq!(bearer(&headers), expected, "{header:?}");
    }

    #[test]
    fn the_token_follows_the_bearer_scheme() {
        check_token(None, None);
        check_token(Some(b"Bearer abc"), Some(b"abc"));
        check_token(Some(b"bearer  abc "), Some(b"abc"));
        check_token(Some(b"Bearer \xff"), Some(b"\xff"));
        for other in [&b"Basic abc"[..], b"abc", b"", b"Bearer", b"Bearerabc"] {
            check_token(Some(other), Some(b""));
        }
    }

    #[test]
    fn every_api_method_is_in_the_table() {
        use prost::Message as _;
        let mut found = Vec::new();
        for set in [
            crate::rpc::pb::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            for file in prost_types::FileDescriptorSet::decode(set).expect("descriptors").file {
                for service in &file.service {
                    for method in &service.method {
                        let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        let entry = Method::of(&path).unwrap_or_else(|| panic!("{path} has no entry"));
                        assert_eq!(entry.takes_stream(), method.client_streaming(), "{path}");
                        found.push(entry);
                    }
                }
            }
        }
        assert!(found.len() > 35, "{} methods are not all", found.len());
        let others: Vec<Method> = Method::ALL.into_iter().filter(|method| !found.contains(method)).collect();
        assert_eq!(others, [Method::ListHealth], "every other entry is a method of the API");
    }

    #[test]
    fn a_request_without_a_caller_may_use_no_model() {
        let caller = caller(&Extensions::new());
        assert!(!caller.may_use("model") && !caller.may_use(""));
    }
}
