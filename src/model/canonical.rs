//! Canonical codes: a linear code, centered and rotated to its principal axes. Reconstructions stay the same, and codes
//! can be truncated.
//!
//! With m the mean of the codes and R a rotation whose rows are the principal axes of the codes, in descending order of
//! variance: W' = R·W, b' = R·(b - m), c' = c + Wᵀ·m for the layer that computes the code. A code becomes h' = R·(h -
//! m). Since W'ᵀh' + c' = WᵀRᵀR(h - m) + c + Wᵀm = Wᵀh + c, it decodes to the same rows. The new codes have mean 0 and
//! uncorrelated units. So the first numbers are the best few, and a missing number counts as 0, the mean.

use super::score::is_live;
use super::{Autoencoder, Statistics};
use crate::numeric::Activation;
use crate::numeric::linalg::symmetric_axes;
use crate::numeric::matmul::Weights;

/// Lower bound of the variance of a live unit, as a share of the largest variance. It is above the limit for a dead
/// unit.
const LEAST_VARIANCE: f64 = 1e-11;

/// Why codes cannot be made canonical.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// The activation of the code is not linear.
    #[error("the activation of its code is {0}, expected linear: only a linear code can be rotated")]
    Activation(String),
    /// The model has no statistics of its codes.
    #[error("it has no statistics of its codes: train it again, with a code of at most 1024 numbers")]
    NoStatistics,
    /// The codes are canonical already.
    #[error("its codes are canonical already")]
    Already,
    /// The eigenvalues do not converge, or a result is not finite.
    #[error("the principal axes of its codes could not be computed: their values may be too large")]
    Axes,
}

/// Makes the codes of a model canonical. Returns the new model and its statistics.
///
/// # Errors
/// See [`CanonicalError`].
pub fn canonicalize(
    model: &Autoencoder,
    statistics: Option<&Statistics>,
) -> Result<(Autoencoder, Statistics), CanonicalError> {
    let activation = model.spec().raw().encoder_activations.last().copied().unwrap_or(Activation::Linear);
    if activation != Activation::Linear {
        return Err(CanonicalError::Activation(format!("{activation:?}")));
    }
    let statistics = statistics.ok_or(CanonicalError::NoStatistics)?;
    if statistics.are_canonical() {
        return Err(CanonicalError::Already);
    }
    let k = statistics.code_mean.len();
    let covariance: Vec<f64> = statistics.code_covariance.iter().map(|value| f64::from(*value)).collect();
    let (variances, axes) = symmetric_axes(&covariance, k).ok_or(CanonicalError::Axes)?;

    // The order that training gave the units, if any, does not hold after the rotation.
    let mut turned = model.clone().with_ordered_code(false);
    let Some(layer) = turned.layers_mut().last_mut() else { return Err(CanonicalError::Already) };
    let (w, d) = (layer.weight.to_row_major(), layer.weight.inputs());
    let mean: Vec<f64> = statistics.code_mean.iter().map(|value| f64::from(*value)).collect();
    // R·W and R·(b - m), row by row of R, in f64: rounded once.
    let mut values = Vec::with_capacity(k * d);
    let mut bias = Vec::with_capacity(k);
    for axis in axes.chunks_exact(k) {
        let mut row = vec![0.0; d];
        for (share, w) in axis.iter().zip(w.chunks_exact(d)) {
            row.iter_mut().zip(w).for_each(|(sum, w)| *sum += share * f64::from(*w));
        }
        values.extend(row.into_iter().map(|value| value as f32));
        let shifted = layer.encoder_bias.iter().zip(&mean).map(|(bias, mean)| f64::from(*bias) - mean);
        bias.push(axis.iter().zip(shifted).map(|(share, value)| share * value).sum::<f64>() as f32);
    }
    for (j, bias) in layer.decoder_bias.iter_mut().enumerate() {
        let moved: f64 = mean.iter().enumerate().map(|(unit, mean)| mean * f64::from(w[unit * d + j])).sum();
        *bias = (f64::from(*bias) + moved) as f32;
    }
    let numbers = values.iter().chain(&bias).chain(&layer.decoder_bias);
    if !numbers.copied().chain(variances.iter().map(|variance| *variance as f32)).all(f32::is_finite) {
        return Err(CanonicalError::Axes);
    }
    layer.weight = Weights::from_row_major(k, d, &values);
    layer.encoder_bias = bias;

    // The number of live units stays the same: the stored calibration scores depend on it.
    let largest = (0..k).map(|unit| covariance[unit * k + unit]).fold(0.0, f64::max);
    let live = (0..k).filter(|unit| is_live(covariance[unit * k + unit], largest)).count();
    let least = variances.first().copied().unwrap_or(0.0) * LEAST_VARIANCE;
    let mut code_covariance = vec![0.0; k * k];
    for (unit, variance) in variances.iter().enumerate() {
        code_covariance[unit * k + unit] = if unit < live { variance.max(least) as f32 } else { 0.0 };
    }
    let statistics = Statistics { code_mean: vec![0.0; k], code_covariance, ..statistics.clone() };
    Ok((turned, statistics))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::RawModelSpec;
    use crate::model::{Decoder, Invariants, Loss, ModelSpec, NormalizationKind, Normalizer, Scorer, TiedLayer};
    use crate::numeric::linalg::covariance;
    use crate::numeric::rng::{Stream, Use};
    use crate::numeric::{BufferPool, PanelMatrix};

    const ROWS: usize = 500;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, 0, Use::Weights);
        (0..count).map(|_| stream.normal() as f32).collect()
    }

    fn model(code: Activation) -> Autoencoder {
        let elu = Activation::Elu { alpha: 1.0 };
        let spec = ModelSpec::new(RawModelSpec {
            widths: vec![7, 6, 4],
            encoder_activations: vec![elu, code],
            decoder_activations: vec![Activation::Linear, elu],
            loss: Loss::SquaredError,
            normalization: NormalizationKind::None,
            gain: false,
            feature_names: vec![],
            missing_values: false,
            ordered_code: false,
        })
        .expect("a model");
        let layer = |seed, outputs, inputs| TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &random(outputs * inputs, seed)),
            encoder_bias: random(outputs, seed + 1),
            decoder_bias: random(inputs, seed + 2),
            gain: None,
        };
        let normalizer = Normalizer::none();
        Autoencoder::new(spec, normalizer, vec![layer(1, 6, 7), layer(4, 4, 6)])
    }

    fn rows() -> PanelMatrix {
        let mut lanes = PanelMatrix::zeros(ROWS, 7);
        lanes.load(0, &random(ROWS * 7, 9));
        lanes
    }

    fn statistics(model: &Autoencoder) -> Statistics {
        let codes = model.encode(&rows(), &mut BufferPool::default());
        let mut values = vec![0.0; ROWS * 4];
        codes.store(0..ROWS, &mut values);
        let (mean, covariance) = covariance(&values, 4, |_| true);
        Statistics {
            code_rows: ROWS as u64,
            residual_variance: 1.0,
            code_mean: mean.into_iter().map(|value| value as f32).collect(),
            code_covariance: covariance.into_iter().map(|value| value as f32).collect(),
            curvature: vec![1.0; 7],
            calibration: vec![1.0],
            invariants: Invariants::default(),
        }
    }

    #[test]
    fn canonical_codes_are_uncorrelated_and_ordered() {
        let model = model(Activation::Linear);
        let before = statistics(&model);
        let (turned, after) = canonicalize(&model, Some(&before)).expect("a linear code");
        let (buffers, rows) = (&mut BufferPool::default(), rows());
        let old = model.reconstruct(&rows, Decoder::Transpose, buffers).rows;
        let new = turned.reconstruct(&rows, Decoder::Transpose, buffers).rows;
        let size = old.values().iter().fold(0.0f32, |most, value| most.max(value.abs()));
        for (old, new) in old.values().iter().zip(new.values()) {
            assert!((old - new).abs() < 1e-5 * size, "{old} {new}");
        }
        let measured = statistics(&turned);
        for i in 0..4 {
            let variance = measured.code_covariance[i * 4 + i];
            assert!(measured.code_mean[i].abs() < 1e-4 * variance.sqrt(), "centered");
            assert!((variance - after.code_covariance[i * 4 + i]).abs() < 1e-4 * variance);
            for j in 0..i {
                let other = measured.code_covariance[j * 4 + j];
                assert!(other >= variance, "ordered");
                assert!(measured.code_covariance[i * 4 + j].abs() < 1e-4 * (variance * other).sqrt(), "[{i}, {j}]");
            }
        }
        // The scores of rows stay the same.
        let (old, new) = (Scorer::new(&before).expect("definite"), Scorer::new(&after).expect("definite"));
        let (old, new) = (old.score(&model, &rows, buffers), new.score(&turned, &rows, buffers));
        for row in 0..ROWS {
            assert!((old.at(row, 1) - new.at(row, 1)).abs() < 1e-3 * old.at(row, 1).max(1.0), "row {row}");
        }
        assert!(after.are_canonical() && !before.are_canonical());
        assert_eq!(canonicalize(&turned, Some(&after)).expect_err("done"), CanonicalError::Already);
    }

    #[test]
    fn dependent_units_keep_a_positive_variance() {
        let mut model = model(Activation::Linear);
        let layer = &mut model.layers_mut()[1];
        let mut w = layer.weight.to_row_major();
        // The last unit equals the first.
        w.copy_within(0..6, 18);
        layer.weight = Weights::from_row_major(4, 6, &w);
        let before = statistics(&model);
        let after = canonicalize(&model, Some(&before)).expect("a linear code").1;
        let variances: Vec<f32> = (0..4).map(|unit| after.code_covariance[unit * 5]).collect();
        assert!(variances[3] > 0.0 && variances[3] < 1e-5 * variances[0], "{variances:?}");
        // Where the codes do not vary, the shrunk covariance is the same. So is the distance of a code that no row has.
        let distance = |of: &Statistics, code: &[f64]| {
            let code: Vec<f32> = code.iter().map(|x| *x as f32).collect();
            f64::from(Scorer::new(of).expect("definite").squared_distances_of(&code)[0])
        };
        let mean: Vec<f64> = before.code_mean.iter().map(|mean| f64::from(*mean)).collect();
        let apart = [mean[0] + 1.0, mean[1], mean[2], mean[3] - 1.0];
        let (old, new) = (distance(&before, &apart), distance(&after, &[0.0, 0.0, 0.0, 2f64.sqrt()]));
        assert!((new / old - 1.0).abs() < 0.05, "{old} {new}");
    }

    #[test]
    fn models_that_cannot_be_canonicalized_say_why() {
        let tanh = model(Activation::Tanh);
        let error = canonicalize(&tanh, Some(&statistics(&tanh))).expect_err("not linear");
        assert!(error.to_string().contains("expected linear"), "{error}");
        assert_eq!(canonicalize(&model(Activation::Linear), None).expect_err("none"), CanonicalError::NoStatistics);
    }
}
