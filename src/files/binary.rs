//! Rows of numbers of one type, as in NPY, IDX and other binary formats.

use std::io::Read;

use half::{bf16, f16};

use super::input::Input;
use super::{COLUMNS_MAX, FileError, Location, RowReader};
use crate::model::Missing;

/// Maximum number of bytes per read, or one row if that is longer.
const PIECE_BYTES: usize = 1 << 20;
/// 2^53: f64 represents every integer below it exactly.
const WHOLE_MAX: f64 = (1u64 << 53) as f64;

/// Whether a 64-bit integer that was converted to `value` may have been rounded.
pub(super) fn may_be_rounded(value: f64) -> bool {
    value.abs() >= WHOLE_MAX
}

/// The note on rounded integers, if there are any.
pub(super) fn rounded_note(rounded: bool) -> Vec<String> {
    let note = "it has whole numbers beyond 2^53, which are rounded to the nearest 64-bit float";
    if rounded { vec![note.to_owned()] } else { Vec::new() }
}

/// The type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    /// One byte: 0 is false, anything else is true.
    Bool,
    /// bfloat16: the upper half of an F32.
    BF16,
}

/// A number type with its byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) kind: Kind,
    pub(super) big_endian: bool,
}

impl Encoding {
    /// Whether the numbers are 64-bit integers.
    pub(super) fn is_long(self) -> bool {
        matches!(self.kind, Kind::I64 | Kind::U64)
    }

    /// Size of a number in bytes.
    pub(super) fn bytes(self) -> usize {
        match self.kind {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 | Kind::F16 | Kind::BF16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// Decodes one number of exactly [`Encoding::bytes`] bytes. Integers beyond 2^53 are rounded.
    pub(super) fn number(self, bytes: &[u8]) -> f64 {
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        if self.big_endian {
            raw[..bytes.len()].reverse();
        }
        let bits = u64::from_le_bytes(raw);
        match self.kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => bits as f64,
            Kind::I8 => f64::from((bits as u8).cast_signed()),
            Kind::I16 => f64::from((bits as u16).cast_signed()),
            Kind::I32 => f64::from((bits as u32).cast_signed()),
            Kind::I64 => bits.cast_signed() as f64,
            Kind::F16 => f16::from_bits(bits as u16).to_f64(),
            Kind::F32 => f64::from(f32::from_bits(bits as u32)),
            Kind::F64 => f64::from_bits(bits),
            Kind::Bool => f64::from(u8::from(bits != 0)),
            Kind::BF16 => bf16::from_bits(bits as u16).to_f64(),
        }
    }
}

/// Checks the shape in a header before anything is allocated. Returns the width of a row.
pub(super) fn check_shape(path: &str, rows: u64, columns: u64) -> Result<usize, FileError> {
    if rows == 0 || columns == 0 {
        return Err(FileError::content(path, format!("its shape is {rows} x {columns}"), "at least 1 x 1"));
    }
    if columns > COLUMNS_MAX as u64 {
        let got = format!("its rows have {columns} numbers");
        return Err(FileError::content(path, got, format!("at most {COLUMNS_MAX}")));
    }
    Ok(columns as usize)
}

/// Rejects values that are not finite (NaN is accepted if `missing` allows it). `first_row` is the index, from 0, of
/// the first row in `values`.
pub(super) fn check_values(
    path: &str,
    values: &[f64],
    columns: usize,
    first_row: u64,
    missing: Missing,
) -> Result<(), FileError> {
    let Some(index) = values.iter().position(|value| !missing.allows_wide(*value)) else { return Ok(()) };
    let row = first_row + (index / columns) as u64 + 1;
    let place = Location::Cell { row, column: (index % columns + 1).to_string() };
    Err(FileError::at(path, place, values[index].to_string(), FileError::finite(values[index])))
}

/// Reads rows of fixed size.
pub(super) struct Binary {
    input: Input,
    encoding: Encoding,
    columns: usize,
    rows: u64,
    rows_read: u64,
    /// Number of bytes after the rows.
    trailing: u64,
    rounded: bool,
    /// Buffer for the bytes of some rows.
    piece: Vec<u8>,
}

impl Binary {
    /// Reads `rows` rows from the current position of `input`.
    pub(super) fn new(input: Input, encoding: Encoding, columns: usize, rows: u64) -> Self {
        Self { input, encoding, columns, rows, rows_read: 0, trailing: 0, rounded: false, piece: Vec::new() }
    }

    /// Expects `bytes` more bytes after the rows.
    pub(super) fn followed_by(self, bytes: u64) -> Self {
        Self { trailing: bytes, ..self }
    }

    /// Appends the next rows: at most `rows_max`, and at most one piece.
    fn next_piece(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let row_bytes = self.columns * self.encoding.bytes();
        let left = usize::try_from(self.rows - self.rows_read).unwrap_or(usize::MAX);
        let wanted = rows_max.min(left).min((PIECE_BYTES / row_bytes).max(1));
        let path = &self.input.path;
        self.piece.clear();
        let mut taken = (&mut self.input.stream).take((wanted * row_bytes) as u64);
        taken.read_to_end(&mut self.piece).map_err(FileError::io(path))?;
        if self.piece.len() < wanted * row_bytes {
            let rows = self.rows_read + (self.piece.len() / row_bytes) as u64;
            return Err(FileError::Truncated { path: path.clone(), rows, rows_promised: self.rows });
        }
        let before = values.len();
        values.extend(self.piece.chunks_exact(self.encoding.bytes()).map(|number| self.encoding.number(number)));
        self.rounded |= self.encoding.is_long() && values[before..].iter().copied().any(may_be_rounded);
        check_values(path, &values[before..], self.columns, self.rows_read, self.input.missing)?;
        self.rows_read += wanted as u64;
        if wanted > 0 && self.rows_read == self.rows {
            self.check_end()?;
        }
        Ok(wanted)
    }

    /// Checks, after the last row, that the file ends where its header says.
    fn check_end(&mut self) -> Result<(), FileError> {
        let path = &self.input.path;
        let mut trailing = (&mut self.input.stream).take(self.trailing);
        let skipped = std::io::copy(&mut trailing, &mut std::io::sink()).map_err(FileError::io(path))?;
        if skipped < self.trailing {
            let got = format!("it ends {} bytes too early", self.trailing - skipped);
            return Err(FileError::content(path, got, "as many bytes as its header promises"));
        }
        let rest = self.input.stream.fill_buf().map_err(FileError::io(path))?;
        if !rest.is_empty() {
            let got = format!("it goes on after its {} rows", self.rows);
            return Err(FileError::content(path, got, "as many rows as its header promises"));
        }
        Ok(())
    }
}

impl RowReader for Binary {
    fn columns(&self) -> usize {
        self.columns
    }
    fn rows_hint(&self) -> Option<u64> {
        Some(self.rows)
    }
    fn is_bytes(&self) -> bool {
        self.encoding.kind == Kind::U8
    }
    fn notes_at_end(&self) -> Vec<String> {
        rounded_note(self.rounded)
    }
    fn is_single(&self) -> bool {
        matches!(self.encoding.kind, Kind::F16 | Kind::BF16 | Kind::F32)
    }
    fn notes(&self) -> &[String] {
        &self.input.notes
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let mut rows = 0;
        while rows < rows_max {
            match self.next_piece(values, rows_max - rows)? {
                0 => break,
                read => rows += read,
            }
        }
        Ok(rows)
    }
}
