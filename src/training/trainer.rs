//! The training loop.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::batches::{Batch, BatchLoader, Split, ValidationRows, each_block, each_training_row, held_back_rows};
use super::checkpoint::{self, Checkpoint, TrainingState, software};
use super::code_length::{self, Choice};
use super::columns::{Columns, Names, lost_note};
use super::error::{CheckpointError, TrainError};
use super::evaluate::{evaluate, evaluate_features, explained, row_errors};
use super::init;
use super::notes::{Notes, Subject};
use super::observer::{Event, Next, Observer};
use super::optimizer::Optimizer;
use super::params::{CheckedTrainSpec, Initialization};
use super::pca_baseline::{Measured, PcaBaseline};
use super::plan::{Plan, SeenValues, masking_note, tell_choices, validation_rows};
use super::robust::{Clipped, Limit, Outliers, clip};
use super::schedule::learning_rate;
use super::shift::Shift;
use super::source::{RowSource, SourceError};
use super::steps::{Steps, is_parallel};
use super::value_kind::ValueKind;
use super::{calibrate, defects, linear, relations, trial};
use crate::model::normalization::{Learner, RangeTooLarge};
use crate::model::{
    Autoencoder, EpochLosses, Evaluation, Loss, ModelSpec, NormalizationKind, Normalizer, Statistics, TrainingReport,
};

/// A trained model and its report. The caller fills `data_sha256`, `duration_seconds` and `job_id`.
#[derive(Debug)]
pub struct Trained {
    /// The best weights.
    pub model: Autoencoder,
    /// The training report.
    pub report: TrainingReport,
    /// Statistics of the codes, if these are not too long, and, if rows were held out, what scores need.
    pub statistics: Option<Statistics>,
}

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

/// Rows between two calls of the observer during a pass over the rows.
const LOOK_ROWS: u64 = 10_000;

/// Where training starts.
#[derive(Clone, Debug)]
pub enum Start {
    /// From initial weights, as the specification defines.
    Fresh,
    /// From the weights of a model; its shape and normalization are kept.
    Model(Arc<Autoencoder>),
    /// From a checkpoint, with the same specification, rows and base.
    Checkpoint(Vec<u8>, Option<Arc<Autoencoder>>),
}

/// Trains on `training` and evaluates on `test` (may be empty), on the threads of `pool`. `held_out` (row-major, may be
/// empty) are held-out rows of earlier training. The first of them, at most as many as are held out of `training`, are
/// evaluated together with those.
///
/// The result has the same bits for any number of threads, and after any stops and resumptions. 64-bit rows keep their
/// digits: see `training/shift.rs`.
///
/// # Errors
/// See [`TrainError`]; [`TrainError::Stopped`] if `observer` stops training.
///
/// # Panics
/// If the rows are not as wide as the specification, or if a base has other widths.
pub fn train(
    spec: &CheckedTrainSpec,
    training: &Arc<dyn RowSource>,
    held_out: &[f64],
    test: &dyn RowSource,
    start: Start,
    pool: &rayon::ThreadPool,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    assert!(training.features() == spec.features() && test.features() == spec.features(), "rows as wide as specified");
    pool.install(|| {
        let base = match &start {
            Start::Fresh => None,
            Start::Model(base) => Some(base),
            Start::Checkpoint(_, base) => base.as_ref(),
        };
        let Some(shift) = Shift::of(spec, training.as_ref(), test, held_out, base.map(Arc::as_ref))? else {
            let held_out: Vec<f32> = held_out.iter().map(|value| *value as f32).collect();
            return train_narrow(spec, training, &held_out, test, start, observer);
        };
        let shifted: Arc<dyn RowSource> = Arc::new(shift.rows(Arc::clone(training)));
        let unshifted = |base: Arc<Autoencoder>| Arc::new(base.without_offset(shift.by()));
        let start = match start {
            Start::Fresh => Start::Fresh,
            Start::Model(base) => Start::Model(unshifted(base)),
            Start::Checkpoint(bytes, base) => Start::Checkpoint(bytes, base.map(unshifted)),
        };
        let trained = train_narrow(spec, &shifted, &shift.apply(held_out), &shift.rows(test), start, observer);
        let mut trained = trained.map_err(|error| in_input_units(error, shift.by()))?;
        trained.model = trained.model.with_shift(shift.by());
        trained.report.notes.push(shift.note().to_owned());
        Ok(trained)
    })
}

/// [`train`] for 32-bit rows.
fn train_narrow(
    spec: &CheckedTrainSpec,
    training: &Arc<dyn RowSource>,
    held_out: &[f32],
    test: &dyn RowSource,
    start: Start,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let trainer = match start {
        Start::Fresh => Trainer::prepare(spec, training, held_out, None, observer)?,
        Start::Model(base) => Trainer::prepare(spec, training, held_out, Some(&base), observer)?,
        Start::Checkpoint(bytes, base) => Trainer::resume(spec, training, held_out, &bytes, base)?,
    };
    trainer.run(test, observer)
}

/// Converts the values of shifted rows in an error back to input values.
fn in_input_units(error: TrainError, shift: &[f64]) -> TrainError {
    match error {
        TrainError::Range(RangeTooLarge { feature, minimum, maximum }) => {
            let came = |value: f32| (f64::from(value) + shift[feature]) as f32;
            TrainError::Range(RangeTooLarge { feature, minimum: came(minimum), maximum: came(maximum) })
        }
        other => other,
    }
}

/// At most `rows_max` of the rows that training on `training` holds out (row-major, the newest first). A later training
/// may use them as its `held_out`. A base may define the widths.
pub fn held_out(spec: &CheckedTrainSpec, training: &dyn RowSource, rows_max: usize) -> Result<Vec<f64>, SourceError> {
    let count = validation_rows(spec, training.count(), training.features(), &mut Notes::default());
    held_back_rows(training, count, spec.spec().seed, rows_max)
}

struct Trainer {
    /// The request, with the chosen code length if it was left open.
    spec: CheckedTrainSpec,
    loader: BatchLoader,
    held_back: ValidationRows,
    state: TrainingState,
    /// The model to start from, also after a restart.
    base: Option<Arc<Autoencoder>>,
    model: Autoencoder,
    best: Option<Autoencoder>,
    optimizer: Optimizer,
    steps: Steps,
    baseline: PcaBaseline,
}

/// The result of an epoch.
enum Epoch {
    Done,
    Diverged(TrainError),
}

impl Trainer {
    /// Makes all preparations before the first step: split, normalization, PCA, initial weights, and defaults.
    #[expect(clippy::too_many_lines, reason = "one story from top to bottom")]
    fn prepare(
        asked: &CheckedTrainSpec,
        source: &Arc<dyn RowSource>,
        held_out: &[f32],
        base: Option<&Arc<Autoencoder>>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let count = source.count();
        if count == 0 {
            return Err(TrainError::NoRows);
        }
        let mut notes = Notes::default();
        let seed = asked.spec().seed;
        let features = asked.features();
        let split = Arc::new(Split::new(count, features, validation_rows(asked, count, features, &mut notes), seed));
        let mut look = |event: &Event| match observer.look(event) {
            Next::GoOn | Next::Save => Ok(()),
            Next::Stop | Next::SaveAndStop => Err(TrainError::Stopped),
        };
        let event = Event::default();
        let names = base.map_or(&asked.spec().feature_names, |base| &base.spec().raw().feature_names);
        let Outliers { broken, far } = Outliers::find(source.as_ref(), &mut || look(&event))?;
        let is_robust = asked.spec().normalization == Some(NormalizationKind::Robust);
        let broken = if is_robust { far.clone().or(broken) } else { broken };
        let clips = is_robust || asked.spec().normalization.is_none();
        notes.extend(broken.as_ref().map(|broken| broken.note(Names(names), source.shift(), clips)));
        let broken_count = broken.as_ref().map_or(0, |broken| broken.count);
        if let Some(far) = far.filter(|far| far.count > broken_count) {
            notes.push(far.note_of_far(Names(names), source.shift()));
        }
        let limits = broken.filter(|_| clips).map(|broken| broken.limits).unwrap_or_default();
        let source = &clipped(source, &limits);
        let Seen { learner, columns, values } = look_through(source.as_ref(), &split, &mut || look(&event))?;
        let (normalizer, model_spec, spec) = match base {
            Some(base) => {
                assert_eq!(
                    base.spec().raw().widths,
                    asked.spec().widths,
                    "the base has the widths of the specification"
                );
                let (normalizer, model_spec) = (base.normalizer().clone(), base.spec().clone());
                if model_spec.raw().loss == Loss::BinaryCrossEntropy {
                    check_unit_interval(source.as_ref(), &split, &normalizer, &learner, Names(names), outside_base)?;
                }
                (normalizer, model_spec, asked.clone())
            }
            None => {
                let kind = match asked.normalization(values) {
                    NormalizationKind::Standardize if !limits.is_empty() => NormalizationKind::Robust,
                    kind => kind,
                };
                let normalizer = fresh_normalizer(asked, &learner, kind, values, source.shift())?;
                let (spec, note) = with_code_length(asked, source.as_ref(), &split, &normalizer)?;
                notes.extend(note);
                let model_spec = spec.model_spec(kind);
                if model_spec.raw().loss == Loss::BinaryCrossEntropy {
                    check_unit_interval(source.as_ref(), &split, &normalizer, &learner, Names(names), outside)?;
                }
                tell_choices(&spec, &model_spec, kind, values, split.training_rows() < count, &mut notes);
                (normalizer, model_spec, spec)
            }
        };
        notes.extend(missing_note(&learner));
        notes.extend(masking_note(&spec));
        notes.extend(columns.notes(&learner, Names(&model_spec.raw().feature_names), source.shift()));
        let spread = (0..spec.features()).map(|j| learner.variance(j) / f64::from(normalizer.unit(j)).powi(2)).sum();
        let plan = Plan::new(&spec, &model_spec, split.training_rows(), base.is_some(), &mut notes);
        let event = Event { epoch_count: plan.epochs, step_count: plan.steps(), ..Event::default() };
        let code_length = model_spec.code_length();
        let baseline =
            fit_yardstick(source.as_ref(), &split, &normalizer, code_length, seed, &mut || look(&event).is_ok())?;
        look(&event)?;
        let held_back =
            ValidationRows::new(Arc::clone(source), Arc::clone(&split), &clipped_rows(held_out, features, &limits))?;
        let validation_yardstick = match held_back.count() {
            0 => None,
            _ => Some(baseline.measure_held_back(&held_back, &normalizer)?),
        };
        let base_validation = match (base, &validation_yardstick) {
            (Some(base), Some(pca)) => Some(evaluate(base, &|found| held_back.each(found), pca, is_parallel(base))?),
            _ => None,
        };
        let model = match base {
            Some(base) => begun(base, &spec),
            None => first_weights(&spec, model_spec, normalizer, &baseline, &mut notes),
        };
        let optimizer = Optimizer::new(&model, &spec.spec().optimizer);
        let report = TrainingReport {
            training_rows: split.training_rows(),
            pca_rows: baseline.fitted_rows,
            seed,
            batch_rows: plan.batch_rows as u32,
            learning_rate: plan.learning_rate,
            software: software(),
            base_validation,
            ..TrainingReport::default()
        };
        let state = TrainingState {
            software: software(),
            spec: asked.spec().clone(),
            source_rows: count,
            limits,
            plan,
            notes,
            validation_yardstick,
            pca_rows: baseline.fitted_rows,
            epoch: 1,
            rows_done: 0,
            loss_sum: 0.0,
            steps_done: 0,
            rows_processed: 0,
            squared_error: None,
            explained_variance: None,
            spread,
            loss_start: None,
            settled: false,
            retried: false,
            report,
            best_loss: None,
            optimizer: optimizer.scalars(),
        };
        let steps = Steps::new(&model, &spec);
        let (loader, base) = (BatchLoader::new(Arc::clone(source), split), base.cloned());
        Ok(Self { spec, loader, held_back, state, base, model, best: None, optimizer, steps, baseline })
    }

    /// Restores a trainer from a checkpoint.
    fn resume(
        asked: &CheckedTrainSpec,
        source: &Arc<dyn RowSource>,
        held_out: &[f32],
        bytes: &[u8],
        base: Option<Arc<Autoencoder>>,
    ) -> Result<Self, TrainError> {
        let Checkpoint { state, model, best, baseline, optimizer_tensors } = Checkpoint::read(bytes)?;
        if state.spec != *asked.spec() {
            return Err(CheckpointError::Specification.into());
        }
        if state.source_rows != source.count() {
            return Err(CheckpointError::Rows { got: state.source_rows, expected: source.count() }.into());
        }
        let spec = if base.is_some() { asked.clone() } else { asked.with_code_length(model.spec().code_length()) };
        let source = &clipped(source, &state.limits);
        let held_out = &clipped_rows(held_out, spec.features(), &state.limits);
        let mut optimizer = Optimizer::new(&model, &spec.spec().optimizer);
        let restored = optimizer.restore(state.optimizer, optimizer_tensors);
        restored.map_err(|error| CheckpointError::Unreadable(error.to_string()))?;
        let held_back = validation_rows(&spec, source.count(), spec.features(), &mut Notes::default());
        let split = Arc::new(Split::new(source.count(), spec.features(), held_back, spec.spec().seed));
        let held_back = ValidationRows::new(Arc::clone(source), Arc::clone(&split), held_out)?;
        let steps = Steps::new(&model, &spec);
        let loader = BatchLoader::new(Arc::clone(source), split);
        Ok(Self { spec, loader, held_back, state, base, model, best, optimizer, steps, baseline })
    }

    /// Runs all epochs, then computes the figures of the report.
    fn run(mut self, test: &dyn RowSource, observer: &mut dyn Observer) -> Result<Trained, TrainError> {
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
        let Self { spec, loader, held_back, mut state, base, mut model, best, baseline, .. } = self;
        let test: &dyn RowSource = &Clipped { source: test, limits: state.limits.clone() };
        match best {
            Some(best) => model = best,
            None => state.report.best_epoch = state.report.epochs.last().map_or(0, |last| last.epoch),
        }
        let mut report = state.report;
        let figures = |model: &Autoencoder, pca: &Measured| {
            let each = |found: &mut dyn FnMut(&[f32]) -> Result<(), SourceError>| held_back.each(found);
            evaluate_features(model, &each, pca, baseline.pca.mean(), is_parallel(model))
        };
        if let Some(pca) = state.validation_yardstick {
            let (mut of_model, mut by_feature) = figures(&model, &pca)?;
            if base.is_none() && spec.may_be_linear() {
                let plain = linear::model(model.spec(), model.normalizer().clone(), &baseline.pca, spec.spec().seed);
                let errors = |model| row_errors(model, &|found| held_back.each(found), linear::COMPARED_ROWS_MAX);
                if let Some(note) = linear::is_enough(&errors(&model)?, &errors(&plain)?) {
                    // These notes describe the model that is replaced.
                    state.notes.remove(Subject::NonlinearModel);
                    state.notes.extend([note, "loss: squared error, as for every linear model".to_owned()]);
                    (of_model, by_feature) = figures(&plain, &pca)?;
                    model = plain;
                }
            }
            report.validation = Some(of_model);
            state.notes.extend(lost_note(&by_feature, Names(&model.spec().raw().feature_names)));
            report.feature_explained_variance = by_feature;
        }
        if test.count() > 0 {
            let pca = baseline.measure_all(test, model.normalizer())?;
            let each =
                |found: &mut dyn FnMut(&[f32]) -> Result<(), SourceError>| each_block(test, &mut |_, rows| found(rows));
            report.test = Some(evaluate(&model, &each, &pca, is_parallel(&model))?);
        }
        let (source, split) = loader.parts();
        let event = Event {
            epoch: state.epoch - 1,
            epoch_count: state.plan.epochs,
            step: state.steps_done,
            step_count: state.plan.steps(),
            rows_processed: state.rows_processed,
            training_loss: report.epochs.last().map_or(0.0, |last| last.training_loss),
            validation_loss: report.epochs.last().and_then(|last| last.validation_loss),
            best_validation_loss: state.best_loss,
            squared_error: state.squared_error,
            explained_variance: state.explained_variance,
            ..Event::default()
        };
        let mut looks = 0u64;
        let mut go_on = || {
            looks += 1;
            match looks.is_multiple_of(LOOK_ROWS).then(|| observer.look(&event)) {
                Some(Next::Stop | Next::SaveAndStop) => Err(TrainError::Stopped),
                _ => Ok(()),
            }
        };
        let trim = spec.spec().regularization.trim;
        let statistics = calibrate::statistics(&model, source, split, &held_back, trim, &mut go_on)?;
        let names = Names(&model.spec().raw().feature_names);
        state.notes.extend(statistics.as_ref().and_then(|found| relations::note(&found.invariants, names)));
        report.notes = state.notes.into();
        Ok(Trained { model, report, statistics })
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
    fn has_collapsed(&self, training_loss: f64) -> bool {
        let losses = self.state.report.epochs.iter().map(|epoch| epoch.training_loss);
        let lowest = losses.fold(f64::INFINITY, f64::min);
        training_loss > COLLAPSED * lowest && self.state.loss_start.is_some_and(|start| training_loss > 0.1 * start)
    }

    /// Training may restart once, if the learning rate was chosen by default.
    fn may_retry(&self) -> bool {
        self.spec.spec().optimizer.learning_rate.is_none() && !self.state.retried
    }

    /// Restarts with initial weights and a smaller learning rate.
    fn begin_again(&mut self, error: &TrainError) {
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

/// The properties of the training rows that choices depend on.
struct Seen {
    learner: Learner,
    columns: Columns,
    values: ValueKind,
}

/// Examines the training rows; ends early if `go_on` fails.
fn look_through(
    source: &dyn RowSource,
    split: &Split,
    go_on: &mut dyn FnMut() -> Result<(), TrainError>,
) -> Result<Seen, TrainError> {
    let (mut learner, mut values, mut seen) = (Learner::new(source.features()), SeenValues::default(), 0u64);
    let mut columns = Columns::new(source.features());
    let (shift, mut as_came) = (source.shift(), Vec::new());
    each_training_row(source, split, &mut |_, row| {
        learner.add(row);
        columns.add(row, shift);
        match shift {
            None => values.add(row),
            Some(shift) => {
                as_came.clear();
                as_came.extend(row.iter().zip(shift).map(|(value, by)| (f64::from(*value) + by) as f32));
                values.add(&as_came);
            }
        }
        seen += 1;
        if seen.is_multiple_of(LOOK_ROWS) { go_on() } else { Ok(()) }
    })?;
    go_on()?;
    let values = values.kind(&learner, source.features());
    Ok(Seen { learner, columns, values })
}

/// The rows, with outliers clipped.
fn clipped(source: &Arc<dyn RowSource>, limits: &[Limit]) -> Arc<dyn RowSource> {
    match limits {
        [] => Arc::clone(source),
        limits => Arc::new(Clipped { source: Arc::clone(source), limits: limits.to_vec() }),
    }
}

/// Rows in memory, with outliers clipped.
fn clipped_rows<'a>(rows: &'a [f32], features: usize, limits: &[Limit]) -> Cow<'a, [f32]> {
    let mut rows = Cow::Borrowed(rows);
    if !limits.is_empty() && !rows.is_empty() {
        clip(rows.to_mut(), features, limits);
    }
    rows
}

/// The request with the code length, and a note if the length was chosen here.
fn with_code_length(
    asked: &CheckedTrainSpec,
    source: &dyn RowSource,
    split: &Split,
    normalizer: &Normalizer,
) -> Result<(CheckedTrainSpec, Option<String>), TrainError> {
    let Some(share) = asked.explained_share() else { return Ok((asked.clone(), None)) };
    let bounds = asked.code_length_bounds();
    let Choice { length, explained, rows } =
        code_length::choose(source, split, normalizer, share, bounds, asked.spec().seed)?;
    let short = if explained < share && length == bounds.1 { ", the maximum here" } else { "" };
    let note = format!(
        "code length: {length}{short}: as many principal components explain {:.2} % of the variance of {rows} \
         training rows, {} % requested",
        100.0 * explained,
        100.0 * share
    );
    Ok((asked.with_code_length(length), Some(note)))
}

/// A note on the share of missing values.
fn missing_note(learner: &Learner) -> Option<String> {
    let percent = 100.0 * learner.missing_share();
    (percent > 0.0).then(|| format!("missing values: {percent:.2} % of the values of the training rows"))
}

/// The normalizer that the training rows give.
fn fresh_normalizer(
    spec: &CheckedTrainSpec,
    learner: &Learner,
    kind: NormalizationKind,
    values: ValueKind,
    shift: Option<&[f64]>,
) -> Result<Normalizer, TrainError> {
    // With a given range, all features have the same shift.
    let by = shift.and_then(|shift| shift.first()).copied().unwrap_or(0.0);
    let shifted = |value: f32| (f64::from(value) - by) as f32;
    let eight_bits = (values == ValueKind::Pixels { eight_bits: true }).then_some((0.0, 255.0));
    let range = spec.spec().value_range.or(eight_bits).map(|(least, most)| (shifted(least), shifted(most)));
    if !spec.spec().missing_values {
        return Ok(learner.normalizer(kind, range)?);
    }
    match learner.first_without_values() {
        Some(feature) => Err(TrainError::NoValues { feature: Names(&spec.spec().feature_names).of(feature) }),
        None => Ok(learner.normalizer_with_fill(kind, range)?),
    }
}

/// Fits PCA; ends early if `go_on` returns false.
fn fit_yardstick(
    source: &dyn RowSource,
    split: &Split,
    normalizer: &Normalizer,
    code_length: usize,
    seed: u64,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<PcaBaseline, TrainError> {
    let mut stopped = false;
    let fitted = PcaBaseline::fit(source, split, normalizer, code_length, seed, &mut || {
        stopped |= !go_on();
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match fitted {
        Some(baseline) => Ok(baseline),
        None if stopped => Err(TrainError::Stopped),
        None => Err(TrainError::PcaBaseline),
    }
}

/// The base as the initial model, with the code order of this training.
fn begun(base: &Autoencoder, spec: &CheckedTrainSpec) -> Autoencoder {
    base.clone().with_ordered_code(spec.spec().regularization.orders_codes())
}

/// A model with initial weights as requested, or as affordable.
fn first_weights(
    spec: &CheckedTrainSpec,
    model: ModelSpec,
    normalizer: Normalizer,
    baseline: &PcaBaseline,
    notes: &mut Notes,
) -> Autoencoder {
    let initialization = match spec.spec().initialization {
        None if !init::orthogonal_is_cheap(&model) => {
            notes.push("initialization: Glorot, since orthogonal weights would take long at these widths".to_owned());
            Initialization::Glorot
        }
        _ => spec.initialization(),
    };
    if initialization == Initialization::Pca {
        notes.extend(init::pca_note(&model));
    }
    init::model(model, normalizer, initialization, spec.spec().seed, Some(&baseline.pca))
}

fn diverged(state: &TrainingState, loss: f64) -> TrainError {
    let (epoch, step) = (state.epoch.min(state.plan.epochs), state.steps_done + 1);
    TrainError::Diverged { epoch, step, loss, learning_rate: state.plan.learning_rate }
}

fn outside(row: u64, feature: String, value: f32) -> TrainError {
    TrainError::OutsideUnitInterval { row, feature, value }
}

fn outside_base(row: u64, feature: String, value: f32) -> TrainError {
    TrainError::OutsideBase { row, feature, value }
}

fn check_unit_interval(
    source: &dyn RowSource,
    split: &Split,
    normalizer: &Normalizer,
    learner: &Learner,
    names: Names<'_>,
    refuse: fn(u64, String, f32) -> TrainError,
) -> Result<(), TrainError> {
    let allowed = 0.0..=1.0;
    let fits = |j| {
        let (minimum, maximum) = learner.range(j);
        allowed.contains(&normalizer.value(j, minimum)) && allowed.contains(&normalizer.value(j, maximum))
    };
    if (0..source.features()).all(fits) {
        return Ok(());
    }
    // Search for the row, to name it in the error.
    each_training_row(source, split, &mut |row, values| {
        for (feature, x) in values.iter().enumerate() {
            let value = normalizer.value(feature, *x);
            if !allowed.contains(&value) {
                return Err(refuse(row + 1, names.of(feature), value));
            }
        }
        Ok(())
    })
}

fn is_finite(model: &Autoencoder) -> bool {
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
