//! Rejects requests that are not gRPC with an HTTP status, as the gRPC specification requires, before any other
//! layer.
//!
//! Without this, a form on a web page could call every method: browsers send `text/plain` to any address without a
//! preflight request.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tower::Service;

/// Passes only gRPC requests on: POST with a content type of gRPC over protobuf. Others get status 405 or 415.
#[derive(Clone, Debug)]
pub struct OnlyGrpc<S>(S);

impl<S> OnlyGrpc<S> {
    /// Wraps a service.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S> Service<Request<Body>> for OnlyGrpc<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match refusal(request.method(), request.headers()) {
            None => Either::Left(self.0.call(request)),
            Some(status) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                Either::Right(ready(Ok(response)))
            }
        }
    }
}

/// The HTTP status for a request that is not gRPC; `None` for gRPC.
fn refusal(method: &Method, headers: &HeaderMap) -> Option<StatusCode> {
    if *method != Method::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    let mut content_types = headers.get_all(CONTENT_TYPE).iter();
    let is_grpc = content_types.next().is_some_and(|value| is_grpc(value.as_bytes()));
    (!is_grpc || content_types.next().is_some()).then_some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// Whether a content type is `application/grpc` or `application/grpc+proto`, with or without parameters. The server
/// does not read the messages of other subtypes or of `application/grpc-web`.
fn is_grpc(content_type: &[u8]) -> bool {
    if content_type == b"application/grpc" {
        return true;
    }
    let end = content_type.iter().position(|byte| *byte == b';').unwrap_or(content_type.len());
    let media_type = content_type[..end].trim_ascii();
    [&b"application/grpc"[..], b"application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, content_types: &[&str], expected: Option<u16>) {
        let mut headers = HeaderMap::new();
        for content_type in content_types {
            headers.append(CONTENT_TYPE, content_type.parse().expect("a value"));
        }
        let refusal = refusal(&method.parse().expect("a method"), &headers);
        assert_eq!(refusal.map(|status| status.as_u16()), expected, "{method} {content_types:?}");
    }

    #[test]
    fn grpc_over_protobuf_goes_through() {
        for content_type in
            ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc; charset=utf-8"]
        {
            check("POST", &[content_type], None);
        }
    }

    #[test]
    fn other_content_types_are_unsupported() {
        for content_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc+json",
            "application/grpcx",
            "application/proto",
            "",
        ] {
            check("POST", &[content_type], Some(415));
        }
        check("POST", &[], Some(415));
        check("POST", &["application/grpc", "text/plain"], Some(415));
    }

    #[test]
    fn other_methods_are_not_allowed() {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "BREW"] {
            check(method, &["application/grpc"], Some(405));
            check(method, &[], Some(405));
        }
    }
}
