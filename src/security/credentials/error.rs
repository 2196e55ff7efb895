//! Errors of a credentials file.

use std::path::PathBuf;

use crate::security::files::Unreadable;

/// Why a credentials file is refused.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("credentials file {0}")]
    Unreadable(#[from] Unreadable),
    /// The file is not valid TOML.
    #[error("credentials file {path} is not TOML: line {line}: {reason}")]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong. It never quotes the line, which may hold a secret.
        reason: String,
    },
    /// An entry is invalid.
    #[error("credentials file {path}, {entry}: {key} is {got}, expected {expected}")]
    Entry {
        /// Path of the file.
        path: PathBuf,
        /// The entry, for example `[[token]] 1 (NAME)`.
        entry: String,
        /// The key of the entry.
        key: String,
        /// What the file has; never the value if it might be a secret.
        got: String,
        /// What is allowed.
        expected: String,
    },
}
