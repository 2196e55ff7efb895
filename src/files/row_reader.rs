//! Reading rows in blocks: what every reader of a format does.

use super::FileError;

/// Maximum number of columns: the widest layer of a model.
pub(super) const COLUMNS_MAX: usize = crate::model::spec::WIDTH_MAX;

/// Reads the rows of a file in blocks.
pub trait RowReader: Send {
    /// Number of values in a row.
    fn columns(&self) -> usize;
    /// Column names; empty if the file has none.
    fn names(&self) -> &[String] {
        &[]
    }
    /// Number of rows, if the file states it.
    fn rows_hint(&self) -> Option<u64> {
        None
    }
    /// Whether the values are unsigned 8-bit integers.
    fn is_bytes(&self) -> bool {
        false
    }
    /// Whether the values are floats of 32 bits or less.
    fn is_single(&self) -> bool {
        false
    }
    /// Notes that need all rows, such as rounded values or skipped rows. Complete after the last row is read.
    fn notes_at_end(&self) -> Vec<String> {
        Vec::new()
    }
    /// What the reader decided about the file on its own: one sentence each, for the user. Complete when the file is
    /// open.
    fn notes(&self) -> &[String] {
        &[]
    }
    /// Appends at most `rows_max` rows to `values`, row-major. Values are finite, or NaN where values may be missing. A
    /// binary32 is exact in f64; 64-bit integers beyond 2^53 are rounded. Returns the number of rows; fewer than
    /// `rows_max` only at the end of the file. After an error, do not use `values` or the reader.
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError>;
}
