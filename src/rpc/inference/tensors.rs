//! Conversions between tensors of the protocol and matrices.

use std::fmt::Display;

use crate::rpc::pb::inference::infer_parameter::ParameterChoice;
use crate::rpc::pb::inference::model_infer_request::InferInputTensor;
use crate::rpc::pb::inference::model_infer_response::InferOutputTensor;
use crate::rpc::pb::inference::{InferTensorContents, ModelInferRequest};
use crate::service::{AnswerFormat, Form, Matrix, ServiceError, Values, shown};
use bytes::Bytes;

/// The output with the squared error of each row. Always FP32.
pub(super) const ERROR: &str = "ERROR";

/// Data types of input tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datatype {
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Uint8,
    Int8,
}

impl Datatype {
    fn parse(text: &str) -> Result<Self, ServiceError> {
        match text {
            "FP16" => Ok(Self::Fp16),
            "BF16" => Ok(Self::Bf16),
            "FP32" => Ok(Self::Fp32),
            "FP64" => Ok(Self::Fp64),
            "UINT8" => Ok(Self::Uint8),
            "INT8" => Ok(Self::Int8),
            other => {
                let shown = shown(other);
                let message = format!("is {shown:?}, expected FP32, FP64, FP16, BF16, UINT8 or INT8");
                Err(ServiceError::invalid("inputs.datatype", message))
            }
        }
    }

    /// Bytes per number.
    fn bytes(self) -> u64 {
        match self {
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 => 4,
            Self::Fp64 => 8,
            Self::Uint8 | Self::Int8 => 1,
        }
    }

    /// Values from little-endian bytes, without a copy.
    fn values(self, raw: Bytes) -> Values {
        match self {
            Self::Fp32 => Values::Float32Le(raw),
            Self::Fp16 => Values::Float16Le(raw),
            Self::Bf16 => Values::Bfloat16Le(raw),
            Self::Fp64 => Values::Float64Le(raw),
            Self::Uint8 => Values::Uint8(raw),
            Self::Int8 => Values::Int8(raw),
        }
    }
}

/// The form of the response's matrix: FP32, unless a requested output has the parameter `datatype`.
pub(super) fn answer_format(question: &ModelInferRequest) -> Result<AnswerFormat, ServiceError> {
    let asked = question.outputs.iter().filter(|output| output.name != ERROR).find_map(|output| {
        let parameter = output.parameters.get("datatype")?;
        Some(parameter.parameter_choice.clone())
    });
    let form = match asked {
        None => Form::Float32Le,
        Some(Some(ParameterChoice::StringParam(text))) => match text.as_str() {
            "FP16" => Form::Float16Le,
            "BF16" => Form::Bfloat16Le,
            "FP32" => Form::Float32Le,
            "FP64" => Form::Float64Le,
            other => {
                let shown = shown(other);
                let message = format!("`datatype` is {shown:?}, expected FP32, FP64, FP16 or BF16");
                return Err(ServiceError::invalid("outputs.parameters", message));
            }
        },
        Some(_) => {
            return Err(ServiceError::invalid("outputs.parameters", "`datatype` is not a string, expected one"));
        }
    };
    Ok(AnswerFormat::Form(form))
}

/// The only tensor of a request, which must have the name `name`.
pub(super) fn matrix(question: &mut ModelInferRequest, name: &str) -> Result<Matrix, ServiceError> {
    let raw = std::mem::take(&mut question.raw_input_contents);
    let [input] = &mut question.inputs[..] else {
        let message = format!("has {} tensors, expected one, {name}", question.inputs.len());
        return Err(ServiceError::invalid("inputs", message));
    };
    if input.name != name {
        let shown = shown(&input.name);
        return Err(ServiceError::invalid("inputs.name", format!("is {shown:?}, expected {name}")));
    }
    let datatype = Datatype::parse(&input.datatype)?;
    let (rows, columns) = shape(input)?;
    let values = match (input.contents.take(), raw.len()) {
        (None, 1) => {
            let raw = raw.into_iter().next().unwrap_or_default();
            let expected = u128::from(rows) * u128::from(columns) * u128::from(datatype.bytes());
            if raw.len() as u128 != expected {
                let message = format!("has {} bytes, expected {expected} for {rows} x {columns}", raw.len());
                return Err(ServiceError::invalid("raw_input_contents", message));
            }
            datatype.values(raw)
        }
        (Some(contents), 0) => typed(contents, datatype)?,
        (Some(_), _) => {
            let message = "is set together with the contents of an input, expected one of them";
            return Err(ServiceError::invalid("raw_input_contents", message));
        }
        (None, count) => {
            let message = format!("has {count} entries, expected one for the one input");
            return Err(ServiceError::invalid("raw_input_contents", message));
        }
    };
    Matrix::new(rows, columns, values).map_err(|error| ServiceError::invalid("inputs.contents", error))
}

fn shape(input: &InferInputTensor) -> Result<(u32, u32), ServiceError> {
    let wrong = |got: String| {
        Err(ServiceError::invalid("inputs.shape", format!("is {got}, expected rows and columns, both at least 1")))
    };
    match input.shape[..] {
        [rows, columns] => match (u32::try_from(rows), u32::try_from(columns)) {
            (Ok(rows @ 1..), Ok(columns @ 1..)) => Ok((rows, columns)),
            _ => wrong(format!("{rows} x {columns}")),
        },
        _ => wrong(format!("of {} dimensions", input.shape.len())),
    }
}

fn typed(contents: InferTensorContents, datatype: Datatype) -> Result<Values, ServiceError> {
    let InferTensorContents { fp32_contents, fp64_contents, uint_contents, int_contents, .. } = contents;
    match datatype {
        Datatype::Fp32 => Ok(Values::Floats(fp32_contents)),
        Datatype::Fp64 => Ok(Values::from_f64(&fp64_contents)),
        Datatype::Uint8 => Ok(Values::Uint8(eight_bits(uint_contents, u8::to_le_bytes)?)),
        Datatype::Int8 => Ok(Values::Int8(eight_bits(int_contents, i8::to_le_bytes)?)),
        Datatype::Fp16 | Datatype::Bf16 => {
            let message = "have no type for 16 bits: send raw values";
            Err(ServiceError::invalid("inputs.contents", message))
        }
    }
}

/// Narrows 32-bit integers to 8 bits.
fn eight_bits<T: Copy + Display, N: TryFrom<T>>(
    numbers: Vec<T>,
    bytes: fn(N) -> [u8; 1],
) -> Result<Bytes, ServiceError> {
    let narrow = |number: T| {
        let refused = || ServiceError::invalid("inputs.contents", format!("has {number}, expected 8-bit integers"));
        N::try_from(number).map(|number| bytes(number)[0]).map_err(|_| refused())
    };
    Ok(numbers.into_iter().map(narrow).collect::<Result<Vec<u8>, _>>()?.into())
}

/// A dimension as the protocol's type.
pub(super) fn dimension(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// An output tensor and its raw values.
pub(super) fn output(name: &str, matrix: Matrix) -> (InferOutputTensor, Bytes) {
    let shape = vec![dimension(matrix.rows()), dimension(matrix.columns())];
    let (datatype, raw) = match matrix.into_values() {
        Values::Float32Le(bytes) => ("FP32", bytes),
        Values::Floats(values) => {
            ("FP32", values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
        }
        Values::Float64Le(bytes) => ("FP64", bytes),
        Values::Float16Le(bytes) => ("FP16", bytes),
        Values::Bfloat16Le(bytes) => ("BF16", bytes),
        Values::Uint8(bytes) => ("UINT8", bytes),
        Values::Int8(bytes) => ("INT8", bytes),
    };
    (tensor(name, datatype, shape), raw)
}

/// An output tensor with one number per row, and its raw values.
pub(super) fn column(name: &str, values: &[f32]) -> (InferOutputTensor, Bytes) {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (tensor(name, "FP32", vec![dimension(values.len()), 1]), raw.into())
}

fn tensor(name: &str, datatype: &str, shape: Vec<i64>) -> InferOutputTensor {
    InferOutputTensor { name: name.to_owned(), datatype: datatype.to_owned(), shape, ..InferOutputTensor::default() }
}
