//! The only place that maps errors to gRPC status codes.
//!
//! | kind | code | details |
//! |---|---|---|
//! | `NotFound` | `NOT_FOUND` | |
//! | `Invalid` | `INVALID_ARGUMENT` | `BadRequest` with the field |
//! | `Exhausted` | `RESOURCE_EXHAUSTED` | `RetryInfo` if a retry delay is known |
//! | `DeadlineExceeded` | `DEADLINE_EXCEEDED` | |
//! | `Precondition` | `FAILED_PRECONDITION` | |
//! | `Aborted` | `ABORTED` | |
//! | `AlreadyExists` | `ALREADY_EXISTS` | |
//! | `NotRepresentable` | `OUT_OF_RANGE` | |
//! | `Unavailable` | `UNAVAILABLE` | |
//! | `Damaged` | `DATA_LOSS` | |
//! | `Unauthenticated` | `UNAUTHENTICATED` | |
//! | `Forbidden` | `PERMISSION_DENIED` | |
//! | `Internal` | `INTERNAL` | the request id, which is also in the server's log |
//!
//! If one row of the request is wrong, `ErrorInfo` has the reason `ROW` and the row number, from 1, as `row`.

use std::borrow::Cow;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::security::Refusal;
use crate::service::{Kind, ServiceError};
use crate::telemetry::call::{RequestId, current};

/// The status code of a kind.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::NotRepresentable => Code::OutOfRange,
        Kind::Unavailable => Code::Unavailable,
        Kind::Damaged => Code::DataLoss,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Internal => Code::Internal,
    }
}

/// Maximum bytes of a status message as percent-encoded in its header. Clients lose the whole status if its headers
/// are too large, some from about 5 KiB.
const MESSAGE_BYTES_MAX: usize = 1200;
/// Maximum bytes of a field's error description. The details repeat the message, and base64 adds a third. In total a
/// status stays below 4 KiB.
const DESCRIPTION_BYTES_MAX: usize = 400;
/// Maximum bytes of a field's path.
const FIELD_BYTES_MAX: usize = 100;

/// Bytes of a character in the header `grpc-message`, which percent-encodes everything but plain characters.
fn header_bytes(character: char) -> usize {
    match character {
        ' ' | '"' | '#' | '%' | '<' | '>' | '`' | '?' | '{' | '}' => 3,
        '!'..='~' => 1,
        other => 3 * other.len_utf8(),
    }
}

/// Shortens `text` to at most `bytes_max` bytes of a header, and appends its full length. Shorter text is unchanged.
fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max / 3 {
        return text.into();
    }
    let mut bytes = 0;
    let past = text.char_indices().find(|(_, character)| {
        bytes += header_bytes(*character);
        bytes > bytes_max
    });
    match past {
        None => text.into(),
        Some((end, _)) => format!("{}... ({} bytes in all)", &text[..end], text.len()).into(),
    }
}

/// Shortens the message of a status that tonic created. Statuses of this API are short from the start.
pub(super) fn bounded(status: Status) -> Status {
    match cut(status.message(), MESSAGE_BYTES_MAX) {
        Cow::Borrowed(_) => status,
        Cow::Owned(message) => {
            let (code, metadata) = (status.code(), status.metadata().clone());
            Status::with_metadata(code, message, metadata)
        }
    }
}

/// The status for the error that ends a call. Also records the cause for the metrics.
pub fn status(error: ServiceError) -> Status {
    if let Some(ids) = current() {
        ids.refused(error.cause());
    }
    uncounted_status(error)
}

/// The status for an error. An internal error is logged under the request id, and the client receives only this id.
#[expect(clippy::needless_pass_by_value, reason = "the last thing that happens to an error")]
pub(super) fn uncounted_status(error: ServiceError) -> Status {
    let kind = error.kind();
    if kind == Kind::Internal {
        let id = current().map_or_else(RequestId::unique, |ids| ids.request_id.clone());
        let id = id.as_str();
        tracing::error!(id, %error, "internal error");
        return Status::internal(format!("internal error {id}: see the server log under this id"));
    }
    let text = error.to_string();
    let mut details = ErrorDetails::new();
    if let Some(field) = error.field() {
        details.add_bad_request_violation(cut(&field, FIELD_BYTES_MAX), cut(&text, DESCRIPTION_BYTES_MAX));
    }
    if let Some(row) = error.row() {
        // A client that sends a file in parts can compute the row of the file from this.
        details.set_error_info("ROW", "halfhitch", [("row".to_owned(), (row + 1).to_string())]);
    }
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(kind), cut(&text, MESSAGE_BYTES_MAX), details)
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        status(error)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        status(refusal.into())
    }
}

/// Supported compression encodings.
const ENCODINGS: &str = "gzip, zstd, identity";

/// Translates a status that tonic created; `None`: keep it. A message above the limit becomes `RESOURCE_EXHAUSTED`
/// (tonic: `OUT_OF_RANGE`). Invalid messages, wrong compression flags and a missing message become `INVALID_ARGUMENT`
/// (tonic: `INTERNAL`).
pub(super) fn translate(status: &Status) -> Option<Status> {
    let text = status.message();
    if status.code() == Code::OutOfRange && text.starts_with("Error, decoded message length too large") {
        let sizes = text.rsplit_once("large: ").map_or(text, |(_, sizes)| sizes);
        return Some(Status::resource_exhausted(format!("message too large ({sizes}): send the rows in parts")));
    }
    if status.code() == Code::Internal && text.starts_with("failed to decode Protobuf message") {
        return Some(Status::invalid_argument(cut(text, MESSAGE_BYTES_MAX)));
    }
    // A cancelled call looks the same, but its client does not read the status.
    if status.code() == Code::Internal && text == "Missing request message." {
        return Some(Status::invalid_argument("received no message, expected one"));
    }
    if status.code() == Code::ResourceExhausted && text.starts_with("Error decompressing: size limit") {
        let limit = text
            .split_once("limit, of ")
            .and_then(|(_, rest)| rest.split_once(" bytes"))
            .map_or("", |(limit, _)| limit);
        let text = format!("message too large when decompressed (the limit is: {limit} bytes): send the rows in parts");
        return Some(Status::resource_exhausted(text));
    }
    if status.code() == Code::Internal && text.starts_with("Error decompressing: ") {
        return Some(Status::invalid_argument("a message cannot be decompressed as `grpc-encoding` says"));
    }
    if status.code() == Code::Unimplemented && text.starts_with("Content is compressed with ") {
        let mut answer = Status::unimplemented(format!(
            "the header `grpc-encoding` has an unsupported compression, expected one of {ENCODINGS}"
        ));
        *answer.metadata_mut() = status.metadata().clone();
        return Some(answer);
    }
    // A compressed message without `grpc-encoding`, or an invalid flag.
    if status.code() == Code::Internal && text.starts_with("protocol error: received message with") {
        return Some(Status::invalid_argument(text.to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::service::BatchError;

    #[test]
    fn a_wrong_field_is_a_field_violation() {
        let status = status(ServiceError::invalid("rows", "matrix has 0 rows, expected at least 1"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violation = &details.bad_request().expect("details").field_violations[0];
        assert_eq!(violation.field, "rows");
        assert!(violation.description.contains("expected at least 1"), "{violation:?}");
    }

    #[test]
    fn a_full_queue_sends_a_retry_delay() {
        let full = BatchError::Full {
            waiting_rows: 10,
            waiting_bytes: 40,
            rows_max: 10,
            bytes_max: 100,
            retry_after: Duration::from_millis(25),
        };
        let status = status(full.into());
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.retry_info().and_then(|info| info.retry_delay), Some(Duration::from_millis(25)));
    }

    /// Bytes of the headers that carry a status.
    fn header_bytes_of(status: &Status) -> usize {
        let headers = status.clone().into_http::<()>().headers().clone();
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    }

    #[test]
    fn a_status_stays_below_4_kib_for_any_text() {
        for part in ["x", " ", "ß", "\u{10ffff}", "\n", "%"] {
            for length in [0, 1, 399, 400, 401, 1199, 1200, 1201, 5000, 1_000_000] {
                let text = part.repeat(length);
                let long = status(ServiceError::invalid(text.clone(), &text));
                assert_eq!(long.code(), Code::InvalidArgument);
                assert!(header_bytes_of(&long) < 4096, "{length} of {part:?}: {}", header_bytes_of(&long));
                assert!(long.get_error_details().bad_request().is_some());
                if length > 5000 {
                    assert!(long.message().ends_with("bytes in all)"), "{}", long.message());
                }
                let tonics = bounded(Status::unimplemented(text));
                assert!(header_bytes_of(&tonics) < 4096);
            }
        }
    }

    #[test]
    fn only_long_messages_are_truncated() {
        let text = "x".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(bounded(Status::aborted(text.clone())).message(), text);
        assert_eq!(cut("größe, 17 %", 30), "größe, 17 %");
        assert_eq!(cut("größer, 17 %", 10), "grö... (14 bytes in all)");
    }

    #[test]
    fn an_internal_error_reveals_only_its_id() {
        let status = status(ServiceError::Internal("secret path".to_owned()));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"), "{}", status.message());
    }

    #[test]
    fn a_message_above_the_limit_is_resource_exhausted() {
        let tonic =
            Status::out_of_range("Error, decoded message length too large: found 20 bytes, the limit is: 10 bytes");
        let ours = translate(&tonic).expect("translated");
        assert_eq!(ours.code(), Code::ResourceExhausted);
        assert!(ours.message().contains("found 20 bytes, the limit is: 10 bytes"), "{}", ours.message());
        assert!(translate(&Status::out_of_range("the result of row 3 is not finite")).is_none());
    }
}
