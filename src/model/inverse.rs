//! Decoding with the pseudo-inverse of each matrix instead of its transpose.
//!
//! Of all h with W·h + b = g, the one nearest to c is h = W⁺(g - b) + (I - W⁺W)c. So a decoder layer computes f'(W⁺(g -
//! b) + (I - W⁺W)c), with both biases. If every activation is linear, a decoded row has exactly the code that it was
//! decoded from. With one layer, this is the best possible reconstruction; with more layers, the transpose may be much
//! nearer to the data. With other activations it is a linear approximation: the activation that produced g is not
//! inverted. Gains are not used: they belong to the transpose.
//!
//! W is not copied. With M the inverse Cholesky factor of the smaller Gram matrix, W⁺ is Wᵀ·MᵀM if W does not expand,
//! and MᵀM·Wᵀ if it does. These are two small products besides the large one, both with the same matrix M, read in both
//! directions.

use super::spectrum::{CONDITION_MAX, Spectrum, SpectrumError};
use super::{Autoencoder, TiedLayer};
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, BufferPool, PanelMatrix};

/// Up to this condition number, W⁺ is exact. Above it, (σ / this)² of the largest singular value σ, or up to twice
/// that, is added to the diagonal of the Gram matrix. Above [`CONDITION_MAX`], there is no useful pseudo-inverse.
pub const CONDITION_EXACT_MAX: f64 = 1e4;

/// Why a model has no pseudo-inverse.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InverseError {
    /// Rows (or columns) of W are linearly dependent.
    #[error(
        "the matrix of layer {layer} is singular: {rank} of its {size} singular values are above {share:e} of the \
         largest, expected all of them; decode with the transpose, or train with fewer units",
        share = 1.0 / CONDITION_MAX
    )]
    Singular {
        /// The layer, from 1.
        layer: usize,
        /// The smaller side of W.
        size: usize,
        /// Number of singular values that are large enough.
        rank: usize,
    },
    /// The singular values cannot be computed.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
}

/// The data, besides W, for decoding one layer with W⁺.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    /// M, (n, n).
    inverse: Weights,
    /// (n,): the start value of z = M·…, which accounts for the biases.
    offset: Vec<f32>,
    of_rows: bool,
    condition: f64,
    regularized: bool,
}

impl Factor {
    /// The factor of layer `number`, from 1.
    pub(super) fn of(number: usize, layer: &TiedLayer, spectrum: &Spectrum) -> Result<Self, InverseError> {
        let Spectrum { gram, singular_values } = spectrum;
        let (size, rank, of_rows) = (singular_values.len(), spectrum.rank(), gram.is_of_rows());
        let singular = InverseError::Singular { layer: number, size, rank };
        if rank < size {
            return Err(singular);
        }
        let condition = spectrum.condition();
        let regularized = condition > CONDITION_EXACT_MAX;
        // Rounded up to a power of two: the last bits of the library's singular values depend on the machine.
        let ridge = || (spectrum.greatest() / CONDITION_EXACT_MAX).powi(2).log2().ceil().exp2();
        let inverse = gram.inverse_factor(if regularized { ridge() } else { 0.0 }).ok_or(singular)?;
        let offset = offset(&inverse, layer, of_rows);
        let inverse: Vec<f32> = inverse.iter().map(|value| *value as f32).collect();
        Ok(Self { inverse: Weights::from_row_major(size, size, &inverse), offset, of_rows, condition, regularized })
    }
}

/// The factors of all layers of one model. Valid only for that model.
#[derive(Clone, Debug)]
pub struct PseudoInverse {
    layers: Vec<Factor>,
}

impl FromIterator<Factor> for PseudoInverse {
    /// Collects factors in the order of encoding.
    fn from_iter<T: IntoIterator<Item = Factor>>(factors: T) -> Self {
        Self { layers: factors.into_iter().collect() }
    }
}

impl PseudoInverse {
    /// Factors the smaller Gram matrix of every layer, in f64 and in one fixed order.
    ///
    /// # Errors
    /// If a matrix is singular, or too large.
    pub fn of(model: &Autoencoder) -> Result<Self, InverseError> {
        let factors = model.layers().iter().enumerate().map(|(l, layer)| {
            let spectrum = Spectrum::of(l + 1, &layer.weight)?;
            Factor::of(l + 1, layer, &spectrum)
        });
        factors.collect()
    }

    /// Size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|factor| 4 * (factor.inverse.panels().len() + factor.offset.len())).sum()
    }

    /// The largest condition number of a matrix, and whether a matrix was regularized.
    pub fn condition(&self) -> (f64, bool) {
        let condition = self.layers.iter().map(|factor| factor.condition).fold(1.0, f64::max);
        (condition, self.layers.iter().any(|factor| factor.regularized))
    }

    /// Multiply-adds per row, including those of the transpose.
    pub fn multiply_adds(&self, model: &Autoencoder) -> usize {
        let squares = self.layers.iter().map(|factor| 2 * factor.inverse.outputs().pow(2));
        let products = model.layers().iter().map(|layer| layer.weight.outputs() * layer.weight.inputs());
        squares.sum::<usize>() + products.sum::<usize>()
    }

    /// The output of decoder layer l for `g` (n, d_{l+1}), in place of f'(Wᵀg + c).
    pub(super) fn decode_layer(
        &self,
        model: &Autoencoder,
        l: usize,
        g: &PanelMatrix,
        buffers: &mut BufferPool,
    ) -> PanelMatrix {
        let (layer, factor) = (&model.layers()[l], &self.layers[l]);
        let activation = model.spec().raw().decoder_activations[l];
        let (mut narrow, mut z, mut wide) = (buffers.take(), buffers.take(), buffers.take());
        if factor.of_rows {
            factor.inverse.encode_layer(g, &factor.offset, Activation::Linear, &mut z);
            factor.inverse.decode(&z, &mut narrow);
            layer.weight.decode_layer(&narrow, &layer.decoder_bias, activation, &mut wide);
        } else {
            layer.weight.decode(g, &mut narrow);
            factor.inverse.encode_layer(&narrow, &factor.offset, Activation::Linear, &mut z);
            factor.inverse.decode_layer(&z, &layer.decoder_bias, activation, &mut wide);
        }
        buffers.put(narrow);
        buffers.put(z);
        wide
    }
}

/// -M(b + W·c), and if W expands -M·Wᵀ(b + W·c). This removes from c, which is added at the end, its part within the
/// row space of W.
fn offset(inverse: &[f64], layer: &TiedLayer, of_rows: bool) -> Vec<f32> {
    let TiedLayer { weight: w, encoder_bias: b, decoder_bias: c, .. } = layer;
    let at = |o: usize, i: usize| f64::from(w.at(o, i));
    let sum = |o: usize| (0..w.inputs()).map(|i| at(o, i) * f64::from(c[i])).sum::<f64>();
    let mut seen: Vec<f64> = (0..w.outputs()).map(|o| f64::from(b[o]) + sum(o)).collect();
    if !of_rows {
        seen = (0..w.inputs()).map(|i| (0..w.outputs()).map(|o| at(o, i) * seen[o]).sum()).collect();
    }
    inverse.chunks_exact(seen.len()).map(|row| -row.iter().zip(&seen).map(|(m, s)| m * s).sum::<f64>() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::tests::plain;
    use crate::model::{Decoder, Normalizer};
    use crate::numeric::rng::{Stream, Use};

    /// A linear model of random numbers; `change` may modify each row-major matrix.
    fn linear(widths: &[usize], change: impl Fn(&mut [f32])) -> Autoencoder {
        let mut stream = Stream::new(5, 0, 0, Use::Weights);
        let mut numbers = |count: usize| (0..count).map(|_| stream.normal() as f32 * 0.5).collect::<Vec<_>>();
        let tied = widths.windows(2).map(|pair| {
            let mut matrix = numbers(pair[0] * pair[1]);
            change(&mut matrix);
            TiedLayer {
                weight: Weights::from_row_major(pair[1], pair[0], &matrix),
                encoder_bias: numbers(pair[1]),
                decoder_bias: numbers(pair[0]),
                gain: None,
            }
        });
        let normalizer = Normalizer::none();
        let tied = tied.collect();
        Autoencoder::new(plain(widths, Activation::Linear), normalizer, tied)
    }

    fn rows(count: usize, columns: usize) -> PanelMatrix {
        let mut stream = Stream::new(6, 0, 0, Use::Weights);
        let mut rows = PanelMatrix::zeros(count, columns);
        rows.load(0, &(0..count * columns).map(|_| stream.normal() as f32).collect::<Vec<_>>());
        rows
    }

    fn distance(a: &PanelMatrix, b: &PanelMatrix) -> f32 {
        a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_decoded_row_encodes_to_its_code() {
        for widths in [&[12, 5][..], &[40, 20, 6], &[3, 1], &[7, 7]] {
            let model = linear(widths, |_| ());
            let inverse = PseudoInverse::of(&model).expect("it has one");
            let codes = rows(9, widths[widths.len() - 1]);
            let buffers = &mut BufferPool::default();
            let decoded = model.decode(&codes, Decoder::PseudoInverse(&inverse), buffers);
            assert!(distance(&model.encode(&decoded, buffers), &codes) < 2e-4, "{widths:?}");
            let transposed = model.decode(&codes, Decoder::Transpose, buffers);
            assert!(distance(&model.encode(&transposed, buffers), &codes) > 0.1, "{widths:?}: there is a difference");
        }
    }

    #[test]
    fn the_decoded_row_is_the_nearest_to_the_bias() {
        // With one output, the difference from c is a multiple of the only row of W.
        let model = linear(&[6, 1], |_| ());
        let inverse = PseudoInverse::of(&model).expect("it has one");
        let decoded = model.decode(&rows(1, 1), Decoder::PseudoInverse(&inverse), &mut BufferPool::default());
        let layer = &model.layers()[0];
        let along: Vec<f32> =
            (0..6).map(|i| (decoded.at(0, i) - layer.decoder_bias[i]) / layer.weight.at(0, i)).collect();
        assert!(along.iter().all(|a| (a / along[0] - 1.0).abs() < 1e-4), "{along:?}");
    }

    #[test]
    fn an_expanding_layer_is_inverted() {
        let model = linear(&[4, 9], |_| ());
        let inverse = PseudoInverse::of(&model).expect("it has one");
        let (x, buffers) = (rows(20, 4), &mut BufferPool::default());
        let codes = model.encode(&x, buffers);
        assert!(distance(&model.decode(&codes, Decoder::PseudoInverse(&inverse), buffers), &x) < 1e-4);
    }

    #[test]
    fn orthonormal_rows_make_the_inverse_the_transpose() {
        let model = linear(&[30, 8], |matrix| {
            let mut rows: Vec<f64> = matrix.iter().map(|value| f64::from(*value)).collect();
            crate::numeric::linalg::orthonormalize_rows(&mut rows, 30);
            matrix.iter_mut().zip(rows).for_each(|(value, row)| *value = row as f32);
        });
        let mut model = model;
        // Both decoders have the same center if b = -W·c.
        let layer = &mut model.layers_mut()[0];
        for o in 0..8 {
            layer.encoder_bias[o] = -(0..30).map(|i| layer.weight.at(o, i) * layer.decoder_bias[i]).sum::<f32>();
        }
        let inverse = PseudoInverse::of(&model).expect("it has one");
        let (codes, buffers) = (rows(5, 8), &mut BufferPool::default());
        let (a, b) = (Decoder::Transpose, Decoder::PseudoInverse(&inverse));
        assert!(distance(&model.decode(&codes, a, buffers), &model.decode(&codes, b, buffers)) < 1e-5);
        assert!((inverse.condition().0 - 1.0).abs() < 1e-5 && !inverse.condition().1);
    }

    #[test]
    fn near_singular_layers_are_regularized_singular_ones_refused() {
        // Two rows that differ by one part in `steepness`.
        let nearly = |steepness: f32| {
            linear(&[4, 2], move |matrix| {
                matrix.copy_from_slice(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0 / steepness, 0.0, 0.0]);
            })
        };
        let (condition, regularized) = PseudoInverse::of(&nearly(100.0)).expect("it has one").condition();
        assert!(!regularized && (condition - 200.0).abs() < 1.0, "{condition}");
        let inverse = PseudoInverse::of(&nearly(1e5)).expect("it has one");
        assert!(inverse.condition().1, "{:?}", inverse.condition());
        let decoded = nearly(1e5).decode(&rows(1, 2), Decoder::PseudoInverse(&inverse), &mut BufferPool::default());
        assert!(decoded.values().iter().all(|value| value.abs() < 2e4), "{decoded:?}");
        let refused = PseudoInverse::of(&nearly(1e9)).map(|_| ()).expect_err("singular");
        assert_eq!(refused, InverseError::Singular { layer: 1, size: 2, rank: 1 });
        let dead = linear(&[5, 3], |matrix| matrix[5..10].fill(0.0));
        assert_eq!(PseudoInverse::of(&dead).map(|_| ()), Err(InverseError::Singular { layer: 1, size: 3, rank: 2 }));
    }
}
