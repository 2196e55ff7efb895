//! Tensors of the protocol to matrices, and back.

use bytes::Bytes;
use half::{bf16, f16};

use crate::rpc::pb::inference::model_infer_request::InferInputTensor;
use crate::rpc::pb::inference::model_infer_response::InferOutputTensor;
use crate::rpc::pb::inference::{InferTensorContents, ModelInferRequest};
use crate::service::{Matrix, ServiceError, Values};

/// Types that are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datatype {
    Fp16,
    Bf16,
    Fp32,
    Fp64,
}

impl Datatype {
    fn parse(text: &str) -> Result<Self, ServiceError> {
        match text {
            "FP16" => Ok(Self::Fp16),
            "BF16" => Ok(Self::Bf16),
            "FP32" => Ok(Self::Fp32),
            "FP64" => Ok(Self::Fp64),
            other => {
                let shown: String = other.chars().take(40).collect();
                let message = format!("is {shown:?}, expected FP32, FP64, FP16 or BF16");
                Err(ServiceError::invalid("inputs.datatype", message))
            }
        }
    }

    /// Of a number.
    fn bytes(self) -> u64 {
        match self {
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 => 4,
            Self::Fp64 => 8,
        }
    }

    /// Numbers from little-endian bytes, as many as are whole; FP32 shares them.
    fn values(self, raw: Bytes) -> Values {
        match self {
            Self::Fp32 => Values::Float32Le(raw),
            Self::Fp16 => Values::Floats(numbers(&raw, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Self::Bf16 => Values::Floats(numbers(&raw, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            Self::Fp64 => Values::Floats(numbers(&raw, |bytes| f64::from_le_bytes(bytes) as f32)),
        }
    }
}

fn numbers<const N: usize>(raw: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    raw.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// The one tensor of a question, which is called `name`.
pub(super) fn matrix(question: &mut ModelInferRequest, name: &str) -> Result<Matrix, ServiceError> {
    let raw = std::mem::take(&mut question.raw_input_contents);
    let [input] = &mut question.inputs[..] else {
        let message = format!("has {} tensors, expected one, {name}", question.inputs.len());
        return Err(ServiceError::invalid("inputs", message));
    };
    if input.name != name {
        let shown: String = input.name.chars().take(80).collect();
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
            let message = "is set beside the contents of an input, expected one of them";
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
    let InferTensorContents { fp32_contents, fp64_contents, .. } = contents;
    match datatype {
        Datatype::Fp32 => Ok(Values::Floats(fp32_contents)),
        Datatype::Fp64 => Ok(Values::Floats(fp64_contents.into_iter().map(|value| value as f32).collect())),
        Datatype::Fp16 | Datatype::Bf16 => {
            let message = "are set, which has no type for 16 bits: send them raw";
            Err(ServiceError::invalid("inputs.contents", message))
        }
    }
}

/// A size as the protocol has it.
pub(super) fn dimension(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A tensor of an answer and its raw values.
pub(super) fn output(name: &str, matrix: Matrix) -> (InferOutputTensor, Bytes) {
    let shape = vec![dimension(matrix.rows()), dimension(matrix.columns())];
    (tensor(name, shape), raw(matrix.into_values()))
}

/// The same of one number for each row.
pub(super) fn column(name: &str, values: Vec<f32>) -> (InferOutputTensor, Bytes) {
    (tensor(name, vec![dimension(values.len()), 1]), raw(Values::Floats(values)))
}

fn tensor(name: &str, shape: Vec<i64>) -> InferOutputTensor {
    InferOutputTensor { name: name.to_owned(), datatype: "FP32".to_owned(), shape, ..InferOutputTensor::default() }
}

fn raw(values: Values) -> Bytes {
    match values {
        Values::Float32Le(bytes) => bytes,
        Values::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}
