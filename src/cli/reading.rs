//! How commands read files.

use std::io;
use std::path::Path;

use super::CliError;
use super::data::check_columns;
use crate::files::{self, FileError, Format, ReadOptions, RowReader};
use crate::rpc::pb;

/// First rows: what they take at most, below the server's default for a message.
const FIRST_ROWS_BYTES_MAX: usize = 8 << 20;

/// How files are read.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReadArgs {
    /// Format of the files [default: seen from their first bytes]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// CSV: whether the first line names the columns [default: seen from whether it is all numbers]
    #[arg(long)]
    header: Option<bool>,
    /// CSV, Parquet, Arrow: columns to take, in this order, by name or by number from 1 [default: all]
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
    columns: Vec<String>,
    /// CSV, Parquet, Arrow: columns to leave out, likewise
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
    drop_columns: Vec<String>,
    /// Values may be missing: NaN, and in CSV empty fields, NA or null, in Parquet and Arrow nulls
    #[arg(long)]
    missing_values: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormatArg {
    Csv,
    Npy,
    Idx,
    Parquet,
    Arrow,
}

impl ReadArgs {
    pub(super) fn options(&self) -> ReadOptions {
        let format = self.format.map(|format| match format {
            FormatArg::Csv => Format::Csv,
            FormatArg::Npy => Format::Npy,
            FormatArg::Idx => Format::Idx,
            FormatArg::Parquet => Format::Parquet,
            FormatArg::Arrow => Format::Arrow,
        });
        let (columns, drop_columns) = (self.columns.clone(), self.drop_columns.clone());
        ReadOptions { format, header: self.header, columns, drop_columns, missing_values: self.missing_values }
    }

    /// Whether or not it was asked for.
    pub(super) fn allow_missing_values(&mut self) {
        self.missing_values = true;
    }

    /// Whether values may be missing.
    pub(super) fn missing_values(&self) -> bool {
        self.missing_values
    }

    /// The same for files of the server.
    pub(super) fn server_files(self, paths: Vec<String>, test_paths: Vec<String>) -> pb::ServerFiles {
        let format = match self.format {
            None => pb::FileFormat::Unspecified,
            Some(FormatArg::Csv) => pb::FileFormat::Csv,
            Some(FormatArg::Npy) => pb::FileFormat::Npy,
            Some(FormatArg::Idx) => pb::FileFormat::Idx,
            Some(FormatArg::Parquet) => pb::FileFormat::Parquet,
            Some(FormatArg::Arrow) => pb::FileFormat::Arrow,
        };
        let Self { header, columns, drop_columns, .. } = self;
        pb::ServerFiles { paths, test_paths, format: format.into(), header, columns, drop_columns }
    }
}

/// Opens a file, or standard input for `-`.
pub(super) fn open(path: &str, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    if path == "-" { files::read(path, io::stdin(), options) } else { files::open(Path::new(path), options) }
}

/// The rows that a file begins with, as many as one message has room for.
pub(super) struct FirstRows {
    pub(super) columns: usize,
    /// Row-major.
    pub(super) values: Vec<f64>,
    /// Whether the file has no more.
    pub(super) is_all: bool,
}

/// Reads them; `expected` is the width that they must have, if there is one.
///
/// # Errors
/// What is wrong with the file, or that it has no rows.
pub(super) fn first_rows(path: &str, read: &ReadArgs, expected: Option<usize>) -> Result<FirstRows, CliError> {
    let mut reader = open(path, &read.options())?;
    let columns = reader.columns();
    check_columns(path, reader.as_ref(), expected.unwrap_or(columns))?;
    let most = (FIRST_ROWS_BYTES_MAX / (4 * columns)).max(1);
    let mut values = Vec::new();
    reader.next_rows(&mut values, most)?;
    if values.is_empty() {
        return Err(CliError::Usage(format!("{path} has no rows, expected at least one to measure on")));
    }
    // What is wrong with rows that nobody asked for is no reason to refuse these.
    let mut is_all = reader.next_rows(&mut Vec::new(), 1).is_ok_and(|rows| rows == 0);
    // Binary64 takes twice the room.
    let room = (most / 2).max(1) * columns;
    if values.len() > room && files::needs_f64(&values) {
        values.truncate(room);
        is_all = false;
    }
    Ok(FirstRows { columns, values, is_all })
}
