//! The specification of a model: what must be known to use its tensors. Checked once, then trusted.

use serde::{Deserialize, Serialize};

use crate::numeric::Activation;

/// Most encoder layers of a model.
pub const LAYERS_MAX: usize = 16;
/// Widest layer.
pub const WIDTH_MAX: usize = 65_536;
/// Most parameters of a model (512 MiB of f32).
pub const PARAMETERS_MAX: usize = 1 << 27;

/// What training minimises, in the normalised space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Sum over features of (x - x̂)², mean over rows.
    SquaredError,
    /// On logits, in nats, sum over features, mean over rows. Data in [0, 1].
    BinaryCrossEntropy,
}

/// How input units map to the space in which the model works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalisationKind {
    /// Values as they are.
    None,
    /// Minus the mean, over the standard deviation, by feature.
    Standardise,
    /// To [0, 1] by each feature's own range.
    MinMax,
    /// To [0, 1] by one common range.
    UnitInterval,
}

/// Why a specification is refused. TODO(A): variants, each naming what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// Placeholder of the skeleton.
    #[error("{0}")]
    Other(String),
}

/// The shape of a model; K = `layers()` encoder layers. Only [`ModelSpec::new`] and deserialising make one, and both check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawModelSpec", into = "RawModelSpec")]
pub struct ModelSpec {
    raw: RawModelSpec,
}

/// A specification as written, not yet checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawModelSpec {
    /// d_0 (features) to d_K (code), K + 1 numbers.
    pub widths: Vec<usize>,
    /// K activations in the order of encoding.
    pub encoder_activations: Vec<Activation>,
    /// K activations; entry l belongs to the decoder layer that uses the transpose of encoder layer l.
    pub decoder_activations: Vec<Activation>,
    /// What it was trained with.
    pub loss: Loss,
    /// How rows are normalised.
    pub normalisation: NormalisationKind,
    /// Whether decoder units have a stored gain. Never on a linear code.
    #[serde(default)]
    pub gain: bool,
    /// Empty or one per feature.
    #[serde(default)]
    pub feature_names: Vec<String>,
}

impl ModelSpec {
    /// Checks everything a file or a caller could get wrong.
    pub fn new(raw: RawModelSpec) -> Result<Self, SpecError> {
        Ok(Self { raw })
    }
    /// The fields.
    pub fn raw(&self) -> &RawModelSpec {
        &self.raw
    }
    /// Number of encoder layers, K.
    pub fn layers(&self) -> usize {
        self.raw.widths.len() - 1
    }
    /// d_0.
    pub fn features(&self) -> usize {
        self.raw.widths[0]
    }
    /// d_K, the latent dimension.
    pub fn code_length(&self) -> usize {
        self.raw.widths[self.layers()]
    }
    /// Whether decoder layer l (the one that uses W_lᵀ) reads through a gain: `gain` is on and its input is not a
    /// linear code.
    pub fn has_gain(&self, layer: usize) -> bool {
        let linear_code = self.raw.encoder_activations[self.layers() - 1] == Activation::Linear;
        self.raw.gain && !(layer + 1 == self.layers() && linear_code)
    }
    /// Bytes of all tensors, each matrix once, normalisation vectors included.
    pub fn tensor_bytes(&self) -> u64 {
        todo!()
    }
    /// Bytes of the same model with a matrix of its own for every decoder layer.
    pub fn untied_tensor_bytes(&self) -> u64 {
        todo!()
    }
    /// FLOPs per row of one direction (2 per weight).
    pub fn flops_per_row(&self) -> u64 {
        self.raw.widths.windows(2).map(|pair| 2 * pair[0] as u64 * pair[1] as u64).sum()
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
