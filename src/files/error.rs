//! Errors of files.

use std::fmt;
use std::io;

/// Why a file is rejected: the file, the location, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system reports an error.
    #[error("{path}: {source}")]
    Io {
        /// The name of the file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The content is invalid.
    #[error("{path}: {place}{got}, expected {expected}")]
    Content {
        /// The name of the file.
        path: String,
        /// The location of the error.
        place: Location,
        /// What the file contains.
        got: String,
        /// What is accepted instead.
        expected: String,
    },
    /// The caller's text options are invalid.
    #[error("{path}: {source}")]
    Dialect {
        /// The name of the file.
        path: String,
        /// The invalid option.
        source: super::table::DialectError,
    },
    /// The file is truncated.
    #[error("{path}: it ends after {rows} rows, but its header promises {rows_promised}")]
    Truncated {
        /// The name of the file.
        path: String,
        /// Complete rows in the file.
        rows: u64,
        /// Rows according to its header.
        rows_promised: u64,
    },
    /// The format is supported, but this build omits it.
    #[error("{path}: it is {format}, which this build does not support: rebuild with `--features arrow`")]
    NotBuiltIn {
        /// The name of the file.
        path: String,
        /// The name of the format.
        format: &'static str,
    },
}

/// A location in a file. Rows, columns, lines and fields count from 1, as in editors; bytes count from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The whole file.
    Whole,
    /// A byte offset, in the decompressed data if the file is compressed.
    Byte(u64),
    /// A line of text.
    Line(u64),
    /// A field in a line of text.
    Field {
        /// The line, from 1.
        line: u64,
        /// The column of the file, from 1.
        column: usize,
        /// The column's name, if it has one.
        name: Option<String>,
    },
    /// A row, from 1.
    Row(u64),
    /// One value of a row.
    Cell {
        /// The row, from 1.
        row: u64,
        /// The column, by number (from 1) or by name.
        column: String,
    },
    /// A column, by name.
    Column(String),
}

/// Writes a prefix such as `line 3: ` for an error message.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Byte(byte) => write!(f, "byte {byte}: "),
            Self::Line(line) => write!(f, "line {line}: "),
            Self::Field { line, column, name: Some(name) } => write!(f, "line {line}, column {column} ({name}): "),
            Self::Field { line, column, name: None } => write!(f, "line {line}, column {column}: "),
            Self::Row(row) => write!(f, "row {row}: "),
            Self::Cell { row, column } => write!(f, "row {row}, column {column}: "),
            Self::Column(column) => write!(f, "column {column}: "),
        }
    }
}

impl FileError {
    /// Invalid content of the file as a whole.
    pub(super) fn content(path: &str, got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::at(path, Location::Whole, got, expected)
    }

    /// Invalid content at a location.
    pub(super) fn at(path: &str, place: Location, got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), place, got: got.into(), expected: expected.into() }
    }

    /// The `expected` text of an error for `value`, which is not finite.
    pub(super) fn finite(value: f64) -> &'static str {
        if value.is_nan() { "a finite number, unless values may be missing" } else { "a finite number" }
    }

    /// Converts an I/O error of a file.
    pub(super) fn io(path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Like [`FileError::io`], but reports an early end of the file as a truncated `what`.
    pub(super) fn short(path: &str, what: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Self::content(path, format!("it ends within {what}"), "a complete file")
            } else {
                Self::Io { path: path.to_owned(), source }
            }
        }
    }
}
