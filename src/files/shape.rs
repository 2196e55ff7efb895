//! Shapes of arrays, and how arrays with more than two dimensions become rows.

use super::FileError;

/// The shape as Python prints it.
pub(super) fn shown(shape: &[u64]) -> String {
    match shape {
        [only] => format!("({only},)"),
        _ => format!("({})", shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Number of rows and columns: the first dimension counts rows, the others are flattened. Adds a note if there are
/// several others.
pub(super) fn rows_and_columns(path: &str, shape: &[u64], notes: &mut Vec<String>) -> Result<(u64, u64), FileError> {
    match shape {
        [] => Err(FileError::content(path, "it is a single number (shape ())", "rows and columns")),
        [count] => {
            let got = format!("it is one row of numbers (shape ({count},))");
            let expected =
                "two dimensions: save it with reshape(-1, 1) for one column, or reshape(-1, d) for d columns";
            Err(FileError::content(path, got, expected))
        }
        [rows, columns] => Ok((*rows, *columns)),
        [rows, others @ ..] => {
            let columns = others.iter().try_fold(1u64, |product, size| product.checked_mul(*size)).unwrap_or(u64::MAX);
            notes.push(format!(
                "its shape {} is read as {rows} rows of {columns} numbers: all dimensions but the first are flattened",
                shown(shape)
            ));
            Ok((*rows, columns))
        }
    }
}

/// For each row-major position in a flattened row of shape `others`, its position in column-major order.
pub(super) fn column_major_places(others: &[u64]) -> Vec<u32> {
    let count: u64 = others.iter().product();
    let mut strides = Vec::with_capacity(others.len());
    let mut stride = 1;
    for size in others {
        strides.push(stride);
        stride *= size;
    }
    let place = |mut index: u64| {
        let mut sum = 0;
        for (size, stride) in others.iter().zip(&strides).rev() {
            sum += index % size * stride;
            index /= size;
        }
        // Fits: there are at most 65,536 columns.
        sum as u32
    };
    (0..count).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_major_arrays_have_the_expected_places() {
        // (2, 3): row-major (i, j) = 3 i + j is at i + 2 j.
        assert_eq!(column_major_places(&[2, 3]), [0, 2, 4, 1, 3, 5]);
        assert_eq!(column_major_places(&[5]), [0, 1, 2, 3, 4]);
        // (2, 2, 2): (i, j, k) is at i + 2 j + 4 k.
        assert_eq!(column_major_places(&[2, 2, 2]), [0, 4, 2, 6, 1, 5, 3, 7]);
    }
}
