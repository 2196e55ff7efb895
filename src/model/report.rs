//! How a version came to be: stored in its file, sent in answers.

use serde::{Deserialize, Serialize};

/// Losses at the end of one epoch, per row, in the normalised space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLosses {
    /// From 1.
    pub epoch: u32,
    /// Mean over the epoch's mini-batches.
    pub training_loss: f64,
    /// On the validation rows after the epoch.
    pub validation_loss: Option<f64>,
}

/// What a model does on held-out rows, beside PCA with the same code size. Squared errors are sums over features,
/// mean over rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows measured.
    pub rows: u64,
    /// The training loss on these rows, per row, normalised space.
    pub loss: f64,
    /// Normalised space.
    pub squared_error: f64,
    /// In the units of the input.
    pub squared_error_input_units: f64,
    /// PCA, normalised space.
    pub pca_squared_error: f64,
    /// PCA, in the units of the input.
    pub pca_squared_error_input_units: f64,
    /// 1 - squared error / squared distance to the mean training row.
    pub explained_variance: f64,
    /// The same for PCA.
    pub pca_explained_variance: f64,
    /// Binary cross-entropy only: the entropy of the targets, in nats per row.
    pub loss_floor: Option<f64>,
}

/// How a version came to be. Deterministic but for `duration_seconds`, `software` and `job_id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// Losses by epoch.
    pub epochs: Vec<EpochLosses>,
    /// The epoch whose weights were kept.
    pub best_epoch: u32,
    /// On the validation rows, if there were any.
    pub validation: Option<Evaluation>,
    /// On the test rows, if there were any.
    pub test: Option<Evaluation>,
    /// Rows that training used, without validation and test rows.
    pub training_rows: u64,
    /// Rows of which PCA was fitted.
    pub pca_rows: u64,
    /// SHA-256 of the rows, hexadecimal.
    pub data_sha256: String,
    /// The seed of every random number.
    pub seed: u64,
    /// From the start of training to the finished model.
    pub duration_seconds: f64,
    /// For example "halfhitch 0.1.0".
    pub software: String,
    /// The job that trained it.
    pub job_id: String,
    /// Rows of a mini-batch.
    pub batch_rows: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// For people: which defaults were chosen and why, warnings.
    pub notes: Vec<String>,
}
