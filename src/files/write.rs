//! Rows to files: CSV, or NPY with 32-bit floats.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::{FileError, Format};

/// Writes rows as they come.
pub trait RowWriter {
    /// Appends rows, row-major.
    fn write(&mut self, values: &[f32], columns: usize) -> Result<(), FileError>;
    /// Completes the file.
    fn finish(self: Box<Self>) -> Result<(), FileError>;
}

/// Creates a file (`-`: standard output). The format is the one asked for, or that of the name: `.npy`, otherwise CSV.
pub fn create(path: &str, format: Option<Format>) -> Result<Box<dyn RowWriter>, FileError> {
    let npy = path.rsplit_once('.').is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("npy"));
    match format.unwrap_or(if npy { Format::Npy } else { Format::Csv }) {
        Format::Idx | Format::Parquet | Format::Arrow => {
            Err(FileError::content(path, "rows are not written in this format", "csv or npy"))
        }
        Format::Csv => Ok(Box::new(CsvWriter { path: path.to_owned(), output: output(path)? })),
        Format::Npy if path == "-" => Ok(Box::new(NpyBuffer::default())),
        Format::Npy => {
            let failed = |source| FileError::Io { path: path.to_owned(), source };
            let mut file = File::create(path).map_err(failed)?;
            // The number of rows is known at the end: the head is written again then.
            file.write_all(&npy_head(0, 1)).map_err(failed)?;
            Ok(Box::new(NpyWriter { path: path.to_owned(), output: BufWriter::new(file), rows: 0, columns: 1 }))
        }
    }
}

fn output(path: &str) -> Result<Box<dyn Write>, FileError> {
    if path == "-" {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::create(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    Ok(Box::new(BufWriter::new(file)))
}

struct CsvWriter {
    path: String,
    output: Box<dyn Write>,
}

impl RowWriter for CsvWriter {
    fn write(&mut self, values: &[f32], columns: usize) -> Result<(), FileError> {
        let mut text = String::new();
        for row in values.chunks(columns) {
            for (i, value) in row.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                // The shortest text that reads back as the same bits.
                text.push_str(&value.to_string());
            }
            text.push('\n');
        }
        let failed = |source| FileError::Io { path: self.path.clone(), source };
        self.output.write_all(text.as_bytes()).map_err(failed)
    }
    fn finish(mut self: Box<Self>) -> Result<(), FileError> {
        let Self { path, output } = &mut *self;
        output.flush().map_err(|source| FileError::Io { path: path.clone(), source })
    }
}

struct NpyWriter {
    path: String,
    output: BufWriter<File>,
    rows: u64,
    columns: usize,
}

impl RowWriter for NpyWriter {
    fn write(&mut self, values: &[f32], columns: usize) -> Result<(), FileError> {
        self.columns = columns;
        self.rows += (values.len() / columns.max(1)) as u64;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.output.write_all(&bytes).map_err(|source| FileError::Io { path: self.path.clone(), source })
    }
    fn finish(mut self: Box<Self>) -> Result<(), FileError> {
        let head = npy_head(self.rows, self.columns);
        self.output
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.output.write_all(&head))
            .and_then(|()| self.output.flush())
            .map_err(|source| FileError::Io { path: self.path.clone(), source })
    }
}

/// Standard output cannot be written twice: the rows wait for their number.
#[derive(Default)]
struct NpyBuffer {
    values: Vec<f32>,
    columns: usize,
}

impl RowWriter for NpyBuffer {
    fn write(&mut self, values: &[f32], columns: usize) -> Result<(), FileError> {
        self.columns = columns;
        self.values.extend_from_slice(values);
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<(), FileError> {
        let columns = self.columns.max(1);
        let mut bytes = npy_head((self.values.len() / columns) as u64, columns);
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        let mut output = io::stdout().lock();
        output
            .write_all(&bytes)
            .and_then(|()| output.flush())
            .map_err(|source| FileError::Io { path: "-".to_owned(), source })
    }
}

/// The head of version 1, always of the same length.
fn npy_head(rows: u64, columns: usize) -> Vec<u8> {
    const LENGTH: usize = 118;
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(LENGTH as u16).to_le_bytes());
    head.extend_from_slice(format!("{dictionary:<width$}\n", width = LENGTH - 1).as_bytes());
    head
}
