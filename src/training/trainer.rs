//! The training loop.

use std::ops::ControlFlow;

use super::params::CheckedTrainSpec;
use crate::model::{Autoencoder, TrainingReport};

/// Row-major rows in the units of the input, all finite.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// rows x features.
    pub values: &'a [f32],
    /// Columns.
    pub features: usize,
}

/// What the observer is told, at every mini-batch step, every epoch, and between chunks of long preparations.
#[derive(Clone, Debug, PartialEq)]
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

/// Why training ended without a model. TODO(A): complete, each naming what was expected and what came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The observer said so.
    #[error("training was stopped")]
    Stopped,
    /// Placeholder of the skeleton.
    #[error("{0}")]
    Other(String),
}

/// Trains on `training`, measures on `test` (may be empty), on the threads of `pool`.
pub fn train(
    spec: &CheckedTrainSpec,
    training: Rows<'_>,
    test: Rows<'_>,
    pool: &rayon::ThreadPool,
    observer: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let _ = (spec, training, test, pool, observer);
    todo!()
}
