//! The format of MNIST (its description is on the page of the data set): big-endian, a number of dimensions; the first
//! counts rows, the others are flattened.

use std::io::Read;

use super::{Binary, FileError, Input, Kind, RowReader, check_shape, content};

/// Images have three dimensions; nobody needs more than this.
const DIMENSIONS_MAX: usize = 8;

pub(super) fn open(path: &str, mut input: Input) -> Result<Box<dyn RowReader>, FileError> {
    let short = |source| FileError::Io { path: path.to_owned(), source };
    let mut magic = [0; 4];
    input.read_exact(&mut magic).map_err(short)?;
    let kind = match magic {
        [0, 0, 0x08, _] => Kind::U8,
        [0, 0, 0x09, _] => Kind::I8,
        [0, 0, 0x0b, _] => Kind::I16,
        [0, 0, 0x0c, _] => Kind::I32,
        [0, 0, 0x0d, _] => Kind::F32,
        [0, 0, 0x0e, _] => Kind::F64,
        _ => {
            return Err(content(
                path,
                format!("it begins with {magic:02x?}, expected the magic number of an IDX file"),
            ));
        }
    };
    let dimensions = usize::from(magic[3]);
    if dimensions == 1 {
        return Err(content(path, "it has one dimension, expected rows: this looks like a file of labels"));
    }
    if !(2..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(content(path, format!("it has {dimensions} dimensions, expected 2 to {DIMENSIONS_MAX}")));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        let mut size = [0; 4];
        input.read_exact(&mut size).map_err(short)?;
        sizes.push(u64::from(u32::from_be_bytes(size)));
    }
    let columns = sizes[1..].iter().try_fold(1u64, |product, size| product.checked_mul(*size)).unwrap_or(u64::MAX);
    let columns = check_shape(path, sizes[0], columns)?;
    Ok(Box::new(Binary { path: path.to_owned(), input, kind, big_endian: true, columns, rows: sizes[0], rows_read: 0 }))
}
