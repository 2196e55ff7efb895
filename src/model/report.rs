//! How a version came to be: stored in its file, sent in answers.

use serde::{Deserialize, Serialize};

use super::ModelKey;

/// Losses at the end of one epoch, per row, in the normalized space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochLosses {
    /// From 1.
    pub epoch: u32,
    /// Mean over the epoch's mini-batches.
    #[serde(with = "number")]
    pub training_loss: f64,
    /// On the validation rows after the epoch.
    pub validation_loss: Option<f64>,
    /// After some of the epochs, and the last if all of them were trained: squared error on the validation rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squared_error: Option<f64>,
    /// After the same epochs: by matrix, how far its rows (columns, where it has more outputs than inputs) are from
    /// orthonormal: ‖G - I‖ / √n of its smaller Gram matrix G, which has n rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<f64>,
}

impl EpochLosses {
    /// The losses alone.
    pub fn new(epoch: u32, training_loss: f64, validation_loss: Option<f64>) -> Self {
        Self { epoch, training_loss, validation_loss, squared_error: None, defects: Vec::new() }
    }
}

/// What a model does on held-out rows, beside PCA with the same code size. Squared errors are sums over features,
/// mean over rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows measured.
    pub rows: u64,
    /// The training loss on these rows, per row, normalized space.
    #[serde(with = "number")]
    pub loss: f64,
    /// Normalized space.
    #[serde(with = "number")]
    pub squared_error: f64,
    /// In the units of the input.
    #[serde(with = "number")]
    pub squared_error_input_units: f64,
    /// PCA, normalized space.
    #[serde(with = "number")]
    pub pca_squared_error: f64,
    /// PCA, in the units of the input.
    #[serde(with = "number")]
    pub pca_squared_error_input_units: f64,
    /// 1 - squared error / squared distance to the mean training row.
    #[serde(with = "number")]
    pub explained_variance: f64,
    /// The same for PCA.
    #[serde(with = "number")]
    pub pca_explained_variance: f64,
    /// Binary cross-entropy only: the entropy of the targets, in nats per row.
    pub loss_floor: Option<f64>,
}

/// How a version came to be. Deterministic but for `duration_seconds`, `software` and `job_id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// For people: which defaults were chosen and why, warnings.
    pub notes: Vec<String>,
    /// The version whose weights training began with, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelKey>,
    /// What that version does on the validation rows, measured before the first step, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_validation: Option<Evaluation>,
    /// By feature, on the validation rows: 1 - squared error / squared distance to the training mean. None where a feature has
    /// one value on all of them. Empty without validation rows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feature_explained_variance: Vec<Option<f32>>,
}

/// JSON has no NaN: a figure that is not finite is written as null and read as NaN, so that an undefined one (the
/// explained variance of constant rows, say) cannot make a model unreadable.
pub mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    /// A number, or null.
    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if number.is_finite() { serializer.serialize_f64(*number) } else { serializer.serialize_none() }
    }

    /// A number; NaN for null.
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
