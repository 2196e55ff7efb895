//! Errors of commands, and their texts.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::config::ConfigError;
use crate::files::FileError;

/// An error of a command. Its text says what went wrong and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A mistake in the command line.
    #[error("{0}")]
    Usage(String),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
    /// The user interrupted the command.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// A file cannot be read or written, or has wrong content.
    #[error(transparent)]
    File(#[from] FileError),
    /// The settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server returned an error.
    #[error("{}", explain(.0))]
    Status(Box<Status>),
    /// No server accepts connections at the address.
    #[error(
        "no server responds at {url}: {reason}\n  start one with `halfhitch serve`, or name another with --server URL"
    )]
    NoServer {
        /// The address that was tried.
        url: String,
        /// Why the connection failed.
        reason: String,
    },
}

impl CliError {
    /// Adds the row of the file to an error that names a row of the request. The request begins at row `first_row` of
    /// the file, counted from 0.
    pub(super) fn in_file(self, path: &str, first_row: u64) -> Self {
        let Self::Status(status) = &self else { return self };
        let info = status.get_details_error_info().filter(|info| info.reason == "ROW");
        let row = info.and_then(|info| info.metadata.get("row")?.parse::<u64>().ok());
        match row {
            Some(row) => Self::Failed(format!("{self}\n  that is row {} of {path}", first_row.saturating_add(row))),
            None => self,
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The code and message of a status, with wrong fields and the retry delay from its details.
fn explain(status: &Status) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_row_of_the_file() {
        let mut details = tonic_types::ErrorDetails::new();
        details.set_error_info("ROW", "halfhitch", [("row".to_owned(), "7".to_owned())]);
        let status = || Status::with_error_details(Code::OutOfRange, "the result of row 7", details.clone());
        let text = CliError::from(status()).in_file("rows.npy", 43_690).to_string();
        assert_eq!(text, "OUT_OF_RANGE: the result of row 7\n  that is row 43697 of rows.npy");
        let other = CliError::from(Status::not_found("no model")).in_file("rows.npy", 5).to_string();
        assert_eq!(other, "NOT_FOUND: no model");
    }
}
