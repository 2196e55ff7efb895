//! The number formats of matrices, and values in them.

use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};

use crate::model::Autoencoder;

/// The format of a matrix: how each number is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Little-endian binary32.
    Float32Le,
    /// Plain 32-bit numbers.
    Floats,
    /// Little-endian binary64.
    Float64Le,
    /// Little-endian binary16.
    Float16Le,
    /// Little-endian bfloat16: the upper half of a binary32.
    Bfloat16Le,
    /// Unsigned integers from 0 to 255.
    Uint8,
    /// Signed integers from -128 to 127.
    Int8,
}

impl Form {
    /// Bytes of a number in memory.
    pub fn number_bytes(self) -> usize {
        match self {
            Self::Float32Le | Self::Floats => 4,
            Self::Float64Le => 8,
            Self::Float16Le | Self::Bfloat16Le => 2,
            Self::Uint8 | Self::Int8 => 1,
        }
    }

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32Le => "float32_le",
            Self::Floats => "floats",
            Self::Float64Le => "float64_le",
            Self::Float16Le => "float16_le",
            Self::Bfloat16Le => "bfloat16_le",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
        }
    }

    /// Whether the numbers have more digits than binary32.
    pub fn is_wide(self) -> bool {
        self == Self::Float64Le
    }
}

/// The number format that a caller requests for the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerFormat {
    /// The format of the request, but binary32 for integers: codes and rows do not fit 8 bits.
    #[default]
    AsRequest,
    /// This form.
    Form(Form),
    /// Binary64 if the version was trained on 64-bit rows, else binary32.
    AsTrained,
}

impl AnswerFormat {
    /// The format of the response to a request of a given format.
    pub fn form(self, request: Form, model: &Autoencoder) -> Form {
        match self {
            Self::AsRequest => match request {
                Form::Uint8 | Form::Int8 => Form::Float32Le,
                other => other,
            },
            Self::Form(form) => form,
            Self::AsTrained if model.normalizer().is_wide() => Form::Float64Le,
            Self::AsTrained => Form::Float32Le,
        }
    }
}

/// Row-major values in one of the formats of the API. Bytes share the receive buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Little-endian binary32.
    Float32Le(Bytes),
    /// Plain numbers.
    Floats(Vec<f32>),
    /// Little-endian binary64.
    Float64Le(Bytes),
    /// Little-endian binary16.
    Float16Le(Bytes),
    /// Little-endian bfloat16.
    Bfloat16Le(Bytes),
    /// Unsigned bytes.
    Uint8(Bytes),
    /// Signed bytes.
    Int8(Bytes),
}

impl Values {
    /// Encodes numbers as binary64.
    pub fn from_f64(values: &[f64]) -> Self {
        Self::Float64Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// Encodes numbers as binary32.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    /// The format of the values.
    pub fn form(&self) -> Form {
        match self {
            Self::Float32Le(_) => Form::Float32Le,
            Self::Floats(_) => Form::Floats,
            Self::Float64Le(_) => Form::Float64Le,
            Self::Float16Le(_) => Form::Float16Le,
            Self::Bfloat16Le(_) => Form::Bfloat16Le,
            Self::Uint8(_) => Form::Uint8,
            Self::Int8(_) => Form::Int8,
        }
    }

    /// All values, each exactly.
    pub fn to_f64(&self) -> Vec<f64> {
        let mut values = Vec::new();
        self.widen(0..usize::MAX, &mut values);
        values
    }

    /// All values as binary32: exact, except that binary64 is rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Floats(values) => values.clone(),
            other => other.to_f64().into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Appends the numbers of `range`, as far as they exist, to `out`.
    pub(super) fn widen(&self, range: Range<usize>, out: &mut Vec<f64>) {
        fn add<const N: usize>(bytes: &[u8], range: Range<usize>, out: &mut Vec<f64>, value: impl Fn([u8; N]) -> f64) {
            let numbers = bytes.as_chunks::<N>().0;
            let numbers = &numbers[range.start.min(numbers.len())..range.end.min(numbers.len())];
            out.extend(numbers.iter().map(|number| value(*number)));
        }
        match self {
            Self::Float32Le(bytes) => add(bytes, range, out, |number| f64::from(f32::from_le_bytes(number))),
            Self::Floats(values) => {
                let values = &values[range.start.min(values.len())..range.end.min(values.len())];
                out.extend(values.iter().copied().map(f64::from));
            }
            Self::Float64Le(bytes) => add(bytes, range, out, f64::from_le_bytes),
            Self::Float16Le(bytes) => add(bytes, range, out, |number| f16::from_le_bytes(number).to_f64()),
            Self::Bfloat16Le(bytes) => add(bytes, range, out, |number| bf16::from_le_bytes(number).to_f64()),
            Self::Uint8(bytes) => add(bytes, range, out, |[number]| f64::from(number)),
            Self::Int8(bytes) => add(bytes, range, out, |number| f64::from(i8::from_le_bytes(number))),
        }
    }
}
