//! Everything after the last epoch: the figures of the report, and the statistics for scores.

use super::epochs::Trainer;
use crate::model::{Autoencoder, Statistics, TrainingReport};
use crate::training::batches::each_block;
use crate::training::clip::Clipped;
use crate::training::columns::{Names, lost_note};
use crate::training::error::TrainError;
use crate::training::evaluate::{evaluate, evaluate_features, row_errors};
use crate::training::notes::Subject;
use crate::training::observer::{Event, LOOK_ROWS, Next, Observer};
use crate::training::pca_baseline::Measured;
use crate::training::source::{RowSource, SourceError};
use crate::training::steps::is_parallel;
use crate::training::{calibrate, linear, relations};

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

/// Computes the figures and the statistics of the best weights, after the last epoch.
pub(super) fn finish(
    trainer: Trainer,
    test: &dyn RowSource,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let Trainer { spec, loader, held_back, mut state, base, mut model, best, baseline, .. } = trainer;
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
