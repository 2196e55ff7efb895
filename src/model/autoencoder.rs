//! The tied-weight autoencoder: its parts, and encoding. `decode.rs` has the other direction.

use super::normalization::Normalizer;
use super::spec::{ModelSpec, NormalizationKind};
use crate::numeric::matmul::Weights;
use crate::numeric::{BufferPool, PanelMatrix};

/// Encoder layer l and the decoder layer that uses its transpose (l counts from 0).
#[derive(Clone, Debug, PartialEq)]
pub struct TiedLayer {
    /// W, (d_{l+1}, d_l): stored once for both directions.
    pub weight: Weights,
    /// b, (d_{l+1},).
    pub encoder_bias: Vec<f32>,
    /// c, (d_l,).
    pub decoder_bias: Vec<f32>,
    /// γ, (d_{l+1},): the decoder layer reads γ∘g. Present if `spec.has_gain(l)`.
    pub gain: Option<Vec<f32>>,
}

/// A complete model. Each matrix is stored once: the decoder uses the transpose of the encoder's matrix.
///
/// With h_0 = normalize(x), encoding is h_{l+1} = f_l(W_l h_l + b_l), and the code is h_K. With g_K = code, decoding is
/// g_l = f'_l(W_lᵀ(γ_l∘g_{l+1}) + c_l), and x̂ = denormalize(g_0).
#[derive(Clone, Debug, PartialEq)]
pub struct Autoencoder {
    spec: ModelSpec,
    normalizer: Normalizer,
    layers: Vec<TiedLayer>,
}

/// The space of the rows of a batch: of its input and, if its result is rows, of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Units of the input.
    Input,
    /// The normalized space, used for 64-bit rows: they are normalized while they are loaded, and denormalized while
    /// they are written.
    Normalized,
}

impl Autoencoder {
    /// Creates a model from its parts.
    ///
    /// # Panics
    /// If a shape disagrees with the specification; readers of files and other callers check first.
    pub fn new(spec: ModelSpec, normalizer: Normalizer, layers: Vec<TiedLayer>) -> Self {
        assert_eq!(layers.len(), spec.layers(), "as many layers as the specification");
        for (l, (layer, pair)) in layers.iter().zip(spec.raw().widths.windows(2)).enumerate() {
            assert_eq!((layer.weight.inputs(), layer.weight.outputs()), (pair[0], pair[1]), "shape of matrix {l}");
            assert_eq!((layer.decoder_bias.len(), layer.encoder_bias.len()), (pair[0], pair[1]), "biases {l}");
            assert_eq!(layer.gain.as_ref().map(Vec::len), spec.has_gain(l).then_some(pair[1]), "gain {l}");
        }
        assert_eq!(normalizer.takes_missing(), spec.raw().missing_values, "fill values for missing values");
        Self { spec, normalizer, layers }
    }

    /// The same model, with `ordered_code` of the specification set.
    #[must_use]
    pub fn with_ordered_code(self, ordered_code: bool) -> Self {
        Self { spec: self.spec.with_ordered_code(ordered_code), ..self }
    }

    /// The same model for rows from which `shift`, the offset of its normalizer, has been subtracted.
    ///
    /// # Panics
    /// If `shift` is not that offset.
    #[must_use]
    pub fn without_offset(&self, shift: &[f64]) -> Self {
        Self { normalizer: self.normalizer.without_offset(shift), ..self.clone() }
    }

    /// Turns a model of rows from which `shift` was subtracted into a model of rows in the units of the input.
    #[must_use]
    pub fn with_shift(self, shift: &[f64]) -> Self {
        Self { normalizer: self.normalizer.with_shift(shift), ..self }
    }

    /// Its specification.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Its normalization.
    pub fn normalizer(&self) -> &Normalizer {
        &self.normalizer
    }

    /// Its layers, in the order of encoding.
    pub fn layers(&self) -> &[TiedLayer] {
        &self.layers
    }

    /// The layers, mutable, for the optimizer.
    pub fn layers_mut(&mut self) -> &mut [TiedLayer] {
        &mut self.layers
    }

    /// Encodes rows (n, d_0) in input units to codes (n, d_K). A row's code has the same bits in every batch.
    ///
    /// Takes its intermediate matrices from `buffers` and returns them there.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn encode(&self, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        if self.normalizer.kind == NormalizationKind::None && !self.normalizer.takes_missing() {
            return self.encode_normalized(rows, buffers);
        }
        let mut x = buffers.take();
        self.normalizer.apply_to(rows, &mut x);
        self.normalizer.fill_missing(&mut x);
        let codes = self.encode_normalized(&x, buffers);
        buffers.put(x);
        codes
    }

    /// [`Autoencoder::encode`] of rows in a space.
    ///
    /// # Panics
    /// If the rows are not d_0 wide; callers check that earlier.
    pub fn encode_in(&self, space: Space, rows: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        match space {
            Space::Input => self.encode(rows, buffers),
            Space::Normalized => self.encode_with_missing(rows, buffers),
        }
    }

    /// Encodes normalized rows that may have missing values.
    pub(super) fn encode_with_missing(&self, x: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        if !self.normalizer.takes_missing() {
            return self.encode_normalized(x, buffers);
        }
        let mut whole = buffers.take();
        whole.clone_from(x);
        self.normalizer.fill_missing(&mut whole);
        let codes = self.encode_normalized(&whole, buffers);
        buffers.put(whole);
        codes
    }

    /// Encodes normalized rows without missing values.
    fn encode_normalized(&self, x: &PanelMatrix, buffers: &mut BufferPool) -> PanelMatrix {
        let mut h = None;
        for (layer, activation) in self.layers.iter().zip(&self.spec.raw().encoder_activations) {
            let mut next = buffers.take();
            layer.weight.encode_layer(h.as_ref().unwrap_or(x), &layer.encoder_bias, *activation, &mut next);
            h.replace(next).into_iter().for_each(|done| buffers.put(done));
        }
        h.unwrap_or_default()
    }
}

/// `G = G·diag(γ)`. Shapes: `g` (n, d), `gain` (d,).
pub(super) fn scale_columns(g: &mut PanelMatrix, gain: &[f32]) {
    g.each_column_mut(|j, part| part.iter_mut().for_each(|value| *value *= gain[j]));
}

#[cfg(test)]
mod tests;
