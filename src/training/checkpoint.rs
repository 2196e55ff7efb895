//! Checkpoints: the whole state of training between two steps, as bytes. Training that resumes from them ends with the
//! same bits.
//!
//! A safetensors container: the state as JSON in its metadata; the weights, and the best weights so far, as model
//! files; the tensors of the optimizer; PCA. The caller protects the bytes against corruption.

use std::borrow::Cow;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::clip::Limit;
use super::error::CheckpointError;
use super::notes::Notes;
use super::optimizer::Scalars;
use super::params::TrainSpec;
use super::pca_baseline::{Measured, PcaBaseline};
use super::plan::Plan;
use crate::model::{Artifact, Autoencoder, TrainingReport};
use crate::numeric::linalg::Pca;

const KEY: &str = "halfhitch.checkpoint";
/// Spelled as in the first version of the format, as the key of the state: a job resumes after an upgrade.
const OPTIMIZER: &str = "optimiser.";

/// The position of training, and its results so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainingState {
    pub(super) software: String,
    pub(super) spec: TrainSpec,
    pub(super) source_rows: u64,
    /// Limits to which outliers are clipped.
    #[serde(default)]
    pub(super) limits: Vec<Limit>,
    pub(super) plan: Plan,
    pub(super) notes: Notes,
    pub(super) validation_yardstick: Option<Measured>,
    pub(super) pca_rows: u64,
    /// The current epoch, from 1.
    pub(super) epoch: u32,
    /// Rows of this epoch.
    pub(super) rows_done: u64,
    pub(super) loss_sum: f64,
    /// Steps of all epochs.
    pub(super) steps_done: u64,
    pub(super) rows_processed: u64,
    /// On the held-out rows, after the last full epoch.
    pub(super) squared_error: Option<f64>,
    pub(super) explained_variance: Option<f64>,
    /// Mean squared distance of the training rows to their mean, normalized space.
    pub(super) spread: f64,
    /// Reference for losses: training fails if a loss is far above it.
    pub(super) loss_start: Option<f64>,
    /// Whether trials have been run for the learning rate and the time budget.
    pub(super) settled: bool,
    /// Whether training has restarted with a smaller learning rate.
    pub(super) retried: bool,
    pub(super) report: TrainingReport,
    pub(super) best_loss: Option<f64>,
    #[serde(rename = "optimiser")]
    pub(super) optimizer: Scalars,
}

/// A parsed checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) state: TrainingState,
    pub(super) model: Autoencoder,
    pub(super) best: Option<Autoencoder>,
    pub(super) baseline: PcaBaseline,
    /// Tensors by name.
    pub(super) optimizer_tensors: Vec<(String, Vec<f32>)>,
}

struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn bytes(bytes: Vec<u8>) -> Tensor<'static> {
    Tensor { dtype: Dtype::U8, shape: vec![bytes.len()], bytes: bytes.into() }
}

fn doubles(values: &[f64]) -> Tensor<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { dtype: Dtype::F64, shape: vec![values.len()], bytes: bytes.into() }
}

fn floats(values: &[f32]) -> Tensor<'_> {
    let bytes = if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).into()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    Tensor { dtype: Dtype::F32, shape: vec![values.len()], bytes }
}

fn model_bytes(model: &Autoencoder) -> Tensor<'static> {
    bytes(
        Artifact { model: model.clone(), report: None::<Arc<TrainingReport>>, statistics: None, sha256: String::new() }
            .to_bytes(),
    )
}

/// Writes a checkpoint.
///
/// # Panics
/// If a number of the state is not finite; training fails before that.
pub(super) fn write(
    state: &TrainingState,
    model: &Autoencoder,
    best: Option<&Autoencoder>,
    baseline: &PcaBaseline,
    optimizer: &[(String, &[f32])],
) -> Vec<u8> {
    let mut tensors = vec![
        ("model".to_owned(), model_bytes(model)),
        ("pca.mean".to_owned(), doubles(baseline.pca.mean())),
        ("pca.directions".to_owned(), doubles(&baseline.pca.directions())),
    ];
    tensors.extend(best.map(|best| ("best".to_owned(), model_bytes(best))));
    tensors.extend(optimizer.iter().map(|(name, values)| (format!("{OPTIMIZER}{name}"), floats(values))));
    let text = serde_json::to_string(state).expect("numbers and texts");
    safetensors::serialize(tensors, Some([(KEY.to_owned(), text)].into())).expect("shapes and lengths agree")
}

impl Checkpoint {
    /// Reads a checkpoint of this version of the software.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let unreadable = |error: &dyn std::fmt::Display| CheckpointError::Unreadable(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| unreadable(&error))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| unreadable(&error))?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let text = text.ok_or_else(|| unreadable(&"it has no state"))?;
        // Checked first: another version may have another state.
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        let got = value.get("software").and_then(serde_json::Value::as_str).unwrap_or_default();
        if got != software() {
            return Err(CheckpointError::Software { got: got.to_owned(), expected: software() });
        }
        let state: TrainingState = serde_json::from_value(value).map_err(|error| unreadable(&error))?;
        let model = |name: &str| -> Result<Option<Autoencoder>, CheckpointError> {
            let Ok(tensor) = tensors.tensor(name) else { return Ok(None) };
            Artifact::from_bytes(tensor.data()).map(|artifact| Some(artifact.model)).map_err(|error| unreadable(&error))
        };
        let doubles = |name: &str| -> Result<Vec<f64>, CheckpointError> {
            let tensor = tensors.tensor(name).map_err(|error| unreadable(&error))?;
            let (numbers, rest) = tensor.data().as_chunks::<8>();
            if tensor.dtype() != Dtype::F64 || !rest.is_empty() {
                return Err(unreadable(&format!("{name} is not of type F64")));
            }
            Ok(numbers.iter().map(|number| f64::from_le_bytes(*number)).collect())
        };
        let (mean, directions) = (doubles("pca.mean")?, doubles("pca.directions")?);
        let weights = model("model")?.ok_or_else(|| unreadable(&"it has no model"))?;
        if mean.len() != weights.spec().features() || !directions.len().is_multiple_of(mean.len()) {
            return Err(unreadable(&"its principal components have another width"));
        }
        let mut optimizer = Vec::new();
        for (name, tensor) in tensors.tensors() {
            if let Some(name) = name.strip_prefix(OPTIMIZER) {
                if tensor.dtype() != Dtype::F32 {
                    return Err(unreadable(&format!("{name} is not of type F32")));
                }
                let numbers = tensor.data().as_chunks::<4>().0;
                optimizer.push((name.to_owned(), numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()));
            }
        }
        let baseline = PcaBaseline { pca: Pca::from_parts(mean, &directions), fitted_rows: state.pca_rows };
        Ok(Self { best: model("best")?, model: weights, baseline, optimizer_tensors: optimizer, state })
    }
}

/// Name and version of this software, as in reports.
pub(super) fn software() -> String {
    format!("halfhitch {}", env!("CARGO_PKG_VERSION"))
}
