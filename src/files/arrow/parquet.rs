//! Apache Parquet: page by page.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::position::FromPosition;
use super::{Batches, chosen, decode, table};
use crate::files::input::Input;
use crate::files::{FileError, ReadOptions, RowReader};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 1024;
/// What is called of the file in errors.
const WHAT: &str = "Parquet";

struct Parquet {
    path: String,
    batches: ParquetRecordBatchReader,
    rows: u64,
}

pub(in crate::files) fn open(input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let Input { path, file, .. } = input;
    let Some(file) = file else {
        return Err(FileError::content(
            &path,
            "it is Parquet from a stream or in gzip",
            "a plain file: it is read from its end",
        ));
    };
    let length = file.metadata().map_err(FileError::io(&path))?.len();
    let file = Positioned { file: Arc::new(file), length };
    let builder = decode(&path, WHAT, || ParquetRecordBatchReaderBuilder::try_new(file))?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let chosen = chosen(&path, builder.schema(), options)?;
    let batches = decode(&path, WHAT, || {
        let mask = ProjectionMask::roots(builder.parquet_schema(), chosen.fields);
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()
    })?;
    table(&path.clone(), Parquet { path, batches, rows }, &chosen.order, chosen.missing)
}

impl Batches for Parquet {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, FileError> {
        decode(&self.path, WHAT, || self.batches.next().transpose())
    }
    fn rows(&self) -> Option<u64> {
        Some(self.rows)
    }
}

/// A file that is read at positions, and never asked for more than it has.
struct Positioned {
    file: Arc<File>,
    length: u64,
}

impl Length for Positioned {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Positioned {
    type T = BufReader<FromPosition>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(FromPosition { file: Arc::clone(&self.file), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // A header that lies about a length must not take memory for it.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            let reason = format!("{length} bytes at {start} are beyond its {} bytes", self.length);
            return Err(ParquetError::EOF(reason));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}
