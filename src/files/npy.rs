//! NumPy's array file, versions 1 to 3 (the format is documented in `numpy.lib.format`).

use std::io::Read;

use super::binary::{Binary, Encoding, Kind, check_shape};
use super::input::Input;
use super::turned::Turned;
use super::{FileError, RowReader};

/// Longer than any header of a plain array.
const HEADER_BYTES_MAX: usize = 1 << 16;

pub(super) fn open(mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let (header, start) = header(&mut input)?;
    let path = input.path.as_str();
    let encoding = encoding(path, value(path, &header, "descr")?)?;
    let fortran = match value(path, &header, "fortran_order")? {
        "False" => false,
        "True" => true,
        other => return Err(FileError::content(path, format!("fortran_order is {other}"), "True or False")),
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
            let got = format!("it is one row of numbers (shape ({count},))");
            return Err(FileError::content(path, got, "two dimensions: save it with reshape(-1, d)"));
        }
        _ => return Err(FileError::content(path, format!("its shape is {shape}"), "(rows, columns)")),
    };
    let columns = check_shape(path, rows, columns)?;
    if fortran {
        return Ok(Box::new(Turned::new(input, start, encoding, columns, rows)?));
    }
    Ok(Box::new(Binary::new(input, encoding, columns, rows)))
}

/// The dictionary behind the magic string, and where the numbers begin.
fn header(input: &mut Input) -> Result<(String, u64), FileError> {
    let Input { path, stream, .. } = input;
    let mut read = |bytes: &mut [u8]| stream.read_exact(bytes).map_err(FileError::short(path, "its header"));
    let mut start = [0; 8];
    read(&mut start)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(FileError::content(
            path,
            format!("it begins with {:02x?}", &start[..6]),
            "the mark of a .npy file",
        ));
    }
    let (length, begins) = match start[6] {
        1 => {
            let mut length = [0; 2];
            read(&mut length)?;
            (usize::from(u16::from_le_bytes(length)), 10)
        }
        2 | 3 => {
            let mut length = [0; 4];
            read(&mut length)?;
            (u32::from_le_bytes(length) as usize, 12)
        }
        other => return Err(FileError::content(path, format!("its format has version {other}"), "1, 2 or 3")),
    };
    if length > HEADER_BYTES_MAX {
        let got = format!("its header has {length} bytes");
        return Err(FileError::content(path, got, format!("at most {HEADER_BYTES_MAX}")));
    }
    let mut header = vec![0; length];
    read(&mut header)?;
    let header = String::from_utf8(header).map_err(|_| FileError::content(path, "its header is no text", "UTF-8"))?;
    Ok((header, begins + length as u64))
}

/// The value of a key of the dictionary, as written.
fn value<'a>(path: &str, header: &'a str, key: &str) -> Result<&'a str, FileError> {
    let missing = || FileError::content(path, format!("its header has no {key:?}"), "descr, fortran_order and shape");
    let (_, rest) = header.split_once(&format!("'{key}'")).ok_or_else(missing)?;
    let rest = rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start();
    let end = match rest.chars().next() {
        Some('(') => rest.find(')').map(|end| end + 1),
        Some(quote @ ('\'' | '"')) => rest[1..].find(quote).map(|end| end + 2),
        _ => rest.find([',', '}']),
    };
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

fn encoding(path: &str, descr: &str) -> Result<Encoding, FileError> {
    let text = descr.trim_matches(['\'', '"']);
    let unknown =
        || FileError::content(path, format!("its numbers are {descr}"), "f2, f4, f8, or whole numbers of 1 to 8 bytes");
    let (order, kind) = text.split_at_checked(1).ok_or_else(unknown)?;
    let big_endian = match order {
        "<" | "|" => false,
        "=" => cfg!(target_endian = "big"),
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
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return Err(unknown()),
    };
    Ok(Encoding { kind, big_endian })
}
