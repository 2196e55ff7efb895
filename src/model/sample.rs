//! The validation sample: held-out rows that a version keeps beside its model, if the training request asks for it. It
//! has a file of its own.
//!
//! The file is a safetensors file with one tensor, `rows` (n, `d_0`), in the units of the input, NaN where a value is
//! missing. The type is F32 or, if F32 would lose digits, F64. `__metadata__` has the SHA-256 of the data as `sha256`.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::artifact::hexadecimal;
use super::matrix::{Matrix, Values};

/// Largest number of rows of a sample.
pub const SAMPLE_ROWS_MAX: u32 = 4096;
/// Largest size of the values, in bytes.
pub const SAMPLE_BYTES_MAX: usize = 16 << 20;
/// Largest size of the file, in bytes: the values, and room for a header.
pub const SAMPLE_FILE_BYTES_MAX: u64 = SAMPLE_BYTES_MAX as u64 + 4096;

const ROWS: &str = "rows";
const SHA256: &str = "sha256";

/// Why a sample file is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the validation sample is damaged: {0}")]
pub struct SampleError(String);

/// The number of rows, at most `rows_max`, that a sample has room for, with `features` numbers each; 64-bit numbers if
/// `is_wide`.
pub fn affordable(rows_max: u32, features: usize, is_wide: bool) -> usize {
    let number_bytes = if is_wide { 8 } else { 4 };
    (rows_max.min(SAMPLE_ROWS_MAX) as usize).min(SAMPLE_BYTES_MAX / (number_bytes * features))
}

/// Encodes rows (row-major) as a sample file.
///
/// # Panics
/// If `rows` is not a whole number of rows.
pub fn to_bytes(rows: &[f64], features: usize) -> Vec<u8> {
    assert!(rows.len().is_multiple_of(features), "whole rows");
    let is_narrow = rows.iter().all(|value| value.is_nan() || f64::from(*value as f32).to_bits() == value.to_bits());
    let (dtype, data): (_, Vec<u8>) = if is_narrow {
        (Dtype::F32, rows.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect())
    } else {
        (Dtype::F64, rows.iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    let metadata = HashMap::from([(SHA256.to_owned(), checksum(&data))]);
    let view = TensorView::new(dtype, vec![rows.len() / features, features], &data).expect("as many bytes as that");
    safetensors::serialize([(ROWS, view)], Some(metadata)).expect("one tensor")
}

/// Reads the rows of a sample file. They must be as wide as the model's input.
///
/// # Errors
/// If the file is damaged, or its rows have another type or width.
pub fn from_bytes(bytes: &[u8], features: usize) -> Result<Matrix, SampleError> {
    let refused = |reason: String| SampleError(reason);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| refused(error.to_string()))?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| refused(error.to_string()))?;
    let rows = file.tensor(ROWS).map_err(|error| refused(error.to_string()))?;
    let expected = header.metadata().as_ref().and_then(|metadata| metadata.get(SHA256));
    if expected.is_none_or(|expected| *expected != checksum(rows.data())) {
        return Err(refused("its checksum does not match its rows".to_owned()));
    }
    let (dtype, shape) = (rows.dtype(), rows.shape());
    let count = match *shape {
        [count, columns] if matches!(dtype, Dtype::F32 | Dtype::F64) && columns == features => {
            u32::try_from(count).unwrap_or(0)
        }
        _ => {
            return Err(refused(format!(
                "its rows are {dtype:?} of shape {shape:?}, expected F32 or F64 of {features} columns"
            )));
        }
    };
    let data = rows.data().to_vec().into();
    let values = if dtype == Dtype::F64 { Values::Float64Le(data) } else { Values::Float32Le(data) };
    Matrix::new(count, features as u32, values).map_err(|error| refused(error.to_string()))
}

fn checksum(data: &[u8]) -> String {
    hexadecimal(&Sha256::digest(data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_survive_a_round_trip_and_other_widths_are_refused() {
        let rows = [1.0, f32::NAN, 3.0, -4.0, 0.0, 6.5];
        let bytes = to_bytes(&rows.map(f64::from), 3);
        let read = from_bytes(&bytes, 3).expect("valid");
        assert_eq!((read.rows(), read.columns()), (2, 3));
        let Values::Float32Le(values) = read.values() else { panic!("little-endian bytes") };
        let expected: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(values[..], expected[..]);
        let error = from_bytes(&bytes, 2).expect_err("refused").to_string();
        assert!(error.contains("of shape [2, 3]") && error.contains("2 columns"), "{error}");
    }

    #[test]
    fn rows_of_64_bits_keep_their_digits() {
        let rows = [1_700_000_001.0, 0.1, f64::NAN, 1e12 + 1.0];
        let read = from_bytes(&to_bytes(&rows, 2), 2).expect("valid");
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read.values().to_f64()), bits(&rows));
    }

    #[test]
    fn a_sample_is_bounded_by_rows_and_by_bytes() {
        assert_eq!(affordable(100, 784, false), 100);
        assert_eq!(affordable(u32::MAX, 10, true), 4096);
        assert_eq!(affordable(4096, 65_536, false), 64);
        assert_eq!(affordable(4096, 65_536, true), 32);
    }

    proptest! {
        #[test]
        fn damage_is_found(at in 0_usize..200, bit in 0_u8..8, cut in 0_usize..200) {
            let bytes = to_bytes(&(0..12).map(f64::from).collect::<Vec<_>>(), 4);
            let mut flipped = bytes.clone();
            let at = at % bytes.len();
            flipped[at] ^= 1 << bit;
            // Damage to the name of the checksum key or to white space has no effect.
            if let Ok(read) = from_bytes(&flipped, 4) {
                prop_assert_eq!(read, from_bytes(&bytes, 4).expect("valid"));
            }
            prop_assert!(from_bytes(&bytes[..cut.min(bytes.len() - 1)], 4).is_err());
        }
    }
}
