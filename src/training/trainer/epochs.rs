//! The training loop: epochs of mini-batch steps, with restarts, early stopping and checkpoints.

use std::sync::Arc;

use super::weights::{begun, first_weights};
use crate::model::{Autoencoder, EpochLosses, Evaluation};
use crate::training::batches::{Batch, BatchLoader, ValidationRows};
use crate::training::checkpoint::{self, TrainingState};
use crate::training::error::TrainError;
use crate::training::evaluate::{evaluate, explained};
use crate::training::notes::Notes;
use crate::training::observer::{Event, Next, Observer};
use crate::training::optimizer::Optimizer;
use crate::training::params::CheckedTrainSpec;
use crate::training::pca_baseline::{Measured, PcaBaseline};
use crate::training::schedule::learning_rate;
use crate::training::source::SourceError;
use crate::training::steps::{Steps, is_parallel};
use crate::training::{defects, trial};

/// Training fails if a loss exceeds the initial loss by this factor: a bad batch does not explain it.
const EXPLODED: f64 = 1e4;
/// AdamW changes numbers by about its learning rate per step, however small the rows are. So errors of up to this many
/// learning rates, and at most 1, are no divergence. Rows of subnormal numbers are learned badly because of that; a
/// loss that grows without bound exceeds it.
const RATES_MAX: f64 = 100.0;
/// An epoch whose loss exceeds the lowest of earlier epochs by this factor has lost what they had learned.
const COLLAPSED: f64 = 3.0;
/// Factor of the learning rate when training restarts.
const RETRY_RATE: f64 = 0.25;

/// Training between two steps.
pub(super) struct Trainer {
    /// The request, with the chosen code length if it was left open.
    pub(super) spec: CheckedTrainSpec,
    pub(super) loader: BatchLoader,
    pub(super) held_back: ValidationRows,
    pub(super) state: TrainingState,
    /// The model to start from, also after a restart.
    pub(super) base: Option<Arc<Autoencoder>>,
    pub(super) model: Autoencoder,
    pub(super) best: Option<Autoencoder>,
    pub(super) optimizer: Optimizer,
    pub(super) steps: Steps,
    pub(super) baseline: PcaBaseline,
}

/// The result of an epoch.
enum Epoch {
    Done,
    Diverged(TrainError),
}

impl Trainer {
    /// Trains all epochs.
    pub(super) fn run(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.settle(observer)?;
        // Checked before each epoch, so that training that resumes from a checkpoint at the end of an epoch checks it,
        // too.
        while self.state.epoch <= self.state.plan.epochs && self.is_patient() {
            match self.epoch(observer)? {
                Epoch::Done => {}
                Epoch::Diverged(error) if self.may_retry() => self.begin_again(&error),
                Epoch::Diverged(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Runs the trials, once: finds the learning rate, if requested, and the number of epochs for a time budget.
    fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if self.state.settled {
            return Ok(());
        }
        self.state.settled = true;
        let Self { spec, loader, held_back, state, model, steps, .. } = self;
        let (asked, plan) = (spec.spec(), &mut state.plan);
        let mut bench = trial::Bench { spec: asked, loader, model, steps, plan, observer };
        if asked.optimizer.find_learning_rate {
            let note = bench.find_learning_rate()?;
            state.notes.push(note);
            state.report.learning_rate = bench.plan.learning_rate;
        }
        if let Some(budget) = asked.time_budget {
            let validate = || evaluate(model, &|found| held_back.each(found), &Measured::default(), is_parallel(model));
            let note = bench.fit_budget(budget, &mut || validate().map(|_| ()))?;
            state.notes.push(note);
            // The measured result must not change when training resumes.
            self.save(observer)?;
        }
        Ok(())
    }

    /// Trains from the current position to the end of the epoch.
    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<Epoch, TrainError> {
        self.loader.begin(self.state.epoch, self.state.rows_done)?;
        let mut batch = Batch::default();
        loop {
            self.loader.next(self.state.plan.batch_rows, &mut batch)?;
            if batch.is_empty() {
                break;
            }
            let loss = self.steps.measure(&self.model, &self.loader, &batch, self.state.epoch);
            let per_row = loss / batch.len() as f64;
            // The initial weights may be good already: then the spread of the rows is the reference.
            let start = *self.state.loss_start.get_or_insert(per_row.max(self.state.spread));
            // A single row may have the whole spread.
            let of_one = self.state.spread * self.state.report.training_rows as f64 / batch.len() as f64;
            let error = (RATES_MAX * self.state.plan.learning_rate).min(1.0);
            let min_share = error * error * self.model.spec().features() as f64;
            if !per_row.is_finite() || per_row > (EXPLODED * start + 4.0 * of_one).max(min_share) {
                return Ok(Epoch::Diverged(diverged(&self.state, per_row)));
            }
            let (step, plan) = (self.state.steps_done, &self.state.plan);
            let (schedule, warmup) = (self.spec.spec().optimizer.schedule, self.spec.warmup_fraction());
            let rate = learning_rate(schedule, step, plan.steps(), warmup, plan.learning_rate);
            self.steps.apply(&mut self.model, &mut self.optimizer, rate, step);
            let state = &mut self.state;
            state.loss_sum += loss;
            state.rows_done += batch.len() as u64;
            state.rows_processed += batch.len() as u64;
            state.steps_done += 1;
            let (epoch, training_loss) = (state.epoch, state.loss_sum / state.rows_done as f64);
            self.tell(observer, epoch, training_loss, batch.len())?;
        }
        self.steps.end_epoch(&mut self.model, self.state.steps_done);
        // The loss may be finite although the weights are not: some activations map NaN to a number.
        if !is_finite(&self.model) {
            return Ok(Epoch::Diverged(diverged(&self.state, f64::NAN)));
        }
        let training_loss = self.state.loss_sum / self.state.rows_done as f64;
        if self.may_retry() && self.has_collapsed(training_loss) {
            return Ok(Epoch::Diverged(diverged(&self.state, training_loss)));
        }
        let figures = self.validate()?;
        let state = &mut self.state;
        let validation_loss = figures.as_ref().map(|figures| figures.loss);
        let mut losses = EpochLosses::new(state.epoch, training_loss, validation_loss);
        if defects::is_due(&state.plan, self.model.spec(), state.report.training_rows, state.epoch) {
            losses.defects = defects::of(&self.model);
            losses.squared_error =
                figures.as_ref().map(|figures| figures.squared_error).filter(|error| error.is_finite());
        }
        state.report.epochs.push(losses);
        // A validation loss that is not finite, from a held-out row of enormous values, is ignored.
        if let Some(loss) = validation_loss.filter(|loss| loss.is_finite())
            && state.best_loss.is_none_or(|best| loss < best)
        {
            state.report.best_epoch = state.epoch;
            state.best_loss = Some(loss);
            // With trimming, held-out rows also have bad rows, so their loss does not select the best weights.
            if self.spec.spec().regularization.trim == 0.0 {
                match &mut self.best {
                    Some(best) => best.clone_from(&self.model),
                    None => self.best = Some(self.model.clone()),
                }
            }
        }
        state.squared_error = figures.as_ref().map(|figures| figures.squared_error);
        state.explained_variance = figures.map(|figures| figures.explained_variance);
        let ended = state.epoch;
        // The position of the next epoch, set before the observer may save it.
        (state.epoch, state.rows_done, state.loss_sum) = (ended + 1, 0, 0.0);
        self.tell(observer, ended, training_loss, 0)?;
        Ok(Epoch::Done)
    }

    /// Reports the position to the observer, after a step of `step_rows` rows or, with 0, after an epoch. Then does
    /// what the observer returns.
    fn tell(
        &mut self,
        observer: &mut dyn Observer,
        epoch: u32,
        training_loss: f64,
        step_rows: usize,
    ) -> Result<(), TrainError> {
        let state = &self.state;
        let event = Event {
            epoch,
            epoch_count: state.plan.epochs,
            step: state.steps_done,
            step_count: state.plan.steps(),
            rows_processed: state.rows_processed,
            step_rows: step_rows as u64,
            training_loss,
            validation_loss: state.report.epochs.last().and_then(|last| last.validation_loss),
            best_validation_loss: state.best_loss,
            squared_error: state.squared_error,
            explained_variance: state.explained_variance,
            pca_explained_variance: state.validation_yardstick.map(|pca| explained(pca.squared_error, pca.spread)),
            epoch_ended: step_rows == 0,
        };
        let next = observer.look(&event);
        if matches!(next, Next::Save | Next::SaveAndStop) {
            self.save(observer)?;
        }
        if matches!(next, Next::Stop | Next::SaveAndStop) { Err(TrainError::Stopped) } else { Ok(()) }
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // The result must not depend on when it is saved: the check at the end of the epoch decides.
        if !is_finite(&self.model) {
            return Ok(());
        }
        self.state.optimizer = self.optimizer.scalars();
        let tensors = self.optimizer.tensors();
        let bytes = checkpoint::write(&self.state, &self.model, self.best.as_ref(), &self.baseline, &tensors);
        observer.save(&bytes).map_err(TrainError::NotSaved)
    }

    /// Evaluates the model on the held-out rows, if there are any.
    fn validate(&self) -> Result<Option<Evaluation>, SourceError> {
        let Some(pca) = self.state.validation_yardstick else { return Ok(None) };
        evaluate(&self.model, &|found| self.held_back.each(found), &pca, is_parallel(&self.model)).map(Some)
    }

    /// Whether to train another epoch; adds a note if not.
    fn is_patient(&mut self) -> bool {
        let state = &mut self.state;
        let Some(patience) = self.spec.spec().patience_epochs else { return true };
        let done = state.epoch - 1;
        if state.best_loss.is_none() || done - state.report.best_epoch < patience {
            return true;
        }
        state.notes.push(format!("stopped early after epoch {done}: no better validation loss"));
        false
    }

    /// Whether an epoch lost what earlier epochs had learned. Its loss exceeds their lowest loss by a factor, and also
    /// a tenth of the initial loss.
    pub(super) fn has_collapsed(&self, training_loss: f64) -> bool {
        let losses = self.state.report.epochs.iter().map(|epoch| epoch.training_loss);
        let lowest = losses.fold(f64::INFINITY, f64::min);
        training_loss > COLLAPSED * lowest && self.state.loss_start.is_some_and(|start| training_loss > 0.1 * start)
    }

    /// Training may restart once, if the learning rate was chosen by default.
    fn may_retry(&self) -> bool {
        self.spec.spec().optimizer.learning_rate.is_none() && !self.state.retried
    }

    /// Restarts with initial weights and a smaller learning rate.
    pub(super) fn begin_again(&mut self, error: &TrainError) {
        let state = &mut self.state;
        let rate = state.plan.learning_rate * RETRY_RATE;
        state.notes.push(format!("{error}: restarted with learning rate {rate}"));
        (state.plan.learning_rate, state.report.learning_rate) = (rate, rate);
        state.report.epochs.clear();
        (state.epoch, state.rows_done, state.loss_sum) = (1, 0, 0.0);
        (state.steps_done, state.rows_processed, state.loss_start) = (0, 0, None);
        (state.squared_error, state.explained_variance) = (None, None);
        (state.retried, state.best_loss) = (true, None);
        self.best = None;
        self.model = match &self.base {
            Some(base) => begun(base, &self.spec),
            None => {
                let (spec, normalizer) = (self.model.spec().clone(), self.model.normalizer().clone());
                first_weights(&self.spec, spec, normalizer, &self.baseline, &mut Notes::default())
            }
        };
        self.optimizer = Optimizer::new(&self.model, &self.spec.spec().optimizer);
    }
}

fn diverged(state: &TrainingState, loss: f64) -> TrainError {
    let (epoch, step) = (state.epoch.min(state.plan.epochs), state.steps_done + 1);
    TrainError::Diverged { epoch, step, loss, learning_rate: state.plan.learning_rate }
}

pub(super) fn is_finite(model: &Autoencoder) -> bool {
    let all = |values: &[f32]| values.iter().all(|value| value.is_finite());
    model.layers().iter().all(|layer| {
        all(layer.weight.panels())
            && all(&layer.encoder_bias)
            && all(&layer.decoder_bias)
            && layer.gain.as_deref().is_none_or(all)
    })
}
