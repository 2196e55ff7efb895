//! Everything before the first step: a trainer for new training, or from a checkpoint.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::epochs::Trainer;
use super::examine::{Seen, check_unit_interval, look_through, missing_note, outside, outside_base};
use super::weights::{begun, first_weights};
use crate::model::normalization::Learner;
use crate::model::{Autoencoder, Loss, NormalizationKind, Normalizer, TrainingReport};
use crate::training::batches::{BatchLoader, Split, ValidationRows};
use crate::training::checkpoint::{Checkpoint, TrainingState, software};
use crate::training::clip::{clipped, clipped_rows};
use crate::training::code_length::{self, Choice};
use crate::training::columns::Names;
use crate::training::error::{CheckpointError, TrainError};
use crate::training::evaluate::evaluate;
use crate::training::notes::Notes;
use crate::training::observer::{Event, Next, Observer};
use crate::training::optimizer::Optimizer;
use crate::training::params::CheckedTrainSpec;
use crate::training::pca_baseline::PcaBaseline;
use crate::training::plan::{Plan, masking_note, tell_choices, validation_rows};
use crate::training::robust::Outliers;
use crate::training::source::RowSource;
use crate::training::steps::{Steps, is_parallel};
use crate::training::value_kind::ValueKind;

impl Trainer {
    /// Makes all preparations before the first step: split, normalization, PCA, initial weights, and defaults.
    #[expect(clippy::too_many_lines, reason = "one story from top to bottom")]
    pub(super) fn prepare(
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
    pub(super) fn resume(
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
