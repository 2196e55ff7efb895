//! The specification of a model: what is needed to use its tensors. It is checked once, then trusted.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::numeric::Activation;
use crate::text::shown;

/// Largest number of encoder layers of a model.
pub const LAYERS_MAX: usize = 16;
/// Largest width of a layer.
pub const WIDTH_MAX: usize = 65_536;
/// Largest number of parameters of a model (512 MiB of f32).
pub const PARAMETERS_MAX: usize = 1 << 27;

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

/// Largest length of a feature name, in bytes.
pub const FEATURE_NAME_BYTES_MAX: usize = 200;
/// Largest size of all feature names together, in bytes: keeps the header of a model file small.
pub const FEATURE_NAMES_BYTES_MAX: usize = 4 << 20;

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
pub(crate) mod tests {
    use super::*;

    /// A valid specification: ELU in hidden layers, linear code and output.
    pub(crate) fn raw(widths: &[usize]) -> RawModelSpec {
        let layers = widths.len() - 1;
        let mut encoder_activations = vec![Activation::Elu { alpha: 1.0 }; layers];
        encoder_activations[layers - 1] = Activation::Linear;
        let mut decoder_activations = vec![Activation::Elu { alpha: 1.0 }; layers];
        decoder_activations[0] = Activation::Linear;
        RawModelSpec {
            widths: widths.to_vec(),
            encoder_activations,
            decoder_activations,
            loss: Loss::SquaredError,
            normalization: NormalizationKind::Standardize,
            gain: false,
            feature_names: Vec::new(),
            missing_values: false,
            ordered_code: false,
        }
    }

    /// No normalization, a linear code and output, and the given activation in hidden layers.
    pub(crate) fn plain(widths: &[usize], hidden: Activation) -> ModelSpec {
        let mut raw = raw(widths);
        raw.normalization = NormalizationKind::None;
        let layers = widths.len() - 1;
        raw.encoder_activations[..layers - 1].fill(hidden);
        raw.decoder_activations[1..].fill(hidden);
        ModelSpec::new(raw).expect("a specification")
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut RawModelSpec), expected: &SpecError, text: &str) {
        let mut wrong = raw(&[4, 3, 2]);
        change(&mut wrong);
        let error = ModelSpec::new(wrong).expect_err("refused");
        assert_eq!(&error, expected);
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn sixteen_layers_are_allowed_and_seventeen_are_not() {
        assert!(ModelSpec::new(raw(&[3; 17])).is_ok());
        assert_eq!(ModelSpec::new(raw(&[3; 18])), Err(SpecError::WidthCount { got: 18 }));
        check_refused(
            |raw| raw.widths = vec![4],
            &SpecError::WidthCount { got: 1 },
            "widths has 1 numbers, expected 2 to 17 (from the input to the code)",
        );
    }

    #[test]
    fn a_width_is_from_1_to_65536() {
        check_refused(
            |raw| raw.widths[1] = 0,
            &SpecError::Width { index: 1, got: 0 },
            "widths[1] is 0, expected 1 to 65536",
        );
        assert_eq!(ModelSpec::new(raw(&[65_537, 1])), Err(SpecError::Width { index: 0, got: 65_537 }));
        assert!(ModelSpec::new(raw(&[65_536, 1])).is_ok());
    }

    #[test]
    fn parameters_are_bounded() {
        let error = ModelSpec::new(raw(&[65_536; 17])).expect_err("2^36 parameters");
        assert!(matches!(error, SpecError::Parameters { got } if got > 1 << 36), "{error}");
    }

    #[test]
    fn activations_match_the_layers_and_have_valid_parameters() {
        check_refused(
            |raw| raw.encoder_activations.truncate(1),
            &SpecError::ActivationCount { field: "encoder_activations", got: 1, expected: 2 },
            "encoder_activations has 1 entries, expected 2, one per layer",
        );
        for slope in [1.0, -0.1, f32::NAN, f32::INFINITY] {
            let mut wrong = raw(&[4, 2]);
            wrong.decoder_activations[0] = Activation::LeakyRelu { slope };
            assert!(matches!(ModelSpec::new(wrong), Err(SpecError::ActivationParameter { index: 0, .. })), "{slope}");
        }
        for alpha in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let mut wrong = raw(&[4, 2]);
            wrong.encoder_activations[0] = Activation::Elu { alpha };
            assert!(matches!(ModelSpec::new(wrong), Err(SpecError::ActivationParameter { index: 0, .. })), "{alpha}");
        }
    }

    #[test]
    fn cross_entropy_needs_a_sigmoid_and_unit_interval_data() {
        check_refused(
            |raw| raw.loss = Loss::BinaryCrossEntropy,
            &SpecError::CrossEntropyOutput { got: Activation::Linear },
            "binary cross-entropy needs the sigmoid as decoder_activations[0], got Linear",
        );
        let mut bce = raw(&[4, 2]);
        bce.loss = Loss::BinaryCrossEntropy;
        bce.decoder_activations[0] = Activation::Sigmoid;
        assert_eq!(ModelSpec::new(bce.clone()), Err(SpecError::CrossEntropyStandardize));
        bce.normalization = NormalizationKind::MinMax;
        assert!(ModelSpec::new(bce).is_ok());
    }

    #[test]
    fn a_gain_is_never_on_a_linear_code() {
        let mut deep = raw(&[4, 3, 2]);
        deep.gain = true;
        let spec = ModelSpec::new(deep.clone()).expect("valid");
        assert_eq!([spec.has_gain(0), spec.has_gain(1)], [true, false]);
        deep.encoder_activations[1] = Activation::Tanh;
        assert!(ModelSpec::new(deep).expect("valid").has_gain(1));
        let mut flat = raw(&[4, 2]);
        flat.gain = true;
        assert_eq!(ModelSpec::new(flat), Err(SpecError::GainWithoutEffect));
    }

    #[test]
    fn saturating_hidden_units_without_a_gain_are_noticed() {
        let mut deep = raw(&[4, 3, 2]);
        deep.decoder_activations[0] = Activation::Sigmoid;
        assert!(!ModelSpec::new(deep.clone()).expect("valid").saturates_without_gain());
        deep.decoder_activations[1] = Activation::Tanh;
        assert!(ModelSpec::new(deep.clone()).expect("valid").saturates_without_gain());
        deep.gain = true;
        assert!(!ModelSpec::new(deep).expect("valid").saturates_without_gain());
    }

    #[test]
    fn feature_names_are_none_or_one_per_feature_and_differ() {
        let names = |list: [&str; 4]| list.map(str::to_owned).to_vec();
        let mut good = raw(&[4, 2]);
        good.feature_names = names(["a", "b", "größe", ""]);
        assert!(ModelSpec::new(good).is_ok());
        check_refused(
            |raw| raw.feature_names = vec!["a".into()],
            &SpecError::FeatureNameCount { got: 1, expected: 4 },
            "feature_names has 1 names, expected none or 4, one per feature",
        );
        check_refused(
            |raw| raw.feature_names = names(["a", "b", "a", "d"]),
            &SpecError::FeatureNameTwice { index: 2, first: 0, got: "a".into() },
            "feature_names[2] is \"a\" as is feature_names[0], expected different names",
        );
        check_refused(
            |raw| raw.feature_names = names(["a", "b\n", "c", "d"]),
            &SpecError::FeatureNameControl { index: 1, got: "b\n".into() },
            "feature_names[1] is \"b\\n\", expected no control characters",
        );
        check_refused(
            |raw| raw.feature_names = names(["a", &"b".repeat(201), "c", "d"]),
            &SpecError::FeatureNameBytes { index: 1, got: 201 },
            "feature_names[1] has 201 bytes, expected at most 200",
        );
        let mut wide = raw(&[65_536, 1]);
        wide.feature_names = (0..65_536).map(|i| format!("{i:0>100}")).collect();
        assert_eq!(ModelSpec::new(wide), Err(SpecError::FeatureNamesBytes { got: 6_553_600 }));
    }

    #[test]
    fn tensor_bytes_count_every_tensor_once() {
        let mut deep = raw(&[4, 3, 2]);
        let bytes = |raw: &RawModelSpec| ModelSpec::new(raw.clone()).expect("valid").tensor_bytes();
        // Matrices 12 + 6, encoder biases 3 + 2, decoder biases 4 + 3, normalization 2 x 4.
        assert_eq!(bytes(&deep), 4 * (18 + 5 + 7 + 8));
        deep.normalization = NormalizationKind::None;
        assert_eq!(bytes(&deep), 4 * (18 + 5 + 7));
        deep.gain = true;
        assert_eq!(bytes(&deep), 4 * (18 + 5 + 7 + 3));
        assert_eq!(ModelSpec::new(deep).expect("valid").untied_tensor_bytes(), 4 * (18 + 18 + 5 + 7 + 3));
    }

    #[test]
    fn tying_halves_the_published_deep_autoencoder() {
        let spec = ModelSpec::new(raw(&[784, 1000, 500, 250, 30])).expect("valid");
        let share = spec.tensor_bytes() as f64 / spec.untied_tensor_bytes() as f64;
        assert!(share <= 0.502, "{share}");
        assert_eq!(spec.tensor_bytes(), 5_689_528);
    }

    #[test]
    fn deserializing_checks_too() {
        let spec = ModelSpec::new(raw(&[4, 3, 2])).expect("valid");
        let text = serde_json::to_string(&spec).expect("serializes");
        assert_eq!(serde_json::from_str::<ModelSpec>(&text).expect("valid"), spec);
        let error = serde_json::from_str::<ModelSpec>(&text.replace("[4,3,2]", "[4,0,2]")).expect_err("refused");
        assert!(error.to_string().starts_with("widths[1] is 0"), "{error}");
    }
}
