//! The limits of a specification, and why one is rejected.

use crate::numeric::Activation;
use crate::text::shown;

/// Largest number of encoder layers of a model.
pub const LAYERS_MAX: usize = 16;
/// Largest width of a layer.
pub const WIDTH_MAX: usize = 65_536;
/// Largest number of parameters of a model (512 MiB of f32).
pub const PARAMETERS_MAX: usize = 1 << 27;
/// Largest length of a feature name, in bytes.
pub const FEATURE_NAME_BYTES_MAX: usize = 200;
/// Largest size of all feature names together, in bytes: keeps the header of a model file small.
pub const FEATURE_NAMES_BYTES_MAX: usize = 4 << 20;

/// Why a specification is rejected. Layers and features count from 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The number of widths is not from 2 to 17.
    #[error("widths has {got} numbers, expected 2 to {} (from the input to the code)", LAYERS_MAX + 1)]
    WidthCount {
        /// Number of widths.
        got: usize,
    },
    /// A layer has no units, or too many.
    #[error("widths[{index}] is {got}, expected 1 to {WIDTH_MAX}")]
    Width {
        /// Index of the width.
        index: usize,
        /// The width.
        got: usize,
    },
    /// More than [`PARAMETERS_MAX`].
    #[error("the widths make {got} parameters, expected at most {PARAMETERS_MAX}")]
    Parameters {
        /// Number of parameters.
        got: u64,
    },
    /// The number of activations differs from the number of layers.
    #[error("{field} has {got} entries, expected {expected}, one per layer")]
    ActivationCount {
        /// `encoder_activations` or `decoder_activations`.
        field: &'static str,
        /// Number of activations.
        got: usize,
        /// The number of layers.
        expected: usize,
    },
    /// The parameter of an activation is out of range.
    #[error("the {parameter} of {field}[{index}] is {got}, expected {expected}")]
    ActivationParameter {
        /// `encoder_activations` or `decoder_activations`.
        field: &'static str,
        /// Index of the layer.
        index: usize,
        /// `slope` or `alpha`.
        parameter: &'static str,
        /// The value.
        got: f32,
        /// The accepted range.
        expected: &'static str,
    },
    /// Binary cross-entropy requires a sigmoid as the output activation.
    #[error("binary cross-entropy needs the sigmoid as decoder_activations[0], got {got:?}")]
    CrossEntropyOutput {
        /// The output activation.
        got: Activation,
    },
    /// Binary cross-entropy requires a normalization to [0, 1], or none.
    #[error(
        "binary cross-entropy needs data in [0, 1]: normalization is standardize or robust, expected none, min-max or unit interval"
    )]
    CrossEntropyStandardize,
    /// `gain` is on, but no layer can have a gain.
    #[error("gain has no effect: the only decoder layer reads a linear code, expected gain off or a non-linear code")]
    GainWithoutEffect,
    /// The number of names differs from the number of features.
    #[error("feature_names has {got} names, expected none or {expected}, one per feature")]
    FeatureNameCount {
        /// Number of names.
        got: usize,
        /// The number of features.
        expected: usize,
    },
    /// A feature name is too long.
    #[error("feature_names[{index}] has {got} bytes, expected at most {FEATURE_NAME_BYTES_MAX}")]
    FeatureNameBytes {
        /// Index of the name.
        index: usize,
        /// Its length, in bytes.
        got: usize,
    },
    /// The feature names together are too long.
    #[error("feature_names has {got} bytes in all, expected at most {FEATURE_NAMES_BYTES_MAX}")]
    FeatureNamesBytes {
        /// Their length, in bytes.
        got: usize,
    },
    /// A feature name has a control character, such as a line break.
    #[error("feature_names[{index}] is {:?}, expected no control characters", shown(got))]
    FeatureNameControl {
        /// Index of the name.
        index: usize,
        /// The name.
        got: String,
    },
    /// Two features have the same name.
    #[error("feature_names[{index}] is {:?} as is feature_names[{first}], expected different names", shown(got))]
    FeatureNameTwice {
        /// Index of the second.
        index: usize,
        /// Index of the first.
        first: usize,
        /// The name.
        got: String,
    },
}

impl SpecError {
    /// The name of the wrong field of the specification.
    pub fn field(&self) -> &'static str {
        match self {
            Self::WidthCount { .. } | Self::Width { .. } | Self::Parameters { .. } => "widths",
            Self::ActivationCount { field, .. } | Self::ActivationParameter { field, .. } => field,
            Self::CrossEntropyOutput { .. } => "decoder_activations",
            Self::CrossEntropyStandardize => "normalization",
            Self::GainWithoutEffect => "gain",
            Self::FeatureNameCount { .. }
            | Self::FeatureNameBytes { .. }
            | Self::FeatureNamesBytes { .. }
            | Self::FeatureNameControl { .. }
            | Self::FeatureNameTwice { .. } => "feature_names",
        }
    }
}
