//! What a caller asks to be trained: as sent, and checked.

use serde::{Deserialize, Serialize};

use crate::model::{Loss, ModelName, NormalisationKind, SpecError};
use crate::numeric::Activation;

/// How to draw the first weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// Normal, variance 2 / inputs (He et al. 2015).
    He,
    /// Uniform, variance 2 / (inputs + outputs) (Glorot and Bengio 2010).
    Glorot,
    /// Orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).
    Orthogonal,
}

/// AdamW with linear warm-up and cosine decay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    /// Peak rate; none: chosen.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Share of steps; none: 0.05.
    pub warmup_fraction: Option<f64>,
}

/// What a caller asks for, as sent: `None` means the default. Equality decides whether two uploads are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// The model to make a version of.
    pub model_name: ModelName,
    /// d_0 to d_K.
    pub widths: Vec<usize>,
    /// Of hidden layers; none: ELU.
    pub hidden_activation: Option<Activation>,
    /// Of the code; none: linear.
    pub code_activation: Option<Activation>,
    /// Of the reconstruction; none: linear, or sigmoid under BCE.
    pub output_activation: Option<Activation>,
    /// Instead of the three: empty or one per encoder layer (`None`: that layer's default).
    pub encoder_activations: Vec<Option<Activation>>,
    /// Instead of the three: empty or one per decoder layer, entry l for the one that uses W_lᵀ.
    pub decoder_activations: Vec<Option<Activation>>,
    /// None: squared error.
    pub loss: Option<Loss>,
    /// None: chosen from the rows.
    pub normalisation: Option<NormalisationKind>,
    /// The common range for the unit interval, if known.
    pub value_range: Option<(f32, f32)>,
    /// A stored gain per decoder unit.
    pub gain: bool,
    /// How to optimise.
    pub optimiser: Optimiser,
    /// None: orthogonal.
    pub initialisation: Option<Initialisation>,
    /// None: from the data.
    pub epochs: Option<u32>,
    /// None: from the data.
    pub batch_rows: Option<u32>,
    /// None: 0.05, at least 100 rows where there are 1,000 or more.
    pub validation_fraction: Option<f64>,
    /// None: never stop early.
    pub patience_epochs: Option<u32>,
    /// Of every random number.
    pub seed: u64,
    /// Empty or one per feature.
    pub feature_names: Vec<String>,
}

/// Why parameters are refused. `field` is the name in the API. TODO(A): complete.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// The model's shape.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A number outside its range.
    #[error("{field} is {got}, expected {expected}")]
    Range {
        /// Name of the field in the API.
        field: &'static str,
        /// What came.
        got: String,
        /// What is allowed.
        expected: &'static str,
    },
}

/// A specification with nothing wrong that can be known before the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedTrainSpec {
    spec: TrainSpec,
}

impl TrainSpec {
    /// A specification with every default.
    pub fn new(model_name: ModelName, widths: Vec<usize>) -> Self {
        let _ = (model_name, widths);
        todo!()
    }
    /// Checks all that can be checked before the rows.
    pub fn check(self) -> Result<CheckedTrainSpec, ParamError> {
        Ok(CheckedTrainSpec { spec: self })
    }
}

impl CheckedTrainSpec {
    /// As it was sent.
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }
    /// Width of the rows.
    pub fn features(&self) -> usize {
        self.spec.widths[0]
    }
}
