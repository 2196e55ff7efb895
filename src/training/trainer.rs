//! The training loop.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::batches::{Rows, shuffled, split};
use super::init;
use super::optimizer::AdamW;
use super::params::{CheckedTrainSpec, Initialisation};
use super::schedule::learning_rate;
use super::yardstick::{Measured, Yardstick};
use crate::model::gradient::{Gradient, TAPE_ROWS, Tape};
use crate::model::normalisation::RangeTooLarge;
use crate::model::spec::RawModelSpec;
use crate::model::{Autoencoder, EpochLosses, Evaluation, Loss, ModelSpec, Normaliser, TrainingReport};
use crate::numeric::Activation;

/// What the observer is told, at every mini-batch step, every epoch, and between the parts of long preparations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// From 1; 0 while preparing (normalisation, PCA).
    pub epoch: u32,
    /// In all.
    pub epoch_count: u32,
    /// Mini-batch steps done, of all epochs.
    pub step: u64,
    /// In all.
    pub step_count: u64,
    /// Training rows processed so far, of all epochs.
    pub rows_processed: u64,
    /// Mean of this epoch's mini-batches so far.
    pub training_loss: f64,
    /// After the last full epoch.
    pub validation_loss: Option<f64>,
    /// After the last full epoch, on validation rows.
    pub explained_variance: Option<f64>,
    /// PCA on the validation rows.
    pub pca_explained_variance: Option<f64>,
    /// Whether this event closes an epoch.
    pub epoch_ended: bool,
}

/// A trained model and how it went. The caller fills `data_sha256`, `duration_seconds`, `software`, `job_id`.
#[derive(Debug)]
pub struct Trained {
    /// The best weights.
    pub model: Autoencoder,
    /// How it went.
    pub report: TrainingReport,
}

/// Why training ended without a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The observer said so.
    #[error("training was stopped")]
    Stopped,
    /// Nothing to train on.
    #[error("there are no training rows, expected at least 1")]
    NoRows,
    /// More rows than an index counts.
    #[error("there are {got} training rows, expected at most {}", u32::MAX)]
    TooManyRows {
        /// Rows that came.
        got: usize,
    },
    /// A feature that cannot be normalised.
    #[error(transparent)]
    Range(#[from] RangeTooLarge),
    /// Cross-entropy wants [0, 1].
    #[error(
        "binary cross-entropy wants values from 0 to 1 after normalisation, training row {row} has {value} in feature {feature}: \
         choose the normalisation min-max or unit interval, or the squared error"
    )]
    OutsideUnitInterval {
        /// From 0.
        row: usize,
        /// From 0.
        feature: usize,
        /// Normalised.
        value: f32,
    },
    /// The loss left the numbers.
    #[error(
        "training diverged: the loss of step {step} (epoch {epoch}) is {loss}; try a learning rate below {learning_rate}"
    )]
    Diverged {
        /// From 1.
        epoch: u32,
        /// From 1.
        step: u64,
        /// What it was.
        loss: f64,
        /// The peak rate.
        learning_rate: f64,
    },
    /// PCA failed.
    #[error("the principal components of the training rows could not be computed: their values may be too large")]
    Yardstick,
}

/// Steps to train for, by default.
const STEPS_DEFAULT: u64 = 4000;
const EPOCHS_DEFAULT: std::ops::RangeInclusive<u64> = 15..=500;
/// Peak learning rate times the root of the greatest width: measured on the digits (64-32-8) and on MNIST
/// (784-1000-500-250-30). A model that is linear throughout bears twice as much.
const LEARNING_RATE_WIDTH_DEFAULT: f64 = 0.1;
const VALIDATION_FRACTION_DEFAULT: f64 = 0.05;
/// Floating-point operations of a tape below which other threads are not worth waking.
const PARALLEL_FLOPS_MIN: u64 = 4_000_000;

/// Trains on `training`, measures on `test` (may be empty), on the threads of `pool`. The result has the same bits for any
/// number of threads.
///
/// # Errors
/// See [`TrainError`]; [`TrainError::Stopped`] when `observer` breaks.
pub fn train(
    spec: &CheckedTrainSpec,
    training: Rows<'_>,
    test: Rows<'_>,
    pool: &rayon::ThreadPool,
    observer: &mut (dyn FnMut(&Event) -> ControlFlow<()> + Send),
) -> Result<Trained, TrainError> {
    pool.install(|| Trainer::prepare(spec, training, observer)?.run(test, observer))
}

/// What is settled before the first step.
struct Plan {
    epochs: u32,
    batch_rows: usize,
    learning_rate: f64,
    steps: u64,
    notes: Vec<String>,
}

struct Trainer<'a> {
    spec: &'a CheckedTrainSpec,
    rows: Rows<'a>,
    training: Vec<u32>,
    validation: Vec<u32>,
    model: Autoencoder,
    yardstick: Yardstick,
    plan: Plan,
    parallel: bool,
}

type Observer<'a> = dyn FnMut(&Event) -> ControlFlow<()> + Send + 'a;

impl<'a> Trainer<'a> {
    /// Everything before the first step: split, normalisation, PCA, first weights, and what the defaults come to.
    fn prepare(spec: &'a CheckedTrainSpec, rows: Rows<'a>, observer: &mut Observer<'_>) -> Result<Self, TrainError> {
        let count = rows.count();
        if count == 0 {
            return Err(TrainError::NoRows);
        }
        if count > u32::MAX as usize {
            return Err(TrainError::TooManyRows { got: count });
        }
        let mut notes = Vec::new();
        let seed = spec.spec().seed;
        let (training, validation) = split(count, validation_rows(spec, count, &mut notes), seed);

        let whole_bytes = rows.values.iter().all(|x| *x >= 0.0 && *x <= 255.0 && x.fract() == 0.0);
        let kind = spec.normalisation(whole_bytes);
        if spec.spec().normalisation.is_none() {
            let why =
                if whole_bytes { "every value is a whole number from 0 to 255" } else { "for values of any kind" };
            notes.push(format!("normalisation: {}, {why}", kind.name()));
        }
        let chosen = training.iter().map(|index| rows.row(*index as usize));
        let normaliser = Normaliser::learn(kind, rows.features, chosen, spec.spec().value_range)?;
        let model_spec = spec.model_spec(kind);
        let loss = model_spec.raw().loss;
        if loss == Loss::BinaryCrossEntropy {
            check_unit_interval(rows, &training, &normaliser)?;
        }
        if spec.spec().loss.is_none() {
            notes.push(match loss {
                Loss::SquaredError => "loss: squared error".to_owned(),
                Loss::BinaryCrossEntropy => {
                    "loss: binary cross-entropy, for values in the unit interval; squared errors are reported beside it"
                        .to_owned()
                }
            });
        }
        if model_spec.saturates_without_gain() {
            notes.push(
                "tanh or sigmoid hidden units with tied weights and no gain: they want small weights to stay linear, and the \
                 same weights are then too small to decode; switch `gain` on, or use ELU or ReLU"
                    .to_owned(),
            );
        }
        let plan = Plan::new(spec, &model_spec, training.len(), notes);
        let mut event = Event { epoch_count: plan.epochs, step_count: plan.steps, ..Event::default() };
        let mut stopped = false;
        let code_length = model_spec.code_length();
        let yardstick = Yardstick::fit(rows, &training, &normaliser, code_length, seed, &mut || {
            let said = observer(&event);
            stopped |= said.is_break();
            said
        });
        let yardstick = match yardstick {
            Some(yardstick) => yardstick,
            None if stopped => return Err(TrainError::Stopped),
            None => return Err(TrainError::Yardstick),
        };
        event.step = 0;
        if observer(&event).is_break() {
            return Err(TrainError::Stopped);
        }
        let parallel = model_spec.flops_per_row() * TAPE_ROWS as u64 >= PARALLEL_FLOPS_MIN;
        let mut plan = plan;
        let initialisation = match spec.spec().initialisation {
            None if !init::orthogonal_is_cheap(&model_spec) => {
                plan.notes.push("first weights: Glorot, orthogonal ones would take long at these widths".to_owned());
                Initialisation::Glorot
            }
            _ => spec.initialisation(),
        };
        let model = init::model(model_spec, normaliser, initialisation, seed);
        Ok(Self { spec, rows, training, validation, model, yardstick, plan, parallel })
    }

    /// All epochs, then the figures.
    fn run(mut self, test: Rows<'_>, observer: &mut Observer<'_>) -> Result<Trained, TrainError> {
        let mut report = TrainingReport {
            training_rows: self.training.len() as u64,
            pca_rows: self.yardstick.fitted_rows as u64,
            seed: self.spec.spec().seed,
            batch_rows: self.plan.batch_rows as u32,
            learning_rate: self.plan.learning_rate,
            ..TrainingReport::default()
        };
        let validation_yardstick = (!self.validation.is_empty())
            .then(|| self.yardstick.measure(self.rows, &self.validation, self.model.normaliser()));
        let mut event = Event {
            epoch_count: self.plan.epochs,
            step_count: self.plan.steps,
            pca_explained_variance: validation_yardstick.map(|pca| explained(pca.squared_error, pca.spread)),
            ..Event::default()
        };
        let mut optimizer = AdamW::new(&self.model, self.spec.spec().optimiser.weight_decay);
        let mut gradient = Gradient::zeros(&self.model);
        let mut tapes = Vec::new();
        let mut order = Vec::new();
        let mut best: Option<(f64, Autoencoder)> = None;

        for epoch in 1..=self.plan.epochs {
            shuffled(&self.training, self.spec.spec().seed, epoch, &mut order);
            (event.epoch, event.epoch_ended) = (epoch, false);
            let (mut loss_sum, mut rows_done) = (0.0, 0usize);
            for batch in order.chunks(self.plan.batch_rows) {
                let used = batch.len().div_ceil(TAPE_ROWS);
                tapes.resize_with(used.max(tapes.len()), || Tape::new(self.model.layers().len()));
                let loss = self.measure_batch(batch, &mut tapes[..used]);
                if !loss.is_finite() {
                    return Err(TrainError::Diverged {
                        epoch,
                        step: event.step + 1,
                        loss: loss / batch.len() as f64,
                        learning_rate: self.plan.learning_rate,
                    });
                }
                gradient.collect(&tapes[..used], self.parallel);
                let warmup = self.spec.warmup_fraction();
                let rate = learning_rate(event.step, self.plan.steps, warmup, self.plan.learning_rate);
                optimizer.step(&mut self.model, &gradient, rate, self.parallel);
                loss_sum += loss;
                rows_done += batch.len();
                event.step += 1;
                event.rows_processed += batch.len() as u64;
                event.training_loss = loss_sum / rows_done as f64;
                if observer(&event).is_break() {
                    return Err(TrainError::Stopped);
                }
            }
            let measured = validation_yardstick.map(|pca| (pca, self.evaluate(self.rows, &self.validation, &pca)));
            event.validation_loss = measured.as_ref().map(|(_, figures)| figures.loss);
            event.explained_variance = measured.as_ref().map(|(_, figures)| figures.explained_variance);
            event.epoch_ended = true;
            let training_loss = event.training_loss;
            report.epochs.push(EpochLosses { epoch, training_loss, validation_loss: event.validation_loss });
            if let Some((_, figures)) = &measured
                && best.as_ref().is_none_or(|(loss, _)| figures.loss < *loss)
            {
                report.best_epoch = epoch;
                match &mut best {
                    Some((loss, model)) => {
                        *loss = figures.loss;
                        model.clone_from(&self.model);
                    }
                    None => best = Some((figures.loss, self.model.clone())),
                }
            }
            if observer(&event).is_break() {
                return Err(TrainError::Stopped);
            }
            if self.spec.spec().patience_epochs.is_some_and(|patience| epoch - report.best_epoch.max(1) >= patience)
                && best.is_some()
            {
                self.plan.notes.push(format!("stopped early after epoch {epoch}: no better validation loss"));
                break;
            }
        }
        match best {
            Some((_, model)) => self.model = model,
            None => report.best_epoch = report.epochs.last().map_or(0, |last| last.epoch),
        }
        if !finite(&self.model) {
            return Err(TrainError::Diverged {
                epoch: event.epoch,
                step: event.step,
                loss: f64::NAN,
                learning_rate: self.plan.learning_rate,
            });
        }
        report.validation = validation_yardstick.map(|pca| self.evaluate(self.rows, &self.validation, &pca));
        if test.count() > 0 {
            let all: Vec<u32> = (0..test.count() as u32).collect();
            let pca = self.yardstick.measure(test, &all, self.model.normaliser());
            report.test = Some(self.evaluate(test, &all, &pca));
        }
        report.notes = self.plan.notes;
        Ok(Trained { model: self.model, report })
    }

    /// Forward and backward of a mini-batch, tape by tape; returns the sum of the loss over its rows.
    fn measure_batch(&self, batch: &[u32], tapes: &mut [Tape]) -> f64 {
        let work = |(tape, indices): (&mut Tape, &[u32])| {
            self.rows.gather(indices, self.model.normaliser(), tape.rows_mut());
            tape.forward(&self.model);
            tape.backward(&self.model, batch.len());
        };
        if self.parallel && tapes.len() > 1 {
            tapes.par_iter_mut().zip(batch.par_chunks(TAPE_ROWS)).for_each(work);
        } else {
            tapes.iter_mut().zip(batch.chunks(TAPE_ROWS)).for_each(work);
        }
        tapes.iter().map(Tape::loss).sum()
    }

    /// What the model does on the rows `indices`, beside PCA's figures on them.
    fn evaluate(&self, rows: Rows<'_>, indices: &[u32], pca: &Measured) -> Evaluation {
        let model = &self.model;
        let measure = |tape: &mut Tape, indices: &[u32]| {
            rows.gather(indices, model.normaliser(), tape.rows_mut());
            tape.forward(model);
            let mut sums = Sums { loss: tape.loss(), ..Sums::default() };
            let cross_entropy = model.spec().raw().loss == Loss::BinaryCrossEntropy;
            tape.each_reconstructed(model, |_, column, x, x_hat| {
                let error = f64::from(x) - f64::from(x_hat);
                sums.squared += error * error;
                sums.input_units += (error * f64::from(model.normaliser().unit(column))).powi(2);
                if cross_entropy {
                    sums.floor += entropy(f64::from(x));
                }
            });
            sums
        };
        // Collected in the order of the rows, and added up in that order.
        let parts: Vec<Sums> = if self.parallel {
            indices
                .par_chunks(TAPE_ROWS)
                .map_init(|| Tape::new(model.layers().len()), |tape, indices| measure(tape, indices))
                .collect()
        } else {
            let mut tape = Tape::new(model.layers().len());
            indices.chunks(TAPE_ROWS).map(|indices| measure(&mut tape, indices)).collect()
        };
        let mut sums = Sums::default();
        for part in parts {
            sums.loss += part.loss;
            sums.squared += part.squared;
            sums.input_units += part.input_units;
            sums.floor += part.floor;
        }
        let count = indices.len() as f64;
        let squared_error = sums.squared / count;
        Evaluation {
            rows: indices.len() as u64,
            loss: sums.loss / count,
            squared_error,
            squared_error_input_units: sums.input_units / count,
            pca_squared_error: pca.squared_error,
            pca_squared_error_input_units: pca.squared_error_input_units,
            explained_variance: explained(squared_error, pca.spread),
            pca_explained_variance: explained(pca.squared_error, pca.spread),
            loss_floor: (model.spec().raw().loss == Loss::BinaryCrossEntropy).then_some(sums.floor / count),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f64,
    squared: f64,
    input_units: f64,
    floor: f64,
}

impl Plan {
    fn new(spec: &CheckedTrainSpec, model: &ModelSpec, rows: usize, mut notes: Vec<String>) -> Self {
        let asked = spec.spec();
        let batch_rows = asked.batch_rows.map_or_else(
            || {
                let chosen = default_batch_rows(rows);
                notes.push(format!("batch size: {chosen} rows, for {rows} training rows"));
                chosen
            },
            |rows| rows as usize,
        );
        let steps_per_epoch = rows.div_ceil(batch_rows) as u64;
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
        Self { epochs, batch_rows, learning_rate, steps: steps_per_epoch * u64::from(epochs), notes }
    }
}

/// Small data wants many small steps; large data wants steps that fill the machine.
fn default_batch_rows(rows: usize) -> usize {
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

fn validation_rows(spec: &CheckedTrainSpec, rows: usize, notes: &mut Vec<String>) -> usize {
    match spec.spec().validation_fraction {
        Some(fraction) => (rows as f64 * fraction).round() as usize,
        None => {
            let share = (rows as f64 * VALIDATION_FRACTION_DEFAULT).round() as usize;
            let chosen = if rows >= 1000 { share.max(100) } else { share };
            notes.push(format!("validation: {chosen} of {rows} rows are held back"));
            chosen
        }
    }
}

fn check_unit_interval(rows: Rows<'_>, training: &[u32], normaliser: &Normaliser) -> Result<(), TrainError> {
    for index in training {
        for (feature, x) in rows.row(*index as usize).iter().enumerate() {
            let value = normaliser.value(feature, *x);
            if !(0.0..=1.0).contains(&value) {
                return Err(TrainError::OutsideUnitInterval { row: *index as usize, feature, value });
            }
        }
    }
    Ok(())
}

/// 1 - error / spread; rows without any spread are explained if there is no error.
fn explained(squared_error: f64, spread: f64) -> f64 {
    if spread > 0.0 { 1.0 - squared_error / spread } else { f64::from(u8::from(squared_error == 0.0)) }
}

/// Of a target in [0, 1], in nats.
fn entropy(x: f64) -> f64 {
    // Held-out rows may leave the range of the training rows a little.
    let x = x.clamp(0.0, 1.0);
    let part = |p: f64| if p > 0.0 { -p * libm::log(p) } else { 0.0 };
    part(x) + part(1.0 - x)
}

fn finite(model: &Autoencoder) -> bool {
    let all = |values: &[f32]| values.iter().all(|value| value.is_finite());
    model.layers().iter().all(|layer| {
        all(layer.weight.panels())
            && all(&layer.encoder_bias)
            && all(&layer.decoder_bias)
            && layer.gain.as_deref().is_none_or(all)
    })
}

#[cfg(test)]
mod tests;
