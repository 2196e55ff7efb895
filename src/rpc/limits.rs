//! Limits that tonic enforces in its own words, and deadlines.

use std::time::{Duration, Instant};

use http::{HeaderMap, Response};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status::translate;

/// Replaces a status that tonic answered before any handler ran by the one that this API promises.
pub fn translate_response<B: Default>(response: Response<B>) -> Response<B> {
    let translated = Status::from_header_map(response.headers()).as_ref().and_then(translate);
    match translated {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// The same for a status that a handler met while it read a stream.
pub fn translate_status(status: Status) -> Status {
    translate(&status).unwrap_or(status)
}

/// When the caller stops waiting, from `grpc-timeout`.
///
/// A little before the caller's own clock: the transport cancels at the same moment, and the caller shall be told
/// `DEADLINE_EXCEEDED` by us rather than `CANCELLED` by it.
pub fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = timeout(metadata.as_ref())?;
    let margin = (timeout / 10).min(Duration::from_millis(2));
    Instant::now().checked_add(timeout.saturating_sub(margin))
}

/// `grpc-timeout`: 1 to 8 digits and a unit (gRPC over HTTP/2, "Timeout"). Anything else is no timeout.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
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
    fn every_unit_is_understood() {
        check_timeout("2H", Some(Duration::from_hours(2)));
        check_timeout("3M", Some(Duration::from_mins(3)));
        check_timeout("10S", Some(Duration::from_secs(10)));
        check_timeout("250m", Some(Duration::from_millis(250)));
        check_timeout("7u", Some(Duration::from_micros(7)));
        check_timeout("99999999n", Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn anything_else_is_no_timeout() {
        for text in ["", "S", "10", "1x", "-1S", "+1S", "123456789S", "1.5S", "ä"] {
            let mut headers = HeaderMap::new();
            let Ok(value) = http::HeaderValue::from_bytes(text.as_bytes()) else { continue };
            headers.insert("grpc-timeout", value);
            assert_eq!(timeout(&headers), None, "{text:?}");
        }
    }

    #[test]
    fn our_deadline_is_before_the_transports() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "100m".parse().expect("a value"));
        let before = Instant::now();
        let deadline = deadline(&metadata).expect("a deadline");
        assert!(deadline >= before + Duration::from_millis(98));
        assert!(deadline <= Instant::now() + Duration::from_millis(98));
    }
}
