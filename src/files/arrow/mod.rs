//! Reads columns of numbers from Parquet and Arrow IPC with the Apache Arrow crates.

mod columns;
mod ipc;
mod parquet;
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use self::columns::{Column, width};
use super::binary::{check_shape, may_be_rounded, rounded_note};
use super::table::repair_names;
use super::{FileError, Location, ReadOptions, RowReader};
use crate::model::Missing;

pub(super) use self::ipc::open as ipc;
pub(super) use self::parquet::open as parquet;
pub(super) use self::write::create;

/// A file that is read in batches.
trait Batches: Send {
    /// The next batch of the chosen columns, in the order of the file; `None` at the end.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, FileError>;
    /// Number of rows in the file, if it states that.
    fn rows(&self) -> Option<u64>;
}

/// Calls the decoding crates. They trust their input and may panic on a damaged file: a panic becomes an error of the
/// file.
fn decode<T, E: std::fmt::Display>(
    path: &str,
    what: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, FileError> {
    let expected = || format!("{what} that can be decoded");
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(error)) => Err(FileError::content(path, error.to_string(), expected())),
        Err(_) => Err(FileError::content(path, "its content is inconsistent", expected())),
    }
}

/// Reads rows from batches.
struct Table<B> {
    path: String,
    batches: B,
    columns: Vec<Column>,
    names: Vec<String>,
    width: usize,
    rows_read: u64,
    batch: RecordBatch,
    /// Index of the next row in the batch.
    next: usize,
    missing: Missing,
    rounded: bool,
    notes: Vec<String>,
}

/// The columns that the caller wants: their indices in the schema, ascending.
struct Chosen {
    fields: Vec<usize>,
    /// The caller's order, as indices into `fields`.
    order: Vec<usize>,
    missing: Missing,
}

fn chosen(path: &str, schema: &SchemaRef, options: &ReadOptions) -> Result<Chosen, FileError> {
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    if names.is_empty() {
        return Err(FileError::content(path, "it has no columns", "at least one"));
    }
    let kept = options.kept(path, &names, names.len())?;
    for index in &kept {
        columns::check_type(path, schema.field(*index))?;
    }
    let mut fields = kept.clone();
    fields.sort_unstable();
    let order = kept.iter().filter_map(|index| fields.binary_search(index).ok()).collect();
    Ok(Chosen { fields, order, missing: options.missing() })
}

/// Creates a reader. Reads the first batch with rows, because that decides the length of lists.
fn table<B: Batches + 'static>(
    path: &str,
    mut batches: B,
    order: &[usize],
    missing: Missing,
    mut notes: Vec<String>,
) -> Result<Box<dyn RowReader>, FileError> {
    let batch = loop {
        match batches.next_batch()? {
            None => return Err(FileError::content(path, "it has no rows", "at least one")),
            Some(batch) if batch.num_rows() > 0 => break batch,
            Some(_) => {}
        }
    };
    let (mut columns, mut names, mut first) = (Vec::new(), Vec::new(), 0);
    let schema = batch.schema();
    for index in order {
        let field = schema.field(*index);
        let width = width(path, field, batch.column(*index))?;
        let column =
            Column { name: field.name().clone(), index: *index, first, width, is_long: columns::is_long(field) };
        first += width.unwrap_or(1);
        // Check the width before building a name for each column.
        check_shape(path, batches.rows().unwrap_or(1), first as u64)?;
        names.extend((0..width.unwrap_or(1)).map(|place| column.name_of(place)));
        columns.push(column);
        notes.extend(columns::note(field));
    }
    let (names, repairs) = repair_names(&names, false);
    notes.extend(repairs);
    Ok(Box::new(Table {
        path: path.to_owned(),
        batches,
        columns,
        names,
        width: first,
        rows_read: 0,
        batch,
        next: 0,
        missing,
        rounded: false,
        notes,
    }))
}

impl<B: Batches> Table<B> {
    /// Makes sure that the current batch has unread rows; false at the end.
    fn advance(&mut self) -> Result<bool, FileError> {
        while self.next == self.batch.num_rows() {
            let Some(batch) = self.batches.next_batch()? else {
                return match self.batches.rows() {
                    Some(rows_promised) if rows_promised != self.rows_read => {
                        Err(FileError::Truncated { path: self.path.clone(), rows: self.rows_read, rows_promised })
                    }
                    _ => Ok(false),
                };
            };
            (self.batch, self.next) = (batch, 0);
        }
        Ok(true)
    }
}

impl<B: Batches> RowReader for Table<B> {
    fn columns(&self) -> usize {
        self.width
    }
    fn names(&self) -> &[String] {
        &self.names
    }
    fn rows_hint(&self) -> Option<u64> {
        self.batches.rows()
    }
    fn notes(&self) -> &[String] {
        &self.notes
    }
    fn notes_at_end(&self) -> Vec<String> {
        rounded_note(self.rounded)
    }
    fn is_bytes(&self) -> bool {
        self.columns.iter().all(|column| columns::is_bytes(self.batch.column(column.index)))
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let mut rows = 0;
        while rows < rows_max && self.advance()? {
            let wanted = (rows_max - rows).min(self.batch.num_rows() - self.next);
            let before = values.len();
            values.resize(before + wanted * self.width, 0.0);
            let target = &mut values[before..];
            for column in &self.columns {
                let array = self.batch.column(column.index);
                let filled = column.fill(array, self.next, wanted, target, self.width, self.missing);
                filled.map_err(|wrong| {
                    let place = Location::Cell { row: self.rows_read + wrong.row as u64 + 1, column: wrong.column };
                    FileError::at(&self.path, place, wrong.got, wrong.expected)
                })?;
                if column.is_long {
                    let end = column.first + column.width.unwrap_or(1);
                    let is_rounded = |row: &[f64]| row[column.first..end].iter().copied().any(may_be_rounded);
                    self.rounded |= target.chunks_exact(self.width).any(is_rounded);
                }
            }
            if let Some(index) = target.iter().position(|value| !self.missing.allows_wide(*value)) {
                let row = self.rows_read + (index / self.width) as u64 + 1;
                let place = Location::Cell { row, column: self.names[index % self.width].clone() };
                return Err(FileError::at(
                    &self.path,
                    place,
                    target[index].to_string(),
                    FileError::finite(target[index]),
                ));
            }
            self.next += wanted;
            self.rows_read += wanted as u64;
            rows += wanted;
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
