//! Options for reading a file.

use serde::{Deserialize, Serialize};

use super::{Format, TextOptions};
use crate::model::Missing;

/// Options for reading a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// The format; if absent, detected from the first bytes or from the file name.
    pub format: Option<Format>,
    /// CSV: whether the first line names the columns; if absent, decided from that line and the lines below it.
    pub header: Option<bool>,
    /// Columns to read, in this order, by name or by number (from 1); all columns if empty. For formats with columns:
    /// CSV, JSON Lines (objects), Parquet and Arrow.
    pub columns: Vec<String>,
    /// Columns to leave out, by name or number, for the same formats.
    pub drop_columns: Vec<String>,
    /// Whether values may be missing: NaN in every format; in CSV also an empty field, `NA` and other common marks; in
    /// Parquet, Arrow and JSON a null.
    #[serde(default)]
    pub missing_values: bool,
    /// CSV: separator, decimal mark, encoding and so on, where detection is wrong or impossible.
    #[serde(default)]
    pub text: TextOptions,
    /// Feature names of a model. If the file has all of them, its other columns are not read, whatever they hold.
    /// Ignored where `columns` or `drop_columns` is set.
    #[serde(skip)]
    pub features: Vec<String>,
    /// The array to read from a file with several (`.npz`, safetensors); if absent, the only array that can be rows.
    #[serde(default)]
    pub array: Option<String>,
}

impl ReadOptions {
    pub(super) fn missing(&self) -> Missing {
        Missing::from(self.missing_values)
    }
}
