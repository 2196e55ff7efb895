//! A training request that has passed all checks that do not need the rows, and what it means.

use serde::{Deserialize, Serialize};

use super::{Initialization, TrainSpec};
use crate::model::spec::{check_feature_names, check_widths};
use crate::model::{Loss, ModelSpec, NormalizationKind};
use crate::training::code_length::EXPLAINED_SHARE_DEFAULT;
use crate::training::param_error::ParamError;
use crate::training::recipe::Regularization;
use crate::training::value_kind::ValueKind;

/// Default share of the steps over which the learning rate rises.
const WARMUP_FRACTION: f64 = 0.05;
/// Default probability of masking a value if values may be missing. On the digits with 10 to 50 % of the values
/// missing, 0.3 is better than 0.1, and better than 0.5 except at 50 %.
const MASKING_OF_MISSING: f64 = 0.3;

/// A training request that has passed all checks that do not need the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TrainSpec", into = "TrainSpec")]
pub struct CheckedTrainSpec {
    spec: TrainSpec,
}

impl TrainSpec {
    /// Makes all checks that need neither the rows nor the base.
    pub fn check(self) -> Result<CheckedTrainSpec, ParamError> {
        self.check_base()?;
        self.check_explained_share()?;
        if self.widths.is_empty() && self.base.as_ref().is_some_and(|base| !base.or_fresh) {
            self.check_numbers()?;
            return Ok(CheckedTrainSpec { spec: self });
        }
        if self.chooses_code_length() {
            // The chosen length lies between these bounds.
            let (least, most) = self.code_length_bounds();
            check_widths(&self.widths[..self.widths.len() - 1].iter().copied().chain([most]).collect::<Vec<_>>())?;
            self.with_code_length(least).check_widths_known()?;
            self.with_code_length(most).check_widths_known()?;
            return Ok(CheckedTrainSpec { spec: self });
        }
        check_widths(&self.widths)?;
        self.check_widths_known()?;
        Ok(CheckedTrainSpec { spec: self })
    }
}

impl CheckedTrainSpec {
    /// The request as sent.
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }

    /// Width of the rows.
    ///
    /// # Panics
    /// If the widths are left to the base: see [`CheckedTrainSpec::with_base`].
    pub fn features(&self) -> usize {
        self.spec.widths[0]
    }

    /// The request with the widths of its base.
    ///
    /// # Errors
    /// [`ParamError::BaseWidths`] if the request has other widths; [`ParamError::Needs`] if values may be missing and
    /// the base does not accept that, or if the widths do not allow an option; [`ParamError::BatchTooLarge`] if they
    /// are too wide for the mini-batch.
    pub fn with_base(&self, base: &ModelSpec) -> Result<Self, ParamError> {
        let expected = &base.raw().widths;
        let asked = &self.spec.widths;
        let known = asked.len() - usize::from(self.spec.chooses_code_length());
        if !asked.is_empty() && (asked.len() != expected.len() || asked[..known] != expected[..known]) {
            return Err(ParamError::BaseWidths { got: self.spec.widths.clone(), expected: expected.clone() });
        }
        if self.spec.missing_values && !base.raw().missing_values {
            let got = "a base trained without missing values".to_owned();
            return Err(ParamError::Needs { field: "missing_values", needs: "a base that accepts them", got });
        }
        let missing_values = base.raw().missing_values;
        let spec = TrainSpec { widths: expected.clone(), missing_values, explained_share: None, ..self.spec.clone() };
        spec.check_batch()?;
        spec.check_options()?;
        Ok(Self { spec })
    }

    /// The request with these feature names, if it has none and the names are valid.
    #[must_use]
    pub fn with_feature_names(&self, names: &[String]) -> Self {
        let is_free = self.spec.feature_names.is_empty() && !self.spec.widths.is_empty();
        if !is_free || check_feature_names(names, self.features()).is_err() {
            return self.clone();
        }
        Self { spec: TrainSpec { feature_names: names.to_vec(), ..self.spec.clone() } }
    }

    /// The share of the variance that the code must explain, if its length is chosen from the rows.
    pub fn explained_share(&self) -> Option<f64> {
        self.spec.chooses_code_length().then(|| self.spec.explained_share.unwrap_or(EXPLAINED_SHARE_DEFAULT))
    }

    /// Smallest and largest code length that may be chosen.
    pub fn code_length_bounds(&self) -> (usize, usize) {
        self.spec.code_length_bounds()
    }

    /// The request with this code length, if the length is chosen from the rows.
    #[must_use]
    pub fn with_code_length(&self, length: usize) -> Self {
        if self.spec.chooses_code_length() { Self { spec: self.spec.with_code_length(length) } } else { self.clone() }
    }

    /// The distribution of the initial weights.
    pub fn initialization(&self) -> Initialization {
        self.spec.initialization.unwrap_or(Initialization::Orthogonal)
    }

    /// The regularization. If values may be missing, some are masked unless the request sets it: the model learns to
    /// fill in missing values from values that training hides.
    pub fn regularization(&self) -> Regularization {
        let asked = self.spec.regularization;
        let masks = asked.masking > 0.0 || asked.input_dropout > 0.0;
        let masking = if self.spec.missing_values && !masks { MASKING_OF_MISSING } else { asked.masking };
        Regularization { masking, ..asked }
    }

    /// Share of the steps over which the learning rate rises.
    pub fn warmup_fraction(&self) -> f64 {
        self.spec.optimizer.warmup_fraction.unwrap_or(WARMUP_FRACTION)
    }

    /// Whether a linear model may be chosen instead. The request must leave these at their defaults: activations, loss,
    /// initial weights, regularization, orthonormal matrices, and missing values, which PCA does not support.
    pub fn may_be_linear(&self) -> bool {
        let spec = &self.spec;
        spec.hidden_activation.is_none()
            && spec.code_activation.is_none()
            && spec.output_activation.is_none()
            && spec.encoder_activations.is_empty()
            && spec.decoder_activations.is_empty()
            && spec.loss.is_none()
            && !spec.gain
            && spec.initialization.is_none()
            && spec.optimizer.weight_decay == 0.0
            && spec.optimizer.retraction_steps == 0
            && spec.regularization == Regularization::default()
            && !spec.missing_values
    }

    /// The normalization for training rows with these `values`.
    ///
    /// The requested one. The default is unit interval for pixels, for values in [0, 1], or if the common range is
    /// given. Otherwise it is standardize, or min-max under binary cross-entropy, which needs data in [0, 1].
    pub fn normalization(&self, values: ValueKind) -> NormalizationKind {
        self.spec.normalization.unwrap_or(if values != ValueKind::Any || self.spec.value_range.is_some() {
            NormalizationKind::UnitInterval
        } else {
            match self.spec.loss {
                None | Some(Loss::SquaredError) => NormalizationKind::Standardize,
                Some(Loss::BinaryCrossEntropy) => NormalizationKind::MinMax,
            }
        })
    }

    /// The specification of the model, with every activation and the loss filled in.
    ///
    /// # Panics
    /// If `normalization` is standardize under binary cross-entropy, which [`CheckedTrainSpec::normalization`] never
    /// returns.
    pub fn model_spec(&self, normalization: NormalizationKind) -> ModelSpec {
        ModelSpec::new(self.spec.raw_model_spec(normalization)).expect("checked when this was made")
    }
}

impl TryFrom<TrainSpec> for CheckedTrainSpec {
    type Error = ParamError;
    fn try_from(spec: TrainSpec) -> Result<Self, ParamError> {
        spec.check()
    }
}

impl From<CheckedTrainSpec> for TrainSpec {
    fn from(checked: CheckedTrainSpec) -> Self {
        checked.spec
    }
}
