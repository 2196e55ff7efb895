//! Text tables: CSV and its relatives, as written by spreadsheets, pandas, NumPy and R.
//!
//! The encoding, separator, decimal mark and names are decided once, from the beginning of the file, before the first
//! row is read (`layout.rs`). Then records are read one after the other, a few in memory at a time (`reader.rs`).

mod cell;
mod comment;
mod dialect;
mod header;
mod layout;
mod names;
mod options;
mod reader;
mod scan;
mod source;
mod split;
#[cfg(test)]
mod tests;

#[cfg(feature = "arrow")]
pub(super) use names::repair as repair_names;
pub use options::{Decimal, DialectError, Separator, TextEncoding, TextOptions, Thousands};
pub(super) use reader::open;
pub use reader::{TextReader, TextRecord};
