//! Reads Apache Parquet, page by page.

use std::io::BufReader;

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::{Batches, chosen, decode, table};
use crate::files::input::Input;
use crate::files::region::{Cursor, Region};
use crate::files::{FileError, ReadOptions, RowReader};

/// Number of rows decoded at a time.
const BATCH_ROWS: usize = 1024;
/// The format's name in errors.
const WHAT: &str = "Parquet";

struct Parquet {
    path: String,
    batches: ParquetRecordBatchReader,
    rows: u64,
}

pub(in crate::files) fn open(mut input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    // Parquet needs random access: its metadata is at the end.
    let file = Positioned(input.positions(WHAT)?);
    let Input { path, notes, .. } = input;
    let builder = decode(&path, WHAT, || ParquetRecordBatchReaderBuilder::try_new(file))?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let chosen = chosen(&path, builder.schema(), options)?;
    let batches = decode(&path, WHAT, || {
        let mask = ProjectionMask::roots(builder.parquet_schema(), chosen.fields);
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()
    })?;
    table(&path.clone(), Parquet { path, batches, rows }, &chosen.order, chosen.missing, notes)
}

impl Batches for Parquet {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, FileError> {
        decode(&self.path, WHAT, || self.batches.next().transpose())
    }
    fn rows(&self) -> Option<u64> {
        Some(self.rows)
    }
}

/// A region that rejects reads beyond its end.
struct Positioned(Region);

impl Length for Positioned {
    fn len(&self) -> u64 {
        self.0.length()
    }
}

impl ChunkReader for Positioned {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.0.reader(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // A false length in a header must not allocate memory.
        if self.0.part(start, length as u64).is_none() {
            let reason = format!("{length} bytes at {start} are beyond its {} bytes", self.0.length());
            return Err(ParquetError::EOF(reason));
        }
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}
