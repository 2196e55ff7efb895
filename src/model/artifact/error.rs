//! Why a model's file is refused.

use super::metadata::FORMAT_VERSION;
use crate::model::SpecError;
use crate::model::text::shown;

/// Why a file is refused. Every variant names what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArtifactError {
    /// Shorter than its header or its tensors.
    #[error("the file is truncated: it has {got} bytes, expected {expected}")]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that it should have (at least, if the header is incomplete).
        expected: u64,
    },
    /// Longer than header and tensors.
    #[error("the file has {got} bytes, expected {expected}: something was appended")]
    TrailingBytes {
        /// Bytes that came.
        got: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// A header larger than any model needs; usually this is no safetensors file.
    #[error("the header claims {got} bytes, expected at most {max}: is this a safetensors file?")]
    HeaderLength {
        /// What the first 8 bytes say.
        got: u64,
        /// The limit.
        max: usize,
    },
    /// The header is not the JSON of safetensors.
    #[error("the header is not valid: {reason}")]
    Header {
        /// What is wrong.
        reason: String,
    },
    /// The tensors' offsets.
    #[error("the tensors' places in the file are not valid: {reason}")]
    Layout {
        /// What is wrong.
        reason: String,
    },
    /// No specification.
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
    /// Written by a later halfhitch, or by nobody.
    #[error("the format version is {got}, expected {FORMAT_VERSION}")]
    FormatVersion {
        /// What the file says.
        got: String,
    },
    /// The specification contradicts itself.
    #[error("the specification is not valid: {0}")]
    Spec(#[from] SpecError),
    /// A file of the store without a checksum.
    #[error("the file has no checksum, expected \"sha256\" in the metadata: import it first")]
    NoChecksum,
    /// The bytes are not those that were written.
    #[error("the file is damaged: its SHA-256 is {got}, expected {expected}")]
    Checksum {
        /// Of what came.
        got: String,
        /// As recorded.
        expected: String,
    },
    /// The header says the same in another way than it was written.
    #[error("the header was altered: {what}, expected the spelling that halfhitch writes")]
    NotCanonical {
        /// What is different.
        what: &'static str,
    },
    /// A tensor that the specification demands.
    #[error("tensor {name} is missing, expected shape {expected:?}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor that the specification does not know.
    #[error("tensor {name:?} is not part of the specification, expected {expected}")]
    UnexpectedTensor {
        /// Its name, cut to a printable length.
        name: String,
        /// The names that are.
        expected: String,
    },
    /// Not 32-bit floats.
    #[error("tensor {name} has type {got}, expected F32")]
    TensorType {
        /// Its name.
        name: String,
        /// Its type, cut to a printable length.
        got: String,
    },
    /// Another shape than the specification's.
    #[error("tensor {name} has shape {}, expected {expected:?}", shown(&format!("{got:?}")))]
    TensorShape {
        /// Its name.
        name: String,
        /// What came.
        got: Vec<usize>,
        /// What the widths demand.
        expected: Vec<usize>,
    },
    /// NaN or infinity.
    #[error("tensor {name} has {got} at index {index} (row-major), expected a finite number")]
    NotFinite {
        /// Its name.
        name: String,
        /// Where.
        index: usize,
        /// What came.
        got: String,
    },
    /// What scores need.
    #[error("statistics: {reason}")]
    Statistics {
        /// What was expected and what came.
        reason: String,
    },
    /// Rows are divided by this.
    #[error("normalisation.scale is {got} for feature {}, expected a number above 0", feature + 1)]
    Scale {
        /// From 0; people read it from 1.
        feature: usize,
        /// What came.
        got: f32,
    },
}

/// The least that a file from elsewhere must say.
const EXAMPLE: &str = r#"{"specification":{"widths":[64,8],"encoder_activations":[{"kind":"linear"}],"decoder_activations":[{"kind":"linear"}],"loss":"squared_error","normalisation":"none"}}"#;
