//! Errors of reading a model file.

use super::format_version::FORMAT_VERSION;
use crate::model::SpecError;
use crate::text::shown;

/// Why a model file is rejected. Every variant names what was expected and what was found.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArtifactError {
    /// The file is shorter than its header and tensors.
    #[error("the file is truncated: it has {got} bytes, expected {expected}")]
    Truncated {
        /// Bytes of the file.
        got: u64,
        /// Bytes that the file should have; a lower bound if the header is incomplete.
        expected: u64,
    },
    /// The file is longer than its header and tensors.
    #[error("the file has {got} bytes, expected {expected}: something was appended")]
    TrailingBytes {
        /// Bytes of the file.
        got: u64,
        /// Bytes that the file should have.
        expected: u64,
    },
    /// The header is larger than any model needs; usually the file is not a safetensors file.
    #[error("the header claims {got} bytes, expected at most {max}: is this a safetensors file?")]
    HeaderLength {
        /// Header length in bytes, as the first 8 bytes declare it.
        got: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// The header is not valid safetensors JSON.
    #[error("the header is not valid: {reason}")]
    Header {
        /// What is wrong.
        reason: String,
    },
    /// The offsets of the tensors are not valid.
    #[error("the tensors' offsets in the file are not valid: {reason}")]
    Layout {
        /// What is wrong.
        reason: String,
    },
    /// The file has no specification.
    #[error(
        "the file has no metadata key \"halfhitch\": add `__metadata__` with \"halfhitch\" and JSON such as {EXAMPLE}"
    )]
    NoMetadata,
    /// The value of the metadata key is not the JSON of this format.
    #[error("the metadata \"halfhitch\" is not valid: {reason}; expected JSON such as {EXAMPLE}")]
    Metadata {
        /// What is wrong.
        reason: String,
    },
    /// The format version is unknown: a later halfhitch wrote the file, or the value is wrong or missing.
    #[error("the format version is {got}, expected {FORMAT_VERSION}")]
    FormatVersion {
        /// The version in the file.
        got: String,
    },
    /// The specification is inconsistent.
    #[error("the specification is not valid: {0}")]
    Spec(#[from] SpecError),
    /// A file of the store has no checksum.
    #[error("the file has no checksum, expected \"sha256\" in the metadata: import it first")]
    NoChecksum,
    /// The checksum does not match the bytes.
    #[error("the file is damaged: its SHA-256 is {got}, expected {expected}")]
    Checksum {
        /// SHA-256 of the bytes of the file.
        got: String,
        /// SHA-256 recorded in the file.
        expected: String,
    },
    /// The header has the right content in a form that halfhitch does not write.
    #[error("the header was altered: {what}, expected the exact form that halfhitch writes")]
    NotCanonical {
        /// What differs.
        what: &'static str,
    },
    /// A tensor that the specification requires is missing.
    #[error("tensor {name} is missing, expected shape {expected:?}")]
    MissingTensor {
        /// Name of the tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// The file has a tensor that is not part of the specification.
    #[error("tensor {name:?} is not part of the specification, expected {expected}")]
    UnexpectedTensor {
        /// Name of the tensor, cut to a printable length.
        name: String,
        /// The expected names.
        expected: String,
    },
    /// A tensor is not of 32-bit floats.
    #[error("tensor {name} has type {got}, expected F32")]
    TensorType {
        /// Name of the tensor.
        name: String,
        /// Its type, cut to a printable length.
        got: String,
    },
    /// A tensor has another shape than the specification requires.
    #[error("tensor {name} has shape {}, expected {expected:?}", shown(&format!("{got:?}")))]
    TensorShape {
        /// Name of the tensor.
        name: String,
        /// Its shape in the file.
        got: Vec<usize>,
        /// The shape that the widths require.
        expected: Vec<usize>,
    },
    /// A tensor has NaN or infinity.
    #[error("tensor {name} has {got} at index {index} (row-major), expected a finite number")]
    NotFinite {
        /// Name of the tensor.
        name: String,
        /// Row-major index of the value, from 0.
        index: usize,
        /// The value.
        got: String,
    },
    /// The statistics for scores are not valid.
    #[error("statistics: {reason}")]
    Statistics {
        /// What was expected and what was found.
        reason: String,
    },
    /// A scale is not above 0; rows are divided by it.
    #[error("normalisation.scale is {got} for feature {}, expected a number above 0", feature + 1)]
    Scale {
        /// Index from 0; the message counts from 1.
        feature: usize,
        /// The value.
        got: f32,
    },
}

/// The minimal metadata of an imported file.
const EXAMPLE: &str = r#"{"specification":{"widths":[64,8],"encoder_activations":[{"kind":"linear"}],"decoder_activations":[{"kind":"linear"}],"loss":"squared_error","normalisation":"none"}}"#;
