//! What a caller asks to be trained: as sent, and checked.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::code_length::EXPLAINED_SHARE_DEFAULT;
use super::plan::ValueKind;
use super::recipe::{OptimizerSpec, Regularization};
use crate::model::sample::SAMPLE_ROWS_MAX;
use crate::model::spec::{RawModelSpec, check_feature_names, check_widths, wrong_parameter};
use crate::model::statistics::STATISTICS_CODE_MAX;
use crate::model::text::shown;
use crate::model::{Loss, ModelName, ModelSpec, NormalizationKind, Selector, SpecError};
use crate::numeric::Activation;

/// Most passes over the training rows.
pub const EPOCHS_MAX: u32 = 100_000;
/// Most rows of a mini-batch.
pub const BATCH_ROWS_MAX: u32 = 65_536;
/// Bytes that a mini-batch may take on its way forward and backward.
const BATCH_BYTES_MAX: u64 = 4 << 30;
/// Numbers that are kept by row and unit, at most: what goes into a layer, and the derivatives by it, in both directions; slopes
/// and gains where there are some.
const KEPT_PER_UNIT: u64 = 7;
/// Largest smaller side of a matrix that is kept orthonormal: each look at its Gram matrix costs the square of that by row.
const ORTHONORMAL_SIZE_MAX: usize = 4096;
/// Share of the steps over which the learning rate rises, unless another is asked for.
pub const WARMUP_FRACTION: f64 = 0.05;
/// Probability with which a value is hidden where values may be missing: on the digits, with 10 to 50 % of them missing, 0.3 is
/// better than 0.1 and, but for 50 %, than 0.5.
const MASKING_OF_MISSING: f64 = 0.3;
/// Least and greatest time that training may be given.
pub const TIME_BUDGET: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// How to draw the first weights.
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

/// The version whose weights training begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its model.
    pub name: ModelName,
    /// Which of its versions; the newest is that of the moment when training begins.
    pub selector: Selector,
    /// Whether training begins with fresh weights where the model has no version yet.
    pub or_fresh: bool,
}

/// What a caller asks for, as sent: `None` means the default. Equality decides whether two uploads are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSpec {
    /// The model to make a version of.
    pub model_name: ModelName,
    /// `d_0` to `d_K`; may be empty where a base has them.
    pub widths: Vec<usize>,
    /// Of hidden layers; none: ELU.
    pub hidden_activation: Option<Activation>,
    /// Of the code; none: linear.
    pub code_activation: Option<Activation>,
    /// Of the reconstruction; none: linear, or sigmoid under BCE.
    pub output_activation: Option<Activation>,
    /// Instead of the three: empty or one per encoder layer (`None`: that layer's default).
    pub encoder_activations: Vec<Option<Activation>>,
    /// Instead of the three: empty or one per decoder layer, entry l for the one that uses `W_lᵀ`.
    pub decoder_activations: Vec<Option<Activation>>,
    /// None: squared error.
    pub loss: Option<Loss>,
    /// None: chosen from the rows.
    #[serde(alias = "normalisation")]
    pub normalization: Option<NormalizationKind>,
    /// The common range for the unit interval, if known.
    pub value_range: Option<(f32, f32)>,
    /// A stored gain per decoder unit.
    pub gain: bool,
    /// How to optimize.
    #[serde(alias = "optimiser")]
    pub optimizer: OptimizerSpec,
    /// None: orthogonal.
    #[serde(alias = "initialisation")]
    pub initialization: Option<Initialization>,
    /// None: by the time budget, or from the data.
    pub epochs: Option<u32>,
    /// None: from the data.
    pub batch_rows: Option<u32>,
    /// None: 0.05, at least 100 rows where there are 500 or more, at most 50,000.
    pub validation_fraction: Option<f64>,
    /// None: never stop early.
    pub patience_epochs: Option<u32>,
    /// Of every random number.
    pub seed: u64,
    /// Empty or one per feature.
    pub feature_names: Vec<String>,
    /// Instead of `epochs`.
    #[serde(default)]
    pub time_budget: Option<Duration>,
    /// What keeps it from learning the rows by heart.
    #[serde(default, alias = "regularisation")]
    pub regularization: Regularization,
    /// What to begin with; none: fresh weights.
    #[serde(default)]
    pub base: Option<Base>,
    /// Whether a version that is no better than its base on the validation rows is kept back.
    #[serde(default)]
    pub publish_if_better: bool,
    /// Whether values of rows may be missing, now and when the model serves; a base must take them too.
    #[serde(default)]
    pub missing_values: bool,
    /// Held-out rows that the version keeps, at most.
    #[serde(default)]
    pub validation_sample_rows: u32,
    /// Of the variance of the training rows, what a code explains whose length is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_share: Option<f64>,
}

/// Why parameters are refused. `field` is the name in the API.
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
    /// Two fields that cannot both be meant.
    #[error("{field} is set together with {other}, expected one of them")]
    Both {
        /// Name of the field in the API.
        field: &'static str,
        /// The other field.
        other: &'static str,
    },
    /// A field that the base settles.
    #[error("{field} is set together with base, which has it already: expected it unset")]
    OfBase {
        /// Name of the field in the API.
        field: &'static str,
    },
    /// Other widths than those of the base.
    #[error(
        "widths are {}, those of the base are {expected:?}: leave them out, or train without a base",
        shown(&format!("{got:?}"))
    )]
    BaseWidths {
        /// What came.
        got: Vec<usize>,
        /// What the base has.
        expected: Vec<usize>,
    },
    /// A mini-batch whose activations would not fit into memory.
    #[error(
        "batch_rows is {got}, expected at most {expected} for these widths: more would take over {} GiB on its way forward and \
         backward", BATCH_BYTES_MAX >> 30
    )]
    BatchTooLarge {
        /// What came.
        got: u32,
        /// What the widths allow.
        expected: u64,
    },
    /// A field that has no meaning beside another's value.
    #[error("{field} is set, which needs {needs}, got {got}")]
    Needs {
        /// Name of the field in the API.
        field: &'static str,
        /// What it needs.
        needs: &'static str,
        /// What came instead.
        got: String,
    },
}

impl ParamError {
    /// The field of the API's `TrainSpec` that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Spec(error) => error.field(),
            Self::Range { field, .. }
            | Self::Both { field, .. }
            | Self::Needs { field, .. }
            | Self::OfBase { field } => field,
            Self::BaseWidths { .. } => "widths",
            Self::BatchTooLarge { .. } => "batch_rows",
        }
    }
}

/// A specification with nothing wrong that can be known before the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TrainSpec", into = "TrainSpec")]
pub struct CheckedTrainSpec {
    spec: TrainSpec,
}

impl TrainSpec {
    /// A specification with every default.
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

    /// Whether the length of the code is left to the rows: the last width is 0.
    pub fn chooses_code_length(&self) -> bool {
        self.widths.len() >= 2 && self.widths.last() == Some(&0)
    }

    /// Checks all that can be checked before the rows, and before the base is known.
    pub fn check(self) -> Result<CheckedTrainSpec, ParamError> {
        self.check_base()?;
        self.check_explained_share()?;
        if self.widths.is_empty() && self.base.as_ref().is_some_and(|base| !base.or_fresh) {
            self.check_numbers()?;
            return Ok(CheckedTrainSpec { spec: self });
        }
        if self.chooses_code_length() {
            // Whatever is chosen later is in between.
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

    /// All that can be checked before the rows, of widths that are.
    fn check_widths_known(&self) -> Result<(), ParamError> {
        self.check_activations()?;
        self.check_loss()?;
        self.check_numbers()?;
        self.check_batch()?;
        self.check_options()?;
        self.check_value_range()?;
        // The widest normalization that the loss allows: whichever is chosen from the rows needs no more.
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

    /// Least and greatest length of a code that is chosen from the rows: no longer than any layer before it is wide, nor than one
    /// that has statistics.
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
        // It has become a length.
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
            // What is held out has its share of bad rows: its loss does not say when to stop.
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

    /// For widths that are known.
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

    /// Options that not all widths admit; for widths that are known.
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
        // The difference is what rows are divided by: it must be finite too.
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

    /// As asked for; else cross-entropy for rows in the unit interval (unless their reconstruction is not a sigmoid), which
    /// gives the lower squared error there too, and squared error for the rest. Orthonormal matrices make no logits that are
    /// longer than rows: on the digits cross-entropy then explains half of what the squared error does, or less.
    fn resolved_loss(&self, normalization: NormalizationKind) -> Loss {
        let output = self.decoder_activations.first().copied().flatten().or(self.output_activation);
        self.loss.unwrap_or(match (normalization, output) {
            (NormalizationKind::UnitInterval, None) if self.wants_orthonormal() => Loss::SquaredError,
            (NormalizationKind::UnitInterval, None | Some(Activation::Sigmoid)) => Loss::BinaryCrossEntropy,
            _ => Loss::SquaredError,
        })
    }

    /// Whether matrices are drawn to orthonormal ones, or made so.
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

/// Refuses a value that is set and not allowed.
pub(super) fn check<T: Copy + Display>(
    field: &'static str,
    value: Option<T>,
    allowed: impl Fn(T) -> bool,
    expected: &'static str,
) -> Result<(), ParamError> {
    match value {
        Some(got) if !allowed(got) => Err(ParamError::Range { field, got: got.to_string(), expected }),
        _ => Ok(()),
    }
}

impl CheckedTrainSpec {
    /// As it was sent.
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

    /// The same with the widths of its base.
    ///
    /// # Errors
    /// [`ParamError::BaseWidths`] if other widths were asked for, [`ParamError::Needs`] if values may be missing and the base does
    /// not take that, or these widths do not admit an option, [`ParamError::BatchTooLarge`] if they are too wide for the
    /// mini-batch.
    pub fn with_base(&self, base: &ModelSpec) -> Result<Self, ParamError> {
        let expected = &base.raw().widths;
        let asked = &self.spec.widths;
        let known = asked.len() - usize::from(self.spec.chooses_code_length());
        if !asked.is_empty() && (asked.len() != expected.len() || asked[..known] != expected[..known]) {
            return Err(ParamError::BaseWidths { got: self.spec.widths.clone(), expected: expected.clone() });
        }
        if self.spec.missing_values && !base.raw().missing_values {
            let got = "one that was trained without".to_owned();
            return Err(ParamError::Needs { field: "missing_values", needs: "a base that takes them", got });
        }
        let missing_values = base.raw().missing_values;
        let spec = TrainSpec { widths: expected.clone(), missing_values, explained_share: None, ..self.spec.clone() };
        spec.check_batch()?;
        spec.check_options()?;
        Ok(Self { spec })
    }

    /// The same with these names of its features, where it has none and they can be such.
    #[must_use]
    pub fn with_feature_names(&self, names: &[String]) -> Self {
        let is_free = self.spec.feature_names.is_empty() && !self.spec.widths.is_empty();
        if !is_free || check_feature_names(names, self.features()).is_err() {
            return self.clone();
        }
        Self { spec: TrainSpec { feature_names: names.to_vec(), ..self.spec.clone() } }
    }

    /// The share of the variance that the code is to explain, where its length is left to the rows.
    pub fn explained_share(&self) -> Option<f64> {
        self.spec.chooses_code_length().then(|| self.spec.explained_share.unwrap_or(EXPLAINED_SHARE_DEFAULT))
    }

    /// Least and greatest length of a code that is chosen.
    pub fn code_length_bounds(&self) -> (usize, usize) {
        self.spec.code_length_bounds()
    }

    /// The same with a code of this length, where it was left to the rows.
    #[must_use]
    pub fn with_code_length(&self, length: usize) -> Self {
        if self.spec.chooses_code_length() { Self { spec: self.spec.with_code_length(length) } } else { self.clone() }
    }

    /// How the first weights are drawn.
    pub fn initialization(&self) -> Initialization {
        self.spec.initialization.unwrap_or(Initialization::Orthogonal)
    }

    /// What keeps the model from learning the rows by heart. Where values may be missing, some are masked unless the caller says
    /// how: only what was hidden from a model teaches it to tell what is missing.
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

    /// Whether a linear model may be chosen instead: the caller said nothing of activations, loss, first weights, what keeps
    /// the model from learning by heart or its matrices orthonormal, or missing values, which PCA was not made for.
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

    /// The normalization to use for training rows of such `values`.
    ///
    /// As asked for; else unit interval for bytes, for values in it, or where the common range is given; else standardize, or
    /// min-max under binary cross-entropy, which needs data in [0, 1].
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

    /// The shape of the model, with every activation and the loss filled in.
    ///
    /// # Panics
    /// If `normalization` is standardize under binary cross-entropy, which [`CheckedTrainSpec::normalization`] never is.
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
