//! Deadlines of calls: the handler knows them, and the server itself sends the status at the deadline.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Either, Map};
use http::{Extensions, HeaderMap, HeaderName, Request, Response};
use tokio::time::error::Elapsed;
use tokio::time::{Timeout, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::service::{BatchError, ServiceError};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Measured from the arrival of the call's headers, so that receiving the body counts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline(Instant);

/// The deadline of a call that came through [`InTime`].
pub(super) fn deadline(extensions: &Extensions) -> Option<Instant> {
    extensions.get::<Deadline>().map(|deadline| deadline.0)
}

/// Returns `DEADLINE_EXCEEDED` if the inner service does not respond in time, even if the request is still
/// incomplete.
///
/// tonic would return `CANCELLED`.
#[derive(Clone, Debug)]
pub struct InTime<S> {
    inner: S,
}

impl<S> InTime<S> {
    /// Wraps a service.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

type HttpResult = Result<Response<Body>, Infallible>;

impl<S, B> Service<Request<B>> for InTime<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Map<Timeout<S::Future>, fn(Result<HttpResult, Elapsed>) -> HttpResult>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(deadline) = of_headers(request.headers(), Instant::now()) else {
            return Either::Right(self.inner.call(request));
        };
        request.extensions_mut().insert(deadline);
        Either::Left(timeout_at(deadline.0.into(), self.inner.call(request)).map(in_time))
    }
}

fn in_time(answer: Result<HttpResult, Elapsed>) -> HttpResult {
    answer.unwrap_or_else(|_| Ok(Status::from(ServiceError::from(BatchError::DeadlineExceeded)).into_http()))
}

/// The deadline, slightly before that of the client and of the transport, so that our status arrives first.
fn of_headers(headers: &HeaderMap, now: Instant) -> Option<Deadline> {
    let timeout = timeout(headers)?;
    let margin = (timeout / 10).min(Duration::from_millis(2));
    now.checked_add(timeout.saturating_sub(margin)).map(Deadline)
}

/// Parses `grpc-timeout`: 1 to 8 digits and a unit (gRPC over HTTP/2, "Timeout"). Any other value means no timeout.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_timeout(text: &str, expected: Option<Duration>) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header value"));
        assert_eq!(timeout(&headers), expected, "{text:?}");
    }

    #[test]
    fn every_timeout_unit_is_parsed() {
        check_timeout("2H", Some(Duration::from_hours(2)));
        check_timeout("3M", Some(Duration::from_mins(3)));
        check_timeout("10S", Some(Duration::from_secs(10)));
        check_timeout("250m", Some(Duration::from_millis(250)));
        check_timeout("7u", Some(Duration::from_micros(7)));
        check_timeout("99999999n", Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn invalid_timeouts_are_ignored() {
        for text in ["", "S", "10", "1x", "-1S", "+1S", "123456789S", "1.5S", "ä"] {
            let mut headers = HeaderMap::new();
            let Ok(value) = http::HeaderValue::from_bytes(text.as_bytes()) else { continue };
            headers.insert("grpc-timeout", value);
            assert_eq!(timeout(&headers), None, "{text:?}");
        }
    }

    #[test]
    fn the_server_deadline_is_before_the_client_deadline() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", "100m".parse().expect("a value"));
        let now = Instant::now();
        assert_eq!(of_headers(&headers, now).map(|deadline| deadline.0), Some(now + Duration::from_millis(98)));
        headers.insert("grpc-timeout", "1m".parse().expect("a value"));
        assert_eq!(of_headers(&headers, now).map(|deadline| deadline.0), Some(now + Duration::from_micros(900)));
    }

    /// Responds with the deadline that it finds, or never.
    async fn answer(request: Request<bool>) -> Result<Response<Body>, Infallible> {
        if *request.body() {
            std::future::pending::<()>().await;
        }
        let mut response = Response::new(Body::empty());
        if let Some(deadline) = deadline(request.extensions()) {
            response.extensions_mut().insert(deadline);
        }
        Ok(response)
    }

    async fn ask(timeout: Option<&'static str>, never: bool) -> Response<Body> {
        let mut request = Request::new(never);
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(timeout));
        }
        InTime::new(tower::service_fn(answer)).call(request).await.expect("infallible")
    }

    #[tokio::test]
    async fn waiting_requests_fail_at_the_deadline() {
        let response = ask(Some("20m"), true).await;
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    }

    #[tokio::test]
    async fn timely_responses_pass_and_handlers_see_the_deadline() {
        assert!(ask(Some("10S"), false).await.extensions().get::<Instant>().is_some());
        assert!(ask(None, false).await.extensions().get::<Instant>().is_none());
    }
}
