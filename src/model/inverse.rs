//! Decoding with the pseudo-inverse of each matrix instead of its transpose.
//!
//! Of all h with W·h + b = g the one nearest c is h = W⁺(g - b) + (I - W⁺W)c: so a decoder layer reads
//! f'(W⁺(g - b) + (I - W⁺W)c), biases and all. Where every activation is linear, what is decoded has that very
//! code, and with one layer it is the best that can be decoded; with more, the transpose may be far nearer to the data. Else it
//! is a linear approximation: the activation that made g is not undone. Gains are left out: they are there for the transpose.
//!
//! W is not copied. With M the inverse Cholesky factor of the smaller Gram matrix, W⁺ is Wᵀ·MᵀM where W does not expand, and
//! MᵀM·Wᵀ where it does: two small products beside the large one, each through a matrix that is read both ways.

use super::spectrum::{CONDITION_MAX, Spectrum, SpectrumError};
use super::{Autoencoder, TiedLayer};
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, BufferPool, PanelMatrix};

/// Up to this condition number W⁺ is taken as it is. Beyond that, (σ / this)² of the greatest singular value σ, or up to twice
/// that, is added to the Gram matrix's diagonal; beyond [`CONDITION_MAX`] there is no pseudo-inverse worth the name.
pub const CONDITION_EXACT_MAX: f64 = 1e4;

/// Why a model has no pseudo-inverse.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InverseError {
    /// Rows (or columns) of W that the others span.
    #[error(
        "the matrix of layer {layer} is singular: {rank} of its {size} singular values are above {share:e} of the greatest, \
         expected all of them; decode with the transpose, or train with fewer units",
        share = 1.0 / CONDITION_MAX
    )]
    Singular {
        /// From 1.
        layer: usize,
        /// Of its smaller side.
        size: usize,
        /// Singular values that count.
        rank: usize,
    },
    /// Its singular values are not known.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
}

/// What decoding one layer with W⁺ needs beside W.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    /// M, (n, n).
    inverse: Weights,
    /// (n,): what z = M·… starts from, so that biases come out right.
    offset: Vec<f32>,
    of_rows: bool,
    condition: f64,
    regularized: bool,
}

impl Factor {
    /// Of layer `number`, from 1.
    pub(super) fn of(number: usize, layer: &TiedLayer, spectrum: &Spectrum) -> Result<Self, InverseError> {
        let Spectrum { gram, singular_values } = spectrum;
        let (size, rank, of_rows) = (singular_values.len(), spectrum.rank(), gram.is_of_rows());
        let singular = InverseError::Singular { layer: number, size, rank };
        if rank < size {
            return Err(singular);
        }
        let condition = spectrum.condition();
        let regularized = condition > CONDITION_EXACT_MAX;
        // A power of two: the singular values are those of a library, whose last bits are another machine's business.
        let ridge = || (spectrum.greatest() / CONDITION_EXACT_MAX).powi(2).log2().ceil().exp2();
        let inverse = gram.inverse_factor(if regularized { ridge() } else { 0.0 }).ok_or(singular)?;
        let offset = offset(&inverse, layer, of_rows);
        let inverse: Vec<f32> = inverse.iter().map(|value| *value as f32).collect();
        Ok(Self { inverse: Weights::from_row_major(size, size, &inverse), offset, of_rows, condition, regularized })
    }
}

/// The factors of all layers of a model. Belongs to the model that it was made of.
#[derive(Clone, Debug)]
pub struct PseudoInverse {
    layers: Vec<Factor>,
}

impl FromIterator<Factor> for PseudoInverse {
    /// In the order of encoding.
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

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|factor| 4 * (factor.inverse.panels().len() + factor.offset.len())).sum()
    }

    /// The greatest condition number of a matrix, and whether one was regularized for it.
    pub fn condition(&self) -> (f64, bool) {
        let condition = self.layers.iter().map(|factor| factor.condition).fold(1.0, f64::max);
        (condition, self.layers.iter().any(|factor| factor.regularized))
    }

    /// Multiply-adds a row, those of the transpose included.
    pub fn multiply_adds(&self, model: &Autoencoder) -> usize {
        let squares = self.layers.iter().map(|factor| 2 * factor.inverse.outputs().pow(2));
        let products = model.layers().iter().map(|layer| layer.weight.outputs() * layer.weight.inputs());
        squares.sum::<usize>() + products.sum::<usize>()
    }

    /// What decoder layer l makes of `g` (n, d_{l+1}), in place of f'(Wᵀg + c).
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

/// -M(b + W·c), and where W expands -M·Wᵀ(b + W·c): then what c adds at the end is taken away as far as W sees it.
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

    /// A linear model of random numbers; `change` may have a last look at each matrix, row-major.
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
    fn what_is_decoded_has_the_code_that_it_was_decoded_from() {
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
    fn of_all_that_have_the_code_it_is_the_nearest_to_the_bias() {
        // Of one output: what is added to c lies along the only row of W.
        let model = linear(&[6, 1], |_| ());
        let inverse = PseudoInverse::of(&model).expect("it has one");
        let decoded = model.decode(&rows(1, 1), Decoder::PseudoInverse(&inverse), &mut BufferPool::default());
        let layer = &model.layers()[0];
        let along: Vec<f32> =
            (0..6).map(|i| (decoded.at(0, i) - layer.decoder_bias[i]) / layer.weight.at(0, i)).collect();
        assert!(along.iter().all(|a| (a / along[0] - 1.0).abs() < 1e-4), "{along:?}");
    }

    #[test]
    fn a_layer_that_expands_is_undone() {
        let model = linear(&[4, 9], |_| ());
        let inverse = PseudoInverse::of(&model).expect("it has one");
        let (x, buffers) = (rows(20, 4), &mut BufferPool::default());
        let codes = model.encode(&x, buffers);
        assert!(distance(&model.decode(&codes, Decoder::PseudoInverse(&inverse), buffers), &x) < 1e-4);
    }

    #[test]
    fn orthonormal_rows_make_it_the_transpose() {
        let model = linear(&[30, 8], |matrix| {
            let mut rows: Vec<f64> = matrix.iter().map(|value| f64::from(*value)).collect();
            crate::numeric::linalg::orthonormalize_rows(&mut rows, 30);
            matrix.iter_mut().zip(rows).for_each(|(value, row)| *value = row as f32);
        });
        let mut model = model;
        // Where both sides agree on the center: b = -W·c.
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
    fn what_is_ill_conditioned_is_regularized_and_what_is_singular_refused() {
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
