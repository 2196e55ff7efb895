//! A tied-weight autoencoder: encode, decode, reconstruct.

use super::normalisation::Normaliser;
use super::spec::ModelSpec;
use crate::numeric::Lanes;
use crate::numeric::matmul::Weights;

/// Encoder layer l and the decoder layer that uses its transpose (l counts from 0).
#[derive(Clone, Debug, PartialEq)]
pub struct TiedLayer {
    /// W, (d_{l+1}, d_l): the only copy.
    pub weight: Weights,
    /// (d_{l+1},)
    pub encoder_bias: Vec<f32>,
    /// (d_l,)
    pub decoder_bias: Vec<f32>,
    /// (d_{l+1},): the decoder layer reads γ∘g. `spec.has_gain(l)` says whether it exists.
    pub gain: Option<Vec<f32>>,
}

/// A complete model. Each matrix exists once: the decoder uses the transposed view of the encoder's.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoencoder {
    spec: ModelSpec,
    normaliser: Normaliser,
    layers: Vec<TiedLayer>,
}

/// Rows, their reconstructions' errors.
#[derive(Debug)]
pub struct Reconstruction {
    /// (n, d_0), in the units of the input.
    pub rows: Lanes,
    /// Per row: sum over features of (x - x̂)², normalised space.
    pub squared_errors: Vec<f32>,
    /// Per row: the same in the units of the input.
    pub squared_errors_input_units: Vec<f32>,
}

impl Autoencoder {
    /// From its parts.
    ///
    /// # Panics
    /// If a shape disagrees with the specification: files and callers check before.
    pub fn new(spec: ModelSpec, normaliser: Normaliser, layers: Vec<TiedLayer>) -> Self {
        Self { spec, normaliser, layers }
    }
    /// Its specification.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    /// Its normalisation.
    pub fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }
    /// Its layers, in the order of encoding.
    pub fn layers(&self) -> &[TiedLayer] {
        &self.layers
    }
    /// Rows (n, d_0) in input units to codes (n, d_K). Pads with zero rows to a multiple of 16: any n gives the same bits.
    pub fn encode(&self, rows: &Lanes) -> Lanes {
        let _ = rows;
        todo!()
    }
    /// Codes (n, d_K) to rows (n, d_0) in input units.
    pub fn decode(&self, codes: &Lanes) -> Lanes {
        let _ = codes;
        todo!()
    }
    /// Rows to codes and back, with the error of each row.
    pub fn reconstruct(&self, rows: &Lanes) -> Reconstruction {
        let _ = rows;
        todo!()
    }
}
