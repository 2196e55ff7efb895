//! The parameters of a training request: as sent (here), and checked (`params/checked.rs`).

mod checked;
mod checks;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::recipe::{OptimizerSpec, Regularization};
use crate::model::spec::RawModelSpec;
use crate::model::statistics::STATISTICS_CODE_MAX;
use crate::model::{Loss, ModelName, NormalizationKind, Selector};
use crate::numeric::Activation;
pub use checked::CheckedTrainSpec;

/// The distribution of the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialization {
    /// Normal, variance 2 / inputs (He et al. 2015).
    He,
    /// Uniform, variance 2 / (inputs + outputs) (Glorot and Bengio 2010).
    Glorot,
    /// Orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).
    Orthogonal,
    /// Principal directions first: see [`super::init`].
    Pca,
}

/// The version whose weights training starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The model of the base.
    pub name: ModelName,
    /// The version. The newest version is resolved when training starts.
    pub selector: Selector,
    /// Whether training starts with fresh weights if the model has no version yet.
    pub or_fresh: bool,
}

/// A training request as sent: `None` means the default. Equality decides whether two uploads are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// The model that gets the new version.
    pub model_name: ModelName,
    /// `d_0` to `d_K`; may be empty if a base defines them.
    pub widths: Vec<usize>,
    /// Activation of hidden layers; default ELU.
    pub hidden_activation: Option<Activation>,
    /// Activation of the code; default linear.
    pub code_activation: Option<Activation>,
    /// Activation of the reconstruction; default linear, or sigmoid under binary cross-entropy.
    pub output_activation: Option<Activation>,
    /// Replaces the three above: empty, or one per encoder layer (`None` means that layer's default).
    pub encoder_activations: Vec<Option<Activation>>,
    /// Replaces the three above: empty, or one per decoder layer; entry l is for the layer that uses `W_lᵀ`.
    pub decoder_activations: Vec<Option<Activation>>,
    /// Default: squared error, or binary cross-entropy for values in the unit interval.
    pub loss: Option<Loss>,
    /// Default: chosen from the rows.
    #[serde(alias = "normalisation")]
    pub normalization: Option<NormalizationKind>,
    /// The common range for the unit interval, if it is known.
    pub value_range: Option<(f32, f32)>,
    /// Whether decoder units have a stored gain.
    pub gain: bool,
    /// The optimizer and its parameters.
    #[serde(alias = "optimiser")]
    pub optimizer: OptimizerSpec,
    /// Default: orthogonal, or Glorot if orthogonal is too expensive.
    #[serde(alias = "initialisation")]
    pub initialization: Option<Initialization>,
    /// Default: from the time budget, or from the data.
    pub epochs: Option<u32>,
    /// Default: from the data.
    pub batch_rows: Option<u32>,
    /// Default: 0.05, but at least 100 rows if there are 500 or more, and at most 50,000 rows.
    pub validation_fraction: Option<f64>,
    /// Default: never stop early.
    pub patience_epochs: Option<u32>,
    /// Seed of every random number.
    pub seed: u64,
    /// Empty, or one name per feature.
    pub feature_names: Vec<String>,
    /// Replaces `epochs`.
    #[serde(default)]
    pub time_budget: Option<Duration>,
    /// Regularization against overfitting.
    #[serde(default, alias = "regularisation")]
    pub regularization: Regularization,
    /// The version to start from; default: fresh weights.
    #[serde(default)]
    pub base: Option<Base>,
    /// Whether a version that is not better than its base on the validation rows is not published.
    #[serde(default)]
    pub publish_if_better: bool,
    /// Whether rows may have missing values, in training and in serving; a base must accept them, too.
    #[serde(default)]
    pub missing_values: bool,
    /// Largest number of held-out rows that the version keeps.
    #[serde(default)]
    pub validation_sample_rows: u32,
    /// Share of the variance of the training rows that a code of unspecified length explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_share: Option<f64>,
}

impl TrainSpec {
    /// A request with every default.
    pub fn new(model_name: ModelName, widths: Vec<usize>) -> Self {
        Self {
            model_name,
            widths,
            hidden_activation: None,
            code_activation: None,
            output_activation: None,
            encoder_activations: Vec::new(),
            decoder_activations: Vec::new(),
            loss: None,
            normalization: None,
            value_range: None,
            gain: false,
            optimizer: OptimizerSpec::default(),
            initialization: None,
            epochs: None,
            batch_rows: None,
            validation_fraction: None,
            patience_epochs: None,
            seed: 0,
            feature_names: Vec::new(),
            time_budget: None,
            regularization: Regularization::default(),
            base: None,
            publish_if_better: false,
            missing_values: false,
            validation_sample_rows: 0,
            explained_share: None,
        }
    }

    /// Whether the code length is chosen from the rows: the last width is 0.
    pub fn chooses_code_length(&self) -> bool {
        self.widths.len() >= 2 && self.widths.last() == Some(&0)
    }

    /// Smallest and largest code length that may be chosen from the rows. The largest is the smallest width before the
    /// code, and at most the longest code with statistics.
    fn code_length_bounds(&self) -> (usize, usize) {
        let least = if self.regularization.orders_codes() { 2 } else { 1 };
        let narrowest = self.widths.iter().copied().rev().skip(1).min().unwrap_or(1);
        (least, narrowest.min(STATISTICS_CODE_MAX).max(least))
    }

    fn with_code_length(&self, length: usize) -> Self {
        let mut spec = self.clone();
        if let Some(last) = spec.widths.last_mut() {
            *last = length;
        }
        // The share is resolved to a length.
        spec.explained_share = None;
        spec
    }

    /// The requested loss. The default is cross-entropy for rows in the unit interval (unless their reconstruction is
    /// not a sigmoid), where it gives a lower squared error, too, and squared error otherwise. With orthonormal
    /// matrices the logits cannot be longer than the rows: on the digits, cross-entropy then explains at most half of
    /// what the squared error does.
    fn resolved_loss(&self, normalization: NormalizationKind) -> Loss {
        let output = self.decoder_activations.first().copied().flatten().or(self.output_activation);
        self.loss.unwrap_or(match (normalization, output) {
            (NormalizationKind::UnitInterval, None) if self.wants_orthonormal() => Loss::SquaredError,
            (NormalizationKind::UnitInterval, None | Some(Activation::Sigmoid)) => Loss::BinaryCrossEntropy,
            _ => Loss::SquaredError,
        })
    }

    /// Whether matrices are kept orthonormal, by the loss term or by retraction.
    pub(super) fn wants_orthonormal(&self) -> bool {
        self.regularization.orthogonality > 0.0 || self.optimizer.retraction_steps > 0
    }

    fn raw_model_spec(&self, normalization: NormalizationKind) -> RawModelSpec {
        let layers = self.widths.len() - 1;
        let loss = self.resolved_loss(normalization);
        let hidden = self.hidden_activation.unwrap_or(Activation::Elu { alpha: 1.0 });
        let code = self.code_activation.unwrap_or(Activation::Linear);
        let output = self.output_activation.unwrap_or(match loss {
            Loss::SquaredError => Activation::Linear,
            Loss::BinaryCrossEntropy => Activation::Sigmoid,
        });
        let chosen = |list: &[Option<Activation>], l: usize| list.get(l).copied().flatten();
        let encoder =
            |l: usize| chosen(&self.encoder_activations, l).unwrap_or(if l + 1 == layers { code } else { hidden });
        let decoder = |l: usize| chosen(&self.decoder_activations, l).unwrap_or(if l == 0 { output } else { hidden });
        RawModelSpec {
            widths: self.widths.clone(),
            encoder_activations: (0..layers).map(encoder).collect(),
            decoder_activations: (0..layers).map(decoder).collect(),
            loss,
            normalization,
            gain: self.gain,
            feature_names: self.feature_names.clone(),
            missing_values: self.missing_values,
            ordered_code: self.regularization.orders_codes(),
        }
    }
}

#[cfg(test)]
mod tests;
