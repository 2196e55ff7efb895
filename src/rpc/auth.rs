//! Lets calls in, or not, before anything of them is read; and keeps count of what they send.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, Map, Ready, ready as at_once};
use http::{Extensions, HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::security::gate::{Admitted, Gate, Peer};
use crate::security::told::Told;
use crate::security::{Caller, Held, Refusal};
use crate::service::ServiceError;

/// Whose call it is, of one that came through [`Auth`]; of any other, nobody's.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    extensions.get::<Caller>().map_or_else(Caller::nobody, Caller::clone)
}

/// Asks the gate, and tells the service inside who calls.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Auth<S> {
    /// Before a service.
    pub fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }
}

type Answer = Result<Response<Body>, Infallible>;
type Kept<F> = Map<F, Box<dyn FnOnce(Answer) -> Answer + Send>>;

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Either<Kept<S::Future>, S::Future>, Ready<Answer>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Without one the transport is not ours, and neither are its clients.
        let peer = request.extensions().get::<Arc<Peer>>();
        let admitted = peer.ok_or(Refusal::Unknown).and_then(|peer| {
            let token = bearer(request.headers());
            self.gate.admit(request.uri().path(), token, peer).inspect_err(|refusal| tell(refusal, peer))
        });
        let Admitted { caller, held, takes_stream } = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                return Either::Right(at_once(Ok(Status::from(ServiceError::from(refusal)).into_http())));
            }
        };
        tell_of_compression(request.headers());
        request.extensions_mut().insert(caller.clone());
        // Streams count their messages themselves, each for as long as it is under way.
        let bytes = (caller.has_bytes_max() && !takes_stream).then(|| Arc::new(Counted::new(caller)));
        if let Some(counted) = &bytes {
            let counted = Arc::clone(counted);
            request = request.map(|inner| Body::new(Counting { inner, counted, refused: None }));
        }
        if held.is_none() && bytes.is_none() {
            return Either::Left(Either::Right(self.inner.call(request)));
        }
        let keep = Box::new(move |answer: Answer| {
            answer.map(|response| response.map(|inner| Body::new(Keeping { inner, _held: held, _bytes: bytes })))
        });
        Either::Left(Either::Left(self.inner.call(request).map(keep as Box<dyn FnOnce(Answer) -> Answer + Send>)))
    }
}

/// The token of `authorization: Bearer TOKEN`. Whatever else is there is a token that nobody has.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let token = match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => &[],
    };
    Some(token)
}

/// Says once a minute what would otherwise be said at every call.
fn tell(refusal: &Refusal, peer: &Peer) {
    static UNKNOWN: Told = Told::never();
    static FORBIDDEN: Told = Told::never();
    static TOO_MUCH: Told = Told::never();
    let (told, what) = match refusal {
        Refusal::Unknown => (&UNKNOWN, "a call without a valid credential was refused"),
        Refusal::Method { .. } | Refusal::Model { .. } => {
            (&FORBIDDEN, "a call was refused that its caller may not make")
        }
        Refusal::TooMuch { .. } | Refusal::TooOften { .. } => (&TOO_MUCH, "a caller has reached a limit"),
    };
    told.once(|unsaid| {
        let address = peer.address.map(|address| address.to_string()).unwrap_or_default();
        tracing::warn!(%refusal, address, unsaid, "{what}");
    });
}

/// Compressed messages are answered with `UNIMPLEMENTED` by whoever reads them, before they are unpacked.
fn tell_of_compression(headers: &HeaderMap) {
    static COMPRESSED: Told = Told::never();
    if headers.get("grpc-encoding").is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        COMPRESSED
            .once(|unsaid| tracing::warn!(unsaid, "a call with compressed messages was refused: none are unpacked"));
    }
}

/// What came of a request.
#[derive(Debug)]
struct Counted {
    caller: Caller,
    held: Mutex<Vec<Held>>,
}

impl Counted {
    fn new(caller: Caller) -> Self {
        Self { caller, held: Mutex::default() }
    }

    fn add(&self, bytes: usize) -> Result<(), Refusal> {
        let more = self.caller.hold(0, bytes as u64)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
        Ok(())
    }
}

/// A body whose bytes count. If they are too many the rest is thrown away, and the status comes at its end.
struct Counting {
    inner: Body,
    counted: Arc<Counted>,
    refused: Option<Status>,
}

impl http_body::Body for Counting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), context));
            match (frame, self.refused.take()) {
                (Some(Ok(_)), Some(status)) => self.refused = Some(status),
                (_, Some(status)) => return Poll::Ready(Some(Err(status))),
                (Some(Ok(frame)), None) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    match self.counted.add(bytes) {
                        Ok(()) => return Poll::Ready(Some(Ok(frame))),
                        Err(refusal) => self.refused = Some(ServiceError::from(refusal).into()),
                    }
                }
                (other, None) => return Poll::Ready(other),
            }
        }
    }
}

/// An answer that keeps a place until it is given, or nobody wants it.
struct Keeping {
    inner: Body,
    _held: Option<Held>,
    _bytes: Option<Arc<Counted>>,
}

impl http_body::Body for Keeping {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        http_body::Body::poll_frame(Pin::new(&mut self.inner), context)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::roles;

    #[track_caller]
    fn check_token(header: Option<&[u8]>, expected: Option<&[u8]>) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("authorization", http::HeaderValue::from_bytes(header).expect("a value"));
        }
        assert_eq!(bearer(&headers), expected, "{header:?}");
    }

    #[test]
    fn a_token_is_what_follows_bearer() {
        check_token(None, None);
        check_token(Some(b"Bearer abc"), Some(b"abc"));
        check_token(Some(b"bearer  abc "), Some(b"abc"));
        check_token(Some(b"Bearer \xff"), Some(b"\xff"));
        for other in [&b"Basic abc"[..], b"abc", b"", b"Bearer", b"Bearerabc"] {
            check_token(Some(other), Some(b""));
        }
    }

    #[test]
    fn every_method_of_the_api_has_an_entry_in_the_table_of_roles() {
        use prost::Message as _;
        let mut count = 0;
        for set in [crate::rpc::pb::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET] {
            for file in prost_types::FileDescriptorSet::decode(set).expect("descriptors").file {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}", file.package(), service.name());
                        let path = format!("/{name}/{}", method.name());
                        assert!(roles::need(&name, method.name()).is_some(), "{path} has no entry");
                        let found = roles::method(&path);
                        if found.need != roles::Need::Nothing {
                            assert_eq!(found.takes_stream, method.client_streaming(), "{path}");
                        }
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 35, "{count} methods are not all");
    }

    #[test]
    fn whoever_did_not_come_through_the_gate_is_nobody() {
        let nobody = caller(&Extensions::new());
        assert!(!nobody.may_use("model") && !nobody.may_use(""));
    }
}
