//! NumPy's array file, versions 1 to 3 (the format is documented in `numpy.lib.format`).

use std::io::Read;

use super::{Binary, FileError, Input, Kind, RowReader, check_shape, content};

/// Longer than any header of a plain array.
const HEADER_BYTES_MAX: usize = 1 << 16;
/// Column-major files are turned in memory, up to this size.
const FORTRAN_BYTES_MAX: u64 = 4 << 30;

pub(super) fn open(path: &str, mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let header = header(path, &mut input)?;
    let (kind, big_endian) = kind(path, value(path, &header, "descr")?)?;
    let fortran = match value(path, &header, "fortran_order")? {
        "False" => false,
        "True" => true,
        other => return Err(content(path, format!("fortran_order is {other}, expected True or False"))),
    };
    let shape = value(path, &header, "shape")?;
    let numbers: Option<Vec<u64>> = shape
        .trim_start_matches('(')
        .trim_end_matches(')')
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect();
    let (rows, columns) = match numbers.as_deref() {
        Some([rows, columns]) => (*rows, *columns),
        Some([count]) => {
            return Err(content(
                path,
                format!(
                    "it is one row of numbers (shape ({count},)), expected two dimensions: save it with reshape(-1, d)"
                ),
            ));
        }
        _ => return Err(content(path, format!("its shape is {shape}, expected (rows, columns)"))),
    };
    let columns = check_shape(path, rows, columns)?;
    let binary = Binary { path: path.to_owned(), input, kind, big_endian, columns, rows, rows_read: 0 };
    if fortran { turned(binary) } else { Ok(Box::new(binary)) }
}

/// The dictionary behind the magic string.
fn header(path: &str, input: &mut Input) -> Result<String, FileError> {
    let short = |source| FileError::Io { path: path.to_owned(), source };
    let mut start = [0; 8];
    input.read_exact(&mut start).map_err(short)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(content(path, "it does not begin like a .npy file"));
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            input.read_exact(&mut length).map_err(short)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(short)?;
            u32::from_le_bytes(length) as usize
        }
        other => return Err(content(path, format!("format version {other}, expected 1, 2 or 3"))),
    };
    if length > HEADER_BYTES_MAX {
        return Err(content(path, format!("its header has {length} bytes, expected at most {HEADER_BYTES_MAX}")));
    }
    let mut header = vec![0; length];
    input.read_exact(&mut header).map_err(short)?;
    String::from_utf8(header).map_err(|_| content(path, "its header is not text"))
}

/// The value of a key of the dictionary, as written.
fn value<'a>(path: &str, header: &'a str, key: &str) -> Result<&'a str, FileError> {
    let missing = || content(path, format!("its header has no {key:?}"));
    let (_, rest) = header.split_once(&format!("'{key}'")).ok_or_else(missing)?;
    let rest = rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start();
    let end = match rest.chars().next() {
        Some('(') => rest.find(')').map(|end| end + 1),
        Some(quote @ ('\'' | '"')) => rest[1..].find(quote).map(|end| end + 2),
        _ => rest.find([',', '}']),
    };
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

fn kind(path: &str, descr: &str) -> Result<(Kind, bool), FileError> {
    let text = descr.trim_matches(['\'', '"']);
    let unknown =
        || content(path, format!("its numbers are {descr}, expected f4, f8, or whole numbers of 1 to 8 bytes"));
    let (order, kind) = text.split_at_checked(1).ok_or_else(unknown)?;
    let big_endian = match order {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return Err(unknown()),
    };
    let kind = match kind {
        "u1" => Kind::U8,
        "i1" => Kind::I8,
        "u2" => Kind::U16,
        "i2" => Kind::I16,
        "u4" => Kind::U32,
        "i4" => Kind::I32,
        "u8" => Kind::U64,
        "i8" => Kind::I64,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return Err(unknown()),
    };
    Ok((kind, big_endian))
}

/// A file in column-major order is read whole and turned.
fn turned(mut binary: Binary) -> Result<Box<dyn RowReader>, FileError> {
    let (rows, columns) = (binary.rows, binary.columns);
    if rows.saturating_mul(columns as u64 * 4) > FORTRAN_BYTES_MAX {
        return Err(content(
            &binary.path,
            "it is in Fortran order and too large to turn: save it with np.ascontiguousarray",
        ));
    }
    // As if it had the shape of its transpose.
    (binary.rows, binary.columns) = (columns as u64, rows as usize);
    let path = binary.path.clone();
    let is_bytes = binary.is_bytes();
    let mut by_column = Vec::new();
    loop {
        let block = binary.next_block(64)?;
        if block.is_empty() {
            break;
        }
        by_column.extend(block);
    }
    let rows = rows as usize;
    let values = (0..rows * columns).map(|i| by_column[(i % columns) * rows + i / columns]).collect();
    Ok(Box::new(Memory { path, values, columns, next: 0, is_bytes }))
}

/// Rows in memory.
struct Memory {
    path: String,
    values: Vec<f32>,
    columns: usize,
    next: usize,
    is_bytes: bool,
}

impl RowReader for Memory {
    fn columns(&self) -> usize {
        self.columns
    }
    fn row_count(&self) -> Option<u64> {
        Some((self.values.len() / self.columns) as u64)
    }
    fn is_bytes(&self) -> bool {
        self.is_bytes
    }
    fn next_block(&mut self, rows_max: usize) -> Result<Vec<f32>, FileError> {
        let end = self.values.len().min(self.next + rows_max * self.columns);
        let block = self.values.get(self.next..end).ok_or_else(|| content(&self.path, "it was read to its end"))?;
        self.next = end;
        Ok(block.to_vec())
    }
}
