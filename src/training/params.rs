//! The parameters of a training request: as sent, and checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::code_length::EXPLAINED_SHARE_DEFAULT;
use super::param_error::{BATCH_BYTES_MAX, ParamError, check};
use super::recipe::{OptimizerSpec, Regularization};
use super::value_kind::ValueKind;
use crate::model::sample::SAMPLE_ROWS_MAX;
use crate::model::spec::{RawModelSpec, check_feature_names, check_widths, wrong_parameter};
use crate::model::statistics::STATISTICS_CODE_MAX;
use crate::model::{Loss, ModelName, ModelSpec, NormalizationKind, Selector, SpecError};
use crate::numeric::Activation;

/// Largest number of epochs.
pub const EPOCHS_MAX: u32 = 100_000;
/// Largest number of rows of a mini-batch.
pub const BATCH_ROWS_MAX: u32 = 65_536;
/// Largest number of values kept per row and unit: inputs of a layer and their derivatives, in both directions, plus
/// slopes and gains where they exist.
const KEPT_PER_UNIT: u64 = 7;
/// Largest smaller side of a matrix that is kept orthonormal: its Gram matrix costs the square of that per row.
const ORTHONORMAL_SIZE_MAX: usize = 4096;
/// Default share of the steps over which the learning rate rises.
pub const WARMUP_FRACTION: f64 = 0.05;
/// Default probability of masking a value if values may be missing. On the digits with 10 to 50 % of the values
/// missing, 0.3 is better than 0.1, and better than 0.5 except at 50 %.
const MASKING_OF_MISSING: f64 = 0.3;
/// Smallest and largest time budget.
pub const TIME_BUDGET: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

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

/// A training request that has passed all checks that do not need the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TrainSpec", into = "TrainSpec")]
pub struct CheckedTrainSpec {
    spec: TrainSpec,
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

    /// Makes all checks that need the widths, but not the rows.
    fn check_widths_known(&self) -> Result<(), ParamError> {
        self.check_activations()?;
        self.check_loss()?;
        self.check_numbers()?;
        self.check_batch()?;
        self.check_options()?;
        self.check_value_range()?;
        // Any normalization that may be chosen from the rows passes if this one does.
        ModelSpec::new(self.raw_model_spec(self.normalization.unwrap_or(NormalizationKind::UnitInterval)))?;
        Ok(())
    }

    fn check_explained_share(&self) -> Result<(), ParamError> {
        check("explained_share", self.explained_share, |share| share > 0.0 && share <= 1.0, "above 0 to 1")?;
        match self.explained_share {
            Some(_) if !self.chooses_code_length() => {
                let got = format!("{:?}", self.widths);
                Err(ParamError::Needs { field: "explained_share", needs: "widths that end with 0", got })
            }
            _ => Ok(()),
        }
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

    fn check_base(&self) -> Result<(), ParamError> {
        let needs = |field, needs, got: &str| Err(ParamError::Needs { field, needs, got: got.to_owned() });
        if self.publish_if_better && self.validation_fraction == Some(0.0) {
            return needs("publish_if_better", "validation rows", "validation_fraction 0");
        }
        let Some(base) = &self.base else {
            return if self.publish_if_better { needs("publish_if_better", "a base", "none") } else { Ok(()) };
        };
        if base.or_fresh {
            return match base.selector {
                Selector::Latest => Ok(()),
                Selector::Version(_) | Selector::Alias(_) => {
                    needs("fresh_without_base", "a base that is the newest version", "one that is named exactly")
                }
            };
        }
        let set = [
            (self.hidden_activation.is_some(), "hidden_activation"),
            (self.code_activation.is_some(), "code_activation"),
            (self.output_activation.is_some(), "output_activation"),
            (!self.encoder_activations.is_empty(), "encoder_activations"),
            (!self.decoder_activations.is_empty(), "decoder_activations"),
            (self.loss.is_some(), "loss"),
            (self.normalization.is_some(), "normalization"),
            (self.value_range.is_some(), "value_range"),
            (self.gain, "gain"),
            (self.initialization.is_some(), "initialization"),
            (!self.feature_names.is_empty(), "feature_names"),
        ];
        match set.into_iter().find(|(is_set, _)| *is_set) {
            Some((_, field)) => Err(ParamError::OfBase { field }),
            None => Ok(()),
        }
    }

    fn check_activations(&self) -> Result<(), ParamError> {
        let (encoder, decoder) = (!self.encoder_activations.is_empty(), !self.decoder_activations.is_empty());
        let conflicts = [
            (self.code_activation.is_some() && encoder, "code_activation", "encoder_activations"),
            (self.output_activation.is_some() && decoder, "output_activation", "decoder_activations"),
            (
                self.hidden_activation.is_some() && encoder && decoder,
                "hidden_activation",
                "encoder_activations and decoder_activations",
            ),
        ];
        if let Some((_, field, other)) = conflicts.into_iter().find(|(conflict, ..)| *conflict) {
            return Err(ParamError::Both { field, other });
        }
        let layers = self.widths.len() - 1;
        let lists =
            [("encoder_activations", &self.encoder_activations), ("decoder_activations", &self.decoder_activations)];
        for (field, list) in lists {
            if !list.is_empty() && list.len() != layers {
                return Err(SpecError::ActivationCount { field, got: list.len(), expected: layers }.into());
            }
        }
        let single = [
            ("hidden_activation", self.hidden_activation),
            ("code_activation", self.code_activation),
            ("output_activation", self.output_activation),
        ];
        for (field, activation) in single {
            if let Some((parameter, got, expected)) = activation.and_then(wrong_parameter) {
                return Err(ParamError::Range { field, got: format!("of {parameter} {got}"), expected });
            }
        }
        Ok(())
    }

    fn check_loss(&self) -> Result<(), ParamError> {
        if self.loss != Some(Loss::BinaryCrossEntropy) {
            return Ok(());
        }
        match self.output_activation {
            None | Some(Activation::Sigmoid) => {}
            Some(other) => {
                return Err(ParamError::Range {
                    field: "output_activation",
                    got: format!("{other:?}"),
                    expected: "the sigmoid under binary cross-entropy",
                });
            }
        }
        if matches!(self.normalization, Some(NormalizationKind::Standardize | NormalizationKind::Robust)) {
            return Err(SpecError::CrossEntropyStandardize.into());
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ParamError> {
        check(
            "epochs",
            self.epochs,
            |n| (1..=EPOCHS_MAX).contains(&n),
            "1 to 100000 (or unset, to choose from the data)",
        )?;
        check("batch_rows", self.batch_rows, |n| (1..=BATCH_ROWS_MAX).contains(&n), "1 to 65536")?;
        check("patience_epochs", self.patience_epochs, |n| n >= 1, "1 or more")?;
        check("validation_fraction", self.validation_fraction, |x| (0.0..=0.9).contains(&x), "0 to 0.9")?;
        self.optimizer.check()?;
        self.regularization.check()?;
        self.check_time_budget()?;
        self.check_sample()?;
        if self.patience_epochs.is_some() && self.regularization.trim > 0.0 {
            // Held-out rows also have bad rows, so their loss does not show when to stop.
            return Err(ParamError::Both { field: "patience_epochs", other: "regularization.trim" });
        }
        if self.patience_epochs.is_some() && self.validation_fraction == Some(0.0) {
            return Err(ParamError::Needs {
                field: "patience_epochs",
                needs: "validation rows",
                got: "validation_fraction 0".to_owned(),
            });
        }
        Ok(())
    }

    /// Checks the mini-batch size; needs the widths.
    fn check_batch(&self) -> Result<(), ParamError> {
        let units: u64 = self.widths.iter().map(|width| *width as u64).sum();
        let expected = BATCH_BYTES_MAX / (4 * KEPT_PER_UNIT * units);
        match self.batch_rows {
            Some(got) if u64::from(got) > expected => Err(ParamError::BatchTooLarge { got, expected }),
            _ => Ok(()),
        }
    }

    fn check_sample(&self) -> Result<(), ParamError> {
        let rows = self.validation_sample_rows;
        check("validation_sample_rows", Some(rows), |n| n <= SAMPLE_ROWS_MAX, "0 to 4096")?;
        if rows > 0 && self.validation_fraction == Some(0.0) {
            let got = "validation_fraction 0".to_owned();
            return Err(ParamError::Needs { field: "validation_sample_rows", needs: "validation rows", got });
        }
        Ok(())
    }

    /// Checks options that not all widths allow; needs the widths.
    fn check_options(&self) -> Result<(), ParamError> {
        let code_length = self.widths.last().copied().unwrap_or(0);
        if self.regularization.orders_codes() && code_length < 2 {
            return Err(ParamError::Needs {
                field: "regularization.nested_dropout",
                needs: "a code of at least 2 numbers",
                got: code_length.to_string(),
            });
        }
        let size = self.widths.windows(2).map(|pair| pair[0].min(pair[1])).max().unwrap_or(0);
        let orthonormal = [
            (self.regularization.orthogonality > 0.0, "regularization.orthogonality"),
            (self.optimizer.retraction_steps > 0, "optimizer.retraction_steps"),
        ];
        match orthonormal.into_iter().find(|(is_set, _)| *is_set && size > ORTHONORMAL_SIZE_MAX) {
            Some((_, field)) => Err(ParamError::Needs {
                field,
                needs: "matrices whose smaller side is at most 4096",
                got: size.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn check_time_budget(&self) -> Result<(), ParamError> {
        let Some(budget) = self.time_budget else { return Ok(()) };
        if !TIME_BUDGET.contains(&budget) {
            return Err(ParamError::Range {
                field: "time_budget",
                got: format!("{budget:?}"),
                expected: "1 second to 30 days",
            });
        }
        match self.epochs {
            Some(_) => Err(ParamError::Both { field: "time_budget", other: "epochs" }),
            None => Ok(()),
        }
    }

    fn check_value_range(&self) -> Result<(), ParamError> {
        let Some((minimum, maximum)) = self.value_range else { return Ok(()) };
        // Rows are divided by the difference: it must be finite, too.
        if !(minimum < maximum && (maximum - minimum).is_finite()) {
            return Err(ParamError::Range {
                field: "value_range",
                got: format!("{minimum} to {maximum}"),
                expected: "two finite numbers, the maximum above the minimum, with a finite difference",
            });
        }
        match self.normalization {
            None | Some(NormalizationKind::UnitInterval) => Ok(()),
            Some(other) => Err(ParamError::Needs {
                field: "value_range",
                needs: "normalization unit interval (or none chosen)",
                got: format!("{other:?}"),
            }),
        }
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

#[cfg(test)]
mod tests;
