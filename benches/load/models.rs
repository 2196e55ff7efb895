//! The models of the benchmarks, with seeded random weights: speed does not depend on training.

use std::path::Path;

use bytes::Bytes;
use halfhitch::model::spec::RawModelSpec;
use halfhitch::model::{Artifact, Autoencoder, Loss, ModelName, ModelSpec, NormalizationKind, Normalizer};
use halfhitch::numeric::{Activation, PanelMatrix};
use halfhitch::rpc::pb;
use halfhitch::store::ModelStore;
use halfhitch::store::local::LocalStore;
use halfhitch::training::{Initialization, init};

use super::Failure;

/// A name, and the widths from the input to the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) widths: &'static [usize],
}

/// Images, with the architecture of Hinton and Salakhutdinov (2006).
pub(crate) const MNIST_DEEP: Model = Model { name: "mnist-deep", widths: &[784, 1000, 500, 250, 30] };
/// Compression of text embeddings.
pub(crate) const EMBED: Model = Model { name: "embed", widths: &[1536, 384] };
/// Sensor readings: very little arithmetic.
pub(crate) const TELEMETRY: Model = Model { name: "telemetry", widths: &[64, 32, 8] };

impl Model {
    /// Builds the model; the weights are the same every time.
    pub(crate) fn build(self) -> Autoencoder {
        let layers = self.widths.len() - 1;
        let hidden = Activation::Elu { alpha: 1.0 };
        let mut encoder_activations = vec![hidden; layers];
        encoder_activations[layers - 1] = Activation::Linear;
        let mut decoder_activations = vec![hidden; layers];
        decoder_activations[0] = Activation::Linear;
        let spec = ModelSpec::new(RawModelSpec {
            widths: self.widths.to_vec(),
            encoder_activations,
            decoder_activations,
            loss: Loss::SquaredError,
            normalization: NormalizationKind::Standardize,
            gain: false,
            feature_names: Vec::new(),
            missing_values: false,
            ordered_code: false,
        });
        let features = self.widths[0];
        let normalizer = Normalizer {
            kind: NormalizationKind::Standardize,
            offset: vec![0.1; features],
            scale: vec![0.9; features],
            fill: Vec::new(),
            exact_offset: Vec::new(),
        };
        init::model(spec.expect("a valid specification"), normalizer, Initialization::He, 1, None)
    }

    /// Floating-point operations of encoding a row: 2 per weight.
    pub(crate) fn flops_per_row(self) -> f64 {
        self.widths.windows(2).map(|pair| 2.0 * pair[0] as f64 * pair[1] as f64).sum()
    }

    /// `rows` rows, row-major: smooth, finite, and different from each other.
    fn values(self, rows: usize) -> Vec<f32> {
        (0..rows * self.widths[0]).map(|i| (i as f32 * 0.37).sin()).collect()
    }

    /// The rows as a batch.
    pub(crate) fn batch(self, rows: usize) -> PanelMatrix {
        let mut batch = PanelMatrix::zeros(rows, self.widths[0]);
        batch.load(0, &self.values(rows));
        batch
    }

    /// A request with the rows in the fast binary format.
    pub(crate) fn question(self, rows: usize) -> pb::EncodeRequest {
        let bytes: Vec<u8> = self.values(rows).iter().flat_map(|value| value.to_le_bytes()).collect();
        pb::EncodeRequest {
            model: Some(pb::ModelRef { name: self.name.to_owned(), selector: None }),
            rows: Some(pb::Matrix {
                rows: rows as u32,
                columns: self.widths[0] as u32,
                values: Some(pb::matrix::Values::Float32Le(Bytes::from(bytes))),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// Publishes version 1 of all models in a new store.
pub(crate) fn publish(folder: &Path) -> Result<(), Failure> {
    let store = LocalStore::open(folder)?;
    for model in [MNIST_DEEP, EMBED, TELEMETRY] {
        let artifact = Artifact { model: model.build(), report: None, statistics: None, sha256: String::new() };
        store.publish(&model.name.parse::<ModelName>()?, &artifact)?;
    }
    Ok(())
}
