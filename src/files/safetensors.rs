//! safetensors: a JSON header, followed by named tensors.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use super::binary::{Binary, Encoding, Kind, check_shape};
use super::choice::{Array, choose};
use super::input::Input;
use super::{FileError, ReadOptions, RowReader, shape};

/// Maximum size of the header; the format allows 100 MB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Size of the header's length field.
const LENGTH_BYTES: u64 = 8;

/// A tensor entry of the header.
#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A tensor, or the metadata map that the format also allows.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor(Tensor),
    Other(serde::de::IgnoredAny),
}

/// Whether bytes begin like safetensors: a plausible length, then a JSON object.
pub(super) fn is_start(first: &[u8]) -> bool {
    let Some((length, rest)) = first.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= 100_000_000 && rest.starts_with(b"{\"")
}

pub(super) fn open(mut input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let path = input.path.clone();
    let mut length = [0; LENGTH_BYTES as usize];
    input.stream.read_exact(&mut length).map_err(FileError::short(&path, "its header"))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        let got = format!("its header has {length} bytes");
        return Err(FileError::content(&path, got, format!("at most {HEADER_BYTES_MAX}")));
    }
    let mut header = Vec::new();
    (&mut input.stream).take(length).read_to_end(&mut header).map_err(FileError::io(&path))?;
    if (header.len() as u64) < length {
        return Err(FileError::content(&path, "it ends within its header", "a complete file"));
    }
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(&header)
        .map_err(|error| FileError::content(&path, format!("its header is invalid ({error})"), "a valid header"))?;
    let tensors: Vec<(String, Tensor)> = entries
        .into_iter()
        .filter_map(|(name, entry)| match entry {
            Entry::Tensor(tensor) => Some((name, tensor)),
            Entry::Other(_) => None,
        })
        .collect();
    let array = |(name, tensor): &(String, Tensor)| Array {
        name: name.clone(),
        shown: format!("{} {}", tensor.dtype, shape::shown(&tensor.shape)),
        is_table: kind(&tensor.dtype).is_some() && tensor.shape.len() >= 2,
    };
    let arrays: Vec<Array> = tensors.iter().map(array).collect();
    let chosen = choose(&path, &arrays, options, &mut input.notes)?;
    let end = tensors.iter().map(|(_, tensor)| tensor.data_offsets.1).max().unwrap_or(0);
    let (name, tensor) = &tensors[chosen];
    let kind = kind(&tensor.dtype).ok_or_else(|| {
        let got = format!("tensor {name:?} has numbers of type {}", tensor.dtype);
        FileError::content(&path, got, "F16, BF16, F32, F64, BOOL, or whole numbers: convert it with .float()")
    })?;
    let (rows, columns) = shape::rows_and_columns(&path, &tensor.shape, &mut input.notes)?;
    let columns = check_shape(&path, rows, columns)?;
    let encoding = Encoding { kind, big_endian: false };
    let (first, last) = tensor.data_offsets;
    let bytes = rows.checked_mul((columns * encoding.bytes()) as u64);
    if last.checked_sub(first) != bytes {
        let got = format!("tensor {name:?} has the bytes from {first} to {last}");
        let shape = shape::shown(&tensor.shape);
        return Err(FileError::content(&path, got, format!("as many bytes as {} {shape} needs", tensor.dtype)));
    }
    let promised = (LENGTH_BYTES + length).checked_add(end);
    let region = input.region.take();
    if let Some(region) = &region
        && promised != Some(region.length())
    {
        let got = format!("it has {} bytes", region.length());
        let expected =
            promised.map_or("a size that a file can have".to_owned(), |bytes| format!("{bytes}, by its header"));
        return Err(FileError::content(&path, got, expected));
    }
    let skipped =
        std::io::copy(&mut (&mut input.stream).take(first), &mut std::io::sink()).map_err(FileError::io(&path))?;
    if skipped < first {
        return Err(FileError::Truncated { path, rows: 0, rows_promised: rows });
    }
    // A file's size is checked above; a stream's size is known only at its end.
    if region.is_some() {
        input.stream = Box::new(input.stream.take(last - first));
    }
    let trailing = if region.is_some() { 0 } else { end - last };
    Ok(Box::new(Binary::new(input, encoding, columns, rows).followed_by(trailing)))
}

fn kind(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "BOOL" => Kind::Bool,
        "U8" => Kind::U8,
        "I8" => Kind::I8,
        "U16" => Kind::U16,
        "I16" => Kind::I16,
        "U32" => Kind::U32,
        "I32" => Kind::I32,
        "U64" => Kind::U64,
        "I64" => Kind::I64,
        "F16" => Kind::F16,
        "BF16" => Kind::BF16,
        "F32" => Kind::F32,
        "F64" => Kind::F64,
        _ => return None,
    })
}
