//! Gram-Schmidt on the layer that computes a linear code: its rows become orthonormal, and codes change by an
//! invertible linear map.
//!
//! With W = R·Q, R lower triangular and the rows of Q orthonormal: W' = Q, b' = R⁻¹·b, so that a code h becomes h' =
//! R⁻¹·h. No information is lost, but a *tied* reconstruction changes: Wᵀ·h becomes Qᵀ·R⁻¹·h, which is W⁺·h, the
//! pseudo-inverse. The decoder's bias becomes c' = c + Wᵀ·m - Qᵀ·R⁻¹·m, with m the mean code, if it is known: the mean
//! code decodes to the same row as before.

use super::gradient::TAPE_ROWS;
use super::{Autoencoder, Matrix, Statistics};
use crate::numeric::linalg::{dot, orthonormalize_rows};
use crate::numeric::matmul::Weights;
use crate::numeric::{Activation, BufferPool, PanelMatrix};

/// Least share of a row's norm that must be orthogonal to the earlier rows. Below it, the row is a linear combination
/// of them up to rounding.
const NEW_MIN: f64 = 1e-6;

/// Largest number of multiply-adds of one pass over the rows: some seconds. There are several passes.
const WORK_MAX: usize = 4_000_000_000;

/// Why the code layer cannot be made orthonormal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrthonormalError {
    /// The activation of the code is not linear.
    #[error("the activation of its code is {0}, expected linear: only a linear code can be mapped linearly")]
    Activation(String),
    /// The code layer has more outputs than inputs: a space of that many dimensions has no more orthonormal rows.
    #[error("its code layer has {outputs} outputs and {inputs} inputs, expected at most as many outputs as inputs")]
    Expands {
        /// Outputs of the code layer.
        outputs: usize,
        /// Inputs of the code layer.
        inputs: usize,
    },
    /// The code layer is too large: it would take minutes, and gigabytes.
    #[error(
        "its code layer has {outputs} outputs and {inputs} inputs, expected outputs x outputs x inputs to be at most \
         {WORK_MAX}, since every row is compared with all rows before it"
    )]
    TooLarge {
        /// Outputs of the code layer.
        outputs: usize,
        /// Inputs of the code layer.
        inputs: usize,
    },
    /// A row is a linear combination of earlier rows.
    #[error(
        "row {} of its code layer's matrix is a linear combination of the rows before it: train with a shorter code",
        row + 1
    )]
    Dependent {
        /// The row, from 0.
        row: usize,
    },
    /// A result is not finite.
    #[error("its code layer could not be made orthonormal: its values may be too large")]
    NotFinite,
}

/// The model with an orthonormal code layer, and the statistics of its codes. Statistics of held-out rows are dropped,
/// since the reconstruction errors change.
///
/// # Errors
/// See [`OrthonormalError`].
pub fn orthonormalize_code(
    model: &Autoencoder,
    statistics: Option<&Statistics>,
) -> Result<(Autoencoder, Option<Statistics>), OrthonormalError> {
    let activation = model.spec().raw().encoder_activations.last().copied().unwrap_or(Activation::Linear);
    if activation != Activation::Linear {
        return Err(OrthonormalError::Activation(format!("{activation:?}")));
    }
    // Training with nested dropout ordered the code for other biases.
    let mut changed = model.clone().with_ordered_code(false);
    let Some(layer) = changed.layers_mut().last_mut() else { return Err(OrthonormalError::NotFinite) };
    let (k, d) = (layer.weight.outputs(), layer.weight.inputs());
    if k > d {
        return Err(OrthonormalError::Expands { outputs: k, inputs: d });
    }
    if k.saturating_mul(k).saturating_mul(d) > WORK_MAX {
        return Err(OrthonormalError::TooLarge { outputs: k, inputs: d });
    }
    let w: Vec<f64> = layer.weight.to_row_major().into_iter().map(f64::from).collect();
    let mut q = w.clone();
    orthonormalize_rows(&mut q, d);
    // R = W·Qᵀ.
    let r: Vec<f64> =
        w.chunks_exact(d).flat_map(|w| q.chunks_exact(d).map(|q| dot(w, q)).collect::<Vec<_>>()).collect();
    for (row, w) in w.chunks_exact(d).enumerate() {
        if r[row * k + row].abs() <= NEW_MIN * dot(w, w).sqrt() {
            return Err(OrthonormalError::Dependent { row });
        }
    }
    let bias: Vec<f64> = layer.encoder_bias.iter().map(|value| f64::from(*value)).collect();
    layer.encoder_bias = single(&solved(&r, &bias));
    if let Some(statistics) = statistics {
        let mean: Vec<f64> = statistics.code_mean.iter().map(|value| f64::from(*value)).collect();
        let (before, after) = (combined(&w, &mean, d), combined(&q, &solved(&r, &mean), d));
        for (bias, (before, after)) in layer.decoder_bias.iter_mut().zip(before.into_iter().zip(after)) {
            *bias = (f64::from(*bias) + before - after) as f32;
        }
    }
    let values = single(&q);
    let numbers = values.iter().chain(&layer.encoder_bias).chain(&layer.decoder_bias);
    if !numbers.copied().all(f32::is_finite) {
        return Err(OrthonormalError::NotFinite);
    }
    layer.weight = Weights::from_row_major(k, d, &values);
    let statistics = statistics.map(|statistics| of_changed_codes(statistics, &r));
    match statistics {
        Some(found) if !found.code_mean.iter().chain(&found.code_covariance).copied().all(f32::is_finite) => {
            Err(OrthonormalError::NotFinite)
        }
        statistics => Ok((changed, statistics)),
    }
}

/// Mean over `rows` of the squared reconstruction error: sum over features, in the normalized space. The rows must be
/// finite and as wide as the model.
pub fn mean_squared_error(model: &Autoencoder, rows: &Matrix) -> f64 {
    let (mut lanes, buffers) = (PanelMatrix::default(), &mut BufferPool::default());
    let mut sum = 0.0;
    for first in (0..rows.rows()).step_by(TAPE_ROWS) {
        let block = first..rows.rows().min(first + TAPE_ROWS);
        lanes.reset(block.len(), rows.columns());
        let (codes, errors) = if rows.form().is_wide() || model.normalizer().is_wide() {
            rows.load_normalized_into(block, &mut lanes, 0, model.normalizer());
            model.encode_normalized_with_errors(&lanes, buffers)
        } else {
            rows.load_into(block, &mut lanes, 0);
            model.encode_with_errors(&lanes, buffers)
        };
        buffers.put(codes);
        sum += errors.into_iter().map(f64::from).sum::<f64>();
    }
    sum / rows.rows() as f64
}

/// Statistics of the changed codes: mean R⁻¹·m and covariance R⁻¹·Σ·R⁻ᵀ.
fn of_changed_codes(statistics: &Statistics, r: &[f64]) -> Statistics {
    let k = statistics.code_mean.len();
    let double = |values: &[f32]| -> Vec<f64> { values.iter().map(|value| f64::from(*value)).collect() };
    let half = columns_solved(r, &double(&statistics.code_covariance), k);
    let covariance = columns_solved(r, &transposed(&half, k), k);
    // Symmetric to the last bit, as the file format requires.
    let symmetric = (0..k * k).map(|at| f64::midpoint(covariance[at], covariance[at % k * k + at / k]));
    Statistics {
        code_mean: single(&solved(r, &double(&statistics.code_mean))),
        code_covariance: symmetric.map(|value| value as f32).collect(),
        residual_variance: 0.0,
        curvature: vec![0.0; statistics.curvature.len()],
        calibration: Vec::new(),
        ..statistics.clone()
    }
}

/// R⁻¹·M for M (k, k), column by column.
fn columns_solved(r: &[f64], m: &[f64], k: usize) -> Vec<f64> {
    let columns = transposed(m, k);
    transposed(&columns.chunks_exact(k).flat_map(|column| solved(r, column)).collect::<Vec<_>>(), k)
}

fn transposed(m: &[f64], k: usize) -> Vec<f64> {
    (0..k * k).map(|at| m[at % k * k + at / k]).collect()
}

/// R⁻¹·v, R lower triangular (k, k).
fn solved(r: &[f64], v: &[f64]) -> Vec<f64> {
    let k = v.len();
    let mut solved = Vec::with_capacity(k);
    for row in 0..k {
        let known: f64 = solved.iter().zip(&r[row * k..]).map(|(x, r)| x * r).sum();
        solved.push((v[row] - known) / r[row * k + row]);
    }
    solved
}

/// Mᵀ·v for M (k, d), row-major.
fn combined(m: &[f64], v: &[f64], d: usize) -> Vec<f64> {
    let mut sums = vec![0.0; d];
    for (row, share) in m.chunks_exact(d).zip(v) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += share * value);
    }
    sums
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::RawModelSpec;
    use crate::model::spec::tests::plain;
    use crate::model::{Decoder, Invariants, ModelSpec, Normalizer, PseudoInverse, TiedLayer, Values};
    use crate::numeric::linalg::{Gram, covariance};
    use crate::numeric::rng::{Stream, Use};

    const ROWS: usize = 300;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..count).map(|_| stream.normal() as f32).collect()
    }

    fn model(widths: &[usize], hidden: Activation) -> Autoencoder {
        let spec = plain(widths, hidden);
        let layers = widths.windows(2).enumerate().map(|(l, pair)| TiedLayer {
            weight: Weights::from_row_major(pair[1], pair[0], &random(pair[0] * pair[1], 10 + l as u64)),
            encoder_bias: random(pair[1], 20 + l as u64),
            decoder_bias: random(pair[0], 30 + l as u64),
            gain: None,
        });
        Autoencoder::new(spec, Normalizer::none(), layers.collect())
    }

    fn rows(features: usize) -> Matrix {
        Matrix::new(ROWS as u32, features as u32, Values::Floats(random(ROWS * features, 5))).expect("a matrix")
    }

    fn codes(model: &Autoencoder, rows: &Matrix) -> Vec<f32> {
        let mut lanes = PanelMatrix::zeros(ROWS, rows.columns());
        rows.load_into(0..ROWS, &mut lanes, 0);
        let found = model.encode(&lanes, &mut BufferPool::default());
        let mut codes = vec![0.0; ROWS * found.columns()];
        found.store(0..ROWS, &mut codes);
        codes
    }

    fn statistics(model: &Autoencoder, rows: &Matrix) -> Statistics {
        let k = model.spec().code_length();
        let (mean, covariance) = covariance(&codes(model, rows), k, |_| true);
        Statistics {
            code_rows: ROWS as u64,
            residual_variance: 1.0,
            code_mean: single(&mean),
            code_covariance: single(&covariance),
            curvature: vec![1.0; model.spec().features()],
            calibration: vec![1.0],
            invariants: Invariants::default(),
        }
    }

    #[test]
    fn rows_become_orthonormal_and_codes_map_linearly() {
        for (widths, hidden) in [(&[9, 4][..], Activation::Linear), (&[9, 7, 4], Activation::Relu)] {
            let (model, rows) = (model(widths, hidden), rows(9));
            let known = statistics(&model, &rows);
            let (changed, found) = orthonormalize_code(&model, Some(&known)).expect("possible");
            let layer = &changed.layers()[widths.len() - 2];
            assert!(Gram::of(&layer.weight).defect().largest < 1e-6);
            assert_eq!(changed.layers()[..widths.len() - 2], model.layers()[..widths.len() - 2]);
            // The first number of each code is the old one divided by a constant, since R is lower triangular.
            let (before, after) = (codes(&model, &rows), codes(&changed, &rows));
            let share = before[0] / after[0];
            for (before, after) in before.chunks_exact(4).zip(after.chunks_exact(4)) {
                assert!((before[0] - share * after[0]).abs() < 1e-4 * before[0].abs().max(1.0));
            }
            // The returned statistics match the changed codes.
            let (found, expected) = (found.expect("there were some"), statistics(&changed, &rows));
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs().max(1.0));
            assert!(near(&found.code_mean, &expected.code_mean), "{found:?} {expected:?}");
            assert!(near(&found.code_covariance, &expected.code_covariance), "{found:?} {expected:?}");
            assert!(found.calibration.is_empty(), "the old scores are no more");
            // The mean code decodes to the same row as before.
            let decoded = |model: &Autoencoder, mean: &[f32]| {
                let mut lanes = PanelMatrix::zeros(1, 4);
                lanes.load(0, mean);
                let rows = model.decode(&lanes, Decoder::Transpose, &mut BufferPool::default());
                (0..9).map(|column| rows.at(0, column)).collect::<Vec<_>>()
            };
            assert!(near(&decoded(&changed, &found.code_mean), &decoded(&model, &known.code_mean)));
        }
    }

    /// The tied model reconstructs as the pseudo-inverse of the old model did. Compares differences between rows, since
    /// biases differ.
    #[test]
    fn a_linear_model_reconstructs_like_its_pseudo_inverse() {
        let (model, rows) = (model(&[9, 4], Activation::Linear), rows(9));
        let (changed, _) = orthonormalize_code(&model, Some(&statistics(&model, &rows))).expect("possible");
        let inverse = PseudoInverse::of(&model).expect("of full rank");
        let mut lanes = PanelMatrix::zeros(ROWS, 9);
        rows.load_into(0..ROWS, &mut lanes, 0);
        let buffers = &mut BufferPool::default();
        let tied = changed.reconstruct(&lanes, Decoder::Transpose, buffers).rows;
        let inverted = model.reconstruct(&lanes, Decoder::PseudoInverse(&inverse), buffers).rows;
        for row in 1..ROWS {
            for column in 0..9 {
                let of = |rows: &PanelMatrix| rows.at(row, column) - rows.at(0, column);
                assert!((of(&tied) - of(&inverted)).abs() < 1e-4, "{} {}", of(&tied), of(&inverted));
            }
        }
        assert!(mean_squared_error(&changed, &rows) < mean_squared_error(&model, &rows), "random rows are far from it");
    }

    #[test]
    fn models_that_cannot_be_orthonormalized_are_refused() {
        let bent = RawModelSpec {
            encoder_activations: vec![Activation::Tanh],
            ..plain(&[9, 4], Activation::Linear).raw().clone()
        };
        let plain_model = model(&[9, 4], Activation::Linear);
        let bent =
            Autoencoder::new(ModelSpec::new(bent).expect("valid"), Normalizer::none(), plain_model.layers().to_vec());
        let refused = |model: &Autoencoder| orthonormalize_code(model, None).expect_err("refused");
        assert_eq!(refused(&bent), OrthonormalError::Activation("Tanh".to_owned()));
        let wide = model(&[4, 9], Activation::Linear);
        assert_eq!(refused(&wide), OrthonormalError::Expands { outputs: 9, inputs: 4 });
        let large = model(&[1600, 1600], Activation::Linear);
        assert_eq!(refused(&large), OrthonormalError::TooLarge { outputs: 1600, inputs: 1600 });
        let mut dependent = plain_model;
        let layer = &mut dependent.layers_mut()[0];
        let mut values = layer.weight.to_row_major();
        (0..9).for_each(|j| values[18 + j] = 2.0 * values[j] - 0.5 * values[9 + j]);
        layer.weight = Weights::from_row_major(4, 9, &values);
        assert_eq!(refused(&dependent), OrthonormalError::Dependent { row: 2 });
    }
}
