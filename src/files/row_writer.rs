//! Writing rows in blocks: what every writer of a format does.

use std::io::BufWriter;

use super::FileError;
use super::output::Output;

/// Values to write, in their original precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 64-bit floats.
    F64(&'a [f64]),
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::F32(_) => Kind::F32,
            Self::F64(_) => Kind::F64,
        }
    }

    /// The value at `index`, as the shortest text that parses to the same value in its precision.
    pub fn text(&self, index: usize) -> String {
        match self {
            Self::F32(values) => values[index].to_string(),
            Self::F64(values) => values[index].to_string(),
        }
    }
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a [f64]> for Values<'a> {
    fn from(values: &'a [f64]) -> Self {
        Self::F64(values)
    }
}

/// The precision of a file's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F64,
}

/// Writes rows block by block. If dropped before [`RowWriter::finish`], it leaves the target file unchanged.
pub trait RowWriter {
    /// Sets the column names, if the format has them. Call it before the first rows; the default is `column_1`,
    /// `column_2` and so on.
    fn set_names(&mut self, _names: &[String]) {}
    /// Appends rows, row-major. All rows have the width of the first.
    ///
    /// # Errors
    /// If the system reports an error, or the width differs from that of the first rows.
    fn write(&mut self, values: Values<'_>, columns: usize) -> Result<(), FileError>;
    /// Completes the file and replaces the target with it.
    ///
    /// # Errors
    /// If the system reports an error.
    fn finish(self: Box<Self>) -> Result<(), FileError>;
}

/// Flushes the buffer, then finishes the output.
pub(super) fn finish(output: BufWriter<Output>) -> Result<(), FileError> {
    let path = output.get_ref().path().to_owned();
    output.into_inner().map_err(|error| FileError::Io { path, source: error.into_error() })?.finish()
}
