//! What the defaults come to: chosen from the rows and the widths, and told in notes.

use serde::{Deserialize, Serialize};

use super::params::CheckedTrainSpec;
use crate::model::spec::RawModelSpec;
use crate::model::{Loss, ModelSpec, NormalisationKind};
use crate::numeric::Activation;

/// Steps to train for, by default.
const STEPS_DEFAULT: u64 = 4000;
const EPOCHS_DEFAULT: std::ops::RangeInclusive<u64> = 15..=500;
/// Peak learning rate times the root of the greatest width: measured on the digits (64-32-8) and on MNIST
/// (784-1000-500-250-30). A model that is linear throughout bears twice as much.
const LEARNING_RATE_WIDTH_DEFAULT: f64 = 0.1;
const VALIDATION_FRACTION_DEFAULT: f64 = 0.05;

/// What is settled before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) epochs: u32,
    pub(super) batch_rows: usize,
    pub(super) learning_rate: f64,
    pub(super) steps_per_epoch: u64,
}

impl Plan {
    pub(super) fn new(spec: &CheckedTrainSpec, model: &ModelSpec, rows: u64, notes: &mut Vec<String>) -> Self {
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
            notes.push(format!("epochs: {chosen}, about {} steps of {batch_rows} rows", chosen * steps_per_epoch));
            chosen as u32
        });
        let learning_rate = asked.optimiser.learning_rate.unwrap_or_else(|| {
            let chosen = default_learning_rate(model.raw());
            notes.push(format!(
                "learning rate: {chosen}, for these widths, rising at first and falling to 0 by a cosine"
            ));
            chosen
        });
        Self { epochs, batch_rows, learning_rate, steps_per_epoch }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps_per_epoch * u64::from(self.epochs)
    }
}

/// Small data wants many small steps; large data wants steps that fill the machine.
fn default_batch_rows(rows: u64) -> usize {
    match rows {
        0..512 => 16,
        512..4096 => 32,
        4096..16_384 => 64,
        _ => 128,
    }
}

/// Rounded to two digits, which is all that it means.
fn default_learning_rate(model: &RawModelSpec) -> f64 {
    let width = model.widths.iter().copied().max().unwrap_or(1) as f64;
    let linear = model.encoder_activations.iter().chain(&model.decoder_activations).all(|f| *f == Activation::Linear);
    let rate = LEARNING_RATE_WIDTH_DEFAULT / width.sqrt() * if linear { 2.0 } else { 1.0 };
    ((rate * 1e4).round() / 1e4).clamp(1e-4, 0.05)
}

/// How many of `rows` rows are held back.
pub(super) fn validation_rows(spec: &CheckedTrainSpec, rows: u64, notes: &mut Vec<String>) -> u64 {
    match spec.spec().validation_fraction {
        Some(fraction) => (rows as f64 * fraction).round() as u64,
        None => {
            let share = (rows as f64 * VALIDATION_FRACTION_DEFAULT).round() as u64;
            let chosen = if rows >= 1000 { share.max(100) } else { share };
            notes.push(format!("validation: {chosen} of {rows} rows are held back"));
            chosen
        }
    }
}

/// What is to be told of the normalisation and the loss.
pub(super) fn tell_choices(
    spec: &CheckedTrainSpec,
    model: &ModelSpec,
    kind: NormalisationKind,
    whole_bytes: bool,
    notes: &mut Vec<String>,
) {
    if spec.spec().normalisation.is_none() {
        let why = if whole_bytes { "every value is a whole number from 0 to 255" } else { "for values of any kind" };
        notes.push(format!("normalisation: {}, {why}", kind.name()));
    }
    if spec.spec().loss.is_none() {
        notes.push(match model.raw().loss {
            Loss::SquaredError => "loss: squared error".to_owned(),
            Loss::BinaryCrossEntropy => {
                "loss: binary cross-entropy, for values in the unit interval; squared errors are reported beside it"
                    .to_owned()
            }
        });
    }
    if model.saturates_without_gain() {
        notes.push(
            "tanh or sigmoid hidden units with tied weights and no gain: they want small weights to stay linear, and the \
             same weights are then too small to decode; switch `gain` on, or use ELU or ReLU"
                .to_owned(),
        );
    }
}
