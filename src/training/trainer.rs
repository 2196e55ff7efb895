//! Training from rows to a model: preparation, the training loop, and the figures of the result.

mod epochs;
mod examine;
mod finish;
mod prepare;
mod weights;

use std::sync::Arc;

use super::batches::held_back_rows;
use super::error::TrainError;
use super::notes::Notes;
use super::observer::Observer;
use super::params::CheckedTrainSpec;
use super::plan::validation_rows;
use super::shift::Shift;
use super::source::{RowSource, SourceError};
use crate::model::Autoencoder;
use crate::model::normalization::RangeTooLarge;
use epochs::Trainer;
pub use finish::Trained;
use finish::finish;

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
    let mut trainer = match start {
        Start::Fresh => Trainer::prepare(spec, training, held_out, None, observer)?,
        Start::Model(base) => Trainer::prepare(spec, training, held_out, Some(&base), observer)?,
        Start::Checkpoint(bytes, base) => Trainer::resume(spec, training, held_out, &bytes, base)?,
    };
    trainer.run(observer)?;
    finish(trainer, test, observer)
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

#[cfg(test)]
mod tests;
