//! Training in this process.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::ArrayView2;
use sha2::{Digest, Sha256};

use super::blocks::BLOCK_ROWS;
use super::{Model, ModelError, check_columns, panels};
use crate::model::{Artifact, Missing, Selector};
use crate::training::{self, Base, CheckedTrainSpec, Event, MemoryRows, Next, Observer, RowSource, Start, TrainSpec};

impl Model {
    /// Trains a model on `rows` (n, d), NaN where a value is missing, on all threads of the machine. The result has the
    /// same tensors for any number of threads. The rows are copied once.
    ///
    /// # Errors
    /// [`ModelError::Spec`] if the specification is wrong, and [`ModelError::NeedsServer`] if it has a base or a
    /// validation sample. [`ModelError::Columns`] and [`ModelError::Values`] if the rows do not match it.
    /// [`ModelError::Train`] if there are no rows, or if training fails.
    pub fn train(rows: ArrayView2<'_, f32>, spec: &TrainSpec) -> Result<Self, ModelError> {
        check_options(spec)?;
        train(rows, &spec.clone().check()?, Missing::from(spec.missing_values), Start::Fresh)
    }

    /// As [`Model::train`], starting from the weights of `base`. The new model keeps the activations, loss,
    /// normalization, gain and feature names of the base, so the specification must not set them. Its widths may be
    /// empty. The report compares both models: `base_validation` is the error of the base on the held-out rows.
    ///
    /// # Errors
    /// As [`Model::train`]: [`ModelError::Spec`] also if the specification does not fit the base, and
    /// [`ModelError::NeedsServer`] also if it has `publish_if_better`.
    pub fn train_from(base: &Self, rows: ArrayView2<'_, f32>, spec: &TrainSpec) -> Result<Self, ModelError> {
        check_options(spec)?;
        if spec.publish_if_better {
            return Err(ModelError::NeedsServer { field: "publish_if_better" });
        }
        // The rows must fit the specification as given, whatever the base accepts: so does a server.
        let missing = Missing::from(spec.missing_values);
        // A specification with a base has its own rules; the name of the base does not matter.
        let named = Base { name: spec.model_name.clone(), selector: Selector::Latest, or_fresh: false };
        let spec = TrainSpec { base: Some(named), ..spec.clone() }.check()?.with_base(base.spec())?;
        train(rows, &spec, missing, Start::Model(Arc::new(base.autoencoder().clone())))
    }
}

/// Refuses options that name versions of a store.
fn check_options(spec: &TrainSpec) -> Result<(), ModelError> {
    if spec.base.is_some() {
        return Err(ModelError::NeedsServer { field: "base" });
    }
    if spec.validation_sample_rows > 0 {
        return Err(ModelError::NeedsServer { field: "validation_sample_rows" });
    }
    Ok(())
}

fn train(
    rows: ArrayView2<'_, f32>,
    spec: &CheckedTrainSpec,
    missing: Missing,
    start: Start,
) -> Result<Model, ModelError> {
    check_columns("the input", rows.ncols(), spec.features())?;
    panels::check_values(rows, missing)?;
    let mut clock = Clock(Instant::now());
    let values: Vec<f32> = rows.iter().copied().collect();
    let data_sha256 = data_sha256(&values);
    let source: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values, spec.features()));
    let no_test = MemoryRows::new(Vec::new(), spec.features());
    let pool = rayon::ThreadPoolBuilder::new().build()?;
    let mut trained = training::train(spec, &source, &[], &no_test, start, &pool, &mut clock)?;
    trained.report.data_sha256 = data_sha256;
    trained.report.duration_seconds = clock.elapsed().as_secs_f64();
    let (report, statistics) = (Some(Arc::new(trained.report)), trained.statistics);
    Ok(Model::from(Artifact { model: trained.model, report, statistics, sha256: String::new() }))
}

/// SHA-256 of training rows (row-major), hexadecimal: the digest of the same rows in a job of a server. It covers the
/// number of training values, the values, and the number of test values, which is 0.
fn data_sha256(values: &[f32]) -> String {
    let mut digest = Sha256::new();
    digest.update((values.len() as u64).to_le_bytes());
    for values in values.chunks(BLOCK_ROWS) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        digest.update(bytes);
    }
    digest.update(0u64.to_le_bytes());
    digest.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Measures the training time. It stores no checkpoints.
struct Clock(Instant);

impl Observer for Clock {
    fn look(&mut self, _: &Event) -> Next {
        Next::GoOn
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        self.0.elapsed()
    }
}
