//! The training report of a version: stored in its file, sent in responses.

use serde::{Deserialize, Serialize};

use super::ModelKey;

/// Losses of one epoch, means per row, in the normalized space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLosses {
    /// Epoch number, from 1.
    pub epoch: u32,
    /// Mean over the epoch's mini-batches.
    #[serde(with = "number")]
    pub training_loss: f64,
    /// Loss on the validation rows after the epoch.
    pub validation_loss: Option<f64>,
    /// Squared error on the validation rows. Measured after some epochs, and after the last one if training ran to the
    /// end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squared_error: Option<f64>,
    /// Measured after the same epochs. Per matrix: the distance of its rows (columns, if it has more outputs than
    /// inputs) from orthonormal, ‖G - I‖ / √n of its smaller Gram matrix G, which has n rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<f64>,
}

impl EpochLosses {
    /// An entry with losses only.
    pub fn new(epoch: u32, training_loss: f64, validation_loss: Option<f64>) -> Self {
        Self { epoch, training_loss, validation_loss, squared_error: None, defects: Vec::new() }
    }
}

/// Errors of a model on held-out rows, beside PCA with the same code length. Squared errors are sums over features,
/// means over rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows measured.
    pub rows: u64,
    /// The training loss on these rows, mean per row, normalized space.
    #[serde(with = "number")]
    pub loss: f64,
    /// Squared error in the normalized space.
    #[serde(with = "number")]
    pub squared_error: f64,
    /// Squared error in the units of the input.
    #[serde(with = "number")]
    pub squared_error_input_units: f64,
    /// Squared error of PCA, normalized space.
    #[serde(with = "number")]
    pub pca_squared_error: f64,
    /// Squared error of PCA, in the units of the input.
    #[serde(with = "number")]
    pub pca_squared_error_input_units: f64,
    /// 1 - squared error / squared distance to the mean training row.
    #[serde(with = "number")]
    pub explained_variance: f64,
    /// Explained variance of PCA.
    #[serde(with = "number")]
    pub pca_explained_variance: f64,
    /// Binary cross-entropy only: the entropy of the targets, in nats per row. The loss cannot be lower.
    pub loss_floor: Option<f64>,
}

/// How a version was trained. Deterministic except `duration_seconds`, `software` and `job_id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingReport {
    /// Losses per epoch.
    pub epochs: Vec<EpochLosses>,
    /// The epoch whose weights were kept.
    pub best_epoch: u32,
    /// Evaluation on the validation rows, if there were any.
    pub validation: Option<Evaluation>,
    /// Evaluation on the test rows, if there were any.
    pub test: Option<Evaluation>,
    /// Number of training rows, without validation and test rows.
    pub training_rows: u64,
    /// Number of rows that PCA was fitted on.
    pub pca_rows: u64,
    /// SHA-256 of the rows, hexadecimal.
    pub data_sha256: String,
    /// The seed of every random number.
    pub seed: u64,
    /// Time from the start of training to the finished model, in seconds.
    #[serde(with = "number")]
    pub duration_seconds: f64,
    /// For example "halfhitch 0.1.0".
    pub software: String,
    /// The job that trained it.
    pub job_id: String,
    /// Rows of a mini-batch.
    pub batch_rows: u32,
    /// Peak learning rate.
    #[serde(with = "number")]
    pub learning_rate: f64,
    /// Notes in plain text: which defaults were chosen and why, and warnings.
    pub notes: Vec<String>,
    /// The version whose weights training started from, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelKey>,
    /// Evaluation of that version on the validation rows before the first step, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_validation: Option<Evaluation>,
    /// Per feature, on the validation rows: 1 - squared error / squared distance to the training mean. `None` if a
    /// feature has a single value on all of them. Empty without validation rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feature_explained_variance: Vec<Option<f32>>,
}

/// JSON has no NaN: a number that is not finite is written as null and read as NaN. So an undefined figure, such as the
/// explained variance of constant rows, cannot make a model unreadable.
pub mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a finite number, or null.
    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if number.is_finite() { serializer.serialize_f64(*number) } else { serializer.serialize_none() }
    }

    /// Reads a number; null becomes NaN.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_figure_does_not_make_a_report_unreadable() {
        let losses = EpochLosses::new(1, f64::NAN, Some(f64::INFINITY));
        let text = serde_json::to_string(&losses).expect("serializes");
        let read: EpochLosses = serde_json::from_str(&text).expect("reads");
        assert!(read.training_loss.is_nan() && read.validation_loss.is_none(), "{read:?}");
    }

    #[test]
    fn a_report_may_lack_fields() {
        let read: TrainingReport = serde_json::from_str(r#"{"seed":7}"#).expect("reads");
        assert_eq!(read, TrainingReport { seed: 7, ..TrainingReport::default() });
    }
}
