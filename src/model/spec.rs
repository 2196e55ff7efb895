//! The specification of a model: what is needed to use its tensors. It is checked once, then trusted.

mod error;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::numeric::Activation;
pub use error::{FEATURE_NAME_BYTES_MAX, FEATURE_NAMES_BYTES_MAX, LAYERS_MAX, PARAMETERS_MAX, SpecError, WIDTH_MAX};

/// The loss that training minimizes, in the normalized space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Sum over features of (x - x̂)², mean over rows.
    SquaredError,
    /// Binary cross-entropy on logits, in nats: sum over features, mean over rows. Requires data in [0, 1].
    BinaryCrossEntropy,
}

/// How values in input units map to the normalized space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalizationKind {
    /// No normalization.
    None,
    /// (x - mean) / standard deviation, per feature.
    #[serde(rename = "standardise")]
    Standardize,
    /// To [0, 1] by the range of each feature.
    MinMax,
    /// To [0, 1] by one range for all features.
    UnitInterval,
    /// As [`NormalizationKind::Standardize`], after outliers have been clipped.
    Robust,
}

impl NormalizationKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Standardize => "standardize",
            Self::MinMax => "min-max",
            Self::UnitInterval => "unit interval",
            Self::Robust => "robust",
        }
    }
}

/// A checked specification, with K = `layers()` encoder layers. [`ModelSpec::new`] and deserialization check it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawModelSpec", into = "RawModelSpec")]
pub struct ModelSpec {
    raw: RawModelSpec,
}

/// A specification as written, unchecked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawModelSpec {
    /// `d_0` (features) to `d_K` (code), K + 1 numbers.
    pub widths: Vec<usize>,
    /// K activations, in the order of encoding.
    pub encoder_activations: Vec<Activation>,
    /// K activations; entry l belongs to the decoder layer that uses the transpose of encoder layer l.
    pub decoder_activations: Vec<Activation>,
    /// The loss of training.
    pub loss: Loss,
    /// How rows are normalized.
    #[serde(rename = "normalisation")]
    pub normalization: NormalizationKind,
    /// Whether decoder units have a stored gain; never on a linear code.
    #[serde(default)]
    pub gain: bool,
    /// Empty, or one name per feature.
    #[serde(default)]
    pub feature_names: Vec<String>,
    /// Whether rows may have missing values.
    #[serde(default, skip_serializing_if = "is_false")]
    pub missing_values: bool,
    /// Whether the model was trained with nested dropout: the first numbers of a code are the best few, and missing
    /// ones count as 0.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ordered_code: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

impl ModelSpec {
    /// Checks all fields.
    pub fn new(raw: RawModelSpec) -> Result<Self, SpecError> {
        check_widths(&raw.widths)?;
        let layers = raw.widths.len() - 1;
        check_activations("encoder_activations", &raw.encoder_activations, layers)?;
        check_activations("decoder_activations", &raw.decoder_activations, layers)?;
        if raw.loss == Loss::BinaryCrossEntropy {
            if raw.decoder_activations[0] != Activation::Sigmoid {
                return Err(SpecError::CrossEntropyOutput { got: raw.decoder_activations[0] });
            }
            if matches!(raw.normalization, NormalizationKind::Standardize | NormalizationKind::Robust) {
                return Err(SpecError::CrossEntropyStandardize);
            }
        }
        check_feature_names(&raw.feature_names, raw.widths[0])?;
        let spec = Self { raw };
        if spec.raw.gain && (0..layers).all(|layer| !spec.has_gain(layer)) {
            return Err(SpecError::GainWithoutEffect);
        }
        let got = spec.tensor_bytes() / 4;
        if got > PARAMETERS_MAX as u64 { Err(SpecError::Parameters { got }) } else { Ok(spec) }
    }

    /// The fields.
    pub fn raw(&self) -> &RawModelSpec {
        &self.raw
    }

    /// The same specification with another `ordered_code`.
    #[must_use]
    pub fn with_ordered_code(self, ordered_code: bool) -> Self {
        // No check depends on this field.
        Self { raw: RawModelSpec { ordered_code, ..self.raw } }
    }

    /// Number of encoder layers, K.
    pub fn layers(&self) -> usize {
        self.raw.widths.len() - 1
    }

    /// `d_0`.
    pub fn features(&self) -> usize {
        self.raw.widths[0]
    }

    /// `d_K`, the latent dimension.
    pub fn code_length(&self) -> usize {
        self.raw.widths[self.layers()]
    }

    /// Whether decoder layer l (the one that uses `W_lᵀ`) has a gain: `gain` is on and its input is not a linear code.
    pub fn has_gain(&self, layer: usize) -> bool {
        let linear_code = self.raw.encoder_activations[self.layers() - 1] == Activation::Linear;
        self.raw.gain && !(layer + 1 == self.layers() && linear_code)
    }

    /// Whether any decoder layer has a gain.
    pub fn has_any_gain(&self) -> bool {
        (0..self.layers()).any(|layer| self.has_gain(layer))
    }

    /// Whether hidden units or the code saturate (tanh, sigmoid) and decode without a gain. With tied weights such
    /// models reconstruct badly: training adds a warning.
    pub fn saturates_without_gain(&self) -> bool {
        let saturates = |f: &Activation| matches!(f, Activation::Tanh | Activation::Sigmoid);
        !self.raw.gain
            && (self.raw.encoder_activations.iter().any(saturates)
                || self.raw.decoder_activations[1..].iter().any(saturates))
    }

    /// Whether all layers are linear.
    pub fn is_linear(&self) -> bool {
        let mut activations = self.raw.encoder_activations.iter().chain(&self.raw.decoder_activations);
        activations.all(|activation| *activation == Activation::Linear)
    }

    /// Size of all tensors in bytes: each matrix once, with the normalization vectors.
    pub fn tensor_bytes(&self) -> u64 {
        // At most 16 matrices of 2^32 numbers: no overflow.
        let width = |l: usize| self.raw.widths[l] as u64;
        let layers = 0..self.layers();
        let biases: u64 = layers.clone().map(|l| width(l + 1) + width(l)).sum();
        let gains: u64 = layers.filter(|l| self.has_gain(*l)).map(|l| width(l + 1)).sum();
        let normalization = if self.raw.normalization == NormalizationKind::None { 0 } else { 2 * width(0) };
        let fill = if self.raw.missing_values { width(0) } else { 0 };
        4 * (self.matrix_values() + biases + gains + normalization + fill)
    }

    /// Size in bytes of the same model with separate decoder matrices.
    pub fn untied_tensor_bytes(&self) -> u64 {
        self.tensor_bytes() + 4 * self.matrix_values()
    }

    /// Number of values in all matrices.
    fn matrix_values(&self) -> u64 {
        self.raw.widths.windows(2).map(|pair| pair[0] as u64 * pair[1] as u64).sum()
    }

    /// FLOPs per row of one direction (2 per weight).
    pub fn flops_per_row(&self) -> u64 {
        2 * self.matrix_values()
    }
}

impl TryFrom<RawModelSpec> for ModelSpec {
    type Error = SpecError;
    fn try_from(raw: RawModelSpec) -> Result<Self, SpecError> {
        Self::new(raw)
    }
}

impl From<ModelSpec> for RawModelSpec {
    fn from(spec: ModelSpec) -> Self {
        spec.raw
    }
}

/// Checks for 1 to 16 layers of 1 to 65,536 units.
pub(crate) fn check_widths(widths: &[usize]) -> Result<(), SpecError> {
    if !(2..=LAYERS_MAX + 1).contains(&widths.len()) {
        return Err(SpecError::WidthCount { got: widths.len() });
    }
    match widths.iter().enumerate().find(|(_, width)| !(1..=WIDTH_MAX).contains(*width)) {
        Some((index, &got)) => Err(SpecError::Width { index, got }),
        None => Ok(()),
    }
}

/// Checks for one activation per layer, each with a parameter in range.
fn check_activations(field: &'static str, activations: &[Activation], layers: usize) -> Result<(), SpecError> {
    if activations.len() != layers {
        return Err(SpecError::ActivationCount { field, got: activations.len(), expected: layers });
    }
    let found = activations.iter().enumerate().find_map(|(index, &f)| Some((index, wrong_parameter(f)?)));
    match found {
        Some((index, (parameter, got, expected))) => {
            Err(SpecError::ActivationParameter { field, index, parameter, got, expected })
        }
        None => Ok(()),
    }
}

/// Name, value and expectation of a parameter that is out of range.
pub(crate) fn wrong_parameter(activation: Activation) -> Option<(&'static str, f32, &'static str)> {
    match activation {
        Activation::LeakyRelu { slope } if !(0.0..1.0).contains(&slope) => {
            Some(("slope", slope, "a number from 0 to below 1"))
        }
        Activation::Elu { alpha } if !(alpha > 0.0 && alpha.is_finite()) => {
            Some(("alpha", alpha, "a finite number above 0"))
        }
        Activation::Linear
        | Activation::Relu
        | Activation::LeakyRelu { .. }
        | Activation::Elu { .. }
        | Activation::Gelu
        | Activation::Tanh
        | Activation::Sigmoid => None,
    }
}

/// Checks for no names or one per feature: short, printable, different.
pub(crate) fn check_feature_names(names: &[String], features: usize) -> Result<(), SpecError> {
    if !names.is_empty() && names.len() != features {
        return Err(SpecError::FeatureNameCount { got: names.len(), expected: features });
    }
    let bytes: usize = names.iter().map(String::len).sum();
    let mut seen = HashMap::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        if name.len() > FEATURE_NAME_BYTES_MAX {
            return Err(SpecError::FeatureNameBytes { index, got: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(SpecError::FeatureNameControl { index, got: name.clone() });
        }
        if let Some(first) = seen.insert(name.as_str(), index) {
            return Err(SpecError::FeatureNameTwice { index, first, got: name.clone() });
        }
    }
    if bytes > FEATURE_NAMES_BYTES_MAX { Err(SpecError::FeatureNamesBytes { got: bytes }) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests;
