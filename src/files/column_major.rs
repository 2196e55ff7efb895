//! Reads column-major arrays as rows, a tile of rows at a time.

use std::io::Read;

use super::binary::{Encoding, Kind, check_values, may_be_rounded, rounded_note};
use super::input::{Input, KEPT_BYTES_MAX};
use super::region::Region;
use super::{FileError, RowReader};
use crate::model::Missing;

/// Size of a tile in memory: large enough for long reads, small compared with a model in training.
const TILE_BYTES: usize = 32 << 20;

/// The source of the columns, which are stored one after the other.
enum Columns {
    /// A region, and the byte offset of its first number.
    Positions(Region, u64),
    /// The numbers in memory.
    Kept(Vec<u8>),
}

/// The rows of a column-major file.
pub(super) struct ColumnMajor {
    path: String,
    source: Columns,
    encoding: Encoding,
    columns: usize,
    rows: u64,
    /// The current tile, row-major, and the index of its next value.
    tile: Vec<f64>,
    next: usize,
    rows_done: u64,
    missing: Missing,
    /// Buffer for one column's part of a tile.
    part: Vec<u8>,
    /// For each number of a flattened row, its column in the file; `None` if they are in order.
    places: Option<Vec<u32>>,
    rounded: bool,
    notes: Vec<String>,
}

impl ColumnMajor {
    /// Reads `rows` x `columns` numbers that follow the first `start` bytes of `input`. `places` gives for each number
    /// of a row its column in the file; `None` if they are in order.
    pub(super) fn new(
        input: Input,
        start: u64,
        encoding: Encoding,
        columns: usize,
        rows: u64,
        places: Option<Vec<u32>>,
    ) -> Result<Self, FileError> {
        let (path, missing, notes) = (input.path, input.missing, input.notes);
        let expected = rows.checked_mul((columns * encoding.bytes()) as u64);
        let expected = expected.ok_or_else(|| {
            FileError::content(&path, format!("its shape is {rows} x {columns}"), "a size that a file can have")
        })?;
        let got = |bytes: String| {
            let got = format!("{bytes} bytes follow its header");
            FileError::content(&path, got, format!("{expected} for the {rows} x {columns} numbers that it promises"))
        };
        let source = if let Some(region) = input.region {
            let bytes = region.length().saturating_sub(start);
            if bytes != expected {
                return Err(got(bytes.to_string()));
            }
            Columns::Positions(region, start)
        } else {
            if expected > KEPT_BYTES_MAX {
                return Err(FileError::content(
                    &path,
                    "it is in Fortran order, and compressed or from a stream",
                    format!("at most {KEPT_BYTES_MAX} bytes: decompress it, or save it with np.ascontiguousarray"),
                ));
            }
            let mut bytes = Vec::new();
            input.stream.take(expected + 1).read_to_end(&mut bytes).map_err(FileError::io(&path))?;
            if bytes.len() as u64 > expected {
                return Err(got(format!("more than {expected}")));
            }
            if (bytes.len() as u64) < expected {
                return Err(got(bytes.len().to_string()));
            }
            Columns::Kept(bytes)
        };
        Ok(Self {
            path,
            source,
            encoding,
            columns,
            rows,
            tile: Vec::new(),
            next: 0,
            rows_done: 0,
            missing,
            part: Vec::new(),
            places,
            rounded: false,
            notes,
        })
    }

    /// Transposes the next tile of rows; false at the end.
    fn turn(&mut self) -> Result<bool, FileError> {
        let rows_max = (TILE_BYTES / (8 * self.columns)).max(1) as u64;
        let rows = rows_max.min(self.rows - self.rows_done) as usize;
        let size = self.encoding.bytes();
        self.tile.clear();
        self.tile.resize(rows * self.columns, 0.0);
        self.next = 0;
        for column in 0..self.columns {
            let in_file = self.places.as_ref().map_or(column as u64, |places| u64::from(places[column]));
            let first = (in_file * self.rows + self.rows_done) * size as u64;
            let part = match &self.source {
                Columns::Kept(bytes) => &bytes[first as usize..][..rows * size],
                Columns::Positions(region, start) => {
                    self.part.resize(rows * size, 0);
                    let read = region.read_exact_at(&mut self.part, start + first);
                    read.map_err(FileError::short(&self.path, "its numbers"))?;
                    &self.part
                }
            };
            for (row, number) in part.chunks_exact(size).enumerate() {
                self.tile[row * self.columns + column] = self.encoding.number(number);
            }
        }
        self.rounded |= self.encoding.is_long() && self.tile.iter().copied().any(may_be_rounded);
        check_values(&self.path, &self.tile, self.columns, self.rows_done, self.missing)?;
        self.rows_done += rows as u64;
        Ok(rows > 0)
    }
}

impl RowReader for ColumnMajor {
    fn columns(&self) -> usize {
        self.columns
    }
    fn rows_hint(&self) -> Option<u64> {
        Some(self.rows)
    }
    fn is_bytes(&self) -> bool {
        self.encoding.kind == Kind::U8
    }
    fn is_single(&self) -> bool {
        matches!(self.encoding.kind, Kind::F16 | Kind::BF16 | Kind::F32)
    }
    fn notes_at_end(&self) -> Vec<String> {
        rounded_note(self.rounded)
    }
    fn notes(&self) -> &[String] {
        &self.notes
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let mut rows = 0;
        while rows < rows_max && (self.next < self.tile.len() || self.turn()?) {
            let wanted = (rows_max - rows).min((self.tile.len() - self.next) / self.columns);
            values.extend_from_slice(&self.tile[self.next..][..wanted * self.columns]);
            self.next += wanted * self.columns;
            rows += wanted;
        }
        Ok(rows)
    }
}
