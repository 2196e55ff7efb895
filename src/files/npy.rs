//! NumPy's array file `.npy`, versions 1 to 3 (documented in `numpy.lib.format`).

use std::io::Read;

use super::binary::{Binary, Encoding, Kind, check_shape};
use super::column_major::ColumnMajor;
use super::input::Input;
use super::{FileError, RowReader, shape};
use crate::model::text::first_chars;

/// Maximum size of a header; headers of plain arrays are smaller.
const HEADER_BYTES_MAX: usize = 1 << 16;
/// Maximum number of characters of a type in a message.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// The header before the numbers.
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
    /// Byte offset of the first number.
    start: u64,
}

pub(super) fn open(mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let header = Header::read(&mut input)?;
    let path = input.path.clone();
    let encoding = encoding(&path, &header.descr)?;
    let (rows, columns) = shape::rows_and_columns(&path, &header.shape, &mut input.notes)?;
    let columns = check_shape(&path, rows, columns)?;
    if header.fortran {
        let places = (header.shape.len() > 2).then(|| shape::column_major_places(&header.shape[1..]));
        return Ok(Box::new(ColumnMajor::new(input, header.start, encoding, columns, rows, places)?));
    }
    Ok(Box::new(Binary::new(input, encoding, columns, rows)))
}

/// The type and shape of an array for messages, and whether it can be rows.
pub(super) fn describe(input: &mut Input) -> Result<(String, bool), FileError> {
    let header = Header::read(input)?;
    let shown = format!("{} {}", shown(&header.descr), shape::shown(&header.shape));
    Ok((shown, encoding(&input.path, &header.descr).is_ok() && header.shape.len() >= 2))
}

fn shown(descr: &str) -> String {
    first_chars(descr.trim_matches(['\'', '"']), SHOWN_CHARACTERS_MAX).to_owned()
}

impl Header {
    fn read(input: &mut Input) -> Result<Self, FileError> {
        let (text, start) = text(input)?;
        let path = input.path.as_str();
        let fortran = match value(path, &text, "fortran_order")? {
            "False" => false,
            "True" => true,
            other => {
                return Err(FileError::content(path, format!("fortran_order is {}", shown(other)), "True or False"));
            }
        };
        let shape = value(path, &text, "shape")?;
        // Python 2 wrote sizes as 10L.
        let size = |part: &str| part.strip_suffix('L').unwrap_or(part).parse::<u64>().ok();
        let sizes = shape.strip_prefix('(').and_then(|shape| shape.strip_suffix(')')).and_then(|shape| {
            shape.split(',').map(str::trim).filter(|part| !part.is_empty()).map(size).collect::<Option<Vec<u64>>>()
        });
        let sizes = sizes.ok_or_else(|| {
            FileError::content(path, format!("its shape is {}", shown(shape)), "whole numbers, such as (rows, columns)")
        })?;
        Ok(Self { descr: value(path, &text, "descr")?.to_owned(), fortran, shape: sizes, start })
    }
}

/// The header's dictionary, and the byte offset of the first number.
fn text(input: &mut Input) -> Result<(String, u64), FileError> {
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
    // Versions 1 and 2 are Latin-1; names in a structured array may be non-ASCII.
    let header = String::from_utf8(header)
        .unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect::<String>());
    Ok((header, begins + length as u64))
}

/// The value of a key of the dictionary, as written.
fn value<'a>(path: &str, header: &'a str, key: &str) -> Result<&'a str, FileError> {
    let missing = || FileError::content(path, format!("its header has no {key:?}"), "descr, fortran_order and shape");
    // A structured array may have a field of that name; the dictionary's own key is outside of the brackets.
    let (mut depth, mut found) = (0usize, None);
    let quoted = format!("'{key}'");
    for (at, letter) in header.char_indices() {
        match letter {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            '\'' if depth == 0 && header[at..].starts_with(&quoted) => {
                found = header[at + quoted.len()..].trim_start().strip_prefix(':');
                if found.is_some() {
                    break;
                }
            }
            _ => {}
        }
    }
    let rest = found.ok_or_else(missing)?.trim_start();
    let end = match rest.chars().next() {
        Some('(') => rest.find(')').map(|end| end + 1),
        Some('[') => closing(rest),
        Some(quote @ ('\'' | '"')) => rest[1..].find(quote).map(|end| end + 2),
        _ => rest.find([',', '}']),
    };
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

/// The index after the bracket that closes the first.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' if depth == 1 => return Some(at + 1),
            ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn encoding(path: &str, descr: &str) -> Result<Encoding, FileError> {
    let text = descr.trim_matches(['\'', '"']);
    let unknown = || {
        let (name, python) = other_type(text);
        let expected = format!("bool, f2, f4, f8, or whole numbers of 1 to 8 bytes{python}");
        FileError::content(path, format!("its numbers are {name} ({})", shown(descr)), expected)
    };
    let (order, kind) = text.split_at_checked(1).ok_or_else(unknown)?;
    let big_endian = match order {
        "<" | "|" => false,
        "=" => cfg!(target_endian = "big"),
        ">" => true,
        _ => return Err(unknown()),
    };
    let kind = match kind {
        "b1" => Kind::Bool,
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

/// The name of a type that is not read, and a Python command that converts an array `a` of it.
fn other_type(descr: &str) -> (&'static str, &'static str) {
    if descr.starts_with('[') {
        return (
            "records with named fields",
            ". To convert it: from numpy.lib.recfunctions import structured_to_unstructured; numpy.save('rows.npy', structured_to_unstructured(a))",
        );
    }
    let kind = descr.trim_start_matches(['<', '>', '|', '=']);
    match kind.chars().next() {
        Some('O') => (
            "Python objects",
            ". To convert it: a = numpy.load(FILE, allow_pickle=True); numpy.save('rows.npy', numpy.array(a.tolist(), dtype='f8'))",
        ),
        Some('c') => ("complex numbers", ". To convert it: numpy.save('rows.npy', numpy.hstack([a.real, a.imag]))"),
        Some('U' | 'S' | 'a') => {
            ("texts", ". To convert it, if the texts are numbers: numpy.save('rows.npy', a.astype('f8'))")
        }
        Some('f' | 'g') => ("floats of another size", ". To convert it: numpy.save('rows.npy', a.astype('f8'))"),
        Some('M') => (
            "dates or times",
            ". To convert it to seconds since 1970: numpy.save('rows.npy', a.astype('datetime64[us]').astype('f8') / 1e6)",
        ),
        Some('m') => (
            "durations",
            ". To convert it to seconds: numpy.save('rows.npy', a.astype('timedelta64[us]').astype('f8') / 1e6)",
        ),
        Some('V') if kind == "V2" => (
            "raw bytes",
            ". To convert them, if they are bfloat16: numpy.save('rows.npy', (a.view('u2').astype('u4') << 16).view('f4'))",
        ),
        Some('V') => ("raw bytes", ". To convert it: numpy.save('rows.npy', a.view('f4')), if they are 32-bit floats"),
        _ => ("of an unknown type", ""),
    }
}
