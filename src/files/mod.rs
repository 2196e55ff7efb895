//! Reads and writes rows in files: text tables, arrays, vectors, JSON Lines, and with the feature `arrow` Parquet and
//! Arrow IPC. Each can be compressed. Most readers stream: a few rows are in memory at a time, so a file may be larger
//! than memory.

mod archive;
#[cfg(feature = "arrow")]
mod arrow;
mod binary;
mod by_name;
mod choice;
mod column_major;
mod detect;
mod error;
pub mod folder;
mod foreign;
mod format;
mod idx;
mod input;
mod json;
mod marked;
mod npy;
pub mod output;
mod read_options;
mod region;
mod row_reader;
mod row_writer;
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

use archive::Content;
use binary::Kind;
pub use by_name::by_name;
use detect::Seen;
pub use error::{FileError, Location};
pub use format::Format;
use input::Input;
pub use read_options::ReadOptions;
use row_reader::COLUMNS_MAX;
pub use row_reader::RowReader;
pub use row_writer::{RowWriter, Values};
pub use table::{Decimal, DialectError, Separator, TextEncoding, TextOptions, TextReader, Thousands};
pub use write::{create, csv_writer, format_of};

/// Rounds each value to the nearest f32.
pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// Whether a value loses precision as an f32. It does not if the nearest f32 is equal, or prints the same digits: 0.1
/// has an f32 that prints as 0.1, but 1700000001 has none.
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

/// Opens a file of any supported format, compressed or not.
pub fn open(path: &Path, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::open(&path.display().to_string(), path)?, options)
}

/// Reads a file that is already open. Errors call it `name`; the ending of `name` decides the format where the first
/// bytes do not.
pub fn read_file(name: &str, file: File, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::of_file(name, file)?, options)
}

/// Reads a stream of bytes. Errors call it `name`.
pub fn read(
    name: &str,
    bytes: impl Read + Send + 'static,
    options: &ReadOptions,
) -> Result<Box<dyn RowReader>, FileError> {
    choose(Input::new(name, Box::new(bytes), None)?, options)
}

/// Reads a stream that may pause for long, such as the output of `tail -f`. Text is classified from its first two
/// lines.
pub fn read_live(
    name: &str,
    bytes: impl Read + Send + 'static,
    options: &ReadOptions,
) -> Result<Box<dyn RowReader>, FileError> {
    let mut input = Input::new(name, Box::new(bytes), None)?;
    input.live = true;
    choose(input, options)
}

/// An open file of rows.
pub enum Table {
    /// Text; the reader can also return each record as it is written in the file.
    Text(Box<TextReader>),
    /// Any other format.
    Other(Box<dyn RowReader>),
}

/// Like [`open`], for a caller that needs the original text of the records.
pub fn open_table(path: &Path, options: &ReadOptions) -> Result<Table, FileError> {
    choose_table(Input::open(&path.display().to_string(), path)?, options)
}

/// Like [`read`], for a caller that needs the original text of the records.
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
        // The requested format is that of the file in the archive.
        (asked, Seen::Zip) => match archive::open(&mut input)? {
            Content::Arrays(arrays) if asked.is_none_or(|format| format == Format::Npz) => {
                refuse_columns(&input, options)?;
                return archive::npz(&arrays, input, options).map(Table::Other);
            }
            Content::Arrays(_) => {
                return Err(FileError::content(
                    &input.path,
                    "it is a zip archive of arrays",
                    "the format npz for such an archive",
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
        let got = "an array is chosen, but this format has no named arrays";
        return Err(FileError::content(&input.path, got, ".npz or safetensors"));
    }
    if !matches!(format, Format::Csv | Format::Parquet | Format::Arrow | Format::JsonLines) {
        refuse_columns(&input, options)?;
    }
    let reader = match format {
        Format::Csv => return Ok(Table::Text(Box::new(table::open(input, options)?))),
        Format::Npy => npy::open(input),
        Format::Idx => idx::open(input),
        Format::Npz => {
            let got = "it is not a zip archive";
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

/// Rejects a choice of columns: arrays have no column names.
fn refuse_columns(input: &Input, options: &ReadOptions) -> Result<(), FileError> {
    if options.names_columns() {
        let got = "columns are chosen, but an array has no named columns";
        return Err(FileError::content(&input.path, got, "CSV, JSON Lines, Parquet or Arrow"));
    }
    Ok(())
}

/// The error for a file that cannot be read as rows.
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
