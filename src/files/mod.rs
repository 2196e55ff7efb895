//! Rows in files: text tables, arrays, vectors, JSON Lines, and with the feature `arrow` Parquet and Arrow IPC; each plain
//! or packed. Read from front to back, a few rows in memory at a time, so that a file may be larger than that.

mod archive;
#[cfg(feature = "arrow")]
mod arrow;
mod binary;
mod by_name;
mod choice;
mod column_major;
mod error;
pub mod folder;
mod foreign;
mod idx;
mod input;
mod json;
mod marked;
mod npy;
pub mod output;
mod region;
mod safetensors;
mod select;
mod shape;
pub mod table;
mod vecs;
mod words;
mod write;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::Missing;

use archive::Content;
use binary::Kind;
pub use by_name::by_name;
pub use error::{FileError, Location};
use input::{Input, Seen};
pub use table::{Decimal, DialectError, Separator, TextEncoding, TextOptions, TextReader, Thousands};
pub use write::{RowWriter, Values, create, csv_writer, format_of};

/// Widest rows that are read: the widest layer.
const COLUMNS_MAX: usize = crate::model::spec::WIDTH_MAX;

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A table of text: CSV and its relatives, with or without names of columns.
    Csv,
    /// NumPy's array file; dimensions after the first are flattened.
    Npy,
    /// The format of MNIST: images are flattened.
    Idx,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow's inter-process format, as a file (also known as Feather 2) or as a stream.
    Arrow,
    /// NumPy's archive of arrays.
    Npz,
    /// safetensors: one of its tensors.
    Safetensors,
    /// JSON Lines: an array of numbers or an object a row; also one array of such rows.
    JsonLines,
    /// Rows of 32-bit floats, each behind its length.
    Fvecs,
    /// Rows of bytes, each behind its length.
    Bvecs,
    /// Rows of 32-bit whole numbers, each behind its length.
    Ivecs,
    /// Rows of 32-bit floats behind their number and length.
    Fbin,
    /// Rows of bytes behind their number and length.
    U8bin,
    /// Rows of signed bytes behind their number and length.
    I8bin,
    /// Word vectors of GloVe, fastText or word2vec.
    WordVectors,
}

/// How to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// Otherwise seen from the first bytes, or from the name.
    pub format: Option<Format>,
    /// CSV: whether the first line names the columns; otherwise seen from it and the lines below.
    pub header: Option<bool>,
    /// Columns to take, in this order, by name or by number from 1; all if empty. Where columns have names or numbers:
    /// CSV, Parquet, Arrow.
    pub columns: Vec<String>,
    /// Columns to leave out, likewise.
    pub drop_columns: Vec<String>,
    /// Whether values may be missing: NaN, in CSV also an empty field, `NA` and the other usual marks, in Parquet and Arrow a
    /// null.
    #[serde(default)]
    pub missing_values: bool,
    /// CSV: separator, decimal mark, encoding and the like, where they are not to be seen from the file.
    #[serde(default)]
    pub text: TextOptions,
    /// Features of a model, by name: of a file that names them all, its other columns are not read, whatever they hold. Columns that
    /// are named above come first.
    #[serde(skip)]
    pub features: Vec<String>,
    /// The array to read of a file with several (`.npz`, safetensors); otherwise the only one that could be rows.
    #[serde(default)]
    pub array: Option<String>,
}

impl ReadOptions {
    fn missing(&self) -> Missing {
        Missing::from(self.missing_values)
    }
}

/// Rows, some at a time.
pub trait RowReader: Send {
    /// Width of the rows.
    fn columns(&self) -> usize;
    /// Names of the columns, if the file has them.
    fn names(&self) -> &[String] {
        &[]
    }
    /// Number of rows, if the file says so.
    fn rows_hint(&self) -> Option<u64> {
        None
    }
    /// Whether the values are 8-bit whole numbers without a sign.
    fn is_bytes(&self) -> bool {
        false
    }
    /// Whether the values are floats of 32 bits or less.
    fn is_single(&self) -> bool {
        false
    }
    /// Notes that need all rows: what was rounded, what was left out. Complete once the last row is read.
    fn notes_at_end(&self) -> Vec<String> {
        Vec::new()
    }
    /// What the reader decided about the file on its own, for people: one sentence each. Complete once the file is open.
    fn notes(&self) -> &[String] {
        &[]
    }
    /// Appends at most `rows_max` rows to `values`: row-major, finite, or NaN where a value is missing and may be.
    /// Every number that the file holds fits: a binary32 is exact in f64. Returns the number of rows; fewer than
    /// `rows_max` only at the end of the file. After an error neither `values` nor the reader can be used.
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError>;
}

/// The same values, each rounded to the nearest f32.
pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Whether a value is lost where each is rounded to the nearest f32. It is not where that is the same number, or is written with
/// the same digits: 0.1 has an f32 that is written 0.1, and 1700000001 has none.
pub fn needs_f64(values: &[f64]) -> bool {
    let mut text = String::new();
    values.iter().any(|value| {
        let narrow = *value as f32;
        if f64::from(narrow).to_bits() == value.to_bits() || value.is_nan() {
            return false;
        }
        text.clear();
        // Writing to a string cannot fail.
        let _ = write!(text, "{narrow:e}");
        text.parse() != Ok(*value)
    })
}

/// Opens a file, whatever of the formats it has, plain or packed.
pub fn open(path: &Path, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::open(&path.display().to_string(), path)?, options)
}

/// The same for a file that is open: called `name` in errors, and told by it where its first bytes do not say what it is.
pub fn read_file(name: &str, file: File, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::of_file(name, file)?, options)
}

/// The same for bytes from anywhere, which are called `name` in errors.
pub fn read(
    name: &str,
    bytes: impl Read + Send + 'static,
    options: &ReadOptions,
) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::new(name, Box::new(bytes), None)?, options)
}

/// The same for a stream that may pause for long, as what `tail -f` writes: it is decided by its first two lines what it is.
pub fn read_live(
    name: &str,
    bytes: impl Read + Send + 'static,
    options: &ReadOptions,
) -> Result<Box<dyn RowReader>, FileError> {
    let mut input = Input::new(name, Box::new(bytes), None)?;
    input.live = true;
    choose(input, options)
}

/// A table that is open.
pub enum Table {
    /// Text, whose records can be had as they stand in the file.
    Text(Box<TextReader>),
    /// Anything else.
    Other(Box<dyn RowReader>),
}

/// The same as [`open`], for a caller who wants the records of a text as they stand in it.
pub fn open_table(path: &Path, options: &ReadOptions) -> Result<Table, FileError> {
    choose_table(Input::open(&path.display().to_string(), path)?, options)
}

/// The same as [`read`], likewise.
pub fn read_table(name: &str, bytes: impl Read + Send + 'static, options: &ReadOptions) -> Result<Table, FileError> {
    choose_table(Input::new(name, Box::new(bytes), None)?, options)
}

fn choose(input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    Ok(match choose_table(input, options)? {
        Table::Text(reader) => reader,
        Table::Other(reader) => reader,
    })
}

fn choose_table(input: Input, options: &ReadOptions) -> Result<Table, FileError> {
    Ok(match choose_reader(input, options)? {
        Table::Other(reader) if options.missing_values => {
            Table::Other(marked::Marked::wrap(reader, &options.text.missing_marks))
        }
        table => table,
    })
}

fn choose_reader(mut input: Input, options: &ReadOptions) -> Result<Table, FileError> {
    input.missing = options.missing();
    let seen = input.seen()?;
    let format = match (options.format, seen) {
        // Whatever is asked for, it is in the archive.
        (asked, Seen::Zip) => match archive::open(&mut input)? {
            Content::Arrays(arrays) if asked.is_none_or(|format| format == Format::Npz) => {
                refuse_columns(&input, options)?;
                return archive::npz(&arrays, input, options).map(Table::Other);
            }
            Content::Arrays(_) => {
                return Err(FileError::content(
                    &input.path,
                    "it is a zip archive of arrays",
                    "the format npz for that",
                ));
            }
            Content::One(only) => {
                input = *only;
                match (asked, input.seen()?) {
                    (Some(format), _) | (None, Seen::Format(format)) => format,
                    (None, other) => return Err(refusal(&mut input, &other)),
                }
            }
        },
        (Some(format), _) | (None, Seen::Format(format)) => format,
        // A given encoding declares the file to be text.
        (None, Seen::Unknown) if options.text.encoding.is_some() => Format::Csv,
        (None, other) => return Err(refusal(&mut input, &other)),
    };
    if !matches!(format, Format::Csv) {
        let checked = options.text.check(options.missing_values);
        checked.map_err(|source| FileError::Dialect { path: input.path.clone(), source })?;
    }
    if options.array.is_some() && !matches!(format, Format::Npz | Format::Safetensors) {
        let got = "an array is chosen, but its format has no names for arrays";
        return Err(FileError::content(&input.path, got, ".npz or safetensors for that"));
    }
    if !matches!(format, Format::Csv | Format::Parquet | Format::Arrow | Format::JsonLines) {
        refuse_columns(&input, options)?;
    }
    let reader = match format {
        Format::Csv => return Ok(Table::Text(Box::new(table::open(input, options)?))),
        Format::Npy => npy::open(input),
        Format::Idx => idx::open(input),
        Format::Npz => {
            let got = "it is no zip archive";
            Err(FileError::content(&input.path, got, "the archive that numpy.savez writes"))
        }
        Format::Safetensors => safetensors::open(input, options),
        Format::JsonLines => json::open(input, options),
        Format::Fvecs => vecs::open(input, Kind::F32),
        Format::Bvecs => vecs::open(input, Kind::U8),
        Format::Ivecs => vecs::open(input, Kind::I32),
        Format::Fbin => vecs::open_counted(input, Kind::F32),
        Format::U8bin => vecs::open_counted(input, Kind::U8),
        Format::I8bin => vecs::open_counted(input, Kind::I8),
        Format::WordVectors => words::open(input),
        #[cfg(feature = "arrow")]
        Format::Parquet => arrow::parquet(input, options),
        #[cfg(feature = "arrow")]
        Format::Arrow => arrow::ipc(input, options),
        #[cfg(not(feature = "arrow"))]
        Format::Parquet => Err(FileError::NotBuiltIn { path: input.path, format: "Parquet" }),
        #[cfg(not(feature = "arrow"))]
        Format::Arrow => Err(FileError::NotBuiltIn { path: input.path, format: "Arrow IPC" }),
    };
    reader.map(Table::Other)
}

/// Arrays have no columns to choose by name.
fn refuse_columns(input: &Input, options: &ReadOptions) -> Result<(), FileError> {
    if options.names_columns() {
        let got = "columns are chosen, but it has one array";
        return Err(FileError::content(&input.path, got, "CSV, JSON Lines, Parquet or Arrow for that"));
    }
    Ok(())
}

/// Why something that is no table is not read.
fn refusal(input: &mut Input, seen: &Seen) -> FileError {
    match seen {
        Seen::Foreign(foreign) => foreign.refusal(&input.path),
        Seen::Zip => FileError::content(&input.path, "it is a zip archive in a zip archive", "a table: unpack it"),
        Seen::Unknown | Seen::Format(_) => match input.stream.fill_buf() {
            Ok(first) => foreign::unknown(&input.path, first),
            Err(source) => FileError::Io { path: input.path.clone(), source },
        },
    }
}

#[cfg(test)]
mod tests;
