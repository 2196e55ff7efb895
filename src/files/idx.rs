//! The IDX format of MNIST (described on the page of the data set): a big-endian array of several dimensions. The first
//! dimension counts the rows; the others are flattened.

use std::io::Read;

use super::binary::{Binary, Encoding, Kind, check_shape};
use super::input::Input;
use super::{FileError, RowReader};

/// Maximum number of dimensions; images have three.
const DIMENSIONS_MAX: usize = 8;

/// Whether bytes begin like IDX: two zeros, a number type, a number of dimensions.
pub(super) fn is_magic(first: &[u8]) -> bool {
    matches!(first, [0, 0, 0x08 | 0x09 | 0x0b..=0x0e, dimensions, ..] if (1..=DIMENSIONS_MAX).contains(&usize::from(*dimensions)))
}

pub(super) fn open(mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let Input { path, stream, .. } = &mut input;
    let mut read = || -> Result<[u8; 4], FileError> {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).map_err(FileError::short(path, "its header"))?;
        Ok(bytes)
    };
    let magic = read()?;
    let kind = match magic {
        [0, 0, 0x08, _] => Kind::U8,
        [0, 0, 0x09, _] => Kind::I8,
        [0, 0, 0x0b, _] => Kind::I16,
        [0, 0, 0x0c, _] => Kind::I32,
        [0, 0, 0x0d, _] => Kind::F32,
        [0, 0, 0x0e, _] => Kind::F64,
        _ => {
            let got = format!("it begins with {magic:02x?}");
            return Err(FileError::content(path, got, "the magic number of an IDX file"));
        }
    };
    let dimensions = usize::from(magic[3]);
    if dimensions == 1 {
        return Err(FileError::content(path, "it has one dimension", "rows: this looks like a file of labels"));
    }
    if !(2..=DIMENSIONS_MAX).contains(&dimensions) {
        let got = format!("it has {dimensions} dimensions");
        return Err(FileError::content(path, got, format!("2 to {DIMENSIONS_MAX}")));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(u64::from(u32::from_be_bytes(read()?)));
    }
    let columns = sizes[1..].iter().try_fold(1u64, |product, size| product.checked_mul(*size)).unwrap_or(u64::MAX);
    let columns = check_shape(path, sizes[0], columns)?;
    Ok(Box::new(Binary::new(input, Encoding { kind, big_endian: true }, columns, sizes[0])))
}
