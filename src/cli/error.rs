//! Errors of commands.

use tonic::Status;

use crate::client::{ClientError, HasStatus, explain, no_server, row_of};
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
    #[error("{}", no_server(url, reason))]
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
        match row_of(status) {
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

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Invalid(text) => Self::Usage(text),
            ClientError::Failed(text) => Self::Failed(text),
            ClientError::Status(status) => Self::Status(status),
            ClientError::NoServer { url, reason } => Self::NoServer { url, reason },
        }
    }
}

impl HasStatus for CliError {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            Self::Usage(_)
            | Self::Failed(_)
            | Self::Interrupted(_)
            | Self::File(_)
            | Self::Config(_)
            | Self::NoServer { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;
    use tonic_types::StatusExt;

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

    #[test]
    fn errors_show_the_status_details() {
        let mut details = tonic_types::ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(20)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let text = CliError::from(status).to_string();
        assert!(text.starts_with("RESOURCE_EXHAUSTED: full") && text.contains("20ms"), "{text}");
    }
}
