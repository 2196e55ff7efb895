//! The training plan: defaults that are chosen from the rows and the widths, and explained in notes.

use serde::{Deserialize, Serialize};

use super::batches::HELD_BACK_BYTES_MAX;
use super::notes::{Notes, Subject};
use super::params::CheckedTrainSpec;
use super::recipe::OptimizerKind;
use super::value_kind::ValueKind;
use crate::model::normalization::Learner;
use crate::model::spec::RawModelSpec;
use crate::model::{Loss, ModelSpec, NormalizationKind};
use crate::numeric::Activation;

/// Default number of steps.
const STEPS_DEFAULT: u64 = 4000;
const EPOCHS_DEFAULT: std::ops::RangeInclusive<u64> = 15..=500;
/// Default of the peak learning rate times the square root of the largest width: measured on the digits (64-32-8) and
/// on MNIST (784-1000-500-250-30). A linear model tolerates twice as much.
const LEARNING_RATE_WIDTH_DEFAULT: f64 = 0.1;
/// The length of an SGD step is that of the gradient, which sums over features.
const LEARNING_RATE_SGD_DEFAULT: f64 = 1e-3;
/// Factor of the learning rate if training starts from the weights of a version.
const GOING_ON: f64 = 0.25;
const VALIDATION_FRACTION_DEFAULT: f64 = 0.05;
/// A choice by validation rows needs at least this many, if they are not a large share of all rows.
const VALIDATION_ROWS_DEFAULT_MIN: u64 = 100;
const VALIDATION_FRACTION_DEFAULT_MAX: f64 = 0.2;
/// More rows would not improve a choice, and memory would grow with the rows.
const VALIDATION_ROWS_DEFAULT_MAX: u64 = 50_000;

/// The plan before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) epochs: u32,
    pub(super) batch_rows: usize,
    pub(super) learning_rate: f64,
    pub(super) steps_per_epoch: u64,
}

impl Plan {
    /// `goes_on`: whether training starts from the weights of another version.
    pub(super) fn new(spec: &CheckedTrainSpec, model: &ModelSpec, rows: u64, goes_on: bool, notes: &mut Notes) -> Self {
        let asked = spec.spec();
        let batch_rows = asked.batch_rows.map_or_else(
            || {
                let chosen = default_batch_rows(rows);
                notes.push(format!("batch size: {chosen} rows, for {rows} training rows"));
                chosen
            },
            |rows| rows as usize,
        );
        let steps_per_epoch = rows.div_ceil(batch_rows as u64);
        let epochs = asked.epochs.unwrap_or_else(|| {
            let chosen = STEPS_DEFAULT.div_ceil(steps_per_epoch).clamp(*EPOCHS_DEFAULT.start(), *EPOCHS_DEFAULT.end());
            if asked.time_budget.is_none() {
                notes.push(format!("epochs: {chosen}, about {} steps of {batch_rows} rows", chosen * steps_per_epoch));
            }
            chosen as u32
        });
        let learning_rate = asked.optimizer.learning_rate.unwrap_or_else(|| {
            let (rate, why) = default_learning_rate(model.raw(), asked.optimizer.kind);
            let (rate, more) =
                if goes_on { (rate * GOING_ON, ", reduced since the weights are already trained") } else { (rate, "") };
            if !asked.optimizer.find_learning_rate {
                notes.push(format!("learning rate: {rate}, for {why}{more}"));
            }
            rate
        });
        Self { epochs, batch_rows, learning_rate, steps_per_epoch }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps_per_epoch * u64::from(self.epochs)
    }
}

/// Small data needs many small steps; large data needs steps that use the whole machine.
fn default_batch_rows(rows: u64) -> usize {
    match rows {
        0..512 => 16,
        512..4096 => 32,
        4096..16_384 => 64,
        _ => 128,
    }
}

/// The default learning rate, rounded, and what it depends on.
fn default_learning_rate(model: &RawModelSpec, kind: OptimizerKind) -> (f64, String) {
    let width = model.widths.iter().copied().max().unwrap_or(1);
    let linear = model.encoder_activations.iter().chain(&model.decoder_activations).all(|f| *f == Activation::Linear);
    let by_width = LEARNING_RATE_WIDTH_DEFAULT / (width as f64).sqrt() * if linear { 2.0 } else { 1.0 };
    match kind {
        OptimizerKind::AdamW => {
            (((by_width * 1e4).round() / 1e4).clamp(1e-4, 0.05), format!("widths of up to {width}"))
        }
        OptimizerKind::Sgd => (LEARNING_RATE_SGD_DEFAULT, "SGD with momentum".to_owned()),
    }
}

/// Number of held-out rows, of `rows` rows with `features` numbers each.
pub(super) fn validation_rows(spec: &CheckedTrainSpec, rows: u64, features: usize, notes: &mut Notes) -> u64 {
    match spec.spec().validation_fraction {
        Some(fraction) => (rows as f64 * fraction).round() as u64,
        None => {
            let share = |fraction: f64| (rows as f64 * fraction).round() as u64;
            let most = share(VALIDATION_FRACTION_DEFAULT_MAX);
            // More rows than fit in memory would be read again in every epoch, together with the rows around them.
            let kept = VALIDATION_ROWS_DEFAULT_MAX.min(HELD_BACK_BYTES_MAX / (4 * features as u64));
            let least = VALIDATION_ROWS_DEFAULT_MIN.min(most);
            let chosen = share(VALIDATION_FRACTION_DEFAULT).min(kept).max(least);
            notes.push(format!("validation: {chosen} of {rows} rows are held out"));
            chosen
        }
    }
}

/// With fewer columns, rows count as a table, whatever their values: the smallest image has 8 x 8 pixels.
const PIXEL_COLUMNS_MIN: usize = 64;
/// With a smaller largest value, columns count as grades.
const PIXEL_GREATEST_MIN: f32 = 15.0;
/// Above this, pixels count as 8-bit: their range is known, whatever the values of these rows.
const BITS_7_GREATEST: f32 = 127.0;

/// Determines the [`ValueKind`] from a stream of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenValues {
    bytes: bool,
    unit: bool,
}

impl Default for SeenValues {
    fn default() -> Self {
        Self { bytes: true, unit: true }
    }
}

impl SeenValues {
    pub(super) fn add(&mut self, row: &[f32]) {
        self.bytes = self.bytes && row.iter().all(|x| x.is_nan() || (0.0..=255.0).contains(x) && x.fract() == 0.0);
        self.unit = self.unit && row.iter().all(|x| x.is_nan() || (0.0..=1.0).contains(x));
    }

    /// `learner` has seen the same rows. In a table, columns of integers or shares have ranges of their own. In one
    /// common range, most columns that vary exceed half of the largest value. Pixels are many, have more levels than
    /// grades, and most of them are dark in one row and bright in another.
    pub(super) fn kind(self, learner: &Learner, features: usize) -> ValueKind {
        let ranges = (0..features).map(|j| learner.range(j));
        let greatest = ranges.clone().fold(0.0, |most: f32, (_, maximum)| most.max(maximum));
        let (mut varied, mut wide, mut full) = (0, 0, 0);
        for (minimum, maximum) in ranges.filter(|(minimum, maximum)| minimum < maximum) {
            varied += 1;
            wide += usize::from(maximum > 0.5 * greatest);
            full += usize::from(maximum > 0.5 * greatest && minimum < 0.25 * greatest);
        }
        let are_pixels = features >= PIXEL_COLUMNS_MIN && greatest >= PIXEL_GREATEST_MIN && 2 * full >= varied;
        match (self.bytes, self.unit) {
            (_, true) if 2 * wide >= varied => ValueKind::Unit,
            (true, false) if are_pixels => ValueKind::Pixels { eight_bits: greatest > BITS_7_GREATEST },
            _ => ValueKind::Any,
        }
    }
}

/// A note on the masking, if the default applies.
pub(super) fn masking_note(spec: &CheckedTrainSpec) -> Option<String> {
    let chosen = spec.regularization();
    (chosen != spec.spec().regularization).then(|| {
        format!(
            "masking: {}, since values may be missing: the model learns to fill in missing values from values that \
             training hides",
            chosen.masking
        )
    })
}

/// Adds notes on the normalization and the loss.
pub(super) fn tell_choices(
    spec: &CheckedTrainSpec,
    model: &ModelSpec,
    kind: NormalizationKind,
    values: ValueKind,
    holds_back: bool,
    notes: &mut Notes,
) {
    if spec.spec().normalization.is_none() {
        let why = match values {
            _ if spec.spec().value_range.is_some() => "for the given range",
            _ if kind == NormalizationKind::MinMax => "for binary cross-entropy",
            ValueKind::Pixels { eight_bits: true } => {
                "for pixels: many columns of whole numbers that share the range 0 to 255"
            }
            ValueKind::Pixels { eight_bits: false } => "for pixels: many columns of whole numbers that share one range",
            ValueKind::Unit => "every value is from 0 to 1, and all share one range",
            ValueKind::Any if kind == NormalizationKind::Robust => "since some values are broken",
            ValueKind::Any => "for values of any kind",
        };
        notes.push(format!("normalization: {}, {why}", kind.name()));
    }
    if spec.spec().loss.is_none() {
        let text = match model.raw().loss {
            Loss::SquaredError if kind == NormalizationKind::UnitInterval && spec.spec().wants_orthonormal() => {
                "loss: squared error, since orthonormal matrices cannot make logits as large as cross-entropy needs"
            }
            Loss::SquaredError => "loss: squared error",
            Loss::BinaryCrossEntropy => {
                "loss: binary cross-entropy, for values in the unit interval; squared errors are reported beside it"
            }
        };
        notes.push_on(Subject::NonlinearModel, text.to_owned());
    }
    if spec.may_be_linear() && holds_back && model.layers() > 1 {
        let text = "hidden activation: ELU, unless PCA is as good on held-out rows";
        notes.push_on(Subject::NonlinearModel, text.to_owned());
    }
    if model.saturates_without_gain() {
        notes.push(
            "tanh or sigmoid hidden units with tied weights and no gain: they need small weights to avoid saturation, \
             and the same weights are then too small to decode; turn `gain` on, or use ELU or ReLU"
                .to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_values_is_detected() {
        let of = |rows: &[[f32; 4]]| {
            let (mut learner, mut seen) = (Learner::new(4), SeenValues::default());
            rows.iter().for_each(|row| {
                learner.add(row);
                seen.add(row);
            });
            seen.kind(&learner, 4)
        };
        assert_eq!(of(&[[0.0, 255.0, 0.0, 9.0], [0.0, 20.0, 200.0, 180.0]]), ValueKind::Any, "four bytes are a table");
        assert_eq!(of(&[[0.0, 1.0, 0.0, 0.2], [0.0, 0.3, 0.9, 0.7]]), ValueKind::Unit);
        assert_eq!(of(&[[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]]), ValueKind::Unit);
        assert_eq!(of(&[[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]]), ValueKind::Any);
        // An age, children, a size, rooms.
        assert_eq!(of(&[[44.0, 1.0, 180.0, 3.0], [70.0, 3.0, 165.0, 5.0]]), ValueKind::Any);
        assert_eq!(of(&[[0.01, 0.9, 0.02, 0.001], [0.0, 0.1, 0.03, 0.002]]), ValueKind::Any);
        assert_eq!(of(&[[7.0; 4]; 2]), ValueKind::Any, "constant");
    }

    #[test]
    fn pixels_are_many_columns_that_use_most_of_one_range() {
        let of = |columns: usize, value: &dyn Fn(usize, usize) -> usize| {
            let (mut learner, mut seen) = (Learner::new(columns), SeenValues::default());
            for i in 0..50 {
                let row: Vec<f32> = (0..columns).map(|j| value(i, j) as f32).collect();
                learner.add(&row);
                seen.add(&row);
            }
            seen.kind(&learner, columns)
        };
        let spread = |i: usize, j: usize| 37 * i * (j + 3) + 11 * j;
        assert_eq!(of(784, &|i, j| spread(i, j) % 256), ValueKind::Pixels { eight_bits: true });
        assert_eq!(
            of(784, &|i, j| if j < 100 { 0 } else { spread(i, j) % 256 }),
            ValueKind::Pixels { eight_bits: true }
        );
        assert_eq!(of(64, &|i, j| spread(i, j) % 17), ValueKind::Pixels { eight_bits: false }, "the digits");
        assert_eq!(of(32, &|i, j| spread(i, j) % 16), ValueKind::Any, "too few columns");
        assert_eq!(of(100, &|i, j| 1 + spread(i, j) % 10), ValueKind::Any, "grades");
        assert_eq!(of(100, &|i, j| (j + 1) * 2 - spread(i, j) % 2), ValueKind::Any, "ranges of their own");
        assert_eq!(of(100, &|i, j| 100 + spread(i, j) % 100), ValueKind::Any, "never dark");
    }
}
