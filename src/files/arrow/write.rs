//! Writes rows to Parquet: one column for each number, f32 or f64 as in the values.

use std::io::BufWriter;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::files::FileError;
use crate::files::output::Output;
use crate::files::row_writer::{RowWriter, Values, finish};

/// Size of a row group in bytes; readers hold one in memory.
const GROUP_BYTES: usize = 64 << 20;

/// A Parquet writer. The schema is created with the first rows.
struct Writer {
    path: String,
    names: Vec<String>,
    state: Option<WriterState>,
}

enum WriterState {
    Empty(BufWriter<Output>),
    Open(Box<ArrowWriter<BufWriter<Output>>>, SchemaRef),
}

/// Creates a writer for a fresh output.
pub(in crate::files) fn create(output: Output) -> Box<dyn RowWriter> {
    let path = output.path().to_owned();
    Box::new(Writer { path, names: Vec::new(), state: Some(WriterState::Empty(BufWriter::new(output))) })
}

impl Writer {
    fn failed(&self) -> impl Fn(ParquetError) -> FileError + use<> {
        let path = self.path.clone();
        move |error| match error {
            ParquetError::External(source) => match source.downcast::<std::io::Error>() {
                Ok(source) => FileError::Io { path: path.clone(), source: *source },
                Err(source) => FileError::content(&path, source.to_string(), "rows that can be written"),
            },
            other => FileError::content(&path, other.to_string(), "rows that can be written"),
        }
    }

    fn schema(&self, values: Values<'_>, columns: usize) -> SchemaRef {
        let data_type = match values {
            Values::F32(_) => DataType::Float32,
            Values::F64(_) => DataType::Float64,
        };
        let name = |column: usize| match self.names.get(column) {
            Some(name) if self.names.len() == columns => name.clone(),
            _ => format!("column_{}", column + 1),
        };
        let fields: Vec<Field> =
            (0..columns).map(|column| Field::new(name(column), data_type.clone(), false)).collect();
        Arc::new(Schema::new(fields))
    }
}

impl RowWriter for Writer {
    fn set_names(&mut self, names: &[String]) {
        self.names = names.to_vec();
    }

    fn write(&mut self, values: Values<'_>, columns: usize) -> Result<(), FileError> {
        let failed = self.failed();
        let mut open = match self.state.take() {
            Some(WriterState::Open(writer, schema)) => (writer, schema),
            Some(WriterState::Empty(output)) => {
                let schema = self.schema(values, columns);
                let rows = (GROUP_BYTES / (8 * columns.max(1))).max(1);
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_dictionary_enabled(false)
                    .set_max_row_group_row_count(Some(rows))
                    .build();
                let writer = ArrowWriter::try_new(output, Arc::clone(&schema), Some(properties)).map_err(&failed)?;
                (Box::new(writer), schema)
            }
            None => return Err(FileError::content(&self.path, "an earlier error", "no more rows after it")),
        };
        let rows = values.len() / columns.max(1);
        let column = |column: usize| -> ArrayRef {
            match values {
                Values::F32(values) => {
                    Arc::new(Float32Array::from_iter_values((0..rows).map(|row| values[row * columns + column])))
                }
                Values::F64(values) => {
                    Arc::new(Float64Array::from_iter_values((0..rows).map(|row| values[row * columns + column])))
                }
            }
        };
        let batch = RecordBatch::try_new(Arc::clone(&open.1), (0..columns).map(column).collect())
            .map_err(|error| FileError::content(&self.path, error.to_string(), "rows like the first ones"))?;
        open.0.write(&batch).map_err(&failed)?;
        self.state = Some(WriterState::Open(open.0, open.1));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), FileError> {
        let failed = self.failed();
        match self.state.take() {
            Some(WriterState::Open(writer, _)) => finish(writer.into_inner().map_err(failed)?),
            Some(WriterState::Empty(_)) => Err(FileError::content(&self.path, "no rows", "at least one")),
            None => Err(FileError::content(&self.path, "an earlier error", "no more rows after it")),
        }
    }
}
