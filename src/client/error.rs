//! Errors of the client.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call failed. The text says what went wrong and what to do next. It names settings as the command line does:
/// `--ca` is the field `ca` of [`ClientSettings`](super::ClientSettings).
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A setting or an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
    /// The server returned an error.
    #[error("{}", explain(.0))]
    Status(Box<Status>),
    /// No server accepts connections at the address.
    #[error("{}", no_server(url, reason))]
    NoServer {
        /// The address that was tried.
        url: String,
        /// Why the connection failed.
        reason: String,
    },
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// An error that may be the status of a call.
pub(crate) trait HasStatus {
    /// The status, if the server returned one.
    fn status(&self) -> Option<&Status>;
}

impl HasStatus for ClientError {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            Self::Invalid(_) | Self::Failed(_) | Self::NoServer { .. } => None,
        }
    }
}

/// The text of an error without a server.
pub(crate) fn no_server(url: &str, reason: &str) -> String {
    format!(
        "no server responds at {url}: {reason}\n  start one with `halfhitch serve`, or name another with --server URL"
    )
}

/// The row of the request that a status names, counted from 1.
pub(crate) fn row_of(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|info| info.reason == "ROW")?;
    info.metadata.get("row")?.parse().ok()
}

/// The code and message of a status, with wrong fields and the retry delay from its details.
pub(crate) fn explain(status: &Status) -> String {
    let mut text = format!("{}: {}", code_name(status.code()), status.message());
    let details = status.get_error_details();
    if let Some(bad) = details.bad_request() {
        for violation in &bad.field_violations {
            if !status.message().starts_with(&violation.field) {
                text.push_str(&format!("\n  field {}", violation.field));
            }
        }
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        text.push_str(&format!("\n  retry in {delay:?}"));
    }
    text
}

/// The name of a status code in the gRPC specification.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
