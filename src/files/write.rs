//! Writes rows to files: CSV, NPY, and with the feature `arrow` Parquet. A file appears only when it is complete.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::output::{Output, Spool};
use super::row_writer::{Kind, RowWriter, Values, finish};
use super::{FileError, Format};

/// Creates a file (`-` for standard output). The format is `format`, or else decided by the name: `.npy`, `.parquet`
/// and `.pq`, otherwise CSV.
///
/// # Errors
/// If the format cannot be written, or the path is not writable.
pub fn create(path: &str, format: Option<Format>) -> Result<Box<dyn RowWriter>, FileError> {
    match format_of(path, format)? {
        Format::Csv => Ok(csv_writer(Output::create(path)?)),
        Format::Npy => Ok(Box::new(NpyWriter::create(path)?)),
        #[cfg(feature = "arrow")]
        Format::Parquet => Ok(super::arrow::create(Output::create(path)?)),
        _ => Err(FileError::content(path, "rows are not written in this format", WRITTEN)),
    }
}

/// Writes CSV to a fresh output.
pub fn csv_writer(output: Output) -> Box<dyn RowWriter> {
    Box::new(CsvWriter { output: BufWriter::new(output) })
}

/// The format of an output file: `format`, or else decided by the name.
///
/// # Errors
/// If the name's ending stands for a format that cannot be written.
pub fn format_of(path: &str, format: Option<Format>) -> Result<Format, FileError> {
    format.map_or_else(|| by_name(path), Ok)
}

/// The writable formats, for messages.
const WRITTEN: &str = ".npy, .parquet or .csv";

/// Endings of formats that cannot be written. Writing CSV under such a name would mislead the reader.
const NOT_WRITTEN: [&str; 18] = [
    "npz",
    "arrow",
    "feather",
    "ipc",
    "h5",
    "hdf5",
    "json",
    "jsonl",
    "ndjson",
    "safetensors",
    "pkl",
    "pickle",
    "xlsx",
    "xls",
    "mat",
    "pt",
    "fvecs",
    "tsv",
];
/// Endings of compressed files.
const PACKED: [&str; 5] = ["gz", "zst", "bz2", "xz", "zip"];

fn by_name(path: &str) -> Result<Format, FileError> {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let Some((_, ending)) = name.rsplit_once('.') else { return Ok(Format::Csv) };
    match ending {
        "npy" => Ok(Format::Npy),
        "parquet" | "pq" => Ok(Format::Parquet),
        _ if NOT_WRITTEN.contains(&ending) => {
            Err(FileError::content(path, format!("rows are not written as .{ending}"), WRITTEN))
        }
        _ if PACKED.contains(&ending) => {
            let expected = format!("{WRITTEN}, without compression: compress it afterwards, or write to - and pipe");
            Err(FileError::content(path, format!("rows are not written as .{ending}"), expected))
        }
        _ => Ok(Format::Csv),
    }
}

struct CsvWriter {
    output: BufWriter<Output>,
}

impl RowWriter for CsvWriter {
    fn write(&mut self, values: Values<'_>, columns: usize) -> Result<(), FileError> {
        use std::fmt::Write as _;
        let mut text = String::new();
        for index in 0..values.len() {
            // `Display` writes the shortest text that parses to the same bits.
            let _ = match values {
                Values::F32(values) => write!(text, "{}", values[index]),
                Values::F64(values) => write!(text, "{}", values[index]),
            };
            text.push(if (index + 1).is_multiple_of(columns) { '\n' } else { ',' });
        }
        self.output.write_all(text.as_bytes()).map_err(FileError::io(self.output.get_ref().path()))
    }

    fn finish(self: Box<Self>) -> Result<(), FileError> {
        finish(self.output)
    }
}

/// Writes NPY. The header contains the number of rows, known only at the end, so it is rewritten then.
struct NpyWriter {
    body: Body,
    rows: u64,
    columns: usize,
    kind: Option<Kind>,
}

enum Body {
    File(BufWriter<Output>),
    /// Output without random access, such as a pipe, gets the data when all rows are known.
    Spooled(BufWriter<Spool>, Output),
}

impl NpyWriter {
    fn create(path: &str) -> Result<Self, FileError> {
        let output = Output::create(path)?;
        let body = if output.is_file() {
            let mut output = BufWriter::new(output);
            output.write_all(&npy_head(Kind::F32, 0, 1)).map_err(FileError::io(path))?;
            Body::File(output)
        } else {
            Body::Spooled(BufWriter::new(Spool::new().map_err(FileError::io(path))?), output)
        };
        Ok(Self { body, rows: 0, columns: 1, kind: None })
    }

    fn path(&self) -> &str {
        match &self.body {
            Body::File(output) => output.get_ref().path(),
            Body::Spooled(_, output) => output.path(),
        }
    }
}

impl RowWriter for NpyWriter {
    fn write(&mut self, values: Values<'_>, columns: usize) -> Result<(), FileError> {
        let kind = *self.kind.get_or_insert(values.kind());
        if kind != values.kind() || self.rows > 0 && columns != self.columns {
            return Err(FileError::content(self.path(), "rows of another width or type", "rows like the first ones"));
        }
        self.columns = columns;
        self.rows += (values.len() / columns.max(1)) as u64;
        let bytes: Vec<u8> = match values {
            Values::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::F64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let written = match &mut self.body {
            Body::File(output) => output.write_all(&bytes),
            Body::Spooled(spool, _) => spool.write_all(&bytes),
        };
        written.map_err(FileError::io(self.path()))
    }

    fn finish(self: Box<Self>) -> Result<(), FileError> {
        let path = self.path().to_owned();
        let head = npy_head(self.kind.unwrap_or(Kind::F32), self.rows, self.columns);
        match self.body {
            Body::File(mut output) => {
                let written = output.seek(SeekFrom::Start(0)).and_then(|_| output.write_all(&head));
                written.map_err(FileError::io(&path))?;
                finish(output)
            }
            Body::Spooled(spool, mut output) => {
                let spool = spool.into_inner().map_err(io::IntoInnerError::into_error);
                let written = spool.and_then(|spool| output.write_all(&head).and_then(|()| spool.copy_to(&mut output)));
                written.map_err(FileError::io(&path))?;
                output.finish()
            }
        }
    }
}

/// A version 1 header of fixed length.
fn npy_head(kind: Kind, rows: u64, columns: usize) -> Vec<u8> {
    const LENGTH: usize = 118;
    let descr = match kind {
        Kind::F32 => "<f4",
        Kind::F64 => "<f8",
    };
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(LENGTH as u16).to_le_bytes());
    head.extend_from_slice(format!("{dictionary:<width$}\n", width = LENGTH - 1).as_bytes());
    head
}
