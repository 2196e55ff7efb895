//! What can be wrong with a file.

use std::fmt;
use std::io;

/// Why a file is refused: which, where in it, what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Something in it is not as it has to be.
    #[error("{path}: {place}{got}, expected {expected}")]
    Content {
        /// Which file.
        path: String,
        /// Where in it.
        place: Location,
        /// What came.
        got: String,
        /// What would be right.
        expected: String,
    },
    /// What the caller says of its text cannot be.
    #[error("{path}: {source}")]
    Dialect {
        /// Which file.
        path: String,
        /// What cannot be.
        source: super::table::DialectError,
    },
    /// It ends too early.
    #[error("{path}: it ends after {rows} rows, its header promises {rows_promised}")]
    Truncated {
        /// Which file.
        path: String,
        /// Whole rows that are there.
        rows: u64,
        /// Rows that its header promises.
        rows_promised: u64,
    },
    /// Its format is known, but what reads it was left out of this program.
    #[error("{path}: it is {format}, which this program was built without: build it with `--features arrow`")]
    NotBuiltIn {
        /// Which file.
        path: String,
        /// Its format.
        format: &'static str,
    },
}

/// Where in a file. Rows, columns, lines and fields count from 1, as editors do; bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Nowhere in particular.
    Whole,
    /// At a byte (of what a gzip stream holds, if the file is one).
    Byte(u64),
    /// In a line of text.
    Line(u64),
    /// In a field of a line of text.
    Field {
        /// Which line.
        line: u64,
        /// Which column of the file.
        column: usize,
        /// The name of the column.
        name: Option<String>,
    },
    /// In a row.
    Row(u64),
    /// In a number of a row.
    Cell {
        /// Which row.
        row: u64,
        /// Which column, by number or by name.
        column: String,
    },
    /// In a column.
    Column(String),
}

/// As the beginning of a sentence that goes on with what came.
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
    /// Something is not as it has to be, nowhere in particular.
    pub(super) fn content(path: &str, got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::at(path, Location::Whole, got, expected)
    }

    /// Something at a place is not as it has to be.
    pub(super) fn at(path: &str, place: Location, got: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), place, got: got.into(), expected: expected.into() }
    }

    /// What was expected where `value` is no number that may be.
    pub(super) fn finite(value: f64) -> &'static str {
        if value.is_nan() { "a finite number, unless values may be missing" } else { "a finite number" }
    }

    /// What the system says, of a file.
    pub(super) fn io(path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// The same for reading `what`, of which all has to be there.
    pub(super) fn short(path: &str, what: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Self::content(path, format!("it ends within {what}"), "a whole file")
            } else {
                Self::Io { path: path.to_owned(), source }
            }
        }
    }
}
