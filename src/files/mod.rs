//! Rows in files: CSV, NPY and IDX, plain or gzip, read in blocks so that memory stays bounded.

mod csv;
mod idx;
mod npy;
mod write;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

pub use write::{RowWriter, create};

/// Widest rows that are read: the widest layer.
const COLUMNS_MAX: usize = crate::model::spec::WIDTH_MAX;

/// Why a file is refused. Rows and columns count from 1, as editors do.
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
    /// What it holds.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: String,
        /// What was expected and what came.
        reason: String,
    },
}

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Numbers separated by commas, with or without a header.
    Csv,
    /// NumPy's array file, two-dimensional.
    Npy,
    /// The format of MNIST: images are flattened.
    Idx,
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Otherwise seen from the first bytes.
    pub format: Option<Format>,
    /// CSV: whether the first line names the columns; otherwise seen from whether it is all numbers.
    pub header: Option<bool>,
    /// CSV: columns to leave out, by name or by number from 1.
    pub drop_columns: Vec<String>,
}

/// Rows, block by block.
pub trait RowReader {
    /// Width of the rows.
    fn columns(&self) -> usize;
    /// Names of the columns, if the file has them.
    fn names(&self) -> &[String] {
        &[]
    }
    /// Number of rows, if the file says so.
    fn row_count(&self) -> Option<u64> {
        None
    }
    /// Whether the values are 8-bit whole numbers without a sign.
    fn is_bytes(&self) -> bool {
        false
    }
    /// The next rows, row-major, at most `rows_max`; empty at the end.
    fn next_block(&mut self, rows_max: usize) -> Result<Vec<f32>, FileError>;
}

/// Opens a file (`-`: standard input), whatever of the formats it has.
pub fn open(path: &str, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let raw: Box<dyn Read> =
        if path == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    read(path, raw, options)
}

fn read(path: &str, raw: Box<dyn Read>, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let mut input = BufReader::with_capacity(1 << 16, raw);
    let is_gzip = input.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> = if is_gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
    let mut input = BufReader::with_capacity(1 << 16, plain);
    let first = input.fill_buf().map_err(failed)?;
    if first.is_empty() {
        return Err(FileError::Content { path: path.to_owned(), reason: "it is empty, expected rows".to_owned() });
    }
    let seen = if first.starts_with(b"\x93NUMPY") {
        Format::Npy
    } else if first.len() >= 4 && first[..2] == [0, 0] {
        Format::Idx
    } else {
        Format::Csv
    };
    let input: Input = Box::new(input);
    match options.format.unwrap_or(seen) {
        Format::Csv => csv::open(path, input, options),
        Format::Npy => npy::open(path, input),
        Format::Idx => idx::open(path, input),
    }
}

type Input = Box<dyn BufRead>;

fn content(path: &str, reason: impl Into<String>) -> FileError {
    FileError::Content { path: path.to_owned(), reason: reason.into() }
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// One number of exactly [`Kind::bytes`] bytes.
    fn number(self, bytes: &[u8], big_endian: bool) -> f32 {
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        if big_endian {
            raw[..bytes.len()].reverse();
        }
        let bits = u64::from_le_bytes(raw);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => bits as f32,
            Self::I8 => f32::from((bits as u8).cast_signed()),
            Self::I16 => f32::from((bits as u16).cast_signed()),
            Self::I32 => (bits as u32).cast_signed() as f32,
            Self::I64 => bits.cast_signed() as f32,
            Self::F32 => f32::from_bits(bits as u32),
            Self::F64 => f64::from_bits(bits) as f32,
        }
    }
}

/// Rows of fixed size, one after the other: what NPY and IDX come down to.
struct Binary {
    path: String,
    input: Input,
    kind: Kind,
    big_endian: bool,
    columns: usize,
    rows: u64,
    rows_read: u64,
}

impl RowReader for Binary {
    fn columns(&self) -> usize {
        self.columns
    }
    fn row_count(&self) -> Option<u64> {
        Some(self.rows)
    }
    fn is_bytes(&self) -> bool {
        self.kind == Kind::U8
    }
    fn next_block(&mut self, rows_max: usize) -> Result<Vec<f32>, FileError> {
        let left = self.rows - self.rows_read;
        let wanted = (rows_max as u64).min(left) as usize;
        let row_bytes = self.columns * self.kind.bytes();
        let mut bytes = Vec::new();
        let io_failed = |source| FileError::Io { path: self.path.clone(), source };
        (&mut self.input).take((wanted * row_bytes) as u64).read_to_end(&mut bytes).map_err(io_failed)?;
        if bytes.len() < wanted * row_bytes {
            let got = self.rows_read + (bytes.len() / row_bytes) as u64;
            return Err(content(&self.path, format!("it ends after {got} rows, its header promises {}", self.rows)));
        }
        self.rows_read += wanted as u64;
        let values: Vec<f32> =
            bytes.chunks_exact(self.kind.bytes()).map(|number| self.kind.number(number, self.big_endian)).collect();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let row = self.rows_read - wanted as u64 + (index / self.columns) as u64 + 1;
            let column = index % self.columns + 1;
            return Err(content(
                &self.path,
                format!("row {row}, column {column} is {}, expected a finite number", values[index]),
            ));
        }
        if wanted > 0
            && self.rows_read == self.rows
            && !self.input.fill_buf().map_err(|source| FileError::Io { path: self.path.clone(), source })?.is_empty()
        {
            return Err(content(
                &self.path,
                format!("it goes on after the {} rows that its header promises", self.rows),
            ));
        }
        Ok(values)
    }
}

/// Checks what a header claims before anything is read by it.
fn check_shape(path: &str, rows: u64, columns: u64) -> Result<usize, FileError> {
    if rows == 0 || columns == 0 {
        return Err(content(path, format!("its shape is {rows} x {columns}, expected at least 1 x 1")));
    }
    if columns > COLUMNS_MAX as u64 {
        return Err(content(path, format!("its rows have {columns} numbers, expected at most {COLUMNS_MAX}")));
    }
    Ok(columns as usize)
}

#[cfg(test)]
mod tests;
