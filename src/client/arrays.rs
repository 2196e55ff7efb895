//! Copies between arrays and matrices of the API.

use bytes::{BufMut, BytesMut};
use ndarray::{Array2, ArrayView2};

use super::ClientError;
use crate::pb;

/// Rows (n, d) of any layout as binary32. This is the only copy.
pub(super) fn matrix(rows: ArrayView2<'_, f32>) -> pb::Matrix {
    let mut bytes = BytesMut::with_capacity(4 * rows.len());
    rows.iter().for_each(|value| bytes.put_f32_le(*value));
    pb::Matrix {
        rows: rows.nrows() as u32,
        columns: rows.ncols() as u32,
        values: Some(pb::matrix::Values::Float32Le(bytes.freeze())),
        ..Default::default()
    }
}

/// Appends the rows of a response, row-major, to `values`. Returns their number of columns.
pub(super) fn append(matrix: Option<pb::Matrix>, values: &mut Vec<f32>) -> Result<usize, ClientError> {
    let Some(pb::Matrix { columns, values: Some(numbers), .. }) = matrix else {
        return Err(invalid("it has no matrix"));
    };
    match numbers {
        pb::matrix::Values::Float32Le(bytes) => {
            let (numbers, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(invalid("its matrix does not have whole numbers"));
            }
            values.extend(numbers.iter().map(|number| f32::from_le_bytes(*number)));
        }
        pb::matrix::Values::Floats(list) => values.extend(list.values),
        pb::matrix::Values::Float64Le(_)
        | pb::matrix::Values::Float16Le(_)
        | pb::matrix::Values::Bfloat16Le(_)
        | pb::matrix::Values::Uint8(_)
        | pb::matrix::Values::Int8(_) => return Err(invalid("its matrix has another form than the requested one")),
    }
    Ok(columns as usize)
}

/// An array (n, `columns`) of row-major values.
pub(super) fn array(rows: usize, columns: usize, values: Vec<f32>) -> Result<Array2<f32>, ClientError> {
    Array2::from_shape_vec((rows, columns), values).map_err(|error| invalid(&error.to_string()))
}

/// The array of one response.
pub(super) fn of_matrix(matrix: Option<pb::Matrix>) -> Result<Array2<f32>, ClientError> {
    let (rows, mut values) = (matrix.as_ref().map_or(0, |matrix| matrix.rows as usize), Vec::new());
    let columns = append(matrix, &mut values)?;
    array(rows, columns, values)
}

/// The values of a response with one number per row, checked.
pub(super) fn per_row<T>(rows: usize, values: Vec<T>) -> Result<ndarray::Array1<T>, ClientError> {
    if values.len() == rows { Ok(values.into()) } else { Err(invalid("it does not have one value per row")) }
}

fn invalid(what: &str) -> ClientError {
    ClientError::Failed(format!("the server's response is invalid: {what}"))
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn views_of_any_layout_become_the_same_matrix() {
        let rows = arr2(&[[1.0, 2.0, f32::NAN], [4.0, 5.0, 6.0]]);
        let sent = matrix(rows.view());
        let transposed = rows.t().as_standard_layout().into_owned();
        assert_eq!(matrix(transposed.t()), sent);
        assert_eq!((sent.rows, sent.columns), (2, 3));
        let mut values = Vec::new();
        assert_eq!(append(Some(sent), &mut values).expect("a matrix"), 3);
        let back = array(2, 3, values).expect("an array");
        assert!(back.iter().zip(&rows).all(|(back, sent)| back.to_bits() == sent.to_bits()));
    }

    #[test]
    fn responses_with_wrong_lengths_are_refused() {
        let broken = pb::Matrix {
            rows: 1,
            columns: 1,
            values: Some(pb::matrix::Values::Float32Le(vec![0; 3].into())),
            ..Default::default()
        };
        assert!(append(Some(broken), &mut Vec::new()).is_err());
        assert!(append(None, &mut Vec::new()).is_err());
        assert!(array(2, 2, vec![0.0; 3]).is_err());
        assert!(per_row(2, vec![0.0]).is_err());
    }
}
