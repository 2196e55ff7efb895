//! Matrices of requests and responses, and their number formats.

use super::unknown_enum;
use crate::pb;
use crate::service::{AnswerFormat, Form, Matrix, NamedRows, ServiceError, Values};

/// Converts the matrix in `field`, and checks its shape against its length.
pub fn matrix(field: &'static str, matrix: Option<pb::Matrix>) -> Result<Matrix, ServiceError> {
    let matrix = matrix.ok_or_else(|| ServiceError::invalid(field, "is not set, expected a matrix"))?;
    let values = match matrix.values {
        Some(pb::matrix::Values::Float32Le(bytes)) => Values::Float32Le(bytes),
        Some(pb::matrix::Values::Floats(list)) => Values::Floats(list.values),
        Some(pb::matrix::Values::Float64Le(bytes)) => Values::Float64Le(bytes),
        Some(pb::matrix::Values::Float16Le(bytes)) => Values::Float16Le(bytes),
        Some(pb::matrix::Values::Bfloat16Le(bytes)) => Values::Bfloat16Le(bytes),
        Some(pb::matrix::Values::Uint8(bytes)) => Values::Uint8(bytes),
        Some(pb::matrix::Values::Int8(bytes)) => Values::Int8(bytes),
        None => Values::Floats(Vec::new()),
    };
    Matrix::new(matrix.rows, matrix.columns, values).map_err(|error| ServiceError::invalid(field, error))
}

/// Converts the matrix in `field` with its column names.
pub fn named_rows(field: &'static str, matrix: Option<pb::Matrix>) -> Result<NamedRows, ServiceError> {
    let mut matrix = matrix;
    let names = matrix.as_mut().map_or(Vec::new(), |matrix| std::mem::take(&mut matrix.column_names));
    NamedRows::new(field, self::matrix(field, matrix)?, names)
}

/// Converts the requested form of the response.
pub fn answer_format(number: i32) -> Result<AnswerFormat, ServiceError> {
    match pb::AnswerFormat::try_from(number).map_err(|_| unknown_enum("answer_format", number))? {
        pb::AnswerFormat::Unspecified => Ok(AnswerFormat::AsRequest),
        pb::AnswerFormat::Float32Le => Ok(AnswerFormat::Form(Form::Float32Le)),
        pb::AnswerFormat::Floats => Ok(AnswerFormat::Form(Form::Floats)),
        pb::AnswerFormat::Float64Le => Ok(AnswerFormat::Form(Form::Float64Le)),
        pb::AnswerFormat::Float16Le => Ok(AnswerFormat::Form(Form::Float16Le)),
        pb::AnswerFormat::Bfloat16Le => Ok(AnswerFormat::Form(Form::Bfloat16Le)),
        pb::AnswerFormat::AsTrained => Ok(AnswerFormat::AsTrained),
    }
}

/// Converts a matrix into a response, in its own form.
pub fn matrix_answer(matrix: Matrix) -> pb::Matrix {
    // Results have as many rows as the request and as many columns as a layer: rows came as u32, and widths are
    // limited.
    let (rows, columns) = (matrix.rows() as u32, matrix.columns() as u32);
    let values = match matrix.into_values() {
        Values::Float32Le(bytes) => pb::matrix::Values::Float32Le(bytes),
        Values::Floats(values) => pb::matrix::Values::Floats(pb::FloatList { values }),
        Values::Float64Le(bytes) => pb::matrix::Values::Float64Le(bytes),
        Values::Float16Le(bytes) => pb::matrix::Values::Float16Le(bytes),
        Values::Bfloat16Le(bytes) => pb::matrix::Values::Bfloat16Le(bytes),
        Values::Uint8(bytes) => pb::matrix::Values::Uint8(bytes),
        Values::Int8(bytes) => pb::matrix::Values::Int8(bytes),
    };
    pb::Matrix { rows, columns, values: Some(values), ..pb::Matrix::default() }
}
